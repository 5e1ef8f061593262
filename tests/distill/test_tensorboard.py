"""TensorBoard: an event file with each epoch's figures, and the other watcher as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.distill.tensorboard import TensorBoard
from edgekd.errors import BackendUnavailable
from edgekd.progress import Nobody


class _Watching(Nobody):
    def __init__(self) -> None:
        self.told: list[object] = []

    def begin(self, stage: str):  # type: ignore[no-untyped-def]
        return lambda *each: self.told.append((stage, *each))

    def end(self, stage: str, reused: bool, seconds: float) -> None:
        self.told.append((stage, reused))

    def note(self, line: str) -> None:
        self.told.append(line)


def test_scalars_are_written_by_stage_and_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    inner = _Watching()
    with TensorBoard(inner, tmp_path) as board:
        progress = board.begin("student")
        progress(1, 2, "one")
        progress(1, 2, "one", {"epoch": 1, "kl": 0.5})
        progress(2, 2, "two", {"epoch": 2, "kl": 0.25})
        board.end("student", False, 1.0)
        board.note("a line")
    found = EventAccumulator(str(tmp_path)).Reload()
    assert found.Tags()["scalars"] == ["student/kl"]
    assert [(each.step, each.value) for each in found.Scalars("student/kl")] == [
        (1, 0.5),
        (2, 0.25),
    ]
    assert inner.told[0] == ("student", 1, 2, "one", None)
    assert inner.told[-2:] == [("student", False), "a line"]


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'edgekd\[tensorboard\]'"):
        TensorBoard(Nobody(), tmp_path)
