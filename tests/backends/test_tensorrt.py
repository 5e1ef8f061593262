"""TensorRT: built for real by the RTX library, run on a CUDA that is played by host memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekd import targets
from edgekd.artifacts import EngineFile, OnnxModel, QuantizedModel, TensorSpec
from edgekd.backends import cuda as cuda_module
from edgekd.backends import tensorrt
from edgekd.backends.base import build_engine, find
from edgekd.backends.cuda import Cuda, Gpu
from edgekd.backends.tensorrt import TensorRt, TensorRtRtx, TensorRtSession
from edgekd.errors import BackendUnavailable, BuildError, EngineIncompatible, StageError

RTX = targets.load("tensorrt-rtx")


@pytest.fixture
def engine(onnx_model: OnnxModel, tmp_path: Path) -> EngineFile:
    return build_engine(onnx_model, "student", RTX, tmp_path)


def test_an_engine_is_built_without_a_gpu_and_marked_as_not_executed(engine: EngineFile) -> None:
    assert engine.path.read_bytes()[:4] != b"\x08\x0a"  # a plan, not the ONNX
    assert engine.path.stat().st_size > 10_000
    assert engine.executed is bool(find("tensorrt-rtx").probe().devices)
    assert engine.device == "sm_80+sm_86+sm_89+sm_120"
    assert engine.options == {"max_batch": "32"}


def test_int8_in_tensorrts_form_is_taken_and_the_cpu_twin_is_not(
    onnx_model: OnnxModel, tmp_path: Path
) -> None:
    """The reason that there are two forms; the parser is the judge."""
    from edgekd.quantize.qdq import quantize

    ranges = {
        name: (-4.0, 4.0) if name in ("image", "logits") else (0.0, 8.0)
        for node in onnx.load(onnx_model.path).graph.node
        for name in (*node.input, *node.output)
    }
    from edgekd.artifacts import CalibrationTable

    table = CalibrationTable(method="minmax", ranges=ranges, set_sha256="", samples=1)
    models: dict[str, QuantizedModel] = {}
    for form in ("s8s8", "u8s8"):
        (tmp_path / form).mkdir()
        models[form] = quantize(onnx_model, table, form, tmp_path / form)
    (tmp_path / "engine").mkdir()
    engine = build_engine(models["s8s8"], "student", RTX, tmp_path / "engine")
    assert engine.precision == "int8"
    with pytest.raises(BuildError, match="cannot parse"):
        build_engine(models["u8s8"], "student", RTX, tmp_path / "engine")


def _one_node(tmp_path: Path, operator: str, shape: list[int | str]) -> OnnxModel:
    graph = helper.make_graph(
        [helper.make_node(operator, ["image"], ["logits"], "the_node")],
        "g",
        [helper.make_tensor_value_info("image", 1, shape)],
        [helper.make_tensor_value_info("logits", 1, None)],
    )
    path = tmp_path / "m.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )
    spec = TensorSpec("image", "float32", tuple(shape))
    return OnnxModel(path=path, opset=18, model_inputs=(spec,), model_outputs=(), parity=0.0)


def test_a_node_that_tensorrt_does_not_know_is_named(tmp_path: Path) -> None:
    model = _one_node(tmp_path, "Det", ["batch", 3, 3])
    with pytest.raises(BuildError, match=r"cannot parse m.onnx: node 'the_node' \(Det\)"):
        build_engine(model, "student", RTX, tmp_path)


def test_more_than_the_batch_left_free_is_an_error(tmp_path: Path) -> None:
    model = _one_node(tmp_path, "Relu", ["batch", 3, "height", "width"])
    with pytest.raises(BuildError, match="input 'image' leaves more than the batch free"):
        build_engine(model, "student", RTX, tmp_path)


def test_a_batch_that_is_fixed_stays_as_it_is(tmp_path: Path) -> None:
    engine = build_engine(_one_node(tmp_path, "Relu", [3, 1, 4, 4]), "student", RTX, tmp_path)
    assert engine.options == {"max_batch": "3"}


def test_a_capability_that_the_library_lacks_is_named(
    onnx_model: OnnxModel, tmp_path: Path
) -> None:
    target = replace(RTX, options={**RTX.options, "compute_capabilities": ("3.5",)})
    with pytest.raises(BuildError, match=r"does not build for SM35: it knows .*SM86"):
        build_engine(onnx_model, "student", target, tmp_path)


def test_without_a_driver_an_engine_is_refused_before_the_library_sees_it(
    engine: EngineFile,
) -> None:
    if find("tensorrt-rtx").probe().devices:
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU with a working driver"):
        find("tensorrt-rtx").open(engine)


def test_an_engine_of_another_version_is_refused(engine: EngineFile) -> None:
    with pytest.raises(EngineIncompatible, match=r"built for tensorrt_rtx 1\.0, and this is tens"):
        find("tensorrt-rtx").open(replace(engine, backend_version="1.0"))


def test_type_stubs_are_not_taken_for_the_library() -> None:
    """The package tensorrt-stubs makes ``import tensorrt`` succeed, and brings nothing."""
    found = TensorRt().probe()
    assert not found.installed
    assert "tensorrt is not installed" in found.reason or "cannot be imported" in found.reason


# ── A CUDA of host memory ────────────────────────────────────────────────────────────────


class FakeCuda:
    """Device memory is numpy arrays; what is called is written down in order."""

    def __init__(self, sm: str = "sm_86") -> None:
        self.sm = sm
        self.memory: dict[int, np.ndarray] = {}
        self.calls: list[str] = []
        self.next = 1000
        self.room = 9

    def gpu(self) -> Gpu:
        return Gpu("Fake", self.sm)

    def malloc(self, size: int) -> int:
        if len(self.memory) == self.room:
            raise StageError("cudaMalloc failed (out of memory)")
        self.next += 1
        self.memory[self.next] = np.zeros(size, np.uint8)
        return self.next

    def free(self, pointer: int) -> None:
        del self.memory[pointer]

    def stream(self) -> int:
        self.calls.append("stream")
        return 7

    def destroy(self, stream: int) -> None:
        self.calls.append("destroy")

    def upload(self, pointer: int, array: np.ndarray, stream: int) -> None:
        assert stream == 7
        assert array.flags.c_contiguous
        self.calls.append("upload")
        self.memory[pointer][: array.nbytes] = array.view(np.uint8).ravel()

    def download(self, array: np.ndarray, pointer: int, stream: int) -> None:
        assert stream == 7
        self.calls.append("download")
        array[...] = self.memory[pointer][: array.nbytes].view(array.dtype).reshape(array.shape)

    def wait(self, stream: int) -> None:
        self.calls.append("wait")


class FakeContext:
    """Twice the input."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.addresses, self.shape, self.works = cuda, {}, (), True  # type: ignore[var-annotated]

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.cuda.calls.append("shape")
        self.shape = shape

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        self.cuda.calls.append("execute")
        size = int(np.prod(self.shape)) * 4
        x = self.cuda.memory[self.addresses["x"]][:size].view(np.float32)
        self.cuda.memory[self.addresses["y"]][:size] = (2 * x).view(np.uint8)
        return self.works


