"""GPUs of NVIDIA: which there are, and the few calls that an engine on one needs.

A device layer is a library that makes these calls. ``cuda-python`` is NVIDIA's own; ``pycuda``
is for programs that hold a PyCUDA context already. Memory, streams, events and graphs are plain
integers, so that TensorRT and every layer understand each other's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgekd.errors import BackendUnavailable, DeviceError, RecipeError, near_matches

Host = npt.NDArray[Any]


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, its compute capability such as ``sm_87``, its memory, and its size."""

    name: str
    sm: str
    memory_bytes: int
    processors: int


class Graphs(Protocol):
    """CUDA graphs: the work of a stream, written down once and launched as a whole.

    Every method raises ``DeviceError`` where CUDA refuses.
    """

    def begin_capture(self, stream: int) -> None:
        """From here on, what this thread puts into the stream is written down, not done."""

    def end_capture(self, stream: int) -> int:
        """Ends that, also where it went wrong, and gives the graph, ready to be launched."""

    def launch(self, graph: int, stream: int) -> None:
        """Does the graph's work, in the stream's order."""

    def destroy_graph(self, graph: int) -> None:
        """Ends a graph."""


class Device(Protocol):
    """A GPU that is in use. Every method raises ``DeviceError`` where CUDA refuses.

    Attributes:
        ordinal: which of CUDA's devices it is.
        graphs: its CUDA graphs; None where the layer has none.
    """

    ordinal: int

    @property
    def graphs(self) -> Graphs | None:
        """See the attributes."""

    def gpu(self) -> Gpu:
        """What it is."""

    def memory(self) -> tuple[int, int]:
        """Bytes of its memory: free, and in all."""

    def malloc(self, nbytes: int) -> int:
        """New memory of the GPU."""

    def free(self, pointer: int) -> None:
        """Gives memory of the GPU back."""

    def pinned(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """New host memory that is page-locked, so that copies need not wait for each other."""

    def unpin(self, array: npt.NDArray[np.uint8]) -> None:
        """Gives that back; neither the array nor a view of it may be touched again."""

    def stream(self) -> int:
        """A new stream: work that is done in order."""

    def destroy_stream(self, stream: int) -> None:
        """Ends a stream."""

    def upload(self, pointer: int, array: Host, stream: int) -> None:
        """Copies a contiguous page-locked array to the GPU, in the stream's order."""

    def download(self, array: Host, pointer: int, stream: int) -> None:
        """Copies from the GPU to a contiguous page-locked array, in the stream's order."""

    def copy(self, to: int, pointer: int, nbytes: int, stream: int) -> None:
        """Copies within the GPU, in the stream's order."""

    def wait(self, stream: int) -> None:
        """Returns when everything in the stream is done; it may be another program's stream."""

    def event(self) -> int:
        """A new event: a point of time in a stream."""

    def record(self, event: int, stream: int) -> None:
        """Puts the event into the stream."""

    def elapsed_ns(self, start: int, end: int) -> int:
        """From one event to another; both must be past."""

    def destroy_event(self, event: int) -> None:
        """Ends an event."""


LOST = {
    46: "CUDA-capable device(s) is/are busy or unavailable",
    214: "uncorrectable ECC error encountered",
    220: "uncorrectable NVLink error detected during the execution",
    226: "Invalid access of peer GPU memory over nvlink or a hardware error",
    700: "an illegal memory access was encountered",
    702: "the launch timed out and was terminated",
    709: "context is destroyed",
    710: "device-side assert triggered",
    714: "hardware stack error",
    715: "an illegal instruction was encountered",
    716: "misaligned address",
    717: "operation not supported on global/shared address space",
    718: "invalid program counter",
    719: "unspecified launch failure",
    721: "tensor memory not completely freed",
    803: "system has unsupported display driver / cuda driver combination",
    810: "the MPS client has been terminated by the server",
    911: "an async error has occured in external entity outside of CUDA",
    999: "unknown error",
}
"""The errors after which the GPU does nothing more for this process: their number and text.

Those of which CUDA's reference says that the process "must be terminated and relaunched", and
those that say the same of the hardware or the driver, or say nothing at all (CUDA Runtime API,
"Data types used by CUDA Runtime", enum cudaError). The texts are for layers that tell no number.
"""


def open_device(layer: str, extra: str) -> Device:
    """The GPU that CUDA uses now, by that layer.

    Args:
        layer: ``cuda-python`` or ``pycuda``.
        extra: the extra of this package that installs cuda-python for who asks.

    Raises:
        RecipeError: there is no such layer.
        BackendUnavailable: the layer is not installed, or finds no GPU that it can use.
        DeviceError: the GPU refuses.
    """
    from edgekd.backends.cuda import bindings, pycuda

    layers: dict[str, Callable[[], Device]] = {
        "cuda-python": lambda: bindings.CudaPython(bindings.usable(extra)),
        "pycuda": lambda: pycuda.PyCuda(pycuda.usable()),
    }
    if layer not in layers:
        raise RecipeError(f"no device layer is called '{layer}'", near_matches(layer, layers))
    return layers[layer]()


def gpus() -> list[Gpu]:
    """The GPUs that are here and can be used; none where cuda-python or a driver is missing."""
    from edgekd.backends.cuda import bindings

    try:
        return bindings.gpus(bindings.usable(""))
    except (BackendUnavailable, DeviceError):
        return []


def sm_here() -> str:
    """The compute capability of the GPU that CUDA uses here, such as ``sm_87``; or empty."""
    found = here()
    return "" if found is None else found.sm


def here() -> Gpu | None:
    """The GPU that CUDA uses here; None where there is none that can be used."""
    try:
        return open_device("cuda-python", "").gpu()
    except (BackendUnavailable, DeviceError):
        return None


def versions() -> dict[str, str]:
    """What is installed: the driver, the CUDA that it supports, and cuda-python's CUDA.

    Each is empty where it is not known; never raises.
    """
    from edgekd.backends.cuda import bindings

    supported, runtime = bindings.versions()
    driver = next(_driver_versions(), "")
    return {"driver": driver, "driver_cuda": supported, "cuda_runtime": runtime}


_DRIVER = (Path("/sys/module/nvidia/version"), Path("/proc/driver/nvidia/version"))


def _driver_versions() -> Iterator[str]:
    """Of the kernel's module, which tells it in two places."""
    for path in _DRIVER:
        with suppress(OSError):  # it is not loaded
            yield from re.findall(r"(?<![\w.])\d+\.\d+(?:\.\d+)*(?![\w.])", path.read_text())
