"""Quantised models: the right form for each runtime, on a real network and real images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd import targets
from edgekd.artifacts import CalibrationTable, Dataset, OnnxModel, QuantizedModel
from edgekd.backends import ort
from edgekd.backends.base import build_engine
from edgekd.calibration import sets
from edgekd.calibration.feeds import of_images
from edgekd.calibration.table import calibrate
from edgekd.data import splits
from edgekd.errors import BuildError, QuantizeError
from edgekd.preprocessing import normalise
from edgekd.quantize import graphs
from edgekd.quantize.forms import FORMS
from edgekd.quantize.qdq import quantize
from edgekd.recipe import CalibrationSettings

SETTINGS = CalibrationSettings(samples=128, method="percentile")
FP8 = onnx.TensorProto.FLOAT8E4M3FN


@pytest.fixture(scope="module")
def table(
    onnx_model: OnnxModel, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> CalibrationTable:
    folder = tmp_path_factory.mktemp("table")
    chosen = sets.choose(dataset, SETTINGS, folder)
    images = of_images("image", sets.images(chosen, dataset), dataset.preprocessing)
    return calibrate(onnx_model, images, SETTINGS, chosen, folder)


@pytest.fixture(scope="module")
def quantized(
    onnx_model: OnnxModel, table: CalibrationTable, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, QuantizedModel]:
    return {
        form: quantize(onnx_model, table, form, tmp_path_factory.mktemp(form)) for form in FORMS
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


def test_arms_form_gives_what_the_twin_gives(
    quantized: dict[str, QuantizedModel], dataset: Dataset
) -> None:
    """The same grid, 128 lower: exactly, as long as nothing is fused."""
    x86, arm = (_logits(quantized[form].path, dataset) for form in ("u8s8", "a8s8"))
    np.testing.assert_array_equal(x86, arm)
    found, constants = _constants(quantized["a8s8"])
    for node in found.node:
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[2]].dtype == np.int8


def test_fp8_quantises_products_alone_and_keeps_the_networks_numbers(
    quantized: dict[str, QuantizedModel], onnx_model: OnnxModel, dataset: Dataset
) -> None:
    proto = onnx.load(quantized["f8"].path)
    assert (onnx_model.opset, proto.opset_import[0].version) == (18, 19)
    stored = {each.name for each in proto.graph.initializer if each.data_type == FP8}
    dequantized = {
        node.output[0]: node for node in proto.graph.node if node.op_type == "DequantizeLinear"
    }
    held = {each.name: each.data_type for each in proto.graph.initializer}
    readers = [node for node in proto.graph.node if set(node.input) & dequantized.keys()]
    assert {node.op_type for node in readers} == {"Conv", "Gemm"}
    for node in readers:
        assert dequantized[node.input[1]].input[0] in stored
        assert held[node.input[2]] == onnx.TensorProto.FLOAT  # the bias
    fp32, found = (_logits(path, dataset) for path in (onnx_model.path, quantized["f8"].path))
    assert 15 < _sqnr(fp32, found) < 40


def test_fp8_builds_where_there_are_kernels_for_it(
    quantized: dict[str, QuantizedModel], tmp_path: Path
) -> None:
    target = targets.load("tensorrt-rtx")
    for device, builds in (("8.9", True), ("12.0", True), ("8.6", False)):
        aimed = replace(target, options={**target.options, "compute_capabilities": (device,)})
        if builds:
            assert build_engine(quantized["f8"], "student", aimed, tmp_path).path.stat().st_size
        else:
            with pytest.raises(BuildError, match="fp8_e4m3"):
                build_engine(quantized["f8"], "student", aimed, tmp_path)


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
        for ours, theirs in ((found.input, original.input), (found.output, original.output)):
            assert [(o.name, o.type) for o in ours] == [(t.name, t.type) for t in theirs]


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
    table = _table({"image": (0.0, 1.0)})
    (tmp_path / "out").mkdir()
    done = quantize(model, table, "u8s8", tmp_path / "out")
    with ort.open_model(done.path, optimise=False) as session:
        out = session.run({"image": np.ones((1, 1, 2, 2), np.float32)})["logits"]
    np.testing.assert_allclose(out[0, :, 0, 0], bias, rtol=1e-3)


def _table(ranges: dict[str, tuple[float, float]]) -> CalibrationTable:
    return CalibrationTable(method="minmax", ranges=ranges, set_sha256="", samples=1)


def _model(
    folder: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    outputs: tuple[str, ...] = ("y",),
) -> OnnxModel:
    """A graph that takes "x", 1 x 4 x 8 x 8."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 4, 8, 8])],
        [helper.make_tensor_value_info(name, 1, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path = folder / "m.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(proto), path)
    return OnnxModel(path=path, opset=18, model_inputs=(), model_outputs=(), parity=0.0)


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32) / 4


X = _random(1, 4, 8, 8)


def _outputs(path: Path, optimise: bool = False) -> dict[str, np.ndarray]:
    with ort.open_model(path, optimise=optimise) as session:
        return {name: np.asarray(value) for name, value in session.run({"x": X}).items()}


def _ranges(model: OnnxModel, folder: Path) -> dict[str, tuple[float, float]]:
    """Of every float tensor, on ``X``."""
    proto = onnx.load(model.path)
    kinds = {each.name: each.type.tensor_type.elem_type for each in proto.graph.value_info}
    known = {each.name for each in proto.graph.output}
    for node in proto.graph.node:
        for name in node.output:
            if kinds.get(name) == 1 and name not in known:
                proto.graph.output.append(helper.make_tensor_value_info(name, 1, None))
    onnx.save(proto, folder / "exposed.onnx")
    found = {"x": X, **_outputs(folder / "exposed.onnx")}
    return {name: (min(0.0, v.min()), max(0.0, v.max())) for name, v in found.items()}


def _quantised(model: OnnxModel, form: str, folder: Path, **more: Any) -> Path:
    (folder / form).mkdir()
    return quantize(model, _table(_ranges(model, folder)), form, folder / form, **more).path


def _node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        kind, inputs.split(), outputs.split(), f"{kind}_{outputs}", **attributes
    )