class FakeEngine:
    def __init__(self, cuda: FakeCuda, has_context: bool = True, dtype: str = "FLOAT") -> None:
        self.context = FakeContext(cuda) if has_context else None
        self.dtype = dtype

    def create_execution_context(self) -> FakeContext | None:
        return self.context

    def get_tensor_dtype(self, name: str) -> str:
        return self.dtype


FILE = EngineFile(
    role="student",
    target="tensorrt",
    backend="tensorrt",
    backend_version="10.13",
    device="sm_86",
    precision="fp32",
    path=Path("none"),
    model_inputs=(TensorSpec("x", "float32", ("batch", 3)),),
    model_outputs=(TensorSpec("y", "float32", ("batch", 3)),),
    executed=True,
    options={"max_batch": "4"},
)
TYPES: dict[Any, str] = {"FLOAT": "float32", "HALF": "float16"}


def _session(cuda: FakeCuda, **engine: Any) -> TensorRtSession:
    return TensorRtSession(FakeEngine(cuda, **engine), cuda, FILE, TYPES)  # type: ignore[arg-type]


def test_a_run_uploads_executes_downloads_and_waits_in_the_streams_order() -> None:
    cuda = FakeCuda()
    with _session(cuda) as session:
        del cuda.calls[:]
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        assert np.array_equal(session.run({"x": x})["y"], 2 * x)
        assert cuda.calls == ["shape", "upload", "execute", "download", "wait"]
        turned = np.asfortranarray(x)
        assert np.array_equal(session.run({"x": turned})["y"], 2 * x)


