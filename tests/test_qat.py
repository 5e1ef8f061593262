"""Quantisation-aware distillation: what int8 loses, and that training to be rounded wins it back.

A student loses nothing on digits by itself, so it is made to: each channel is scaled by a factor
of its own and the next layer's weights by the inverse. The fp32 function is the same, but one
scale for a whole activation no longer fits its channels, the way that depthwise networks fail
in practice (Nagel et al. 2019, arXiv:1906.04721).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd import qat, targets
from edgekd.artifacts import (
    CalibrationTable,
    Checkpoint,
    Dataset,
    Int8Check,
    OnnxModel,
    QuantizedModel,
)
from edgekd.backends import ort
from edgekd.backends.base import find
from edgekd.calibration.feeds import of_images
from edgekd.calibration.sets import choose, images
from edgekd.calibration.table import calibrate
from edgekd.data import splits
from edgekd.distill.trainer import train
from edgekd.export import export
from edgekd.int8 import Int8Stages
from edgekd.models import weights
from edgekd.preprocessing import normalise
from edgekd.progress import Nobody
from edgekd.quantize.qdq import quantize
from edgekd.recipe import CalibrationSettings, QatSettings, TrainSettings
from edgekd.recipe_file import load
from edgekd.stages import Stages
from edgekd.store import Store

TRAIN = TrainSettings(
    epochs=10, batch=64, learning_rate=0.1, flip=False, shift=1, weight_decay=1e-4
)


def spread(model: nn.Module, sigma: float) -> None:
    """Scales channel c of each unit by a log-normal factor, and what reads it by the inverse."""
    rng = torch.Generator().manual_seed(0)
    layers = [each for each in model.modules() if isinstance(each, nn.Conv2d | nn.BatchNorm2d)]
    readers = [*layers[2::2], model.get_submodule("head")]
    with torch.no_grad():
        for norm, reader in zip(layers[1::2], readers, strict=True):
            assert isinstance(norm, nn.BatchNorm2d)
            factor = torch.exp(sigma * torch.randn(norm.num_features, generator=rng))
            norm.weight *= factor
            norm.bias *= factor
            weight = reader.weight
            assert isinstance(weight, nn.Parameter)
            shape = (-1, 1, 1, 1) if getattr(reader, "groups", 1) > 1 else (1, -1)
            weight /= factor.view(*shape, *[1] * (weight.ndim - len(shape)))


@dataclass
class Student:
    """A student whose int8 is in trouble."""

    checkpoint: Checkpoint
    model: OnnxModel
    table: CalibrationTable
    forms: dict[str, QuantizedModel]
    before: Int8Check


def forms_of(model: OnnxModel, table: CalibrationTable, folder: Path) -> dict[str, QuantizedModel]:
    found = {}
    for form in ("s8s8", "u8s8"):
        (folder / form).mkdir(parents=True)
        found[form] = quantize(model, table, form, folder / form)
    return found


def on_test(path: Path, dataset: Dataset) -> float:
    """Top-1 on test under the graph's plain semantics, in percent."""
    test = splits.read(dataset, "test")
    with ort.open_model(path, optimise=False) as session:
        x = normalise(test.images[:], dataset.preprocessing)
        out = session.run({session.inputs[0].name: x})[session.outputs[0].name]
    return 100 * float((np.asarray(out).argmax(1) == test.labels).mean())


@pytest.fixture(scope="module")
def student(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Student:
    folder = tmp_path_factory.mktemp("qat")
    checkpoint = train(dataset, "dscnn-s", TRAIN, folder)
    network = weights.load(checkpoint)
    spread(network, 1.0)
    weights.save(network, checkpoint.weights)
    model = export(checkpoint, dataset, folder)
    settings = CalibrationSettings(samples=256, method="percentile")
    chosen = choose(dataset, settings, folder)
    samples = of_images("image", images(chosen, dataset), dataset.preprocessing)
    table = calibrate(model, samples, settings, chosen, folder)
    forms = forms_of(model, table, folder)
    (folder / "check").mkdir()
    before = qat.check(dataset, model, forms, folder / "check")
    return Student(checkpoint, model, table, forms, before)


def tuned(
    student: Student, dataset: Dataset, folder: Path, settings: QatSettings, form: str = "s8s8"
) -> OnnxModel:
    return qat.tune(
        dataset,
        student.model,
        student.table,
        form,
        settings,
        TRAIN,
        student.checkpoint,
        folder,
        work=folder / "work",
    )


def test_the_check_tells_what_each_form_loses(student: Student, dataset: Dataset) -> None:
    assert student.before.fp32 > 75
    assert student.before.forms.keys() == {"s8s8", "u8s8"}
    for form, top1 in student.before.forms.items():
        assert student.before.lost(form) == pytest.approx(student.before.fp32 - top1)
    assert student.before.lost("s8s8") > 5


@pytest.mark.parametrize("form", ["s8s8", "u8s8"])
def test_it_wins_back_half_of_the_loss_and_more(
    student: Student, dataset: Dataset, tmp_path: Path, form: str
) -> None:
    model = tuned(student, dataset, tmp_path, QatSettings(epochs=4, batch=64), form)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx", "work"]
    forms = forms_of(model, student.table, tmp_path / "forms")
    whole = on_test(student.model.path, dataset)
    lost = whole - on_test(student.forms[form].path, dataset)
    assert lost > 2
    assert whole - on_test(forms[form].path, dataset) < lost / 2
    backend = find("tensorrt-rtx")
    if form == "s8s8" and backend.probe().installed:
        (tmp_path / "engine").mkdir()
        built = backend.build(forms[form], targets.load("tensorrt-rtx"), tmp_path / "engine")
        assert built.path.stat().st_size > 0


def test_only_weights_change_and_only_those_of_products(
    student: Student, dataset: Dataset, tmp_path: Path
) -> None:
    import onnx

    model = tuned(student, dataset, tmp_path, QatSettings(epochs=1, batch=64))
    before, after = (onnx.load(each).graph for each in (student.model.path, model.path))
    assert [n.SerializeToString() for n in before.node] == [
        n.SerializeToString() for n in after.node
    ]
    assert [(i.name, i.dims) for i in before.initializer] == [
        (i.name, i.dims) for i in after.initializer
    ]
    assert before != after


def test_a_build_fine_tunes_where_int8_loses_too_much_and_says_so(
    student: Student, dataset: Dataset, tmp_path: Path
) -> None:
    def stages(when: str, max_loss: float) -> Int8Stages:
        recipe = load(
            None,
            {
                "qat.when": when, "qat.max_loss": max_loss, "qat.batch": 64, "qat.epochs": 4,
                "calibration.samples": 256, "calibration.method": "percentile",
                "quantize.mixed": "never", "quantize.min_sqnr": 0, "student.train.flip": False,
            },
        )  # fmt: skip
        return Int8Stages(Stages(recipe, [], Store(tmp_path / "store"), Nobody()))

    known = {"student": student.checkpoint}
    mended = stages("auto", 0.5).quantise(student.model, dataset, known)
    assert mended is not None and mended.before is not None and mended.after is not None
    assert mended.after.lost("s8s8") < mended.before.lost("s8s8") / 2
    assert mended.forms["s8s8"].path.read_bytes() != student.forms["s8s8"].path.read_bytes()
    enough = stages("auto", 50).quantise(student.model, dataset, known)
    assert enough is not None and enough.before is not None and enough.after is None
    never = stages("never", 0).quantise(student.model, dataset, known)
    assert never is not None and never.before is None
    assert never.forms["s8s8"].path.read_bytes() == enough.forms["s8s8"].path.read_bytes()
