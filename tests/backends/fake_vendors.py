"""The modules of cuda-python and PyCUDA over ``FakeCuda``, with their own names and manners.

What cuda-python calls its functions, parameters and codes is checked against the library that
is installed (``test_cuda.py``). PyCUDA cannot be installed without CUDA's compiler; what is here
follows its manual and the declarations in its ``src/wrapper/wrap_cudadrv.cpp``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime as real

from edgekd.backends.cuda import LOST
from edgekd.errors import DeviceError
from tests.backends.fake_cuda import FakeCuda

CODES = real.cudaError_t


class FakeRuntime:
    """``cuda.bindings.runtime``: a status comes first, streams and events are objects.

    Attributes:
        cuda: what it runs on.
        driver: the CUDA that the driver supports; 0 for no driver.
        present: the status and the number of GPUs.
        calls: each with its arguments.
    """

    cudaError_t = CODES
    cudaMemcpyKind = real.cudaMemcpyKind
    cudaStreamCaptureMode = real.cudaStreamCaptureMode

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.driver = 13000
        self.present = (CODES.cudaSuccess, 1)
        self.instantiates = True
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.last = CODES.cudaSuccess
        self.templates: set[int] = set()
        self.executable: set[int] = set()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("cuda") or not callable(found) or isinstance(found, type):
            return found

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, arguments))
            answer: tuple[Any, ...] = found(*arguments)
            return answer

        return call

    def cudaGetErrorString(self, error: Any) -> tuple[Any, bytes]:
        return real.cudaGetErrorString(error)

    def cudaGetLastError(self) -> tuple[Any]:
        last, self.last = self.last, CODES.cudaSuccess
        return (last,)

    def cudaDriverGetVersion(self) -> tuple[Any, int]:
        return CODES.cudaSuccess, self.driver

    def cudaRuntimeGetVersion(self) -> tuple[Any, int]:
        return CODES.cudaSuccess, 13040

    def cudaGetDeviceCount(self) -> tuple[Any, int | None]:
        return self.present

    def cudaGetDevice(self) -> tuple[Any, int]:
        return CODES.cudaSuccess, 0

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, Any]:
        assert device == 0
        status, gpu = self._do(self.cuda.gpu)
        found = real.cudaDeviceProp()
        if gpu:
            found.name = gpu.name.encode().ljust(256, b"\0")
            found.major, found.minor = divmod(int(gpu.sm.removeprefix("sm_")), 10)
            found.totalGlobalMem = gpu.memory_bytes
            found.multiProcessorCount = gpu.processors
        return status, found

    def cudaMemGetInfo(self) -> tuple[Any, Any, Any]:
        status, found = self._do(self.cuda.memory)
        return status, *(found or (None, None))

    def cudaMalloc(self, size: int) -> tuple[Any, Any]:
        return self._do(self.cuda.malloc, _number(size))

    def cudaFree(self, devPtr: int) -> tuple[Any]:
        return self._do(self.cuda.free, _number(devPtr))[:1]

    def cudaMallocHost(self, size: int) -> tuple[Any, Any]:
        status, array = self._do(self.cuda.pinned, _number(size))
        return status, None if array is None else array.ctypes.data

    def cudaFreeHost(self, ptr: int) -> tuple[Any]:
        return self._do(self.cuda.unpin, _at(ptr, 1))[:1]

    def cudaStreamCreate(self) -> tuple[Any, Any]:
        status, stream = self._do(self.cuda.stream)
        return status, stream and real.cudaStream_t(stream)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any]:
        return self._do(self.cuda.destroy_stream, _number(stream))[:1]

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]:
        return self._do(self.cuda.wait, _number(stream))[:1]

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: int) -> tuple[Any]:
        kinds = real.cudaMemcpyKind
        if kind is kinds.cudaMemcpyHostToDevice:
            return self._do(self.cuda.upload, _number(dst), _at(src, count), _number(stream))[:1]
        if kind is kinds.cudaMemcpyDeviceToHost:
            return self._do(self.cuda.download, _at(dst, count), _number(src), _number(stream))[:1]
        assert kind is kinds.cudaMemcpyDeviceToDevice
        return self._do(self.cuda.copy, dst, src, count, stream)[:1]

    def cudaEventCreate(self) -> tuple[Any, Any]:
        status, event = self._do(self.cuda.event)
        return status, event and real.cudaEvent_t(event)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any]:
        return self._do(self.cuda.record, _number(event), _number(stream))[:1]

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Any, Any]:
        status, elapsed = self._do(self.cuda.elapsed_ns, _number(start), _number(end))
        return status, None if elapsed is None else elapsed / 1e6

    def cudaEventDestroy(self, event: int) -> tuple[Any]:
        return self._do(self.cuda.destroy_event, _number(event))[:1]

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any]:
        assert mode is real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        return self._do(self.cuda.begin_capture, _number(stream))[:1]

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, Any]:
        status, graph = self._do(self.cuda.end_capture, _number(stream))
        if graph is not None:
            self.templates.add(graph)
        return status, graph and real.cudaGraph_t(graph)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, Any]:
        assert int(graph) in self.templates
        assert flags == 0
        if not self.instantiates:
            return CODES.cudaErrorNotSupported, None
        self.executable.add(int(graph))
        return CODES.cudaSuccess, real.cudaGraphExec_t(int(graph))

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any]:
        self.templates.remove(int(graph))
        if int(graph) not in self.executable:
            self.cuda.destroy_graph(int(graph))
        return (CODES.cudaSuccess,)

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[Any]:
        assert graphExec in self.executable
        return self._do(self.cuda.launch, _number(graphExec), _number(stream))[:1]

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[Any]:
        self.executable.remove(graphExec)
        return self._do(self.cuda.destroy_graph, _number(graphExec))[:1]

    def _do(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
        try:
            return CODES.cudaSuccess, function(*arguments)
        except DeviceError as error:
            self.last = CODES(_code(error))
            return self.last, None


def _code(error: DeviceError) -> int:
    if error.out_of_memory:
        return 2
    return next((code for code, text in LOST.items() if text in str(error)), 1)


def _number(value: Any) -> int:
    assert type(value) is int, f"{value!r} is no plain number"
    return value


def _at(pointer: int, nbytes: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(pointer))


class FakePyCuda:
    """``pycuda.driver``: exceptions, and objects that end what they hold.

    Attributes:
        current: the context that the application has pushed; None for none.
        waited: how often the whole context was waited for.
    """

    class Error(Exception):
        pass

    class MemoryError(Error, MemoryError):  # noqa: A001  # as it is declared there
        pass

    class LogicError(Error):
        pass

    class LaunchError(Error):
        pass

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.current: object = "the application's"
        self.waited = 0
        self.init_error = ""
        module = self

        class Attribute:
            MULTIPROCESSOR_COUNT = object()

        self.device_attribute = Attribute

        class Context:
            @staticmethod
            def get_current() -> object:
                return module.current

            @staticmethod
            def get_device() -> Any:
                return module.Device(0)

            @staticmethod
            def synchronize() -> None:
                module.waited += 1
                module.do("cuCtxSynchronize", cuda.wait, 1)

        class Device:
            def __init__(self, ordinal: int) -> None:
                self.ordinal = ordinal

            def __eq__(self, other: object) -> bool:
                return isinstance(other, Device) and other.ordinal == self.ordinal

            @staticmethod
            def count() -> int:
                return 1

            def name(self) -> str:
                name: str = module.do("cuDeviceGetName", cuda.gpu).name
                return name

            def compute_capability(self) -> tuple[int, int]:
                sm = cuda.gpu().sm.removeprefix("sm_")
                return int(sm[:-1]), int(sm[-1])

            def total_memory(self) -> int:
                return cuda.memory_bytes

            def get_attribute(self, attribute: object) -> int:
                assert attribute is module.device_attribute.MULTIPROCESSOR_COUNT
                return cuda.gpu().processors

        class Stream:
            def __init__(self, flags: int = 0) -> None:
                self.handle = module.do("cuStreamCreate", cuda.stream)

            def synchronize(self) -> None:
                module.do("cuStreamSynchronize", cuda.wait, self.handle)

            def __del__(self) -> None:
                if hasattr(self, "handle"):
                    cuda.destroy_stream(self.handle)

        class Event:
            def __init__(self, flags: int = 0) -> None:
                self.event = module.do("cuEventCreate", cuda.event)

            def record(self, stream: Any = None) -> Event:
                assert isinstance(stream, Stream)
                module.do("cuEventRecord", cuda.record, self.event, stream.handle)
                return self

            def time_till(self, event: Event) -> float:
                took = module.do("cuEventElapsedTime", cuda.elapsed_ns, self.event, event.event)
                return float(took / 1e6)

            def __del__(self) -> None:
                if hasattr(self, "event"):
                    cuda.destroy_event(self.event)

        self.Context, self.Device, self.Stream, self.Event = Context, Device, Stream, Event

    def init(self, flags: int = 0) -> None:
        if self.init_error:
            raise self.LogicError(self.init_error)

    def mem_get_info(self) -> tuple[int, int]:
        found: tuple[int, int] = self.do("cuMemGetInfo", self.cuda.memory)
        return found

    def mem_alloc(self, bytes: int) -> Any:  # noqa: A002  # as it is called there
        return _Allocation(self, self.do("cuMemAlloc", self.cuda.malloc, _number(bytes)))

    def pagelocked_empty(
        self, shape: int, dtype: Any, order: str = "C", mem_flags: int = 0
    ) -> np.ndarray:
        assert (dtype, order, mem_flags) == (np.uint8, "C", 0)
        found = self.do("cuMemHostAlloc", self.cuda.pinned, _number(shape))
        return np.asarray(_Pagelocked(self, found))  # which is its base, as there

    def memcpy_htod_async(self, dest: int, src: np.ndarray, stream: Any = None) -> None:
        assert isinstance(stream, self.Stream)
        self.do("cuMemcpyHtoDAsync", self.cuda.upload, _number(dest), src, stream.handle)

    def memcpy_dtoh_async(self, dest: np.ndarray, src: int, stream: Any = None) -> None:
        assert isinstance(stream, self.Stream)
        assert dest.flags.writeable
        self.do("cuMemcpyDtoHAsync", self.cuda.download, dest, _number(src), stream.handle)

    def memcpy_dtod_async(self, dest: int, src: int, size: int, stream: Any = None) -> None:
        assert isinstance(stream, self.Stream)
        self.do("cuMemcpyDtoDAsync", self.cuda.copy, dest, src, _number(size), stream.handle)

    def do(self, routine: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """As PyCUDA tells errors: the routine, and CUDA's text; a class for each kind."""
        try:
            return function(*arguments)
        except DeviceError as error:
            kind = self.LogicError
            if error.out_of_memory:
                kind = self.MemoryError
            elif error.lost:
                kind = self.LaunchError
            reason = str(error).partition("(")[2].rstrip(")")
            raise kind(f"{routine} failed: {reason}") from None


class _Allocation:
    def __init__(self, module: FakePyCuda, pointer: int) -> None:
        self.module, self.pointer = module, pointer

    def __int__(self) -> int:
        return self.pointer

    def free(self) -> None:
        self.module.do("cuMemFree", self.module.cuda.free, self.pointer)


class _Pagelocked:
    def __init__(self, module: FakePyCuda, array: np.ndarray) -> None:
        self.module, self.array = module, array

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self.array.__array_interface__

    def free(self) -> None:
        self.module.do("cuMemFreeHost", self.module.cuda.unpin, self.array)
