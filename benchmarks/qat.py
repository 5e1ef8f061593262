"""Claim: quantisation-aware distillation wins back what int8 loses after calibration.

    python benchmarks/qat.py

Students trained here lose next to nothing, so the loss is made, in two ways that occur in
practice: ranges that cut off too much (percentile 99), and channels of very different size (each
scaled by a log-normal factor and the next layer by its inverse, the same fp32 function), which
one scale for a whole tensor does not fit. The student is the demo's; the control is the same
fine-tuning without rounding, quantised afterwards.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import record
import torch
from torch import nn

from edgekd import qat
from edgekd.artifacts import CalibrationTable, Checkpoint, Dataset, OnnxModel
from edgekd.backends import ort
from edgekd.calibration.feeds import of_images
from edgekd.calibration.sets import choose, images
from edgekd.calibration.table import calibrate
from edgekd.data import splits
from edgekd.export import export
from edgekd.models import weights
from edgekd.preprocessing import normalise
from edgekd.progress import Nobody
from edgekd.quantize.qdq import quantize
from edgekd.recipe import CalibrationSettings, DistillSettings, QatSettings
from edgekd.recipe_file import load
from edgekd.stages import Stages
from edgekd.stats.compare import paired
from edgekd.store import Store, default_root

RECIPE = Path(__file__).parent.parent / "recipes" / "demo.toml"
SIGMA = 1.0


def spread(model: nn.Module) -> None:
    """Scales each channel of a dscnn and what reads it, so that the function stays."""
    rng = torch.Generator().manual_seed(0)
    layers = [each for each in model.modules() if isinstance(each, nn.Conv2d | nn.BatchNorm2d)]
    readers = [*layers[2::2], model.get_submodule("head")]
    with torch.no_grad():
        for norm, reader in zip(layers[1::2], readers, strict=True):
            assert isinstance(norm, nn.BatchNorm2d)
            factor = torch.exp(SIGMA * torch.randn(norm.num_features, generator=rng))
            norm.weight *= factor
            norm.bias *= factor
            weight = reader.weight
            assert isinstance(weight, nn.Parameter)
            shape = (-1, 1, 1, 1) if getattr(reader, "groups", 1) > 1 else (1, -1)
            weight /= factor.view(*shape, *[1] * (weight.ndim - len(shape)))


def right(path: Path, dataset: Dataset) -> np.ndarray:
    """Which test images an ONNX model names rightly, under its graph's plain semantics."""
    test = splits.read(dataset, "test")
    found = []
    with ort.open_model(path, threads=torch.get_num_threads(), optimise=False) as session:
        for begin in range(0, len(test), 500):
            x = normalise(test.images[begin : begin + 500], dataset.preprocessing)
            out = session.run({session.inputs[0].name: x})[session.outputs[0].name]
            found.append(np.asarray(out).argmax(1))
    return np.concatenate(found) == test.labels


def rounded(model: OnnxModel, table: CalibrationTable, dataset: Dataset, form: str) -> np.ndarray:
    """``right`` of a form of a model."""
    with tempfile.TemporaryDirectory() as name:
        return right(quantize(model, table, form, Path(name)).path, dataset)


def case(
    name: str,
    student: Checkpoint,
    percentile: float,
    dataset: Dataset,
    folder: Path,
    tune: bool = True,
) -> list[tuple[str, ...]]:
    """The rows of one student: fp32, and each form calibrated and fine-tuned."""
    folder.mkdir(exist_ok=True)
    model = export(student, dataset, folder)
    settings = CalibrationSettings(method="percentile", percentile=percentile)
    chosen = choose(dataset, settings, folder)
    samples = of_images("image", images(chosen, dataset), dataset.preprocessing)
    table = calibrate(model, samples, settings, chosen, folder)
    recipe = load(RECIPE)
    qats, own = QatSettings(), recipe.student.train
    whole = right(model.path, dataset)
    rows = [(name, "fp32", f"{100 * whole.mean():.2f}", "", "", "")]
    for form in ("s8s8", "u8s8"):
        before = rounded(model, table, dataset, form)
        rows.append(
            (name, f"int8 {form}, calibrated", f"{100 * before.mean():.2f}",
             f"{100 * float(whole.mean() - before.mean()):.2f}", "", "")
        )  # fmt: skip
        if not tune:
            continue
        tuned = folder / form
        tuned.mkdir()
        better = qat.tune(dataset, model, table, form, qats, own, student, tuned)
        after = rounded(better, table, dataset, form)
        lost, left = (100 * float(whole.mean() - each.mean()) for each in (before, after))
        gain = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*paired(after, before))
        share = f"{100 * (1 - left / lost):.0f} %" if lost >= 0.5 else ""
        rows.append(
            (name, f"int8 {form}, fine-tuned", f"{100 * after.mean():.2f}", f"{left:.2f}", gain,
             share)
        )  # fmt: skip
    return rows


def without_rounding(student: Checkpoint, dataset: Dataset, folder: Path) -> Checkpoint:
    """The same epochs, rate and losses from the same weights, in fp32 alone."""
    from edgekd.distill import checkpoint
    from edgekd.distill.fit import fit

    own, qats = load(RECIPE).student.train, QatSettings()
    changes = {
        "epochs": qats.epochs, "optimizer": "adamw", "learning_rate": qats.learning_rate,
        "weight_decay": 0.0, "schedule": "cosine", "warmup": 0.1, "keep": "best",
    }  # fmt: skip
    checkpoint.seed(own.seed)
    network = weights.load(student)
    distill = DistillSettings(weights=dict(qats.weights), temperature=qats.temperature)
    fit(
        network, dataset, own.model_copy(update=changes), name="control", teacher=student,
        distill=distill,
    )  # fmt: skip
    return _kept(network, student, folder)


def _kept(network: nn.Module, like: Checkpoint, folder: Path) -> Checkpoint:
    folder.mkdir()
    weights.save(network, folder / "weights.safetensors")
    return Checkpoint(
        weights=folder / "weights.safetensors", model=like.model, classes=like.classes,
        shape=like.shape, params=like.params, macs=like.macs, metrics={},
    )  # fmt: skip


def main() -> None:
    """Writes ``results/qat.md``."""
    recipe = load(RECIPE)
    stages = Stages(recipe, [], Store(default_root()), Nobody())
    dataset = stages.data()
    student = stages.student("student", dataset, stages.teacher(dataset))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        network = weights.load(student)
        spread(network)
        scaled = _kept(network, student, work / "scaled")
        rows += case("as trained, percentile 99.99", student, 99.99, dataset, work / "a", False)
        rows += case("percentile 99", student, 99, dataset, work / "b")
        rows += case("channels spread", scaled, 99.99, dataset, work / "c")
        control = without_rounding(scaled, dataset, work / "control")
        rows += case("the same, fp32 epochs first", control, 99.99, dataset, work / "d", False)
    headings = (
        "student", "model", "test top-1, %", "points below fp32", "gained, paired", "won back",
    )  # fmt: skip
    body = [
        (
            f"dscnn-s of recipes/demo.toml. Fine-tuning: {QatSettings().epochs} epochs of AdamW"
            f" {QatSettings().learning_rate:g}, half cross-entropy and half KL to the fp32"
            " student, each form by itself. Both run with the plain semantics of their graphs."
        ),
        "",
        record.table(headings, rows),
    ]
    packages = ["torch", "onnx", "onnxruntime"]
    record.write("qat", "What quantisation-aware distillation wins back", packages, "\n".join(body))


if __name__ == "__main__":
    main()
