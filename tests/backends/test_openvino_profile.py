"""OpenVINO's layers: of real engines, and of runtime models made by hand."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgekd.artifacts import OnnxModel
from edgekd.backends import openvino_profile
from edgekd.backends.base import can_profile, find
from edgekd.backends.openvino import OpenVino
from edgekd.errors import BuildError
from edgekd.measurements import LayerTime
from tests.backends.engines import build, feeds, inner, products, to_int8


def profile(model: OnnxModel, folder: Path) -> tuple[int, tuple[LayerTime, ...]]:
    return OpenVino().profile(build(model, "openvino-cpu", folder), feeds(), runs=10)


def row(name: str, kind: str, primitive: str, time: str, *nodes: str) -> dict[str, str]:
    return {
        "name": name,
        "layerType": kind,
        "primitiveType": primitive,
        "execTimeMcs": time,
        "originalLayersNames": ",".join(nodes),
    }


def test_every_product_of_an_fp32_engine_is_there(onnx_model: OnnxModel, tmp_path: Path) -> None:
    """The last node goes by the name of what it gives; each other by its own."""
    total, layers = profile(onnx_model, tmp_path)
    computes = [each for each in layers if each.role == "compute"]
    assert {each.precision for each in computes} == {"fp32"}
    named = [each.nodes[0] for each in computes]
    assert sorted(named) == sorted([*products(onnx_model.path)[:-1], "logits"])
    assert 0 < sum(each.ns for each in layers) <= total


def test_an_int8_engine_computes_in_int8_but_for_what_was_kept_in_float(
    onnx_model: OnnxModel, tmp_path: Path
) -> None:
    kept = inner(onnx_model)
    mixed = to_int8(onnx_model, tmp_path / "mixed", [kept])
    _, layers = profile(mixed, tmp_path / "engine")  # type: ignore[arg-type]
    precisions = {each.nodes[0]: each.precision for each in layers if each.role == "compute"}
    expected = dict.fromkeys(products(onnx_model.path), "int8") | {kept: "fp32"}
    assert precisions == expected
    assert {"convert", "reformat"} <= {each.role for each in layers}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signal stacks are told by Linux")
def test_a_signal_finds_the_stack_that_it_had(onnx_model: OnnxModel, tmp_path: Path) -> None:
    """OpenVINO puts one in its place and frees it."""

    def stack() -> tuple[int | None, int]:
        found = openvino_profile._Stack()
        ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
        return found.sp, found.size

    with in_stack(1 << 16):
        before = stack()
        assert before[1] == 1 << 16
        profile(onnx_model, tmp_path)
        assert stack() == before
        signal.raise_signal(signal.SIGURG)  # which is ignored, but not by what handles it here


@contextmanager
def in_stack(size: int) -> Iterator[None]:
    """A signal stack of our own, and a handler that runs on it."""
    libc, before = ctypes.CDLL(None), openvino_profile._Stack()
    memory = ctypes.create_string_buffer(size)
    own = openvino_profile._Stack(ctypes.addressof(memory), 0, size)
    libc.sigaltstack(ctypes.byref(own), ctypes.byref(before))
    handler = signal.signal(signal.SIGURG, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGURG, handler)
        libc.sigaltstack(ctypes.byref(before), None)


def test_a_broken_engine_is_refused(onnx_model: OnnxModel, tmp_path: Path) -> None:
    engine = build(onnx_model, "openvino-cpu", tmp_path)
    engine.path.write_bytes(b"no IR")
    with pytest.raises(BuildError, match="OpenVINO refuses"):
        OpenVino().profile(engine, feeds())
    assert can_profile(find("openvino"))


def test_the_mean_of_the_runs_that_count_is_had_from_two_means() -> None:
    before = [row("a", "Convolution", "x_f32", "100"), row("b", "Reorder", "x_f32", "not_executed")]
    after = [row("a", "Convolution", "x_f32", "40"), row("b", "Reorder", "x_f32", "2")]
    # 3 runs of 100 and 7 of 14.3 make 10 of 40.
    assert openvino_profile.times(before, after, (3, 10)) == pytest.approx([100 / 7, 20 / 7])


def test_a_layer_is_what_has_an_implementation_or_took_time() -> None:
    told = [
        row("c/WithoutBiases", "Convolution", "brgconv_avx512_1x1_I8", "9",
            "c/WithoutBiases", "Multiply_7", "c", "c_Q"),
        row("r", "Reshape", "unknown_f32", "not_executed", "r"),
        row("t", "Transpose", "unknown_f32", "1", "t"),
        row("q", "FakeQuantize", "jit_avx512_f32", "not_executed", "q"),
        row("m", "Softmax", "ref_u4", "1"),
    ]  # fmt: skip
    means = [[9.0, 0.0, 1.0, -0.1, 1.0], [4.0, 0.0, 1.5, 0.0, 1.0], [5.5, 0.0, 3.0, 0.0, 1.0]]
    assert openvino_profile.layers(told, means) == (
        LayerTime(
            name="c/WithoutBiases",
            kind="Convolution brgconv_avx512_1x1_I8",
            precision="int8",
            role="compute",
            ns=5500,
            nodes=("c", "Multiply_7", "c_Q"),
        ),
        LayerTime("t", "Transpose unknown_f32", "fp32", "reformat", 1500, nodes=("t",)),
        LayerTime("q", "FakeQuantize jit_avx512_f32", "fp32", "convert", 0, nodes=("q",)),
        LayerTime("m", "Softmax ref_u4", "unknown", "other", 1000),
    )
