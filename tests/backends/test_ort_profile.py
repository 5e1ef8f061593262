"""ONNX Runtime's layers: of real engines, and of traces of what those do not do."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekd.artifacts import OnnxModel
from edgekd.backends import ort, ort_profile
from edgekd.backends.base import can_profile, find
from edgekd.errors import EngineIncompatible, StageError
from tests.backends.engines import build, feeds, inner, products, to_int8

PROFILE = ort.OnnxRuntime().profile


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def test_every_product_of_an_fp32_engine_is_timed(onnx_model: OnnxModel, tmp_path: Path) -> None:
    engine = build(onnx_model, "onnxruntime-cpu", tmp_path / "engine")
    total, layers = PROFILE(engine, feeds(), runs=20)
    computes = [each for each in layers if each.role == "compute"]
    assert len(computes) == len(products(onnx_model.path))
    assert {each.precision for each in computes} == {"fp32"}
    assert all(each.ns > 0 for each in computes)
    assert 0 < sum(each.ns for each in layers) <= total
    assert layers[-1].nodes == (products(onnx_model.path)[-1],)
    assert not list((tmp_path / "temporary").iterdir())


def test_an_int8_engine_computes_in_int8(onnx_model: OnnxModel, tmp_path: Path) -> None:
    engine = build(to_int8(onnx_model, tmp_path / "int8"), "onnxruntime-cpu", tmp_path / "engine")
    _, layers = PROFILE(engine, feeds(), runs=2)
    computes = [each for each in layers if each.role == "compute"]
    assert {each.nodes[0] for each in computes} == set(products(onnx_model.path))
    assert {each.kind for each in computes} == {"QLinearConv", "QGemm"}
    assert {each.precision for each in computes} == {"int8"}
    first = layers[0]
    assert (first.kind, first.role, first.precision) == ("QuantizeLinear", "convert", "fp32")
    assert first.bytes == 64 * 4 + 64 + 4 + 1  # read, written, a scale and a zero point


def test_what_is_kept_in_float_runs_in_float_between_copies(
    onnx_model: OnnxModel, tmp_path: Path
) -> None:
    mixed = to_int8(onnx_model, tmp_path / "mixed", [inner(onnx_model)])
    _, layers = PROFILE(build(mixed, "onnxruntime-cpu", tmp_path / "engine"), feeds(), runs=2)
    computes = [each for each in layers if each.role == "compute"]
    assert len([each for each in computes if each.precision == "fp32"]) == 1
    assert len(computes) == len(products(onnx_model.path))
    assert {"Transpose"} <= {each.kind for each in layers if each.role == "reformat"}
    assert {each.kind for each in layers if each.role == "convert"} == {
        "QuantizeLinear", "DequantizeLinear"
    }  # fmt: skip


def test_an_engine_that_cannot_run_is_refused_and_leaves_no_trace(
    onnx_model: OnnxModel, tmp_path: Path
) -> None:
    engine = build(onnx_model, "onnxruntime-cpu", tmp_path / "engine")
    with pytest.raises(EngineIncompatible):
        PROFILE(replace(engine, device="sparc"), feeds())
    with pytest.raises(StageError, match="cannot run the model"):
        PROFILE(engine, {"image": feeds()["image"][:, :, :5, :5, None]})
    assert not list((tmp_path / "temporary").iterdir())


def test_of_a_gpu_s_kernels_no_time_is_told(
    onnx_model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build(onnx_model, "onnxruntime-cuda", tmp_path / "engine")
    monkeypatch.setattr(ort, "_open_on_gpu", lambda given, threads: ort.open_model(given.path))
    total, layers = PROFILE(engine, feeds(), runs=2)
    assert total > 0
    assert layers == ()


def test_it_is_a_backend_that_profiles_and_torch_is_none() -> None:
    assert can_profile(find("onnxruntime"))
    assert not can_profile(find("torch"))


def event(name: str, ts: int, dur: int, op: str = "Relu", **args: Any) -> dict[str, Any]:
    sizes = {"activation_size": "8", "parameter_size": "2", "output_size": "4"}
    given = {"op_name": op, "input_type_shape": [{"int64": [2]}, {"float16": [4]}], **sizes}
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": ts,
        "dur": dur,
        "args": given | args,
    }


def whole(ts: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": 9, "args": {}}


def write(folder: Path, *events: dict[str, Any]) -> Path:
    path = folder / "trace.json"
    path.write_text(json.dumps(events))
    return path


def test_the_last_runs_count_each_with_its_median(tmp_path: Path) -> None:
    durations = [900, 7, 1, 5]  # the first is no run that counts
    runs = [(event("a", 100 * at, dur), whole(100 * at)) for at, dur in enumerate(durations)]
    (layer,) = ort_profile.read(write(tmp_path, *(each for run in runs for each in run)), 3)
    assert (layer.name, layer.ns, layer.bytes) == ("a", 5000, 14)
    assert (layer.kind, layer.precision, layer.role) == ("Relu", "fp16", "other")


def test_what_runs_within_a_loop_is_not_counted_again(tmp_path: Path) -> None:
    """Its events come first in the file; a node that took no time is within nothing."""
    events = [event("in", 12, 3), event("loop", 10, 9, "Loop"), event("none", 19, 0), whole(0)]
    found = ort_profile.read(write(tmp_path, *events, event("late", 19, 4), whole(1)), 1)
    assert [each.name for each in found] == ["late"]
    found = ort_profile.read(write(tmp_path, *events), 1)
    assert [(each.name, each.ns) for each in found] == [("loop", 9000), ("none", 0)]


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("conv_token_12", "conv"),
        ("relu_1_nchwc", "relu_1"),
        ("relu_nchwc_token_3", "relu"),
        ("stem/conv", "stem/conv"),
    ],
)
def test_what_the_optimiser_adds_to_a_name_is_no_part_of_it(
    name: str, node: str, tmp_path: Path
) -> None:
    (layer,) = ort_profile.read(write(tmp_path, event(name, 0, 1), whole(0)), 1)
    assert (layer.name, layer.nodes) == (name, (node,))


@pytest.mark.parametrize(
    ("op", "precision", "role"),
    [
        ("QLinearConv", "int8", "compute"),
        ("MatMulInteger", "int8", "compute"),
        ("DynamicQuantizeMatMul", "int8", "compute"),
        ("QLinearAdd", "int8", "other"),
        ("FusedConv", "fp16", "compute"),
        ("DynamicQuantizeLinear", "fp16", "convert"),
        ("ReorderInput", "fp16", "reformat"),
        ("Cast", "fp16", "reformat"),
        ("Softmax", "fp16", "other"),
    ],
)
def test_an_operator_says_what_it_computes_in(
    op: str, precision: str, role: str, tmp_path: Path
) -> None:
    (layer,) = ort_profile.read(write(tmp_path, event("n", 0, 1, op), whole(0)), 1)
    assert (layer.precision, layer.role) == (precision, role)
