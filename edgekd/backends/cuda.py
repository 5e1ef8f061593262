"""The few calls of the CUDA runtime that an engine on a GPU needs, over cuda-python."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy.typing as npt

from edgekd.errors import BackendUnavailable, StageError


@dataclass(frozen=True)
class Gpu:
    """A device's name and compute capability, such as ``sm_87``."""

    name: str
    sm: str


def sm_here() -> str:
    """The compute capability of the GPU that is here, such as ``sm_87``; empty without one."""
    try:
        return Cuda("").gpu().sm
    except (BackendUnavailable, StageError):
        return ""


class Cuda:
    """Device memory, copies and one stream. Pointers and streams are plain integers.

    Raises:
        BackendUnavailable: cuda-python is not installed, or there is no usable driver.
    """

    def __init__(self, extra: str) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise BackendUnavailable("CUDA", extra, "cuda-python is not installed") from error
        self._runtime: ModuleType = runtime
        status, count = runtime.cudaGetDeviceCount()
        if status != runtime.cudaError_t.cudaSuccess or not count:
            raise BackendUnavailable(
                "CUDA", "", "no NVIDIA GPU with a working driver was found" + self._text(status)
            )

    def gpu(self) -> Gpu:
        """The current device."""
        properties = self._call("cudaGetDeviceProperties", self._call("cudaGetDevice"))
        return Gpu(properties.name.decode(), f"sm_{properties.major}{properties.minor}")

    def malloc(self, size: int) -> int:
        """Device memory of ``size`` bytes."""
        return int(self._call("cudaMalloc", size))

    def free(self, pointer: int) -> None:
        """Gives device memory back."""
        self._call("cudaFree", pointer)

    def stream(self) -> int:
        """A new stream."""
        return int(self._call("cudaStreamCreate"))

    def destroy(self, stream: int) -> None:
        """Ends a stream."""
        self._call("cudaStreamDestroy", stream)

    def upload(self, pointer: int, array: npt.NDArray[Any], stream: int) -> None:
        """Copies a contiguous host array to the device, in the stream's order."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", pointer, array.ctypes.data, array.nbytes, kind, stream)

    def download(self, array: npt.NDArray[Any], pointer: int, stream: int) -> None:
        """Copies device memory into a contiguous host array, in the stream's order."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, pointer, array.nbytes, kind, stream)

    def wait(self, stream: int) -> None:
        """Returns when everything in the stream is done."""
        self._call("cudaStreamSynchronize", stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        status, *results = getattr(self._runtime, function)(*arguments)
        if status != self._runtime.cudaError_t.cudaSuccess:
            raise StageError(f"{function} failed{self._text(status)}")
        return results[0] if results else None

    def _text(self, status: Any) -> str:
        _, text = self._runtime.cudaGetErrorString(status)
        return f" ({text.decode()})"
