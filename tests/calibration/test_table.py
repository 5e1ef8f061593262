"""The table: the range of every float tensor, whatever the batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as rt
import pytest
from onnx import helper, numpy_helper

from edgekd.artifacts import Dataset, OnnxModel, TensorSpec
from edgekd.calibration import sets
from edgekd.calibration.table import calibrate
from edgekd.errors import CalibrationError
from edgekd.preprocessing import normalise
from edgekd.recipe import CalibrationSettings

MINMAX = CalibrationSettings(samples=70, method="minmax")


def test_ranges_are_those_of_all_samples_at_once(
    onnx_model: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    chosen = sets.choose(dataset, MINMAX, tmp_path)
    table = calibrate(onnx_model, chosen, dataset, MINMAX, tmp_path)
    assert (table.method, table.samples, table.set_sha256) == ("minmax", 70, chosen.sha256)
    # Independently: every tensor as an output, one batch of all 70 images.
    model = onnx.shape_inference.infer_shapes(onnx.load(onnx_model.path))
    values = [
        each.name
        for node in model.graph.node
        for each in model.graph.value_info
        if each.name in node.output
    ]
    del model.graph.output[:]
    model.graph.output.extend(each for each in model.graph.value_info if each.name in values)
    x = normalise(sets.images(chosen, dataset), dataset.preprocessing)
    session = rt.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    for name, tensor in zip(names, session.run(names, {"image": x}), strict=True):
        if tensor.dtype == np.float32:
            expected = (min(0.0, tensor.min()), max(0.0, tensor.max()))
            assert table.ranges[name] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert table.ranges["image"] == pytest.approx((x.min(), x.max()))
    assert "logits" in table.ranges
    assert not list(tmp_path.glob("*.onnx"))  # nothing but the table is left


def test_percentiles_lie_within_the_extremes(
    onnx_model: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    chosen = sets.choose(dataset, MINMAX, tmp_path)
    outer = calibrate(onnx_model, chosen, dataset, MINMAX, tmp_path).ranges
    settings = CalibrationSettings(samples=70, method="percentile", percentile=99.0)
    inner = calibrate(onnx_model, chosen, dataset, settings, tmp_path).ranges
    assert inner.keys() == outer.keys()
    for name, (low, high) in inner.items():
        assert outer[name][0] <= low <= 0 <= high <= outer[name][1] * (1 + 1e-6)
    assert sum(inner[name][1] < 0.95 * outer[name][1] for name in inner) > len(inner) / 3


def test_nan_is_named_by_its_tensor(dataset: Dataset, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["image", "big"], ["negative"]),
            helper.make_node("Sqrt", ["negative"], ["root"]),
        ],
        "g",
        [helper.make_tensor_value_info("image", 1, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("root", 1, ["batch", 1, 8, 8])],
        [numpy_helper.from_array(np.array(1e3, np.float32), "big")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )
    chosen = sets.choose(dataset, MINMAX, tmp_path)
    spec = TensorSpec("image", "float32", ("batch", 1, 8, 8))
    model = OnnxModel(path=path, opset=18, model_inputs=(spec,), model_outputs=(), parity=0.0)
    with pytest.raises(CalibrationError, match="tensor 'root' holds NaN"):
        calibrate(model, chosen, dataset, MINMAX, tmp_path)
