"""TensorRT's layer times, joined with what the engine's inspector says of the layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorrt_rtx

from edgekd.artifacts import OnnxModel
from edgekd.backends.base import can_profile, find
from edgekd.backends.tensorrt import profiler
from edgekd.backends.tensorrt.inspector import LayerFact
from edgekd.errors import StageError
from edgekd.measurements import LayerTime
from tests.backends import fake_tensorrt
from tests.backends.engines import build, feeds, products, to_int8
from tests.backends.fake_cuda import FakeCuda
from tests.backends.fake_tensorrt import REFORMAT, FakeTensorRt

FLAVOURS = {
    "tensorrt": ("10.3.0.30", False),
    "tensorrt-rtx": ("1.7.1.116", True),
}


@pytest.fixture(params=FLAVOURS)
def fake(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> FakeTensorRt:
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    library = FakeTensorRt(FakeCuda("sm_86"), *FLAVOURS[request.param])
    fake_tensorrt.install(monkeypatch, library)
    return library


def test_layers_are_timed_without_graphs_and_told_with_their_facts(
    fake: FakeTensorRt, onnx_model: OnnxModel, tmp_path: Path
) -> None:
    """The stand-in takes a second more the first time, and says nothing of a graph's layers."""
    target = "tensorrt-rtx" if fake.rtx else "tensorrt"
    engine = build(onnx_model, target, tmp_path / "engine")
    backend = find(engine.backend)
    assert can_profile(backend)
    fake.device.log.clear()
    total, layers = backend.profile(engine, feeds(), runs=4)
    assert total > 0
    names = products(onnx_model.path)
    assert layers[0] == LayerTime(REFORMAT, "", "unknown", "other", 500_000)
    assert layers[1:] == tuple(
        LayerTime(name, "CaskConvolution", "fp32", "compute", 1000 * index, nodes=(name,))
        for index, name in enumerate(names, start=1)
    )
    assert not {"begin_capture", "launch"} & set(fake.device.log)
    assert not any(fake.device.live().values())


def test_an_int8_plan_computes_in_int8(
    fake: FakeTensorRt, onnx_model: OnnxModel, tmp_path: Path
) -> None:
    target = "tensorrt-rtx" if fake.rtx else "tensorrt"
    int8 = to_int8(onnx_model, tmp_path / "int8")
    engine = build(int8, target, tmp_path / "engine")
    _, layers = find(engine.backend).profile(engine, feeds(), runs=2)  # type: ignore[attr-defined]
    assert {each.precision for each in layers if each.role == "compute"} == {"int8"}


FACTS = (
    LayerFact("a", "CaskConvolution", "compute", "uint8", ("uint8",), ("fp16",), ("conv", "relu")),
    LayerFact("b", "Reformat", "reformat", "fp16", ("fp16",), ("int8",), ()),
    LayerFact("c", "Myelin", "opaque", "fp4", ("fp4",), ("fp32",), ("gemm",)),
    LayerFact("d", "Quantize", "other", "fp32", ("fp32",), ("fp8",), ("q",)),
)


def test_each_layer_has_its_median_and_the_words_of_a_profile() -> None:
    reports = [[(name, ms + run) for name, ms in zip("abcd", (1, 2, 3, 4), strict=True)]
               for run in (0, 0, 100)]  # fmt: skip
    assert profiler.layers(reports, FACTS) == (
        LayerTime("a", "CaskConvolution", "int8", "compute", 1_000_000, nodes=("conv", "relu")),
        LayerTime("b", "Reformat", "fp16", "reformat", 2_000_000),
        LayerTime("c", "Myelin", "unknown", "other", 3_000_000, nodes=("gemm",)),
        LayerTime("d", "Quantize", "fp32", "convert", 4_000_000, nodes=("q",)),
    )


def test_layers_of_one_name_are_kept_apart() -> None:
    found = profiler.layers([[("a", 1.0), ("a", 2.0)]], FACTS)
    assert [each.ns for each in found] == [1_000_000, 2_000_000]


@pytest.mark.parametrize(
    ("reports", "said"),
    [
        ([[], []], "the time of no layer"),
        ([[("a", 1.0)], [("b", 1.0)]], "not report the same layers"),
        ([[("a", 1.0)], [("a", 1.0), ("a", 1.0)]], "not report the same layers"),
    ],
)
def test_reports_that_make_no_profile_are_refused(
    reports: list[list[tuple[str, float]]], said: str
) -> None:
    with pytest.raises(StageError, match=said):
        profiler.layers(reports, FACTS)


def test_the_real_library_takes_the_recorder_as_its_own() -> None:
    recorder = profiler._recorder(tensorrt_rtx)
    assert isinstance(recorder, tensorrt_rtx.IProfiler)
    recorder.report_layer_time("conv", np.float32(0.25))
    assert recorder.report == [("conv", 0.25)]
    assert tensorrt_rtx.IExecutionContext.profiler.__set__
    assert tensorrt_rtx.IExecutionContext.enqueue_emits_profile.__set__
