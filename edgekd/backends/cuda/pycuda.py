"""CUDA through PyCUDA: ``pycuda.driver``, whose objects free what they hold when they end.

What is used of it is in its manual, "Device Interface Reference Documentation". A PyCUDA
context belongs to one thread, and so does a session that uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.backends.cuda import LOST, Gpu, Host
from edgekd.errors import BackendUnavailable, DeviceError


def usable() -> Any:
    """PyCUDA's driver module, with a current context: the application's, or the primary one.

    Raises:
        BackendUnavailable: it is not installed, or finds no GPU.
        DeviceError: this thread has no context, and is not the one that could get one.
    """
    try:
        from pycuda import driver
    except ImportError as error:  # so too where it is installed, and there is no driver
        reason = f"PyCUDA cannot be imported ({error})"
        raise BackendUnavailable("PyCUDA", "pycuda", reason) from error
    try:
        driver.init()
        if driver.Context.get_current() is None:
            import_module("pycuda.autoprimaryctx")  # makes it current, and lets go of it at exit
    except (driver.Error, RuntimeError) as error:
        reason = f"no NVIDIA GPU with a working driver was found: {error}"
        raise BackendUnavailable("PyCUDA", "", reason) from error
    if driver.Context.get_current() is None:
        raise DeviceError(
            "this thread has no PyCUDA context",
            "push one, such as pycuda.autoprimaryctx.context, before the engine is opened",
        )
    return driver


class PyCuda:
    """A ``Device`` without graphs: that of the current PyCUDA context."""

    graphs = None

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._memory: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}
        self._names = count(1)  # an event has no number of its own
        here = self._call(driver.Context.get_device)
        ordinals = range(self._call(driver.Device.count))
        self.ordinal = next(each for each in ordinals if driver.Device(each) == here)

    def gpu(self) -> Gpu:
        """See ``Device.gpu``."""
        here = self._call(self._driver.Context.get_device)
        major, minor = self._call(here.compute_capability)
        attribute = self._driver.device_attribute.MULTIPROCESSOR_COUNT
        return Gpu(
            self._call(here.name),
            f"sm_{major}{minor}",
            self._call(here.total_memory),
            self._call(here.get_attribute, attribute),
        )

    def memory(self) -> tuple[int, int]:
        """See ``Device.memory``."""
        free, total = self._call(self._driver.mem_get_info)
        return int(free), int(total)

    def malloc(self, nbytes: int) -> int:
        """See ``Device.malloc``."""
        memory = self._call(self._driver.mem_alloc, nbytes)
        self._memory[int(memory)] = memory
        return int(memory)

    def free(self, pointer: int) -> None:
        """See ``Device.free``."""
        self._call(self._memory.pop(pointer).free)

    def pinned(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """See ``Device.pinned``."""
        array: npt.NDArray[np.uint8]
        array = self._call(self._driver.pagelocked_empty, nbytes, np.uint8)
        return array

    def unpin(self, array: npt.NDArray[np.uint8]) -> None:
        """See ``Device.unpin``."""
        memory: Any = array.base
        self._call(memory.free)

    def stream(self) -> int:
        """See ``Device.stream``."""
        stream = self._call(self._driver.Stream)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        """See ``Device.destroy_stream``."""
        del self._streams[stream]

    def upload(self, pointer: int, array: Host, stream: int) -> None:
        """See ``Device.upload``."""
        self._call(self._driver.memcpy_htod_async, pointer, array, self._streams[stream])

    def download(self, array: Host, pointer: int, stream: int) -> None:
        """See ``Device.download``."""
        self._call(self._driver.memcpy_dtoh_async, array, pointer, self._streams[stream])

    def copy(self, to: int, pointer: int, nbytes: int, stream: int) -> None:
        """See ``Device.copy``."""
        self._call(self._driver.memcpy_dtod_async, to, pointer, nbytes, self._streams[stream])

    def wait(self, stream: int) -> None:
        """See ``Device.wait``; for another's stream, which it cannot name, the whole context."""
        if stream in self._streams:
            self._call(self._streams[stream].synchronize)
        else:
            self._call(self._driver.Context.synchronize)

    def event(self) -> int:
        """See ``Device.event``."""
        event = next(self._names)
        self._events[event] = self._call(self._driver.Event)
        return event

    def record(self, event: int, stream: int) -> None:
        """See ``Device.record``."""
        self._call(self._events[event].record, self._streams[stream])

    def elapsed_ns(self, start: int, end: int) -> int:
        """See ``Device.elapsed_ns``."""
        milliseconds: float = self._call(self._events[start].time_till, self._events[end])
        return round(milliseconds * 1e6)

    def destroy_event(self, event: int) -> None:
        """See ``Device.destroy_event``."""
        del self._events[event]

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Its result; PyCUDA's message names CUDA's function, and has no number."""
        try:
            return function(*arguments)
        except self._driver.Error as error:
            text = str(error)
            raise DeviceError(
                text,
                lost=any(each in text for each in LOST.values()),
                out_of_memory=isinstance(error, self._driver.MemoryError),
            ) from error
