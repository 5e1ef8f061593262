"""Claim: images a second that distillation trains, against torchdistill, side by side.

    pip install torchdistill==1.1.5 torchvision
    python benchmarks/throughput.py

Same networks, images, flips, batch, fp32 and threads. torchdistill gets what its examples do:
torchvision's transforms in a DataLoader, its DistillationBox and KDLoss. The two take turns;
each figure is the median of the turns' steps. ``kept`` is ours with the teacher's logits recorded
beforehand, which torchdistill does not have.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import record
import torch

from edgekd import models
from edgekd.artifacts import Checkpoint, Dataset, TeacherLogits
from edgekd.data import open_source, splits
from edgekd.distill import teachers
from edgekd.distill.trainer import train
from edgekd.models import weights
from edgekd.recipe import DataSettings, DistillSettings, TrainSettings

BATCH, TURNS, STEPS, SKIPPED = 128, 5, 40, 5
PAIRS = (("resnet20", "dscnn-s"), ("resnet56", "dscnn-s"))


class Enough(Exception):
    """A turn has as many steps as it needs."""


def ours(
    dataset: Dataset,
    student: str,
    teacher: Checkpoint,
    folder: Path,
    logits: TeacherLogits | None,
    **changes: Any,
) -> list[float]:
    """Seconds of each step of one turn."""
    times: list[float] = []

    def progress(done: int, total: int, note: str = "", scalars: Any = None) -> None:
        times.append(time.perf_counter())
        if len(times) > STEPS:
            raise Enough

    settings = TrainSettings(
        epochs=1, batch=BATCH, learning_rate=0.01, flip=logits is None, views=0
    )
    distill = DistillSettings(**{"autocast": "off", **changes})
    with contextlib.suppress(Enough):
        train(
            dataset, student, settings, folder, progress, teacher=teacher, distill=distill,
            logits=logits,
        )  # fmt: skip
    return [b - a for a, b in itertools.pairwise(times)][SKIPPED:]


def theirs(dataset: Dataset, student: str, teacher: Checkpoint, workers: int) -> list[float]:
    """Seconds of each step of one turn of torchdistill's training loop."""
    from torch.utils.data import RandomSampler
    from torchdistill.core.distillation import get_distillation_box
    from torchvision import transforms

    samples = splits.read(dataset, "train")
    look = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(dataset.preprocessing.mean, dataset.preprocessing.std),
        ]
    )

    class Images(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, i: int) -> Any:
            return look(torch.from_numpy(samples.images[i])), int(samples.labels[i])

    config = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": BATCH, "num_workers": workers, "drop_last": True},
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        "optimizer": {
            "key": "SGD",
            "kwargs": {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True},
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {
                "sub_terms": {
                    "kd": {
                        "criterion": {
                            "key": "KDLoss",
                            "kwargs": {
                                "student_module_path": ".",
                                "student_module_io": "output",
                                "teacher_module_path": ".",
                                "teacher_module_io": "output",
                                "temperature": 2.0,
                                "alpha": 0.5,
                                "reduction": "batchmean",
                            },
                        },
                        "weight": 1.0,
                    }
                }
            },
        },
    }
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    box = get_distillation_box(
        weights.load(teacher), models.create(student, 10, 1), {"train": Images()}, config, cpu,
        None, False, 1,
    )  # fmt: skip
    times = []
    box.pre_epoch_process(epoch=0)
    for batch, targets, supplement in box.train_data_loader:
        loss = box.forward_process(batch, targets, supplement)
        box.post_forward_process(loss)
        times.append(time.perf_counter())
        if len(times) > STEPS:
            break
    return [b - a for a, b in itertools.pairwise(times)][SKIPPED:]


def main() -> None:
    """Writes ``results/throughput.md``."""
    threads = torch.get_num_threads()
    rows, notes = [], []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        settings = DataSettings(validation=0.8)  # only its training part is used
        dataset = splits.prepare(settings, open_source("fashion-mnist"), work)
        for teacher_name, student in PAIRS:
            torch.manual_seed(0)
            kept = work / f"{teacher_name}.safetensors"
            weights.save(models.create(teacher_name, 10, 1), kept)
            teacher = Checkpoint(
                weights=kept, model=teacher_name, classes=10, shape=(1, 28, 28), params=0,
                macs=0, metrics={},
            )  # fmt: skip
            folder = work / f"logits-{teacher_name}"
            folder.mkdir()
            plain = TrainSettings(flip=False, epochs=2)
            begin = time.perf_counter()
            logits = teachers.record(
                dataset, teacher, plain, DistillSettings(autocast="off"), folder
            )
            recording = time.perf_counter() - begin
            ways = {
                "torchdistill, no workers": lambda t=teacher, s=student: theirs(dataset, s, t, 0),
                "torchdistill, 2 workers": lambda t=teacher, s=student: theirs(dataset, s, t, 2),
                "EdgeKD": lambda t=teacher, s=student: ours(dataset, s, t, work, None),
                "EdgeKD, teacher in bf16 (its default)": lambda t=teacher, s=student: ours(
                    dataset, s, t, work, None, autocast="auto"
                ),
                "EdgeKD, logits kept": lambda t=teacher, s=student, k=logits: ours(
                    dataset, s, t, work, k
                ),
            }
            steps: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(TURNS):
                for way, turn in ways.items():
                    steps[way].append(statistics.median(turn()))
            best = min(statistics.median(steps[way]) for way in list(ways)[:2])
            for way, turns in steps.items():
                middle = statistics.median(turns)
                ratios = sorted(best / each for each in turns)
                rows.append(
                    (
                        f"{teacher_name} to {student}",
                        way,
                        f"{BATCH / middle:,.0f}",
                        f"{best / middle:.2f}",
                        f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
                    )
                )
            n = dataset.sizes["train"]
            notes.append(
                f"- Recording {teacher_name}'s logits of {n:,} images took {recording:.1f} s, once;"
                f" an epoch of them costs {n / BATCH * statistics.median(steps['EdgeKD']):.1f} s"
                f" asked, {n / BATCH * statistics.median(steps['EdgeKD, logits kept']):.1f} s kept."
            )
    headings = ("pair", "way", "images a second", "× the better torchdistill", "turns from, to")
    body = [
        (
            f"{threads} threads, batch {BATCH}, fp32, KL and cross-entropy, SGD. Medians of"
            f" {TURNS} turns of {STEPS - SKIPPED} steps, in turn."
        ),
        "",
        record.table(headings, rows),
        "",
        *notes,
    ]
    packages = ["torch", "torchvision", "torchdistill"]
    record.write(
        "throughput", "Training throughput against torchdistill", packages, "\n".join(body)
    )


if __name__ == "__main__":
    main()
