"""A training that is killed and goes on ends where one that was never stopped ends, bit by bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd.artifacts import Dataset
from edgekd.distill.trainer import train
from edgekd.errors import TrainError
from edgekd.recipe import TrainSettings
from tests.conftest import ROOT

_SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import torch
from edgekd.artifacts import Checkpoint
from edgekd.data import open_source
from edgekd.data.splits import prepare
from edgekd.distill.trainer import train
from edgekd.recipe import DataSettings, DistillSettings, TrainSettings

asked = json.loads(sys.argv[1])
folder, kill_at = Path(asked["folder"]), asked["kill_at"]
torch.set_num_threads(1)
data = folder / "data"
data.mkdir(parents=True, exist_ok=True)
dataset = prepare(DataSettings(source="digits", validation=0.15), open_source("digits"), data)
teacher = None
if asked["distill"]:
    teacher = Checkpoint(
        weights=Path(asked["teacher"]), model="resnet8", classes=10, shape=(1, 8, 8), params=0,
        macs=0, metrics={},
    )
steps = 0
def progress(done, total, note="", scalars=None):
    global steps
    steps += scalars is None
    if steps == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
train(
    dataset, asked["model"], TrainSettings(**asked["train"]), folder, progress, teacher=teacher,
    distill=DistillSettings(**asked["distill"]) if asked["distill"] else None,
    work=folder / "work",
)
print(steps)
"""

PLAIN = {
    "model": "dscnn-s",
    "train": {"epochs": 3, "batch": 64, "learning_rate": 0.1, "shift": 1, "checkpoint_steps": 5},
    "distill": None,
}
EVERYTHING = {
    "model": "dscnn-s",
    "train": {
        "epochs": 3,
        "batch": 64,
        "optimizer": "adamw",
        "schedule": "cosine",
        "learning_rate": 0.01,
        "ema": 0.9,
        "mixup": 0.3,
        "cutmix": 0.5,
        "clip": 1.0,
        "keep": "best",
        "patience": 3,
    },
    "distill": {"weights": {"ce": 1, "kl": 1, "hint": 1, "crd": 0.1}, "negatives": 32},
}
STEPS = 17  # an epoch of digits' training split


def _run(asked: dict[str, Any], folder: Path, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    text = json.dumps({**asked, "folder": str(folder), "kill_at": kill_at})
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", _SCRIPT, text],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


def _last(folder: Path) -> Any:
    """The last checkpoint: student, adaptors, optimizer, scheduler, average, generators."""
    path = max((folder / "work").glob("step-*.pt"))
    return torch.load(path, weights_only=True)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


@pytest.mark.parametrize(
    ("asked", "kill_at", "redone"),
    [(PLAIN, STEPS + 12, STEPS + 8), (EVERYTHING, 2 * STEPS + 3, 2 * STEPS)],
    ids=["within an epoch", "with everything"],
)
def test_killed_and_resumed_equals_never_stopped(
    tmp_path: Path, checkpoint, asked: dict[str, Any], kill_at: int, redone: int
) -> None:  # type: ignore[no-untyped-def]
    asked = {**asked, "teacher": str(checkpoint.weights)}
    whole = _run(asked, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    killed = _run(asked, tmp_path / "parts", kill_at)
    assert killed.returncode == -9
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    resumed = _run(asked, tmp_path / "parts")
    assert resumed.returncode == 0, resumed.stderr
    assert int(resumed.stdout) == int(whole.stdout) - redone  # it did go on from the checkpoint
    for name in ("weights.safetensors", "history.json"):
        ours, theirs = (tmp_path / each / name for each in ("whole", "parts"))
        assert ours.read_bytes() == theirs.read_bytes()
    assert _same(_last(tmp_path / "whole"), _last(tmp_path / "parts"))


def test_a_checkpoint_of_another_recipe_is_refused_and_kept(
    dataset: Dataset, tmp_path: Path
) -> None:
    settings = TrainSettings(epochs=1, batch=64)
    work = tmp_path / "work"
    train(dataset, "dscnn-s", settings, tmp_path, work=work)
    kept = sorted(work.iterdir())
    other = settings.model_copy(update={"epochs": 2})
    with pytest.raises(TrainError, match=r"train.epochs was 1 and is 2: go back to that recipe"):
        train(dataset, "dscnn-s", other, tmp_path, work=work)
    assert sorted(work.iterdir()) == kept
