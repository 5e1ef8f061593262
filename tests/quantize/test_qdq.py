"""Quantised models: the right form for each runtime, on a real network and real images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd.artifacts import CalibrationTable, Dataset, OnnxModel, QuantizedModel
from edgekd.backends import ort
from edgekd.calibration import sets
from edgekd.calibration.table import calibrate
from edgekd.data import splits
from edgekd.errors import QuantizeError
from edgekd.preprocessing import normalise
from edgekd.quantize.qdq import quantize
from edgekd.recipe import CalibrationSettings

SETTINGS = CalibrationSettings(samples=128)


@pytest.fixture(scope="module")
def table(
    onnx_model: OnnxModel, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> CalibrationTable:
    folder = tmp_path_factory.mktemp("table")
    return calibrate(onnx_model, sets.choose(dataset, SETTINGS, folder), dataset, SETTINGS, folder)


@pytest.fixture(scope="module")
def quantized(
    onnx_model: OnnxModel, table: CalibrationTable, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, QuantizedModel]:
    return {
        form: quantize(onnx_model, table, form, tmp_path_factory.mktemp(form))
        for form in ("s8s8", "u8s8")
    }


def _constants(model: QuantizedModel) -> tuple[onnx.GraphProto, dict[str, np.ndarray]]:
    found = onnx.load(model.path).graph
    return found, {each.name: numpy_helper.to_array(each) for each in found.initializer}


def _sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10((reference**2).sum() / ((reference - other) ** 2).sum()))


def _logits(path: Path, dataset: Dataset, optimise: bool = False) -> np.ndarray:
    x = normalise(splits.read(dataset, "validation").images, dataset.preprocessing)
    with ort.open_model(path, optimise=optimise) as session:
        return np.asarray(session.run({"image": x})["logits"])


def test_tensorrts_form(quantized: dict[str, QuantizedModel]) -> None:
    found, constants = _constants(quantized["s8s8"])
    dequantized = {}
    for node in found.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = constants[node.input[2]]
            assert zero_point.dtype == np.int8  # symmetric, and no int32 bias anywhere
            assert not zero_point.any()
            assert (constants[node.input[1]] > 0).all()
            dequantized[node.output[0]] = node
    for node in found.node:
        if node.op_type in ("Conv", "Gemm"):
            assert node.input[0] in dequantized
            scale = constants[dequantized[node.input[1]].input[1]]
            assert scale.shape == (constants[dequantized[node.input[1]].input[0]].shape[0],)
            assert constants[node.input[2]].dtype == np.float32  # the bias
        if node.op_type == "Add":
            assert sum(name in dequantized for name in node.input) == 1


def test_the_cpu_twin(quantized: dict[str, QuantizedModel]) -> None:
    found, constants = _constants(quantized["u8s8"])
    dequantized = {
        node.output[0]: node for node in found.node if node.op_type == "DequantizeLinear"
    }
    for node in found.node:
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[2]].dtype == np.uint8
            assert constants[node.input[2]] in (0, 128)
        if node.op_type == "Add":
            assert all(name in dequantized for name in node.input)
        if node.op_type in ("Conv", "Gemm"):
            bias = dequantized[node.input[2]]
            assert constants[bias.input[0]].dtype == np.int32
            of_input = constants[dequantized[node.input[0]].input[1]]
            of_weight = constants[dequantized[node.input[1]].input[1]]
            np.testing.assert_allclose(constants[bias.input[1]], of_input * of_weight, rtol=1e-6)


def test_both_forms_keep_the_networks_numbers_and_agree(
    quantized: dict[str, QuantizedModel], onnx_model: OnnxModel, dataset: Dataset
) -> None:
    fp32 = _logits(onnx_model.path, dataset)
    ours, twin = (_logits(quantized[form].path, dataset) for form in ("s8s8", "u8s8"))
    assert _sqnr(fp32, ours) > 25
    assert _sqnr(fp32, twin) > 25
    assert _sqnr(ours, twin) > 25
    for each in quantized.values():
        assert each.kept_float == ()


def test_fusion_in_onnx_runtime_moves_the_twin_by_rounding_alone(
    quantized: dict[str, QuantizedModel], dataset: Dataset
) -> None:
    plain, fused = (_logits(quantized["u8s8"].path, dataset, each) for each in (False, True))
    assert _sqnr(plain, fused) > 30


def test_weights_shrink_to_a_quarter(
    quantized: dict[str, QuantizedModel], onnx_model: OnnxModel
) -> None:
    for each in quantized.values():
        assert each.path.stat().st_size < 0.4 * onnx_model.path.stat().st_size


def test_input_and_output_are_the_originals(
    quantized: dict[str, QuantizedModel], onnx_model: OnnxModel
) -> None:
    original = onnx.load(onnx_model.path).graph
    for each in quantized.values():
        found = onnx.load(each.path).graph
        assert found.input == original.input
        assert found.output == original.output


def test_a_bias_that_would_overflow_int32_widens_its_weights_scale(tmp_path: Path) -> None:
    weight = np.full((2, 1, 1, 1), 1e-9, np.float32)
    bias = np.array([1e3, 0.5], np.float32)
    found = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], ["logits"], "conv")],
        "g",
        [helper.make_tensor_value_info("image", 1, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", 1, ["batch", 2, 2, 2])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(
        helper.make_model(found, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )
    model = OnnxModel(path=path, opset=18, model_inputs=(), model_outputs=(), parity=0.0)
    ranges = {"image": (0.0, 1.0), "logits": (0.0, 1e3)}
    table = CalibrationTable(method="minmax", ranges=ranges, set_sha256="", samples=1)
    (tmp_path / "out").mkdir()
    done = quantize(model, table, "u8s8", tmp_path / "out")
    with ort.open_model(done.path, optimise=False) as session:
        out = session.run({"image": np.ones((1, 1, 2, 2), np.float32)})["logits"]
    np.testing.assert_allclose(out[0, :, 0, 0], bias, rtol=1e-3)


def test_a_model_with_nothing_to_quantise_is_an_error(
    onnx_model: OnnxModel, table: CalibrationTable, tmp_path: Path
) -> None:
    with pytest.raises(QuantizeError, match="has no convolution or product to quantise"):
        quantize(onnx_model, replace(table, ranges={}), "s8s8", tmp_path)
    assert not list(tmp_path.iterdir())
