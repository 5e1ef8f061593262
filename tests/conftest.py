"""What several tests share: small real data, small real networks, one real build."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from edgekd import models
from edgekd.artifacts import Checkpoint, Dataset, OnnxModel
from edgekd.data import open_source
from edgekd.data.splits import prepare
from edgekd.models import weights
from edgekd.recipe import DataSettings

ROOT = Path(__file__).parent.parent

TINY = """
name = "tiny"
[data]
source = "digits"
validation = 0.15
[teacher]
model = "resnet8"
[teacher.train]
epochs = 2
batch = 64
learning_rate = 0.1
[student]
model = "dscnn-s"
control = false
[student.train]
epochs = 2
batch = 64
learning_rate = 0.1
[calibration]
samples = 64
method = "percentile"
[quantize]
mixed = "never"
[qat]
when = "never"
[engines]
targets = ["onnxruntime-cpu"]
[bench]
samples = 700
seconds = 0.5
blocks = 5
"""

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def run_cli(
    *arguments: str | Path,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 540,
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "edgekd", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        check=False,
        timeout=timeout,
    )


def assert_one_line(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """A user's mistake: this exit code, no traceback, one line that says these words."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    complaints = [each for each in result.stderr.splitlines() if each.startswith("edgekd: ")]
    assert len(complaints) == 1, result.stderr
    for word in words:
        assert word in complaints[0], complaints[0]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Digits, split."""
    settings = DataSettings(source="digits", validation=0.15)
    return prepare(settings, open_source("digits"), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def checkpoint(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A small ResNet with batch-norm statistics of its own, untrained."""
    import torch

    torch.manual_seed(0)
    model = models.create("resnet8", 10, 1)
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(32, 1, 8, 8))
    path = tmp_path_factory.mktemp("checkpoint") / "weights.safetensors"
    weights.save(model, path)
    params, macs = models.cost(model, (1, 8, 8))
    return Checkpoint(
        weights=path,
        model="resnet8",
        classes=10,
        shape=(1, 8, 8),
        params=params,
        macs=macs,
        metrics={"validation_top1": 10.0},
    )


@pytest.fixture(scope="session")
def onnx_model(
    checkpoint: Checkpoint, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> OnnxModel:
    """The checkpoint's export."""
    from edgekd.export import export

    return export(checkpoint, dataset, tmp_path_factory.mktemp("export"))


BUILT_WITH = [
    "build", str(ROOT / "recipes" / "digits.toml"), "--out", ".", "--fps", "20", "--max-drop", "20",
    "--set", "budget.miss_rate=0.2", "--set", "budget.confidence=0.9",
]  # fmt: skip
"""The arguments of the build that tests share, in a folder of its own."""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole build of recipes/digits.toml: ``bundle``, ``store``, and what was printed."""
    base = tmp_path_factory.getbasetemp()
    together = "PYTEST_XDIST_WORKER" in os.environ  # processes that test side by side share it
    folder = (base.parent if together else base) / "built"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "stdout.json").exists():
            store = {"EDGEKD_STORE": str(folder / "store")}
            folder.mkdir(exist_ok=True)
            result = run_cli(*BUILT_WITH, "--json", env=store, cwd=folder)
            assert result.returncode == 0, result.stderr
            (folder / "stderr.txt").write_text(result.stderr)
            (folder / "stdout.json").write_text(result.stdout)
    return {
        "bundle": folder / "digits.edgekd",
        "store": folder / "store",
        "stdout": folder / "stdout.json",
        "stderr": folder / "stderr.txt",
    }


@pytest.fixture
def bundle(built: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the built bundle that a test may spoil."""
    copy = tmp_path / "copy.edgekd"
    shutil.copytree(built["bundle"], copy)
    return copy


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A recipe that builds in seconds."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def read_json(path: Path) -> dict[str, object]:
    """A JSON file."""
    value: dict[str, object] = json.loads(path.read_text())
    return value


def state_of(checkpoint: Checkpoint) -> str:
    """A hash of a network's weights."""
    from edgekd.distill.teachers import state_hash

    return state_hash(weights.load(checkpoint))


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(0)