SMALL: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "transposed, in groups, without a ReLU": (
        [
            _node("ConvTranspose", "x w b", "a", strides=[2, 2], group=2),
            _node("Conv", "a v", "y", group=4),
        ],
        {"w": _random(4, 2, 2, 2), "b": _random(4), "v": _random(4, 1, 3, 3)},
    ),
    "joined, pooled, gated": (
        [
            _node("Conv", "x w", "a0"),
            _node("Relu", "a0", "a"),
            _node("Conv", "x w", "b0"),
            _node("HardSwish", "b0", "b"),
            _node("Concat", "a b", "c", axis=1),
            _node("MaxPool", "c", "d", kernel_shape=[2, 2], strides=[2, 2]),
            _node("GlobalAveragePool", "d", "e"),
            _node("Conv", "e v", "f"),
            _node("Sigmoid", "f", "g"),
            _node("Mul", "d g", "h"),
            _node("Conv", "h v", "i"),
            _node("Add", "i d", "j"),
            _node("Flatten", "j", "k"),
            _node("Gemm", "k m", "y"),
        ],
        {"w": _random(4, 4, 3, 3), "v": _random(8, 8, 1, 1), "m": _random(72, 5)},
    ),
    "attention": (
        [
            _node("Flatten", "x", "t", axis=2),
            _node("MatMul", "t w", "q"),
            _node("MatMul", "t v", "k0"),
            _node("Transpose", "k0", "k", perm=[1, 0]),
            _node("MatMul", "q k", "s"),
            _node("Softmax", "s", "p"),
            _node("MatMul", "p q", "y"),
        ],
        {"w": _random(64, 16), "v": _random(64, 16)},
    ),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("form", FORMS)
