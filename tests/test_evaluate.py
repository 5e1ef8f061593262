"""Evaluation: accuracy over the test split, differences by sample, golden outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd import targets
from edgekd.artifacts import Checkpoint, Dataset, EngineFile, OnnxModel
from edgekd.backends import ort
from edgekd.backends.base import build_engine, find
from edgekd.calibration.collect import collect
from edgekd.calibration.feeds import of_images
from edgekd.calibration.table import tabulate
from edgekd.data import splits
from edgekd.errors import StageError
from edgekd.evaluate import (
    agreement,
    differences,
    evaluate,
    golden,
    preview,
)
from edgekd.preprocessing import normalise
from edgekd.quantize.qdq import quantize


def test_agreement_is_the_share_of_equal_classes() -> None:
    a = np.array([[1.0, 0], [0, 1], [0, 1], [1, 0]], np.float32)
    b = np.array([[9.0, 1], [9, 1], [1, 9], [9, 1]], np.float32)
    assert agreement(a, b) == 75.0


def test_an_engine_over_the_test_split(
    checkpoint: Checkpoint, onnx_model: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    found = {}
    for model, name in ((checkpoint, "torch"), (onnx_model, "onnxruntime-cpu")):
        folder = tmp_path / name
        folder.mkdir()
        engine = build_engine(model, "teacher", targets.load(name), folder)
        found[name] = evaluate(engine, dataset, found.get("torch"), folder)
    torch, other = found["torch"], found["onnxruntime-cpu"]
    test = splits.read(dataset, "test")
    outputs = np.load(other.outputs)
    assert outputs.shape == (len(test), 10)
    assert other.n == len(test)
    assert other.value == pytest.approx(100 * (outputs.argmax(1) == test.labels).mean())
    assert other.low < other.value < other.high
    assert torch.agreement is None
    assert other.agreement == 100.0
    delta = differences(torch, [other], dataset, tmp_path)
    assert delta.reference == "teacher/torch/fp32"
    name = "teacher/onnxruntime-cpu/fp32"
    assert delta.deltas[name][0] == delta.bootstrap[name][0] == 0.0
    assert delta.p[name] == 1.0


def test_an_engine_that_cannot_run_here_is_previewed_by_its_own_graph(
    onnx_model: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    """What TensorRT is to give is what its Q/DQ graph gives, every rounding as it is written."""
    feeds = of_images("image", splits.read(dataset, "train").images[:64], dataset.preprocessing)
    table = tabulate(collect(onnx_model.path, feeds, tmp_path), "minmax", 100)
    model = quantize(onnx_model, table, "s8s8", tmp_path)
    engine = EngineFile(
        role="student", target="tensorrt-rtx", backend="tensorrt-rtx", backend_version="",
        device="sm_89", precision="int8", path=tmp_path / "none", model_inputs=(),
        model_outputs=(), executed=False,
    )  # fmt: skip
    places = [tmp_path / name for name in ("teacher", "preview", "engine")]
    for each in places:
        each.mkdir()
    ours = build_engine(onnx_model, "teacher", targets.load("onnxruntime-cpu"), places[2])
    teacher = evaluate(ours, dataset, None, places[0])
    found = preview(engine, model, dataset, teacher, places[1])
    assert found.emulated and not teacher.emulated
    assert found.engine == "student/tensorrt-rtx/int8"
    test = splits.read(dataset, "test")
    assert found.n == len(test)
    outputs = np.load(found.outputs)
    with ort.open_model(model.path, optimise=False) as session:
        x = normalise(test.images[:], dataset.preprocessing)
        expected = np.asarray(session.run({"image": x})["logits"])
    np.testing.assert_array_equal(outputs.argmax(1), expected.argmax(1))
    assert found.value == pytest.approx(100 * (outputs.argmax(1) == test.labels).mean())
    assert found.agreement == pytest.approx(agreement(outputs, np.load(teacher.outputs)))
    assert np.abs(outputs - np.load(teacher.outputs)).max() > 0


def test_outputs_that_are_not_finite_are_an_error(
    onnx_model: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(onnx_model.path)
    bias = next(each for each in model.graph.initializer if each.name == "head.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.inf, np.float32), "head.bias"))
    path = tmp_path / "inf.onnx"
    onnx.save(model, path)
    (tmp_path / "e").mkdir()
    engine = build_engine(
        replace(onnx_model, path=path), "student", targets.load("onnxruntime-cpu"), tmp_path / "e"
    )
    with pytest.raises(StageError, match="gives outputs that are not finite"):
        evaluate(engine, dataset, None, tmp_path)


def test_golden_outputs_are_the_engines_own_or_emulated(
    onnx_model: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    engines = []
    for name in ("openvino-cpu", "tensorrt-rtx"):
        folder = tmp_path / name
        folder.mkdir()
        engines.append(build_engine(onnx_model, "student", targets.load(name), folder))
    found = golden(engines, {engines[1].name: onnx_model}, dataset, tmp_path)
    images = np.load(found.images)
    assert images.dtype == np.uint8
    x = normalise(images, dataset.preprocessing)
    with find("openvino").open(engines[0]) as session:
        expected = session.run({"image": x})["logits"]
    ours = np.load(found.outputs["student/openvino-cpu/fp32"])
    assert np.array_equal(ours, expected)
    emulated = np.load(found.outputs["student/tensorrt-rtx/fp32"])
    np.testing.assert_allclose(emulated, expected, atol=1e-3)
    assert (
        found.tolerances["student/openvino-cpu/fp32"]
        < found.tolerances["student/tensorrt-rtx/fp32"]
    )
