"""What a device layer must do on a real GPU, as functions that take a ``Device``.

Each returns what it found, or raises ``CheckFailed``. ``tests/benchmarks`` runs the same functions
on a GPU of host memory, and on ones that are broken in the way that each function looks for.
They do nothing that a GPU in use would suffer from, but nobody else may allocate meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.backends.cuda import Device
from edgekd.errors import DeviceError

MIB = 1 << 20
BLOCK = 4 * MIB
ROUNDS = 32
UNNOTICED = 16 * MIB
"""Bytes by which the level of free memory may move: a driver keeps some, a Jetson shares it with
its system. Each check takes so much more, so often, that what it leaks would stand out."""
FASTEST, SLOWEST = 20_000.0, 0.05
"""Bytes a nanosecond within which copies on a GPU are taken to lie, to notice a wrong unit."""


class CheckFailed(Exception):
    """A GPU, or a layer over it, does something else than it should."""


def require(holds: bool, otherwise: str) -> None:
    """Raises ``CheckFailed`` where it does not hold; unlike ``assert``, also under ``-O``."""
    if not holds:
        raise CheckFailed(otherwise)


class Room(ExitStack):
    """What a check takes from a device; all of it is given back at the end."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def memory(self, nbytes: int) -> int:
        """Memory of the GPU."""
        pointer = self._device.malloc(nbytes)
        self.callback(self._device.free, pointer)
        return pointer

    def pinned(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Page-locked memory of the host."""
        array = self._device.pinned(nbytes)
        self.callback(self._device.unpin, array)
        return array

    def stream(self) -> int:
        """A stream, which is waited for before it ends."""
        stream = self._device.stream()
        self.callback(self._device.destroy_stream, stream)
        self.callback(self._device.wait, stream)
        return stream

    def event(self) -> int:
        """An event."""
        event = self._device.event()
        self.callback(self._device.destroy_event, event)
        return event


def identity(device: Device) -> str:
    """It says what it is."""
    gpu = device.gpu()
    free, total = device.memory()
    require(bool(gpu.name), "it has no name")
    require(bool(re.fullmatch(r"sm_\d{2,3}", gpu.sm)), f"'{gpu.sm}' is no compute capability")
    require(0 < free <= total, f"{free} bytes of {total} are free")
    return f"{gpu.name}, {gpu.sm}, {free // MIB} of {total // MIB} MiB free"


def memory_returns(device: Device) -> str:
    """Memory that is given back is free again, taken together and one after another."""
    device.free(device.malloc(BLOCK))  # what a driver sets up at the first call
    before = device.memory()[0]
    taken = [device.malloc(BLOCK) for _ in range(ROUNDS)]
    held = before - device.memory()[0]
    for each in taken:
        device.free(each)
    for _ in range(ROUNDS):
        device.free(device.malloc(BLOCK))
    lost = before - device.memory()[0]
    require(held >= ROUNDS * BLOCK // 2, f"of {ROUNDS * BLOCK} bytes {held} were seen to be taken")
    require(lost < UNNOTICED, f"{lost} bytes did not come back")
    return f"{2 * ROUNDS} times {BLOCK // MIB} MiB; {lost} bytes did not come back"


def handles_return(device: Device) -> str:
    """Streams, events and page-locked memory can be had again and again."""
    rounds = 1000
    before = device.memory()[0]
    for _ in range(rounds):
        with Room(device) as room:
            device.record(room.event(), room.stream())
            room.pinned(4096)
    lost = before - device.memory()[0]
    require(lost < UNNOTICED, f"{lost} bytes of the GPU did not come back")
    return f"{rounds} times; {lost} bytes of the GPU did not come back"


def round_trip(device: Device) -> str:
    """Bytes come back as they went, of any number, once the stream was waited for."""
    sizes = (1, 255, 4096, BLOCK + 3)
    for nbytes in sizes:
        with Room(device) as room:
            stream, one, other = room.stream(), room.memory(nbytes), room.memory(nbytes)
            there, back = room.pinned(nbytes), room.pinned(nbytes)
            for seed in range(2):
                there[:] = np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)
                back[:] = ~there
                device.upload(one, there, stream)
                device.copy(other, one, nbytes, stream)
                device.download(back, other, stream)
                device.wait(stream)
                same = int((back == there).sum())
                require(same == nbytes, f"{nbytes - same} of {nbytes} bytes came back otherwise")
    return f"{', '.join(map(str, sizes))} bytes"


def parts_of_pinned(device: Device) -> str:
    """A part of page-locked memory is copied as what it is seen as."""
    with Room(device) as room:
        stream, pointer, host = room.stream(), room.memory(4096), room.pinned(4096)
        view = host[1024 : 1024 + 24].view(np.float32).reshape(2, 3)
        wanted = np.arange(6, dtype=np.float32).reshape(2, 3)
        view[...] = wanted
        device.upload(pointer, view, stream)
        device.wait(stream)
        host[:] = 0
        device.download(view, pointer, stream)
        device.wait(stream)
        require(np.array_equal(view, wanted), "it came back otherwise")
        require(int(host.astype(bool).sum()) <= 24, "bytes beside it were written")
    return "24 bytes of 4096, as float32 (2, 3)"


def stream_order(device: Device) -> str:
    """What is put into a stream is done in its order: each copy finds what was last uploaded."""
    steps, size = 256, 4096
    with Room(device) as room:
        stream, spot, row = room.stream(), room.memory(size), room.memory(steps * size)
        there, back = room.pinned(steps * size), room.pinned(steps * size)
        there[:] = np.repeat(np.arange(steps, dtype=np.uint8), size)
        back[:] = ~there
        for step in range(steps):
            device.upload(spot, there[step * size :][:size], stream)
            device.copy(row + step * size, spot, size, stream)
        device.download(back, row, stream)
        device.wait(stream)
        wrong = int((back != there).reshape(steps, size).any(1).sum())
    require(not wrong, f"{wrong} of {steps} copies found what was not there yet, or no more")
    return f"{2 * steps} copies that depend on each other"


def two_streams(device: Device) -> str:
    """Two streams, filled in turn, do not disturb each other."""
    count = 32
    with Room(device) as room:
        streams = [room.stream() for _ in range(2)]
        pointers = [room.memory(BLOCK) for _ in streams]
        there, back = ([room.pinned(BLOCK) for _ in streams] for _ in range(2))
        for index, each in enumerate(there):
            each[:] = index + 1
        for _ in range(count):
            for index, stream in enumerate(streams):
                device.upload(pointers[index], there[index], stream)
            for index, stream in enumerate(streams):
                device.download(back[index], pointers[index], stream)
        for stream in streams:
            device.wait(stream)
        for index, each in enumerate(back):
            require(bool((each == index + 1).all()), f"stream {index} has other bytes")
    return f"{count} uploads and downloads of {BLOCK // MIB} MiB in each"


def time_between_events(device: Device) -> str:
    """Events tell nanoseconds: they add up, and no copy is faster than memory can be."""
    count = 64
    with Room(device) as room:
        stream, one, other = room.stream(), room.memory(BLOCK), room.memory(BLOCK)
        events = [room.event() for _ in range(3)]
        for warming in (True, False):
            for index, event in enumerate(events):
                for _ in range((0, 1, count)[index]):
                    device.copy(other, one, BLOCK, stream)
                device.record(event, stream)
            device.wait(stream)
            if warming:
                continue
        first, second, whole = (
            device.elapsed_ns(events[begin], events[end]) for begin, end in ((0, 1), (1, 2), (0, 2))
        )
    require(first >= 0 and second > 0, f"{first} and {second} ns passed")
    apart = abs(first + second - whole)
    require(apart <= 2000 + 0.01 * whole, f"{first} and {second} ns add up to {whole}")
    rate = count * BLOCK / second
    require(SLOWEST <= rate <= FASTEST, f"{rate:.3g} bytes a nanosecond is no speed of a GPU")
    return f"{count} copies of {BLOCK // MIB} MiB in {second} ns, {rate:.4g} GB/s"


def graph(device: Device) -> str:
    """What is captured is not done then, and is done anew by each launch."""
    graphs = device.graphs
    if graphs is None:
        return "the layer has no CUDA graphs"
    launches = 100
    with Room(device) as room:
        stream, pointer = room.stream(), room.memory(4096)
        there, back = room.pinned(4096), room.pinned(4096)
        there[:] = 1
        device.upload(pointer, there, stream)
        device.wait(stream)
        there[:] = 2
        graphs.begin_capture(stream)
        device.upload(pointer, there, stream)
        made = graphs.end_capture(stream)
        room.callback(graphs.destroy_graph, made)
        for value in (1, *range(2, 2 + launches)):
            if value > 1:
                there[:] = value
                graphs.launch(made, stream)
            device.download(back, pointer, stream)
            device.wait(stream)
            require(set(back.tolist()) == {value}, f"{back[0]} is there in place of {value}")
    return f"{launches} launches"


def capture_that_fails(device: Device) -> str:
    """Waiting while a stream is captured is refused, and spoils nothing that comes after."""
    graphs = device.graphs
    if graphs is None:
        return "the layer has no CUDA graphs"
    told = ""
    with Room(device) as room:
        stream, pointer, host = room.stream(), room.memory(4096), room.pinned(4096)
        graphs.begin_capture(stream)
        for act in (lambda: device.wait(stream), lambda: graphs.end_capture(stream)):
            refused = _refusal(act)
            told = told or refused.message
            require(not refused.lost, f"the GPU was lost: {refused.message}")
        graphs.begin_capture(stream)
        device.upload(pointer, host, stream)
        made = graphs.end_capture(stream)
        graphs.launch(made, stream)
        device.wait(stream)
        graphs.destroy_graph(made)
    round_trip(device)
    return told


def out_of_memory(device: Device) -> str:
    """More memory than there is comes back as what it is, and the next call works."""
    _, total = device.memory()
    refused = _refusal(lambda: device.malloc(2 * total))
    require(refused.out_of_memory, f"it is not told to be out of memory: {refused.message}")
    require(not refused.lost, f"the GPU is told to be lost: {refused.message}")
    round_trip(device)
    return refused.message


def _refusal(act: Callable[[], Any]) -> DeviceError:
    try:
        act()
    except DeviceError as error:
        return error
    raise CheckFailed("it was not refused")


CHECKS: dict[str, Callable[[Device], str]] = {
    "says what it is": identity,
    "memory comes back": memory_returns,
    "streams and events come back": handles_return,
    "round trip": round_trip,
    "part of page-locked memory": parts_of_pinned,
    "a stream's order": stream_order,
    "two streams": two_streams,
    "time between events": time_between_events,
    "CUDA graph": graph,
    "a capture that fails": capture_that_fails,
    "out of memory": out_of_memory,
}
"""Every check by its name in tables."""
