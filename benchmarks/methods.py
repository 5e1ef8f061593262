"""Claim: what each distillation method brings a student, paired by seed.

    python benchmarks/methods.py --student dscnn-s --epochs 10 --work DIR

Every run of one seed has the same initial weights, images, order, views and steps; methods
differ by the loss alone, at ``--distill``'s standard weights. Finished runs stay in DIR, so that
the script can be stopped and goes on. ``--labels 0.1`` hides the labels of nine images in ten
from the student; the teacher is the same, and the control takes as many steps on the rest.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch

from edgekd.artifacts import Checkpoint, Dataset, TeacherLogits
from edgekd.data import open_source, splits
from edgekd.distill import sampling, teachers
from edgekd.distill.trainer import train
from edgekd.models import weights
from edgekd.recipe import (
    DataSettings,
    DistillSettings,
    Recipe,
    TrainSettings,
    standard_weights,
)
from edgekd.recipe_file import load

ROOT = Path(__file__).parent.parent
METHODS = "ce kl dkd dist logit_std_kl kl+dist hint attention gram kl+attention"
VIEWS = 4
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t at 97.5 % by the number of seeds."""


def prepared(work: Path, labels: float) -> Dataset:
    """Fashion-MNIST with a share of its labels."""
    folder = work / f"data-{labels:g}"
    folder.mkdir(parents=True, exist_ok=True)
    return splits.prepare(DataSettings(labelled=labels), open_source("fashion-mnist"), folder)


def teacher_of(recipe: Recipe, work: Path, given: Path | None) -> Checkpoint:
    """The recipe's teacher, trained on every label; or these weights of it."""
    dataset = prepared(work, 1.0)
    kept = work / "teacher" / "weights.safetensors"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        if given is not None:
            kept.write_bytes(given.read_bytes())
        else:
            train(
                dataset, recipe.teacher.model, recipe.teacher.train, kept.parent, work=work / "part"
            )
    return Checkpoint(
        weights=kept, model=recipe.teacher.model, classes=10, shape=(1, 28, 28), params=0, macs=0,
        metrics={},
    )  # fmt: skip


def correct(checkpoint: Checkpoint, dataset: Dataset) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which test images the network names rightly."""
    model, test = weights.load(checkpoint), splits.read(dataset, "test")
    found = []
    with torch.inference_mode():
        for begin in range(0, len(test), 500):
            x = sampling.tensor(test.images[begin : begin + 500], dataset.preprocessing)
            found.append(model(x).argmax(1).numpy())
    right: np.ndarray[Any, np.dtype[np.bool_]] = np.concatenate(found) == test.labels
    return right


def run(
    method: str, seed: int, chosen: argparse.Namespace, teacher: Checkpoint, dataset: Dataset
) -> Path:
    """One student; returns which test images it has right."""
    name = f"{chosen.student}-{chosen.epochs}-{chosen.labels:g}-{method}-{seed}"
    result = chosen.work / f"{name}.npy"
    if result.exists():
        return result
    settings = TrainSettings(
        epochs=chosen.epochs, learning_rate=chosen.rate, weight_decay=1e-4, views=VIEWS, seed=seed
    )
    begin = time.monotonic()
    distill, logits = None, None
    if method != "ce":
        distill = DistillSettings(weights=standard_weights(method.split("+")))
        if not distill.features():
            folder = chosen.work / f"logits-{chosen.epochs}-{seed}"
            logits = TeacherLogits(path=folder / "logits.npy", views=VIEWS, classes=10)
            if not (folder / "done").exists():
                folder.mkdir(exist_ok=True)
                teachers.record(dataset, teacher, settings, distill, folder)
                (folder / "done").touch()
    out = chosen.work / name
    out.mkdir(exist_ok=True)
    student = train(
        dataset,
        chosen.student,
        settings,
        out,
        teacher=None if distill is None else teacher,
        distill=distill,
        logits=logits,
        work=out / "part",
    )
    right = correct(student, dataset)
    np.save(result, right)
    seconds = time.monotonic() - begin
    print(f"{name}: {100 * right.mean():.2f} % in {seconds:.0f} s", flush=True)
    return result


def table(chosen: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Mean test top-1 by method, and its gain over cross-entropy, paired by seed."""
    stem = f"{chosen.student}-{chosen.epochs}-{chosen.labels:g}"
    found = {
        method: {
            seed: 100 * float(np.load(path).mean())
            for seed in chosen.seeds
            if (path := chosen.work / f"{stem}-{method}-{seed}.npy").exists()
        }
        for method in chosen.methods.split()
    }
    rows = []
    for method, by_seed in found.items():
        if not by_seed:
            continue
        alone = found.get("ce", {})
        paired = [top1 - alone[seed] for seed, top1 in by_seed.items() if seed in alone]
        gain = ""
        if method != "ce" and len(paired) > 1:
            half = T_95[len(paired)] * float(np.std(paired, ddof=1)) / math.sqrt(len(paired))
            mean = float(np.mean(paired))
            gain = f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"
        values = list(by_seed.values())
        loss = "ce 1" if method == "ce" else " + ".join(
            f"{weight:g} {term}" for term, weight in standard_weights(method.split("+")).items()
        )  # fmt: skip
        spread = f"{min(values):.2f} to {max(values):.2f}"
        rows.append((method, loss, f"{np.mean(values):.2f}", spread, str(len(values)), gain))
    headings = ("method", "loss", "test top-1, %", "seeds from, to", "seeds", "to ce, paired")
    return record.table(headings, rows), found


def main() -> None:
    """Runs what is not done yet, and writes ``results/methods-STUDENT….md``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--student", default="dscnn-s")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--labels", type=float, default=1.0)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--teacher", type=Path, help="its weights, to save training it")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--done", action="store_true", help="only tell of the runs that are done")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    recipe = load(ROOT / "recipes" / "fashion-mnist.toml")
    teacher = teacher_of(recipe, chosen.work, chosen.teacher)
    dataset = prepared(chosen.work, chosen.labels)
    for seed in [] if chosen.done else chosen.seeds:
        for method in chosen.methods.split():
            run(method, seed, chosen, teacher, dataset)
    rows, found = table(chosen)
    (chosen.work / "found.json").write_text(json.dumps(found))
    top1 = 100 * float(correct(teacher, dataset).mean())
    few = "" if chosen.labels == 1 else f", {100 * chosen.labels:g} % of the labels"
    body = [
        (
            f"Teacher {teacher.model}, trained on every label, {top1:.2f} % on test."
            f" {chosen.epochs} epochs, batch 128, SGD {chosen.rate:g}, one cycle, flips in"
            f" {VIEWS} views. Intervals are Student's t, 95 %, over seeds. A method with"
            " fewer seeds than others was not run on the rest."
        ),
        "",
        rows,
    ]
    name = f"methods-{chosen.student}" + ("" if chosen.labels == 1 else "-few-labels")
    claim = f"What each method brings {chosen.student} on Fashion-MNIST{few}"
    record.write(name, claim, ["torch"], "\n".join(body))


if __name__ == "__main__":
    main()
