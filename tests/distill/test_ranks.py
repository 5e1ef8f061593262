"""Two gloo processes: gradients of gathered rows, and a whole build under torchrun."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.progress import Nobody
from edgekd.recipe_file import load
from edgekd.stages import Stages
from edgekd.store import Store
from tests.conftest import ROOT

_GATHER = """
import torch
import torch.distributed as dist
from edgekd.distill import losses, ranks

ranks.join()
torch.manual_seed(0)
student = torch.randn(8, 5, dtype=torch.float64)
teacher = torch.randn(8, 5, dtype=torch.float64)
weight = torch.randn(5, 5, dtype=torch.float64)
mine = slice(4 * ranks.rank(), 4 * ranks.rank() + 4)

for loss in (lambda s, t: losses.dist(s, t, 2.0), losses.similarity, losses.rkd):
    whole = weight.clone().requires_grad_()
    expected = loss(student @ whole, teacher)
    expected.backward()
    own = weight.clone().requires_grad_()
    found = loss(ranks.gather(student[mine] @ own), ranks.gather(teacher[mine]))
    found.backward()
    dist.all_reduce(own.grad)  # as DistributedDataParallel averages
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(own.grad / 2, whole.grad)
assert ranks.mean({"a": float(ranks.rank())}) == {"a": 0.5}
assert ranks.collect(ranks.rank()) == [0, 1]
assert ranks.share(ranks.rank()) == 0
ranks.leave()
"""


def _torchrun(
    *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
            "--master-addr", "127.0.0.1", "--master-port", str(port), *arguments,
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        check=False,
        timeout=300,
    )  # fmt: skip


def test_a_loss_of_gathered_rows_has_the_whole_batchs_gradient(tmp_path: Path) -> None:
    script = tmp_path / "gather.py"
    script.write_text(_GATHER)
    result = _torchrun(str(script))
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "two.toml"
    path.write_text(
        """
        name = "two"
        [data]
        source = "digits"
        validation = 0.15
        [teacher]
        model = "resnet8"
        [teacher.train]
        epochs = 3
        batch = 64
        learning_rate = 0.1
        [student]
        control = false
        [student.train]
        epochs = 3
        batch = 64
        learning_rate = 0.1
        [distill.weights]
        ce = 1
        dist = 1
        rkd = 1
        crd = 0.1
        [distill]
        negatives = 32
        [calibration]
        samples = 64
        [engines]
        targets = ["onnxruntime-cpu"]
        precisions = ["fp32"]
        [bench]
        samples = 100
        seconds = 0.2
        blocks = 2
        """
    )
    return path


def test_a_build_by_two_processes_ends_where_one_does(recipe: Path, tmp_path: Path) -> None:
    build = ["build", str(recipe), "--json"]
    two = _torchrun(
        "-m", "edgekd", *build, "--out", str(tmp_path / "two"),
        env={"EDGEKD_STORE": str(tmp_path / "store-two")},
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    facts = json.loads(two.stdout)  # one document: one writer
    stages = Stages(load(recipe), [], Store(tmp_path / "store-one"), Nobody())
    dataset = stages.data()
    teacher = stages.teacher(dataset)
    alone = {"teacher": teacher, "student": stages.student("student", dataset, teacher)}
    for role, checkpoint in alone.items():
        (path,) = (tmp_path / "store-two" / role).glob("*/history.json")
        assert checkpoint.history is not None
        curves = (json.loads(each.read_text()) for each in (path, checkpoint.history))
        # Batch norm sees half a batch on each of two ranks, so the curves agree, not the bits.
        for ours, theirs in zip(*curves, strict=True):
            assert abs(ours["loss"] - theirs["loss"]) < 0.25 * theirs["loss"]
        top1 = facts["models"][role]["validation_top1"]
        assert abs(top1 - checkpoint.metrics["validation_top1"]) < 20
    assert not list((tmp_path / "store-two" / "unfinished").glob("*/*"))


def test_a_batch_that_cannot_be_shared_is_one_line(recipe: Path, tmp_path: Path) -> None:
    result = _torchrun(
        "-m", "edgekd", "build", str(recipe), "--set", "teacher.train.batch=63", "--out",
        str(tmp_path), env={"EDGEKD_STORE": str(tmp_path / "store")},
    )  # fmt: skip
    assert result.returncode != 0
    complaints = [line for line in result.stderr.splitlines() if line.startswith("edgekd: ")]
    assert complaints
    assert all("a batch of 63 cannot be shared by 2 processes" in each for each in complaints)