def test_small_graphs_keep_their_numbers_in_every_form(
    name: str, form: str, tmp_path: Path
) -> None:
    model = _model(tmp_path, *SMALL[name])
    path = _quantised(model, form, tmp_path)
    expected = _outputs(model.path)["y"]
    plain = _outputs(path)["y"]
    assert plain.shape == expected.shape
    assert _sqnr(expected, plain) > 20
    if FORMS[form].kernels == "cpu":
        assert _sqnr(expected, _outputs(path, optimise=True)["y"]) > 20
    else:
        _build_for_rtx(path)


def _build_for_rtx(path: Path) -> None:
    import tensorrt_rtx as trt

    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse(path.read_bytes()), parser.get_error(0).desc()
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    assert builder.build_serialized_network(network, config) is not None


def test_a_joint_scale_is_written_to_every_branch(tmp_path: Path) -> None:
    model = _model(tmp_path, *SMALL["joined, pooled, gated"])
    graph = onnx.load(_quantised(model, "u8s8", tmp_path)).graph
    held = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    readers = {name: node for node in graph.node for name in node.input}
    concat = next(node for node in graph.node if node.op_type == "Concat")
    pool = next(node for node in graph.node if node.op_type == "MaxPool")
    pairs = [makers[concat.input[1]], makers[pool.input[0]], readers["c"], readers["d"]]
    for place in (1, 2):
        assert len({held[each.input[place]].tobytes() for each in pairs}) == 1
    relu = makers[concat.input[0]]
    assert held[relu.input[2]] == 0 < held[pairs[0].input[2]]


def test_onnx_runtime_computes_the_cpu_form_in_int8_throughout(tmp_path: Path) -> None:
    """Its own optimiser is the judge: of all there is, HardSwish alone is float."""
    import onnxruntime as rt

    path = _quantised(_model(tmp_path, *SMALL["joined, pooled, gated"]), "u8s8", tmp_path)
    options = rt.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    rt.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert {"QLinearConv", "QLinearConcat", "QLinearGlobalAveragePool", "QGemm"} <= set(kinds)
    assert {"QLinearAdd", "QLinearMul", "QLinearSigmoid"} <= set(kinds)
    assert not {"Conv", "Add", "GlobalAveragePool", "Sigmoid", "Gemm", "Relu"} & set(kinds)
    assert kinds.count("QuantizeLinear") == 2  # the input, and what HardSwish makes


def test_a_convolution_that_is_the_output_keeps_its_name_and_is_int8(tmp_path: Path) -> None:
    model = _model(tmp_path, [_node("Conv", "x w", "y")], {"w": _random(2, 4, 3, 3)})
    path = _quantised(model, "u8s8", tmp_path)
    last = onnx.load(path).graph.node[-1]
    assert (last.op_type, last.output[0]) == ("DequantizeLinear", "y")
    found = _outputs(path)
    assert found.keys() == {"y"}
    assert _sqnr(_outputs(model.path)["y"], found["y"]) > 30
    assert len(np.unique(found["y"])) <= 256


