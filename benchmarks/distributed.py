"""Claim: two processes train as one does, and how fast.

    python benchmarks/distributed.py

The same student, seed, global batch and epochs: one process with one thread, one with two, and
two with one each under torchrun (gloo). Batch norm sees half a batch on each of two ranks, so
curves agree and bits do not. The three take turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record

EPOCHS, TURNS = 4, 3
WAYS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes": (2, 1)}


def child(folder: Path, threads: int) -> None:
    """One rank of one run; rank 0 writes the history and the seconds of the steps."""
    import torch

    from edgekd import models
    from edgekd.artifacts import Checkpoint
    from edgekd.data import open_source, splits
    from edgekd.distill import ranks
    from edgekd.distill.trainer import train
    from edgekd.models import weights
    from edgekd.recipe import DataSettings, DistillSettings, TrainSettings

    torch.set_num_threads(threads)
    own = folder / f"rank{ranks.rank()}"
    own.mkdir()
    source = open_source("fashion-mnist")
    dataset = splits.prepare(DataSettings(validation=0.8), source, own)
    torch.manual_seed(0)
    weights.save(models.create("resnet8", 10, 1), own / "teacher.safetensors")
    teacher = Checkpoint(
        weights=own / "teacher.safetensors", model="resnet8", classes=10, shape=(1, 28, 28),
        params=0, macs=0, metrics={},
    )  # fmt: skip
    settings = TrainSettings(epochs=EPOCHS, learning_rate=0.1)
    distill = DistillSettings(weights={"ce": 1, "dist": 0.2, "similarity": 100.0})
    times: list[float] = []

    def progress(done: int, total: int, note: str = "", scalars: Any = None) -> None:
        if scalars is None:
            times.append(time.perf_counter())

    made = train(dataset, "dscnn-s", settings, own, progress, teacher=teacher, distill=distill)
    if not ranks.rank():
        assert made.history is not None
        steps = [b - a for a, b in zip(times, times[1:], strict=False)]  # noqa: RUF007
        found = {
            "history": json.loads(made.history.read_text()),
            "per_s": settings.batch / statistics.median(steps),
        }
        (folder / "found.json").write_text(json.dumps(found))
    ranks.leave()


def run(processes: int, threads: int) -> Any:
    """One run in processes of its own."""
    with tempfile.TemporaryDirectory() as name:
        launch = [sys.executable]
        if processes > 1:
            launch += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        subprocess.run([*launch, __file__, "--child", name, str(threads)], check=True)
        return json.loads((Path(name) / "found.json").read_text())


def main() -> None:
    """Writes ``results/distributed.md``."""
    found: dict[str, list[Any]] = {way: [] for way in WAYS}
    for _ in range(TURNS):
        for way, (processes, threads) in WAYS.items():
            found[way].append(run(processes, threads))
    base = statistics.median(each["per_s"] for each in found["1 process, 1 thread"])
    rows = []
    for way, runs in found.items():
        per_s = statistics.median(each["per_s"] for each in runs)
        history = runs[0]["history"]
        losses = ", ".join(f"{each['loss']:.3f}" for each in history)
        same = all(each["history"] == history for each in runs)
        rows.append(
            (
                way,
                f"{per_s:,.0f}",
                f"{per_s / base:.2f}",
                losses,
                f"{history[-1]['validation_top1']:.2f}",
                "yes" if same else "no",
            )
        )
    headings = (
        "way", "images a second", "× one thread", "loss by epoch", "validation, %",
        "the same in every turn",
    )  # fmt: skip
    body = [
        (
            "dscnn-s from an untrained resnet8 by ce + 0.2 dist + 100 similarity, 12,000 images,"
            f" global batch 128, {EPOCHS} epochs; medians of {TURNS} turns."
        ),
        "",
        record.table(headings, rows),
    ]
    record.write("distributed", "Two processes against one", ["torch"], "\n".join(body))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
