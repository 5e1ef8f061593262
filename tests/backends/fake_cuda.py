"""A CUDA and a TensorRT of host memory, for machines without a GPU.

``FakeCuda`` is a ``Device`` that is as lazy as a GPU may be: what is put into a stream is done
when somebody waits, and not before, so that whoever reads too early reads garbage. It checks
each address against what is allocated, counts what is alive, fails where it is told to, and
keeps a clock: a byte copied takes a nanosecond, and a network as long as it says.

``FakeEngine`` and ``FakeContext`` are TensorRT's, for a network that is a Python function.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from edgekd.artifacts import TensorSpec
from edgekd.backends.cuda import Gpu
from edgekd.errors import DeviceError

Work = Callable[[], None]
GARBAGE = 0xCD
ALIGNMENT = 256  # of what cudaMalloc gives
LEGACY = 1  # the default stream, for which all others wait


@dataclass
class _Stream:
    queue: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None
    spoilt: bool = False


@dataclass
class _Fault:
    after: int
    lost: bool
    out_of_memory: bool


class FakeCuda:
    """A ``Device``, and its ``Graphs``.

    Args:
        sm: its compute capability.
        memory_bytes: how much there is to allocate.
        graphs: whether it has CUDA graphs.

    Attributes:
        log: what was called, in order.
        now_ns: its clock.
    """

    ordinal = 0
    name = "Fake"

    def __init__(self, sm: str = "sm_86", memory_bytes: int = 1 << 24, graphs: bool = True) -> None:
        self.sm = sm
        self.memory_bytes = memory_bytes
        self.graphs = self if graphs else None
        self.log: list[str] = []
        self.now_ns = 0
        self._faults: dict[str, _Fault] = {}
        self._lost = ""
        self._memory: dict[int, np.ndarray] = {}
        self._pinned: dict[int, np.ndarray] = {}
        self._streams: dict[int, _Stream] = {LEGACY: _Stream()}
        self._events: dict[int, int | None] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._next = 1000

    # ── What a test does to it, and asks it ──────────────────────────────────────────────

    def fail(
        self, function: str, nth: int = 1, *, lost: bool = False, out_of_memory: bool = False
    ) -> None:
        """Makes the nth call of that method from now on fail, once; or for good where lost."""
        self._faults[function] = _Fault(nth, lost, out_of_memory)

    def live(self) -> dict[str, int]:
        """How many of each kind are alive."""
        return {
            "memory": len(self._memory),
            "pinned": len(self._pinned),
            "streams": len(self._streams) - 1,
            "events": len(self._events),
            "graphs": len(self._graphs),
        }

    @property
    def calls(self) -> Counter[str]:
        """How often each method was called."""
        return Counter(self.log)

    def view(self, pointer: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Memory of the GPU as an array; a fault of the GPU where it is not allocated."""
        nbytes = prod(shape) * np.dtype(dtype).itemsize
        for start, memory in self._memory.items():
            if start <= pointer and pointer + nbytes <= start + memory.nbytes:
                return _at(pointer, nbytes).view(dtype).reshape(shape)
        raise self._break(f"an illegal memory access was encountered at {pointer:#x}")

    def put(self, array: np.ndarray, offset: int = 0) -> int:
        """A copy of the array in the GPU's memory, that many bytes into an allocation."""
        pointer = self._allocate(array.nbytes + offset) + offset
        self.view(pointer, array.shape, array.dtype)[...] = array
        return pointer

    def enqueue(self, stream: int, work: Work, cost_ns: int) -> None:
        """Puts work into a stream; while it is captured, only writes it down."""

        def timed() -> None:
            work()
            self.now_ns += cost_ns

        found = self._stream(stream)
        (found.queue if found.captured is None else found.captured).append(timed)

    def spoil(self, stream: int) -> None:
        """What is being captured does what cannot be captured."""
        self._stream(stream).spoilt = True

    def is_capturing(self, stream: int) -> bool:
        return self._stream(stream).captured is not None

    # ── Device ───────────────────────────────────────────────────────────────────────────

    def gpu(self) -> Gpu:
        self._enter("gpu")
        return Gpu(self.name, self.sm, self.memory_bytes, 20)

    def memory(self) -> tuple[int, int]:
        self._enter("memory")
        return self._free_bytes(), self.memory_bytes

    def malloc(self, nbytes: int) -> int:
        self._enter("malloc")
        return self._allocate(nbytes)

    def free(self, pointer: int) -> None:
        self._enter("free")
        del self._memory[pointer]

    def pinned(self, nbytes: int) -> np.ndarray:
        self._enter("pinned")
        array = np.full(nbytes, GARBAGE, np.uint8)
        self._pinned[array.ctypes.data] = array
        return array

    def unpin(self, array: np.ndarray) -> None:
        self._enter("unpin")
        del self._pinned[array.ctypes.data]

    def stream(self) -> int:
        self._enter("stream")
        self._next += 1
        self._streams[self._next] = _Stream()
        return self._next

    def destroy_stream(self, stream: int) -> None:
        self._enter("destroy_stream")
        assert not self._streams.pop(stream).queue, "the stream had work to do"

    def upload(self, pointer: int, array: np.ndarray, stream: int) -> None:
        self._enter("upload")
        self._check_pinned(array)

        def work() -> None:
            self.view(pointer, array.shape, array.dtype)[...] = array

        self.enqueue(stream, work, array.nbytes)

    def download(self, array: np.ndarray, pointer: int, stream: int) -> None:
        self._enter("download")
        self._check_pinned(array)
        array.reshape(-1).view(np.uint8)[:] = GARBAGE

        def work() -> None:
            array[...] = self.view(pointer, array.shape, array.dtype)

        self.enqueue(stream, work, array.nbytes)

    def copy(self, to: int, pointer: int, nbytes: int, stream: int) -> None:
        self._enter("copy")

        def work() -> None:
            self.view(to, (nbytes,), np.uint8)[:] = self.view(pointer, (nbytes,), np.uint8)

        self.enqueue(stream, work, nbytes)

    def wait(self, stream: int) -> None:
        self._enter("wait")
        if self.is_capturing(stream):
            self.spoil(stream)
            raise DeviceError("wait failed (operation not permitted when stream is capturing)")
        for name in self._streams if stream == LEGACY else [stream]:
            queue = self._stream(name).queue
            while queue:
                queue.pop(0)()

    def event(self) -> int:
        self._enter("event")
        self._next += 1
        self._events[self._next] = None
        return self._next

    def record(self, event: int, stream: int) -> None:
        self._enter("record")
        self._events[event] = None

        def work() -> None:
            self._events[event] = self.now_ns

        self.enqueue(stream, work, 0)

    def elapsed_ns(self, start: int, end: int) -> int:
        self._enter("elapsed_ns")
        times = self._events[start], self._events[end]
        if times[0] is None or times[1] is None:
            raise DeviceError("elapsed_ns failed (device not ready)")
        return times[1] - times[0]

    def destroy_event(self, event: int) -> None:
        self._enter("destroy_event")
        del self._events[event]

    # ── Graphs ───────────────────────────────────────────────────────────────────────────

    def begin_capture(self, stream: int) -> None:
        self._enter("begin_capture")
        found = self._stream(stream)
        assert found.captured is None, "the stream is being captured"
        found.captured, found.spoilt = [], False

    def end_capture(self, stream: int) -> int:
        found = self._stream(stream)
        work, found.captured = found.captured, None
        self._enter("end_capture")
        assert work is not None, "the stream is not being captured"
        if found.spoilt:
            raise DeviceError("end_capture failed (operation failed due to a previous error)")
        self._next += 1
        self._graphs[self._next] = work
        return self._next

    def launch(self, graph: int, stream: int) -> None:
        self._enter("launch")
        self._stream(stream).queue.extend(self._graphs[graph])

    def destroy_graph(self, graph: int) -> None:
        self._enter("destroy_graph")
        del self._graphs[graph]

    # ── Its insides ──────────────────────────────────────────────────────────────────────

    def _enter(self, function: str) -> None:
        """Writes the call down, and lets it fail where it is to fail."""
        self.log.append(function)
        if self._lost:
            raise DeviceError(f"{function} failed ({self._lost})", lost=True)
        fault = self._faults.get(function)
        if fault is None:
            return
        fault.after -= 1
        if fault.after:
            return
        del self._faults[function]
        if fault.lost:
            raise self._break("unspecified launch failure")
        reason = "out of memory" if fault.out_of_memory else "as it was told to"
        raise DeviceError(f"{function} failed ({reason})", out_of_memory=fault.out_of_memory)

    def _break(self, reason: str) -> DeviceError:
        self._lost = reason
        for stream in self._streams.values():
            stream.queue.clear()
        return DeviceError(f"the GPU failed ({reason})", lost=True)

    def _stream(self, stream: int) -> _Stream:
        return self._streams[stream]

    def _free_bytes(self) -> int:
        return self.memory_bytes - sum(each.nbytes for each in self._memory.values())

    def _allocate(self, nbytes: int) -> int:
        if nbytes > self._free_bytes():
            raise DeviceError("malloc failed (out of memory)", out_of_memory=True)
        room = np.full(nbytes + ALIGNMENT, GARBAGE, np.uint8)
        skipped = -room.ctypes.data % ALIGNMENT
        memory = room[skipped : skipped + nbytes]
        self._memory[memory.ctypes.data] = memory
        return int(memory.ctypes.data)

    def _check_pinned(self, array: np.ndarray) -> None:
        start = array.ctypes.data
        assert array.flags.c_contiguous, "a copy takes contiguous memory"
        assert any(
            first <= start and start + array.nbytes <= first + each.nbytes
            for first, each in self._pinned.items()
        ), "a copy takes page-locked memory"