def test_memory_is_taken_at_open_for_the_largest_batch_and_given_back() -> None:
    cuda = FakeCuda()
    with _session(cuda) as session:
        assert [len(each) for each in cuda.memory.values()] == [4 * 3 * 4] * 2
        before = set(cuda.memory)
        for batch in (1, 4, 2):
            session.run({"x": np.ones((batch, 3), np.float32)})
        assert set(cuda.memory) == before
    assert not cuda.memory
    assert cuda.calls[-1] == "destroy"


@pytest.mark.parametrize("batch", [0, 5])
def test_a_batch_that_the_engine_was_not_built_for_is_an_error_and_the_next_call_works(
    batch: int,
) -> None:
    with _session(FakeCuda()) as session:
        with pytest.raises(StageError, match=f"a batch of {batch} .* built for 1 to 4: split"):
            session.run({"x": np.ones((batch, 3), np.float32)})
        assert session.run({"x": np.ones((1, 3), np.float32)})["y"].shape == (1, 3)


def test_what_the_library_refuses_is_an_error() -> None:
    cuda = FakeCuda()
    with pytest.raises(StageError, match="no execution context"):
        _session(cuda, has_context=False)
    assert not cuda.memory
    with pytest.raises(EngineIncompatible, match="x of float32"):
        _session(cuda, dtype="HALF")
    assert not cuda.memory
    cuda.room = 1
    with pytest.raises(StageError, match="out of memory"):
        _session(cuda)
    assert not cuda.memory
    assert cuda.calls[-1] == "destroy"
    cuda.room = 9
    engine = FakeEngine(cuda)
    assert engine.context is not None
    engine.context.works = False
    with TensorRtSession(engine, cuda, FILE, TYPES) as session:  # type: ignore[arg-type]
        with pytest.raises(StageError, match="could not enqueue"):
            session.run({"x": np.ones((1, 3), np.float32)})


def test_an_engine_for_another_gpu_is_refused(
    engine: EngineFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "Cuda", lambda extra: FakeCuda("sm_75"))
    with pytest.raises(EngineIncompatible, match=r"sm_80\+sm_86\+sm_89\+sm_120, and this is Fake"):
        TensorRtRtx().open(engine)


# ── The CUDA layer over cuda-python ──────────────────────────────────────────────────────


def _fake_runtime(**functions: Any) -> SimpleNamespace:
    codes = SimpleNamespace(cudaSuccess=0, cudaErrorMemoryAllocation=2)
    kinds = SimpleNamespace(cudaMemcpyHostToDevice="h2d", cudaMemcpyDeviceToHost="d2h")
    base = {
        "cudaError_t": codes,
        "cudaMemcpyKind": kinds,
        "cudaGetErrorString": lambda status: (0, b"out of memory" if status == 2 else b"no device"),
        "cudaGetDeviceCount": lambda: (0, 1),
    }
    return SimpleNamespace(**base, **functions)


def _cuda(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> Cuda:
    import cuda.bindings

    runtime = _fake_runtime(**functions)
    monkeypatch.setattr(cuda.bindings, "runtime", runtime, raising=False)
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings.runtime", runtime)
    return Cuda("tensorrt")


def test_the_gpus_capability_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name=b"Orin", major=8, minor=7)
    cuda = _cuda(
        monkeypatch,
        cudaGetDevice=lambda: (0, 0),
        cudaGetDeviceProperties=lambda device: (0, properties),
    )
    assert cuda.gpu() == Gpu("Orin", "sm_87")


def test_a_call_that_fails_says_which_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = _cuda(monkeypatch, cudaMalloc=lambda size: (2, None))
    with pytest.raises(StageError, match=r"cudaMalloc failed \(out of memory\)"):
        cuda.malloc(1 << 60)


def test_copies_name_their_direction_size_and_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[tuple[Any, ...]] = []

    def copy(*arguments: Any) -> tuple[int]:
        copies.append(arguments)
        return (0,)

    cuda = _cuda(monkeypatch, cudaMemcpyAsync=copy)
    array = np.zeros(5, np.float32)
    cuda.upload(11, array, 3)
    cuda.download(array, 12, 3)
    assert copies == [(11, array.ctypes.data, 20, "h2d", 3), (array.ctypes.data, 12, 20, "d2h", 3)]


def test_without_cuda_python_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", None)
    with pytest.raises(
        BackendUnavailable, match=r"cuda-python is not installed.*edgekd\[tensorrt\]"
    ):
        Cuda("tensorrt")
    assert cuda_module.__doc__
