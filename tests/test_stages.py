"""Stages and the store: a training that was stopped goes on, and another recipe leaves it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekd.progress import Nobody, Progress
from edgekd.recipe_file import load
from edgekd.stages import Stages
from edgekd.store import Store

TINY = {
    "data.source": "digits",
    "teacher.model": "resnet8",
    "teacher.train.batch": 64,
    "teacher.train.learning_rate": 0.1,
}


class _Stopped(Exception):
    pass


class _Watching(Nobody):
    """Notes what it is told, and stops the work at a step."""

    def __init__(self, stop_at: int = 0) -> None:
        self.lines: list[str] = []
        self.steps: list[int] = []
        self._stop_at = stop_at

    def begin(self, stage: str) -> Progress:
        def progress(done: int, total: int, note: str = "", scalars: Any = None) -> None:
            if scalars is None and stage == "teacher":
                self.steps.append(done)
                if done == self._stop_at:
                    raise _Stopped

        return progress

    def note(self, line: str) -> None:
        self.lines.append(line)


def _teacher(store: Store, watching: _Watching, **changes: object) -> object:
    stages = Stages(load(None, {**TINY, **changes}), [], store, watching)
    return stages.teacher(stages.data())


def test_a_stopped_training_waits_until_its_recipe_comes_back(tmp_path: Path) -> None:
    store, unfinished = Store(tmp_path), tmp_path / "unfinished" / "teacher"
    two, three = {"teacher.train.epochs": 2}, {"teacher.train.epochs": 3}
    with pytest.raises(_Stopped):
        _teacher(store, _Watching(stop_at=25), **two)
    (kept,) = unfinished.glob("*/step-*.pt")
    other = _Watching()
    _teacher(store, other, **three)
    (warning,) = (each for each in other.lines if each.startswith("! "))
    assert (
        f"1 unfinished training of a teacher by another recipe is kept in {unfinished}" in warning
    )
    assert other.steps[0] == 1
    assert kept.is_file()
    again = _Watching()
    _teacher(store, again, **two)
    assert again.steps[0] == int(kept.name.split("-")[1]) + 1
    assert not [each for each in again.lines if each.startswith("! ")]
    assert not list(unfinished.glob("*"))
    silent = _Watching()
    _teacher(store, silent, **two)
    assert not silent.steps


def test_the_teachers_answers_are_kept_once_for_all_students_of_a_view(tmp_path: Path) -> None:
    store, made = Store(tmp_path), tmp_path / "teacher-logits"
    quick = {"teacher.train.epochs": 1, "student.train.epochs": 2, "student.train.batch": 64}

    def student(**changes: object) -> None:
        recipe = load(None, {**TINY, **quick, **changes})
        stages = Stages(recipe, [], store, Nobody())
        dataset = stages.data()
        stages.student("student", dataset, stages.teacher(dataset))

    student(**{"student.train.views": 1})
    assert len(list(made.glob("*"))) == 1
    student(**{"student.train.views": 1, "distill.temperature": 4.0})
    assert len(list(made.glob("*"))) == 1
    student(**{"student.train.views": 1, "student.train.seed": 1})  # other flips
    assert len(list(made.glob("*"))) == 2
    student(**{"student.train.views": 0})
    assert len(list(made.glob("*"))) == 2
