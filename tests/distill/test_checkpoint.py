"""Checkpoints: whole or absent, the last two kept, and only for the recipe that they belong to."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.distill import checkpoint
from edgekd.errors import TrainError

RECIPE = {"train": {"epochs": 3, "learning_rate": 0.1}, "model": "dscnn-s"}


def _state(value: float) -> dict[str, object]:
    return {"weights": {"w": torch.full((3,), value)}, "history": [{"ce": value}]}


def test_the_newest_comes_back_and_the_last_two_are_kept(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "none", RECIPE) is None
    for step in (1, 2, 10):
        checkpoint.save(tmp_path, step, RECIPE, _state(step))
    step, state = checkpoint.load(tmp_path, RECIPE)  # type: ignore[misc]
    assert step == 10
    assert torch.equal(state["weights"]["w"], torch.full((3,), 10.0))
    assert [each.name.split("-")[1] for each in sorted(tmp_path.iterdir())] == [
        "000000002",
        "000000010",
    ]


def test_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, RECIPE, _state(1))
    newest = checkpoint.save(tmp_path, 2, RECIPE, _state(2))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert checkpoint.load(tmp_path, RECIPE)[0] == 1  # type: ignore[index]
    newest.write_bytes(b"")
    assert checkpoint.load(tmp_path, RECIPE)[0] == 1  # type: ignore[index]


def test_what_a_killed_save_left_behind_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "step-000000009-0123456789abcdef.part").write_bytes(b"half")
    assert checkpoint.load(tmp_path, RECIPE) is None
    checkpoint.save(tmp_path, 10, RECIPE, _state(1))
    assert len(list(tmp_path.iterdir())) == 1


def test_another_recipe_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, RECIPE, _state(1))
    other = {**RECIPE, "train": {"epochs": 3, "learning_rate": 0.2}}
    with pytest.raises(TrainError, match=r"train.learning_rate was 0.1 and is 0.2: go back to"):
        checkpoint.load(tmp_path, other)
    assert path.is_file()


def test_nothing_but_tensors_and_plain_values_is_read(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "touched",))  # type: ignore[return-value]

    checkpoint.save(tmp_path, 1, RECIPE, {"trap": Trap()})
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        checkpoint.load(tmp_path, RECIPE)
    assert not (tmp_path / "touched").exists()


def test_every_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    random.gauss(0, 1)
    states = checkpoint.random_states()
    checkpoint.save(tmp_path, 1, RECIPE, {"random": states})
    expected = draw(), draw()
    checkpoint.set_random_states(checkpoint.load(tmp_path, RECIPE)[1]["random"])  # type: ignore[index]
    assert (draw(), draw()) == expected