def _at(pointer: int, nbytes: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(pointer))


@dataclass
class FakeEngine:
    """A network that is a function of its inputs, by name.

    Attributes:
        types: of the tensors that are not of their spec's type, by name.
        cost_ns: how long the network takes.
        capturable: what TensorRT for RTX says of it; None for TensorRT, which says nothing.
        layer_ms: what it reports to a profiler; the first time, each layer takes a second longer.
        context: what it gives; None where it has been told to give none.
    """

    device: FakeCuda
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    compute: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    types: dict[str, str] = field(default_factory=dict)
    cost_ns: int = 1000
    capturable: bool | None = None
    has_context: bool = True
    layer_ms: tuple[tuple[str, float], ...] = ()

    def create_execution_context(self, *_: Any) -> FakeContext | None:
        return FakeContext(self) if self.has_context else None

    def get_tensor_dtype(self, name: str) -> str:
        own = {each.name: each.dtype for each in (*self.inputs, *self.outputs)}
        return {**own, **self.types}[name]


class FakeContext:
    """Runs a ``FakeEngine``.

    As TensorRT does, it prepares itself for new shapes within the first run, which can therefore
    not be captured.

    Attributes:
        enqueues: whether it takes work; what it refuses, it has begun already.
        captures: whether that work can be captured.
        shapes: of the inputs, as they were set.
        profiler: who is told of each layer, but not of those of a CUDA graph.
    """

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.enqueues = self.captures = True
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.profiler: Any = None
        self._prepared = False
        if engine.capturable is not None:
            self.is_stream_capturable = lambda stream: engine.capturable

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.engine.device.log.append("shape")
        self._prepared = False
        self.shapes[name] = shape
        return shape[0] < 1000

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.engine.device.log.append("address")
        self.addresses[name] = address
        return address % ALIGNMENT == 0

    def execute_async_v3(self, stream: int) -> bool:
        engine, device = self.engine, self.engine.device
        device.log.append("execute")
        shapes, addresses = dict(self.shapes), dict(self.addresses)

        def work() -> None:
            results = engine.compute(
                {
                    each.name: device.view(addresses[each.name], shapes[each.name], each.dtype)
                    for each in engine.inputs
                }
            )
            for each in engine.outputs:
                made = results[each.name].astype(each.dtype, copy=False)
                device.view(addresses[each.name], made.shape, each.dtype)[...] = made

        if device.is_capturing(stream) and not (self._prepared and self.captures):
            device.spoil(stream)
        if self.profiler is not None and not device.is_capturing(stream):
            for name, ms in engine.layer_ms:
                self.profiler.report_layer_time(name, ms if self._prepared else ms + 1000)
        self._prepared = True
        device.enqueue(stream, work, engine.cost_ns)
        return self.enqueues
