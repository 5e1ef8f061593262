"""Any ONNX file as quantisation wants it: what is folded, what is kept, and what is refused."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifacts import OnnxModel, TensorSpec
from edgekd.backends import ort
from edgekd.calibration.feeds import Feeds
from edgekd.errors import BackendUnavailable, QuantizeError
from edgekd.quantize import graphs
from edgekd.quantize.prepare import compare, prepare
from tests.quantize import foreign
from tests.quantize.foreign import FLOAT, FOREIGN, model, node, random


def _save(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "given.onnx"
    onnx.save(proto, path)
    return path


def _prepare(proto: onnx.ModelProto, folder: Path) -> OnnxModel:
    work = folder / "work"
    work.mkdir()
    return prepare(_save(proto, folder), work)


def _graph(made: OnnxModel) -> onnx.GraphProto:
    return onnx.load(made.path).graph


def _ops(made: OnnxModel) -> list[str]:
    return [each.op_type for each in _graph(made).node]


@pytest.mark.parametrize("name", FOREIGN)
def test_it_computes_what_the_original_does(name: str, tmp_path: Path) -> None:
    proto, arrays = FOREIGN[name]()
    made = _prepare(proto, tmp_path)
    onnx.checker.check_model(made.path, full_check=True)
    difference = compare(tmp_path / "given.onnx", made, Feeds(arrays))
    assert difference < 1e-4  # batch norm was folded, so that it need not be 0
    names = [each.name for each in _graph(made).node]
    assert all(names) and len(set(names)) == len(names)
    assert [each.name for each in made.model_outputs] == [each.name for each in proto.graph.output]
    assert (tmp_path / "work" / "model.onnx.data").exists() is False


def test_batch_norm_is_folded_and_names_are_kept(tmp_path: Path) -> None:
    made = _prepare(foreign.convolution()[0], tmp_path)
    assert [(each.op_type, each.name) for each in _graph(made).node] == [
        ("Conv", "Conv_c_2"),  # it had no name, and another node has the first choice
        ("Relu", "Conv_c"),
        ("Conv", "last"),
    ]


def test_operators_stay_whole_that_onnx_runtime_would_take_apart(tmp_path: Path) -> None:
    made = _prepare(foreign.composed()[0], tmp_path)
    assert _ops(made) == ["Conv", "GroupNormalization", "HardSwish", "Mish", "Conv", "HardSwish"]


def test_weights_become_initialisers_however_they_are_written(tmp_path: Path) -> None:
    made = _prepare(foreign.roundabout_weights()[0], tmp_path)
    assert _ops(made) == ["Conv"] * 3
    held = {each.name for each in _graph(made).initializer}
    assert {each.input[1] for each in _graph(made).node} == held


def test_an_old_opset_is_upgraded_and_its_weights_are_no_inputs(tmp_path: Path) -> None:
    made = _prepare(foreign.old()[0], tmp_path)
    assert made.opset == 13
    assert made.model_inputs == (TensorSpec("x", "float32", (1, 3, 8, 8)),)
    assert _ops(made) == ["Conv", "Resize", "Conv"]


def test_control_flow_stays_what_it_is(tmp_path: Path) -> None:
    made = _prepare(foreign.control_flow()[0], tmp_path)
    assert [each for each in _ops(made) if each in ("If", "Loop", "Scan")] == ["If", "Loop", "Scan"]
    assert "Conv" in {each.op_type for each in graphs.nodes_of(_graph(made))}


def test_functions_are_inlined_and_microsofts_operators_kept(tmp_path: Path) -> None:
    made = _prepare(foreign.microsofts()[0], tmp_path)
    assert _ops(made) == ["Conv", "Gelu", "Add", "Conv"]
    assert {each.domain for each in onnx.load(made.path).opset_import} == {"", "com.microsoft"}


def test_free_dimensions_and_types_are_told(tmp_path: Path) -> None:
    made = _prepare(foreign.several_inputs()[0], tmp_path)
    assert made.model_inputs == (
        TensorSpec("image", "float32", ("N", 3, "H", "W")),
        TensorSpec("more", "float32", ("N", 4)),
        TensorSpec("token", "int64", ("N", 7)),
    )
    assert [each.name for each in made.model_outputs] == ["y", "z"]


def _external(folder: Path, proto: onnx.ModelProto) -> Path:
    path = folder / "given.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="given.bin", size_threshold=0)
    return path


@pytest.mark.parametrize("most", [0, 10**9])
def test_tensors_beside_the_file(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "EXTERNAL_ABOVE", most)  # in place of 2 GB
    wide = model(
        [node("Conv", ["x", "w"], ["c"]), node("Conv", ["c", "w2"], ["y"])],
        {"x": ["N", 3, 8, 8]},
        ["y"],
        {"w": random(64, 3, 3, 3), "w2": random(8, 64, 1, 1)},
    )
    path = _external(tmp_path, wide)
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    work = tmp_path / "work"
    work.mkdir()
    made = prepare(path, work)
    assert compare(path, made, Feeds({"x": random(4, 3, 8, 8)})) == 0
    assert (work / "model.onnx.data").exists() == (most == 0)
    assert {each: each.read_bytes() for each in before} == before


@pytest.mark.slow
def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    path = foreign.large(tmp_path)
    assert (tmp_path / "large.bin").stat().st_size > 2**31
    work = tmp_path / "work"
    work.mkdir()
    made = prepare(path, work)
    assert (work / "model.onnx.data").stat().st_size > 2**31
    graph = onnx.load(made.path, load_external_data=False).graph
    assert [each.op_type for each in graph.node] == ["MatMul", "MatMul"]


def _typed(kind: int, dtype: type) -> onnx.ModelProto:
    proto = model([node("Conv", ["x", "w"], ["y"])], {"x": ["N", 3, 8, 8]}, ["y"], {}, kind=kind)
    values = helper.make_tensor("w", kind, (4, 3, 1, 1), random(4, 3, 1, 1).astype(dtype).ravel())
    proto.graph.initializer.append(values)
    return proto


def _quantised() -> onnx.ModelProto:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], name="into"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Conv", ["d", "w"], ["y"]),
    ]
    constants = {"s": np.float32(0.1), "z": np.int8(0), "w": random(4, 3, 1, 1)}
    constants = {name: np.asarray(each) for name, each in constants.items()}
    return model(nodes, {"x": ["N", 3, 8, 8]}, ["y"], constants)


def _quantised_within() -> onnx.ModelProto:
    proto, _ = foreign.control_flow()
    branch = next(each for each in proto.graph.node if each.op_type == "If").attribute[0].g
    branch.node[0].CopyFrom(node("MatMulInteger", ["c", "c"], list(branch.node[0].output)))
    return proto


def _one(op: str, domain: str = "", **domains: int) -> onnx.ModelProto:
    return model(
        [node("Conv", ["x", "w"], ["c"]), node(op, ["c"], ["y"], name="odd", domain=domain)],
        {"x": ["N", 3, 8, 8]},
        ["y"],
        {"w": random(4, 3, 1, 1)},
        domains=domains,
    )


def _only_inside() -> onnx.ModelProto:
    proto, _ = foreign.control_flow()
    kept = [each for each in proto.graph.node if each.op_type != "Conv"]
    del proto.graph.node[:]
    proto.graph.node.extend([node("Relu", ["x"], ["c"]), *kept, node("Relu", ["s"], ["y"])])
    next(each for each in kept if each.op_type == "If").attribute[1].g.node[0].input[1] = "v3"
    proto.graph.initializer.append(numpy_helper.from_array(random(3, 3, 1, 1), "v3"))
    scan = next(each for each in kept if each.op_type == "Scan")
    scan.attribute[0].g.node[0].input[1] = "v13"
    proto.graph.initializer.append(numpy_helper.from_array(random(4, 3, 1), "v13"))
    return proto


def _versions(ir: int, opset: int) -> onnx.ModelProto:
    proto, _ = foreign.convolution()
    proto.ir_version, proto.opset_import[0].version = ir, opset
    return proto


def _unshaped() -> onnx.ModelProto:
    proto, _ = foreign.convolution()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    return proto


def _sequence() -> onnx.ModelProto:
    proto, _ = foreign.convolution()
    proto.graph.input.append(helper.make_tensor_sequence_value_info("many", FLOAT, None))
    return proto


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _typed(TensorProto.FLOAT16, np.float16), ["is float16", "'y'", "as float32"]),
        (lambda: _typed(TensorProto.BFLOAT16, np.float32), ["is bfloat16"]),
        (lambda: _typed(TensorProto.DOUBLE, np.float64), ["is double"]),
        (_quantised, ["quantised already: node 'into' is QuantizeLinear", "float32 model"]),
        (_quantised_within, ["quantised already", "MatMulInteger"]),
        (
            lambda: _one("Foo", "com.acme", **{"com.acme": 1}),
            ["node 'odd'", "custom operator Foo of 'com.acme'"],
        ),
        (lambda: _one("Bar"), ["ONNX Runtime refuses", "Bar"]),
        (_only_inside, ["nothing to quantise", "outside of If, Loop and Scan"]),
        (lambda: _versions(8, 99), ["has opset 99", "install a newer onnx"]),
        (lambda: _versions(99, 17), ["has IR version 99"]),
        (_unshaped, ["'x'", "declares no shape"]),
        (_sequence, ["input 'many'", "is not a tensor"]),
    ],
)  # fmt: skip
def test_what_has_no_int8_form_is_refused(
    make: Callable[[], onnx.ModelProto], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(QuantizeError) as caught:
        _prepare(make(), tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_a_model_without_products(tmp_path: Path) -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": ["N", 3]}, ["y"], {})
    with pytest.raises(QuantizeError, match="nothing to quantise: no convolution or product"):
        _prepare(proto, tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 100, 1000])
def test_a_file_cut_short(kept: int, tmp_path: Path) -> None:
    path = _save(foreign.convolution()[0], tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    before = hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(QuantizeError, match="is not an ONNX file, or only a part of one"):
        prepare(path, tmp_path)
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_external_tensors_that_are_not_there(tmp_path: Path) -> None:
    path = _external(tmp_path, foreign.convolution()[0])
    data = tmp_path / "given.bin"
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(QuantizeError, match=r"given\.bin is only a part"):
        prepare(path, tmp_path)
    data.unlink()
    with pytest.raises(QuantizeError, match=r"given\.bin, which is not beside it"):
        prepare(path, tmp_path)
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../../secret"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(QuantizeError, match="outside its folder"):
        prepare(path, tmp_path)


def test_a_fold_that_changes_the_outputs_is_noticed(tmp_path: Path) -> None:
    proto, arrays = foreign.convolution()
    made = _prepare(proto, tmp_path)
    changed = onnx.load(made.path)
    weight = changed.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.01, weight.name))
    onnx.save(changed, made.path)
    with pytest.raises(QuantizeError, match="output 'y' of .* differs by"):
        compare(tmp_path / "given.onnx", made, Feeds(arrays))


def test_nodes_are_sorted_and_else_left_in_place(tmp_path: Path) -> None:
    proto, arrays = foreign.control_flow()
    nodes = list(proto.graph.node)
    graphs.sort_nodes(proto.graph)
    assert list(proto.graph.node) == nodes
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    graphs.sort_nodes(proto.graph)
    with ort.open_model(_save(proto, tmp_path)) as session:  # in a wrong order it is refused
        assert session.run(arrays)["y"].shape == (16, 2, 8, 8)


def test_without_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(foreign.convolution()[0], tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'edgekd\[quantize\]'"):
        prepare(path, tmp_path)
