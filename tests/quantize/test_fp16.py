"""Models in float16: near the original, with its inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgekd.artifacts import OnnxModel
from edgekd.calibration.feeds import Feeds
from edgekd.errors import QuantizeError
from edgekd.quantize import graphs
from edgekd.quantize.fp16 import emulate, to_fp16
from edgekd.quantize.prepare import prepare
from edgekd.quantize.proof import prove
from tests.quantize import foreign
from tests.quantize.foreign import FOREIGN


def _prepared(name: str, folder: Path) -> tuple[OnnxModel, Feeds]:
    proto, arrays = FOREIGN[name]()
    onnx.save(proto, folder / "given.onnx")
    (folder / "work").mkdir()
    (folder / "half").mkdir()
    return prepare(folder / "given.onnx", folder / "work"), Feeds(arrays)


@pytest.mark.parametrize("name", FOREIGN)
def test_outputs_stay_within_float16s_precision(name: str, tmp_path: Path) -> None:
    model, feeds = _prepared(name, tmp_path)
    half = to_fp16(model, tmp_path / "half")
    assert half.precision == "fp16"
    proof = prove(model, {"fp16": half}, feeds, 30, tmp_path)
    assert proof.to_fp32["fp16"] < 100  # it was rounded
    graph = onnx.load(half.path).graph
    assert [each.name for each in graph.input] == [each.name for each in model.model_inputs]
    for each in graph.output:
        assert each.type.tensor_type.elem_type == TensorProto.FLOAT
    kinds = [each.data_type for each in graph.initializer if len(each.dims) > 1]
    assert TensorProto.FLOAT not in kinds


def test_tensors_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "EXTERNAL_ABOVE", 0)
    proto = foreign.model(
        [foreign.node("Conv", ["x", "w"], ["y"])],
        {"x": ["N", 16, 8, 8]},
        ["y"],
        {"w": foreign.random(64, 16, 3, 3)},
    )
    onnx.save(proto, tmp_path / "given.onnx")
    (tmp_path / "half").mkdir()
    model = prepare(tmp_path / "given.onnx", tmp_path)
    half = to_fp16(model, tmp_path / "half")
    assert (tmp_path / "half" / "model.onnx.data").stat().st_size == 64 * 16 * 9 * 2
    prove(model, {"fp16": half}, Feeds({"x": foreign.random(4, 16, 8, 8)}), 30, tmp_path)


@pytest.mark.parametrize("name", FOREIGN)
def test_the_emulation_rounds_what_the_file_rounds(name: str, tmp_path: Path) -> None:
    model, feeds = _prepared(name, tmp_path)
    forms = {"file": to_fp16(model, tmp_path / "half"), "fp16": emulate(model, tmp_path / "half")}
    proof = prove(model, forms, feeds, 30, tmp_path)
    assert proof.between["file/fp16"] > 40
    assert proof.to_fp32["fp16"] < proof.to_fp32["file"] + 3  # more is rounded, never less


def test_what_overflows_is_noticed(tmp_path: Path) -> None:
    model, feeds = _prepared("tied_weights", tmp_path)
    proto = onnx.load(model.path)
    for each in proto.graph.initializer:
        values = numpy_helper.to_array(each) * (np.float32(1e4) if each.name == "w" else 1)
        each.CopyFrom(numpy_helper.from_array(values, each.name))
    onnx.save(proto, model.path)  # weights that fit, and a second product that does not
    emulated = emulate(model, tmp_path / "half")
    with pytest.raises(QuantizeError, match="form fp16 .* -150.0 dB"):
        prove(model, {"fp16": emulated}, feeds, 30, tmp_path)
