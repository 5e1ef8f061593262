"""Claim: int8 costs a trained student no more than 0.1 points of top-1, in the median of seeds.

    python benchmarks/int8_accuracy.py --students DIR…
    python benchmarks/int8_accuracy.py --epochs 3    # without students of one's own

A DIR holds the ``weights.safetensors`` of one student, as ``methods.py`` leaves them in its work
folder; without any, five are trained on labels alone. The peer is ONNX Runtime's own
``quantize_static``, calibrated on the same images. Test images are seen once, at the end.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record
from quantisation import outputs
from quantisation_peers import PEERS, TITLES

from edgekd import models
from edgekd.artifacts import CalibrationTable, Checkpoint, Dataset, OnnxModel
from edgekd.calibration import sets
from edgekd.calibration.collect import collect
from edgekd.calibration.feeds import Feeds, of_images
from edgekd.calibration.methods import label
from edgekd.data import open_source, splits
from edgekd.distill.trainer import train
from edgekd.export import INPUT, OUTPUT, export
from edgekd.quantize import auto
from edgekd.quantize.qdq import quantize
from edgekd.recipe import CalibrationSettings, DataSettings, TrainSettings

FORMS = ("u8s8", "s8s8")
QUANTISERS = {"ort-default": TITLES["ort-default"], "ort-cpu": TITLES["ort-cpu"]}
SEEDS = 5
GOAL = 0.1
"""Points."""


def students(chosen: argparse.Namespace, dataset: Dataset, work: Path) -> dict[str, Checkpoint]:
    """By name: those given, or five trained here."""
    if not chosen.students:
        found = {}
        for seed in range(SEEDS):
            folder = work / f"seed-{seed}"
            folder.mkdir()
            settings = TrainSettings(epochs=chosen.epochs, weight_decay=1e-4, seed=seed)
            found[f"seed {seed}"] = train(dataset, chosen.student, settings, folder)
        return found
    params, macs = models.cost(models.create(chosen.student, 10, 1), dataset.shape)
    return {
        folder.name: Checkpoint(
            weights=folder / "weights.safetensors", model=chosen.student, classes=10,
            shape=dataset.shape, params=params, macs=macs, metrics={},
        )
        for folder in chosen.students
    }  # fmt: skip


def table_of(
    model: OnnxModel, calibration: Feeds, validation: Feeds, folder: Path
) -> CalibrationTable:
    """The ranges by the method that does best on validation."""
    return auto.choose(model, collect(model.path, calibration, folder), validation, FORMS, folder)


def top1(path: Path, feeds: Feeds, *, optimise: bool) -> float:
    """Percent that a file names rightly."""
    named = outputs(path, feeds, optimise=optimise)[OUTPUT].argmax(1)
    return 100 * float((named == feeds.labels).mean())


def measured(
    checkpoint: Checkpoint, dataset: Dataset, calibration: Feeds, folder: Path
) -> tuple[str, dict[str, float]]:
    """The method chosen for a student, and its top-1 on test by file."""
    parts = {}
    for name in ("validation", "test"):
        part = splits.read(dataset, name)
        parts[name] = of_images(INPUT, part.images[:], dataset.preprocessing, part.labels)
    model = export(checkpoint, dataset, folder)
    table = table_of(model, calibration, parts["validation"], folder)
    found = {"fp32": top1(model.path, parts["test"], optimise=False)}
    for form in FORMS:
        (folder / form).mkdir()
        path = quantize(model, table, form, folder / form).path
        found[f"EdgeKD {form}"] = top1(path, parts["test"], optimise=False)
    arrays = calibration.take(slice(0, len(calibration)))
    for peer, title in QUANTISERS.items():
        path = folder / f"{peer}.onnx"
        PEERS[peer](model.path, arrays, path)
        found[title] = top1(path, parts["test"], optimise=False)
    return label(table.method, table.percentile), found


def lines(found: dict[str, tuple[str, dict[str, float]]]) -> tuple[list[Sequence[str]], str]:
    """A row a student, and one of medians; and what came of the goal."""
    names = list(next(iter(found.values()))[1])
    losses: dict[str, Any] = {
        name: np.array([top["fp32"] - top[name] for _, top in found.values()]) for name in names
    }
    rows: list[Sequence[str]] = []
    for place, (student, (method, top)) in enumerate(found.items()):
        rows.append(
            (
                student, method, f"{top['fp32']:.2f}",
                *(f"{losses[name][place]:+.2f}" for name in names[1:]),
            )
        )  # fmt: skip
    middle = {name: float(np.median(losses[name])) for name in names[1:]}
    rows.append(("median", "", "", *(f"{each:+.2f}" for each in middle.values())))
    verdicts = [
        f"{form} {'met' if middle[f'EdgeKD {form}'] <= GOAL + 1e-9 else '**missed**'}"
        f" ({middle[f'EdgeKD {form}']:+.2f})"
        for form in FORMS
    ]
    return rows, f"Median loss at most {GOAL} points: {', '.join(verdicts)}."


def main() -> None:
    """Writes ``results/int8-accuracy.md``."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--student", default="dscnn-s")
    parser.add_argument("--students", type=Path, nargs="+", default=[])
    parser.add_argument("--epochs", type=int, default=3, help="of those that are trained here")
    parser.add_argument("--samples", type=int, default=CalibrationSettings().samples)
    chosen = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        dataset = splits.prepare(DataSettings(), open_source("fashion-mnist"), work)
        drawn = sets.choose(dataset, CalibrationSettings(samples=chosen.samples), work)
        images = sets.images(drawn, dataset)
        calibration = of_images(INPUT, images, dataset.preprocessing)
        for student, checkpoint in students(chosen, dataset, work).items():
            folder = work / "export" / student
            folder.mkdir(parents=True)
            found[student] = measured(checkpoint, dataset, calibration, folder)
            print(student, *found[student], flush=True)
    rows, verdict = lines(found)
    files = list(next(iter(found.values()))[1])[1:]
    where = "given" if chosen.students else f"trained here for {chosen.epochs} epochs"
    body = [
        verdict,
        "",
        record.table(("student", "method", "fp32 top-1, %", *files), rows),
        "",
        (
            f"Points of top-1 that each file loses on the {dataset.sizes['test']:,} test images,"
            " every graph run as it is written, nothing fused; less than 0 is a gain. One image is"
            f" {100 / dataset.sizes['test']:.2f} points. {chosen.student} on Fashion-MNIST,"
            f" {where}; calibrated on {len(images)} training images; EdgeKD chose the method on"
            " validation. ONNX Runtime's defaults give a whole weight one scale, which a depthwise"
            " network with batch norm folded does not survive."
        ),
    ]
    record.write(
        "int8-accuracy", "What int8 costs trained students", ["onnxruntime", "onnx", "torch"],
        "\n".join(body),
    )  # fmt: skip


if __name__ == "__main__":
    main()
