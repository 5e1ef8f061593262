"""CUDA through cuda-python: ``cuda.bindings.runtime``, each call of which gives a status first."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.backends.cuda import LOST, Gpu, Host
from edgekd.errors import BackendUnavailable, DeviceError


def usable(extra: str) -> Any:
    """The runtime's module, where there is a GPU that it can use.

    Raises:
        BackendUnavailable: it is not installed, or what is missing.
    """
    runtime = _runtime(extra)
    try:
        missing = _missing(runtime)
    except RuntimeError as error:  # as older ones do where there is no driver to load
        missing = str(error)
    if missing:
        found_none = "no NVIDIA GPU with a working driver was found"
        raise BackendUnavailable("CUDA", "", f"{found_none}: {missing}")
    return runtime


def gpus(runtime: Any) -> list[Gpu]:
    """All GPUs, in CUDA's order."""
    return [_gpu(runtime, ordinal) for ordinal in range(_call(runtime, "cudaGetDeviceCount"))]


def versions() -> tuple[str, str]:
    """The CUDA that the driver supports, and the runtime's own, such as ``13.0``, or empty."""
    try:
        runtime = _runtime("")
        numbers = [
            _call(runtime, name) for name in ("cudaDriverGetVersion", "cudaRuntimeGetVersion")
        ]
    except (BackendUnavailable, DeviceError, RuntimeError):
        return "", ""
    supported, own = (_version(number) if number else "" for number in numbers)
    return supported, own


class CudaPython:
    """A ``Device``, and its ``Graphs``: the current device of the CUDA runtime."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.ordinal = int(self._call("cudaGetDevice"))

    @property
    def graphs(self) -> CudaPython:
        """See ``Device``."""
        return self

    def gpu(self) -> Gpu:
        """See ``Device.gpu``."""
        return _gpu(self._runtime, self.ordinal)

    def memory(self) -> tuple[int, int]:
        """See ``Device.memory``."""
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def malloc(self, nbytes: int) -> int:
        """See ``Device.malloc``."""
        return int(self._call("cudaMalloc", nbytes))

    def free(self, pointer: int) -> None:
        """See ``Device.free``."""
        self._call("cudaFree", pointer)

    def pinned(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """See ``Device.pinned``."""
        address = int(self._call("cudaMallocHost", nbytes))
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def unpin(self, array: npt.NDArray[np.uint8]) -> None:
        """See ``Device.unpin``."""
        self._call("cudaFreeHost", array.ctypes.data)

    def stream(self) -> int:
        """See ``Device.stream``."""
        return int(self._call("cudaStreamCreate"))

    def destroy_stream(self, stream: int) -> None:
        """See ``Device.destroy_stream``."""
        self._call("cudaStreamDestroy", stream)

    def upload(self, pointer: int, array: Host, stream: int) -> None:
        """See ``Device.upload``."""
        self._copy(pointer, array.ctypes.data, array.nbytes, "HostToDevice", stream)

    def download(self, array: Host, pointer: int, stream: int) -> None:
        """See ``Device.download``."""
        self._copy(array.ctypes.data, pointer, array.nbytes, "DeviceToHost", stream)

    def copy(self, to: int, pointer: int, nbytes: int, stream: int) -> None:
        """See ``Device.copy``."""
        self._copy(to, pointer, nbytes, "DeviceToDevice", stream)

    def wait(self, stream: int) -> None:
        """See ``Device.wait``."""
        self._call("cudaStreamSynchronize", stream)

    def event(self) -> int:
        """See ``Device.event``."""
        return int(self._call("cudaEventCreate"))

    def record(self, event: int, stream: int) -> None:
        """See ``Device.record``."""
        self._call("cudaEventRecord", event, stream)

    def elapsed_ns(self, start: int, end: int) -> int:
        """See ``Device.elapsed_ns``."""
        milliseconds: float = self._call("cudaEventElapsedTime", start, end)
        return round(milliseconds * 1e6)

    def destroy_event(self, event: int) -> None:
        """See ``Device.destroy_event``."""
        self._call("cudaEventDestroy", event)

    def begin_capture(self, stream: int) -> None:
        """See ``Graphs.begin_capture``."""
        modes = self._runtime.cudaStreamCaptureMode  # other threads may go on, as in trtexec
        mode = modes.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        """See ``Graphs.end_capture``."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return int(self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """See ``Graphs.launch``."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """See ``Graphs.destroy_graph``."""
        self._call("cudaGraphExecDestroy", graph)

    def _copy(self, to: int, pointer: int, nbytes: int, kind: str, stream: int) -> None:
        direction = getattr(self._runtime.cudaMemcpyKind, f"cudaMemcpy{kind}")
        self._call("cudaMemcpyAsync", to, pointer, nbytes, direction, stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        return _call(self._runtime, function, *arguments)


def _runtime(extra: str) -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendUnavailable("CUDA", extra, "cuda-python is not installed") from error
    return runtime


def _missing(runtime: Any) -> str:
    """Why there is no GPU to use; empty where there is one."""
    codes = runtime.cudaError_t
    status, count = runtime.cudaGetDeviceCount()
    if status == codes.cudaSuccess and count:
        return ""
    supported = _call(runtime, "cudaDriverGetVersion")  # 0 where none is installed
    if not supported:
        return "no driver is installed"
    if status in (codes.cudaSuccess, codes.cudaErrorNoDevice):
        return "the driver sees no GPU"
    if status == codes.cudaErrorInsufficientDriver:
        own = _call(runtime, "cudaRuntimeGetVersion")
        # Any driver of the same major version will do (CUDA Compatibility, "Minor Version").
        return (
            f"the driver supports CUDA {_version(supported)}, and cuda-python {_version(own)}"
            f" needs {own // 1000}.0; update the driver, or install an older cuda-python"
        )
    return _text(runtime, status)


def _gpu(runtime: Any, ordinal: int) -> Gpu:
    found = _call(runtime, "cudaGetDeviceProperties", ordinal)
    return Gpu(
        found.name.decode(),
        f"sm_{found.major}{found.minor}",
        int(found.totalGlobalMem),
        int(found.multiProcessorCount),
    )


def _call(runtime: Any, function: str, *arguments: Any) -> Any:
    """The call's result, or results.

    Raises:
        DeviceError: naming the function and CUDA's reason.
    """
    status, *results = getattr(runtime, function)(*arguments)
    if status != runtime.cudaError_t.cudaSuccess:
        runtime.cudaGetLastError()  # else TensorRT finds the error, and takes it for its own
        raise DeviceError(
            f"{function} failed ({_text(runtime, status)})",
            lost=int(status) in LOST,
            out_of_memory=status == runtime.cudaError_t.cudaErrorMemoryAllocation,
        )
    return results[0] if len(results) == 1 else results


def _text(runtime: Any, status: Any) -> str:
    text: bytes = runtime.cudaGetErrorString(status)[1]
    return text.decode()


def _version(number: int) -> str:
    """CUDA's way to write one: 12020 is 12.2."""
    return f"{number // 1000}.{number % 1000 // 10}"
