"""The CUDA layers: what a device does, over both vendors' modules, and what is told without one."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda.bindings import runtime as real

from edgekd.backends import cuda
from edgekd.backends.cuda import LOST, Device, Gpu, bindings, open_device
from edgekd.backends.cuda.bindings import CudaPython
from edgekd.backends.cuda.pycuda import PyCuda
from edgekd.errors import BackendUnavailable, DeviceError, RecipeError
from tests.backends.fake_cuda import FakeCuda
from tests.backends.fake_vendors import CODES, FakePyCuda, FakeRuntime

LAYERS = {
    "the fake itself": lambda fake: fake,
    "cuda-python": lambda fake: CudaPython(FakeRuntime(fake)),
    "pycuda": lambda fake: PyCuda(FakePyCuda(fake)),
}


@pytest.fixture
def fake() -> FakeCuda:
    return FakeCuda(memory_bytes=10_000)


@pytest.fixture(params=LAYERS)
def device(fake: FakeCuda, request: pytest.FixtureRequest) -> Iterator[Device]:
    """One of each layer; whoever uses it gives back all that was taken."""
    device: Device = LAYERS[request.param](fake)
    yield device
    assert not any(fake.live().values())


# ── What every layer does ────────────────────────────────────────────────────────────────


def test_a_device_says_what_it_is(device: Device) -> None:
    assert device.gpu() == Gpu("Fake", "sm_86", 10_000, 20)
    assert device.ordinal == 0
    assert device.memory() == (10_000, 10_000)


def test_a_round_trip_in_the_streams_order(device: Device) -> None:
    stream, one, other = device.stream(), device.malloc(256), device.malloc(256)
    there, back = device.pinned(256), device.pinned(256)
    assert there.dtype == np.uint8 and there.shape == (256,)
    there[:] = np.arange(256)
    device.upload(one, there, stream)
    device.copy(other, one, 256, stream)
    device.download(back, other, stream)
    assert not np.array_equal(back, there)  # nothing is done before it is waited for
    device.wait(stream)
    assert np.array_equal(back, there)
    for array in (there, back):
        device.unpin(array)
    for pointer in (one, other):
        device.free(pointer)
    device.destroy_stream(stream)


def test_part_of_page_locked_memory_as_another_type(device: Device) -> None:
    stream, pointer, host = device.stream(), device.malloc(80), device.pinned(80)
    view = host[:24].view(np.float32).reshape(2, 3)
    view[...] = [[1, 2, 3], [4, 5, 6]]
    device.upload(pointer, view, stream)
    device.wait(stream)
    view[...] = 0
    device.download(view, pointer, stream)
    device.wait(stream)
    assert view.tolist() == [[1, 2, 3], [4, 5, 6]]
    device.unpin(host)
    device.free(pointer)
    device.destroy_stream(stream)


def test_time_between_events_is_in_nanoseconds(device: Device) -> None:
    stream, pointer, host = device.stream(), device.malloc(2000), device.pinned(2000)
    events = [device.event() for _ in range(2)]
    device.record(events[0], stream)
    device.upload(pointer, host, stream)
    device.record(events[1], stream)
    with pytest.raises(DeviceError):  # which is not known yet
        device.elapsed_ns(*events)
    device.wait(stream)
    assert device.elapsed_ns(*events) == 2000  # the fake takes one for each byte
    for event in events:
        device.destroy_event(event)
    device.unpin(host)
    device.free(pointer)
    device.destroy_stream(stream)


def test_too_much_memory_is_told_apart(device: Device) -> None:
    with pytest.raises(DeviceError, match="out of memory") as told:
        device.malloc(10_001)
    assert told.value.out_of_memory and not told.value.lost


def test_a_lost_gpu_is_told_apart(device: Device, fake: FakeCuda) -> None:
    fake.fail("memory", lost=True)
    with pytest.raises(DeviceError, match="unspecified launch failure") as told:
        device.memory()
    assert told.value.lost and not told.value.out_of_memory


def test_other_errors_are_neither(device: Device, fake: FakeCuda) -> None:
    fake.fail("malloc")
    with pytest.raises(DeviceError) as told:
        device.malloc(1)
    assert not told.value.lost and not told.value.out_of_memory
    device.free(device.malloc(1))


def test_another_programs_stream_can_be_waited_for(device: Device, fake: FakeCuda) -> None:
    done: list[int] = []
    stream = fake.stream()  # which the layer has not made
    fake.enqueue(stream, lambda: done.append(1), 1)
    device.wait(stream)
    assert done
    fake.destroy_stream(stream)


def test_a_graph_does_again_what_was_captured(device: Device) -> None:
    if device.graphs is None:
        assert isinstance(device, PyCuda)
        return
    stream, pointer, host = device.stream(), device.malloc(8), device.pinned(8)
    host[:] = 7
    device.graphs.begin_capture(stream)
    device.upload(pointer, host, stream)
    graph = device.graphs.end_capture(stream)
    back = device.pinned(8)
    for value in (1, 2):
        host[:] = value
        device.graphs.launch(graph, stream)
        device.download(back, pointer, stream)
        device.wait(stream)
        assert set(back) == {value}
    device.graphs.destroy_graph(graph)
    for array in (host, back):
        device.unpin(array)
    device.free(pointer)
    device.destroy_stream(stream)


# ── cuda-python ──────────────────────────────────────────────────────────────────────────


def test_what_cannot_be_instantiated_leaves_no_graph(fake: FakeCuda) -> None:
    runtime = FakeRuntime(fake)
    device = CudaPython(runtime)
    runtime.instantiates = False
    stream = device.stream()
    device.begin_capture(stream)
    with pytest.raises(DeviceError, match="cudaGraphInstantiate failed"):
        device.end_capture(stream)
    assert fake.live()["graphs"] == 0
    assert not runtime.templates


def test_an_error_is_not_left_for_tensorrt_to_find(fake: FakeCuda) -> None:
    runtime = FakeRuntime(fake)
    with pytest.raises(DeviceError, match=r"^cudaMalloc failed \(out of memory\)$"):
        CudaPython(runtime).malloc(1 << 60)
    assert runtime.last == CODES.cudaSuccess


def _functions() -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(FakeRuntime).items()
        if name.startswith("cuda") and inspect.isfunction(value)
    }


@pytest.mark.parametrize("name", _functions())
def test_cuda_python_has_each_function_with_these_parameters(name: str) -> None:
    """Its docstrings begin with a declaration such as ``cudaMalloc(size_t size)``."""
    declared = re.match(rf"{name}\((.*?)\)", getattr(real, name).__doc__)
    assert declared is not None
    parameters = [each.split(":")[0].split()[-1] for each in declared[1].split(",") if each.strip()]
    mine = list(inspect.signature(_functions()[name]).parameters)[1:]
    assert mine == parameters


def test_cuda_python_takes_these_arguments_and_lacks_a_driver_alone(fake: FakeCuda) -> None:
    if cuda.gpus():
        pytest.skip("made-up addresses are for machines without a GPU")
    runtime = FakeRuntime(fake)
    device = CudaPython(runtime)
    _use_all(device)
    used = {name for name, _ in runtime.calls}
    unused = set(_functions()) - used
    assert unused <= {"cudaDriverGetVersion", "cudaRuntimeGetVersion", "cudaGetDeviceCount",
                      "cudaGetErrorString", "cudaGetLastError"}  # fmt: skip
    for name, arguments in runtime.calls:
        status = getattr(real, name)(*arguments)[0]
        assert status == CODES.cudaErrorInsufficientDriver, name


def _use_all(device: CudaPython) -> None:
    device.gpu()
    device.memory()
    stream, pointer, host = device.stream(), device.malloc(8), device.pinned(8)
    events = device.event(), device.event()
    device.record(events[0], stream)
    device.upload(pointer, host, stream)
    device.copy(pointer, pointer, 8, stream)
    device.download(host, pointer, stream)
    device.record(events[1], stream)
    device.wait(stream)
    device.elapsed_ns(*events)
    device.begin_capture(stream)
    graph = device.end_capture(stream)
    device.launch(graph, stream)
    device.destroy_graph(graph)
    for event in events:
        device.destroy_event(event)
    device.free(pointer)
    device.unpin(host)
    device.destroy_stream(stream)


def test_the_table_of_fatal_errors_has_cudas_own_words() -> None:
    for code, text in LOST.items():
        assert real.cudaGetErrorString(CODES(code))[1].decode() == text


def test_each_error_that_cuda_says_ends_the_process_is_in_the_table() -> None:
    said = {
        int(each) for each in CODES if "must be terminated and relaunched" in (each.__doc__ or "")
    }
    if not said:
        pytest.skip("this cuda-python has no docstrings on its codes")
    assert len(said) > 5
    assert said <= LOST.keys()


MISSING = {
    "no driver": (0, CODES.cudaErrorInsufficientDriver, 0, "no driver is installed"),
    "no GPU": (13000, CODES.cudaErrorNoDevice, 0, "the driver sees no GPU"),
    "none visible": (13000, CODES.cudaSuccess, 0, "the driver sees no GPU"),
    "too old": (
        12020,
        CODES.cudaErrorInsufficientDriver,
        0,
        r"the driver supports CUDA 12\.2, and cuda-python 13\.4 needs 13\.0; update the driver",
    ),
    "broken": (13000, CODES.cudaErrorSystemDriverMismatch, 0, "unsupported display driver"),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_told(
    case: str, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, status, count, told = MISSING[case]
    runtime = FakeRuntime(fake)
    runtime.driver, runtime.present = driver, (status, count)
    _install(monkeypatch, runtime)
    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU with a working driver.*" + told):
        open_device("cuda-python", "tensorrt")
    assert cuda.gpus() == []
    assert cuda.sm_here() == ""


def test_a_driver_that_cannot_be_loaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        cudaError_t = CODES

        def cudaGetDeviceCount(self) -> None:
            raise RuntimeError("Failed to dlopen libcuda.so.1")

    _install(monkeypatch, Old())
    with pytest.raises(BackendUnavailable, match="working driver was found: Failed to dlopen"):
        open_device("cuda-python", "tensorrt")


def test_without_cuda_python_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(
        BackendUnavailable, match=r"cuda-python is not installed.*edgekd\[tensorrt\]"
    ):
        open_device("cuda-python", "tensorrt")
    assert cuda.gpus() == []
    assert cuda.versions()["cuda_runtime"] == ""


def test_a_gpu_that_is_here_is_opened_and_listed(
    fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(monkeypatch, FakeRuntime(fake))
    gpu = Gpu("Fake", "sm_86", 10_000, 20)
    assert open_device("cuda-python", "tensorrt").gpu() == gpu
    assert cuda.gpus() == [gpu]
    assert cuda.sm_here() == "sm_86"


def test_an_unknown_layer_is_told_with_the_nearest() -> None:
    with pytest.raises(
        RecipeError, match="no device layer is called 'cudapython': did you mean 'cuda-python'"
    ):
        open_device("cudapython", "tensorrt")


def _install(monkeypatch: pytest.MonkeyPatch, runtime: Any) -> None:
    monkeypatch.setattr(bindings, "_runtime", lambda extra: runtime)


# ── Versions ─────────────────────────────────────────────────────────────────────────────

NVRM = """NVRM version: NVIDIA UNIX {}  580.65.06  Release Build  (someone@somewhere)  Sun Jul 27
GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)
"""


@pytest.mark.parametrize("kind", ["Open Kernel Module for x86_64", "x86_64 Kernel Module"])
def test_the_drivers_version_is_read_from_the_kernels_module(
    kind: str, tmp_path: Path, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(monkeypatch, FakeRuntime(fake))
    module, proc = tmp_path / "module", tmp_path / "proc"
    monkeypatch.setattr(cuda, "_DRIVER", (module, proc))
    assert cuda.versions() == {"driver": "", "driver_cuda": "13.0", "cuda_runtime": "13.4"}
    proc.write_text(NVRM.format(kind))
    assert cuda.versions()["driver"] == "580.65.06"
    module.write_text("575.57.08\n")
    assert cuda.versions()["driver"] == "575.57.08"


def test_without_a_driver_its_cuda_is_empty(
    fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = FakeRuntime(fake)
    runtime.driver = 0
    _install(monkeypatch, runtime)
    assert cuda.versions()["driver_cuda"] == ""