def _branching(tmp_path: Path) -> OnnxModel:
    """Both branches of an If read an activation that is quantised, and one a weight."""
    branches = {
        name: helper.make_graph(
            [_node(kind, inputs, f"{name}_out")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", 1, None)],
        )
        for name, kind, inputs in (("then", "Mul", "a k"), ("else", "Neg", "a"))
    }
    return _model(
        tmp_path,
        [
            _node("Conv", "x w", "a"),
            _node("ReduceMax", "a", "top", keepdims=0),
            _node("Greater", "top k", "on"),
            _node("If", "on", "b", then_branch=branches["then"], else_branch=branches["else"]),
            _node("Conv", "a w", "c"),
            _node("Conv", "b w", "y"),
        ],
        {"w": _random(4, 4, 1, 1), "k": np.array(0.01, np.float32)},
        outputs=("y", "c"),
    )


@pytest.mark.parametrize("form", FORMS)
def test_what_subgraphs_read_stays_what_it_was(form: str, tmp_path: Path) -> None:
    model = _branching(tmp_path)
    path = _quantised(model, form, tmp_path)
    assert {"k"} <= {each.name for each in onnx.load(path).graph.initializer}
    branches = next(node for node in onnx.load(path).graph.node if node.op_type == "If")
    assert {tuple(each.g.node[0].input) for each in branches.attribute} == {("a", "k"), ("a",)}
    expected, found = _outputs(model.path), _outputs(path)
    for name, values in expected.items():
        assert _sqnr(values, found[name]) > 20


def test_new_tensors_take_no_name_that_is_taken(tmp_path: Path) -> None:
    """A batch norm's scale is often called as its tensor, and ``_scale``."""
    model = _model(
        tmp_path,
        [
            _node("Mul", "x x_scale", "a"),
            _node("Conv", "a w", "a_quantized"),
            _node("Conv", "a_quantized w", "x_zero_point"),
            _node("Conv", "x w", "b"),
            _node("Add", "b x_zero_point", "y"),
        ],
        {"w": _random(4, 4, 1, 1), "x_scale": np.array(2.0, np.float32)},
    )
    for form in FORMS:
        found = _outputs(_quantised(model, form, tmp_path))
        assert _sqnr(_outputs(model.path)["y"], found["y"]) > 20


@pytest.mark.parametrize("form", FORMS)
def test_a_node_that_is_to_stay_in_float_does(form: str, tmp_path: Path) -> None:
    nodes = [_node("Conv", "x w", "a"), _node("Conv", "a w", "y")]
    model = _model(tmp_path, nodes, {"w": _random(4, 4, 1, 1)})
    table = _table(_ranges(model, tmp_path))
    done = quantize(model, table, form, tmp_path, keep_float=["Conv_a"])
    assert done.kept_float == ("Conv_a",)
    first, second = (node for node in onnx.load(done.path).graph.node if node.op_type == "Conv")
    assert first.input[1] == "w"
    assert second.input[1] == "Conv_y_weight_dequantized"
    with pytest.raises(QuantizeError, match="no node to keep in float is called 'Conv_b': did you"):
        quantize(model, table, form, tmp_path, keep_float=["Conv_b"])


def test_a_large_models_tensors_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [_node("Conv", "x w", "a", pads=[4] * 4), _node("Conv", "a w", "y", pads=[4] * 4)]
    model = _model(tmp_path, nodes, {"w": _random(4, 4, 9, 9)})
    expected = {form: _outputs(_quantised(model, form, tmp_path))["y"] for form in ("u8s8", "f8")}
    (tmp_path / "large").mkdir()
    large = tmp_path / "large" / "given.onnx"
    onnx.save(
        onnx.load(model.path), large, save_as_external_data=True, location="w", size_threshold=0
    )
    monkeypatch.setattr(graphs, "EXTERNAL_ABOVE", 100)
    table = _table(_ranges(model, tmp_path))
    for form, values in expected.items():
        done = quantize(replace(model, path=large), table, form, tmp_path / "large")
        assert (tmp_path / "large" / "model.onnx.data").stat().st_size
        np.testing.assert_array_equal(_outputs(done.path)["y"], values)
    assert large.is_file()


def test_what_onnx_cannot_raise_to_the_forms_opset_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model(tmp_path, [_node("Conv", "x w", "y")], {"w": _random(4, 4, 3, 3)})

    def refuse(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
        raise onnx.version_converter.ConvertError(f"no adapter to {version}\nand more")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    with pytest.raises(
        QuantizeError, match=r"opset 18, and onnx cannot raise it to the 19 .*no ad"
    ):
        quantize(model, _table({"x": (-1.0, 1.0)}), "f8", tmp_path)


def test_a_model_with_nothing_to_quantise_is_an_error(
    onnx_model: OnnxModel, table: CalibrationTable, tmp_path: Path
) -> None:
    with pytest.raises(QuantizeError, match="has no convolution or product to quantise"):
        quantize(onnx_model, replace(table, ranges={}), "s8s8", tmp_path)
    assert not list(tmp_path.iterdir())
