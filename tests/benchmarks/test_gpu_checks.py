"""The checks that ``benchmarks/gpu`` makes on a real GPU: they pass here, and each can fail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from edgekd.backends.cuda.bindings import CudaPython
from edgekd.backends.cuda.pycuda import PyCuda
from edgekd.errors import DeviceError, StageError
from tests.backends.fake_cuda import FakeCuda
from tests.backends.fake_vendors import FakePyCuda, FakeRuntime
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks" / "gpu"))
device_checks = import_module("device_checks")
session_checks = import_module("session_checks")
layers = import_module("layers")
job = import_module("job")
CheckFailed = device_checks.CheckFailed

MEMORY = 1 << 29
RUNS = 600
LAYERS = {
    "the fake itself": lambda fake: fake,
    "cuda-python": lambda fake: CudaPython(FakeRuntime(fake)),
    "pycuda": lambda fake: PyCuda(FakePyCuda(fake)),
}
NOTHING = dict.fromkeys(("memory", "pinned", "streams", "events", "graphs"), 0)


# ── They pass ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", device_checks.CHECKS)
def test_a_layer_that_works_passes_and_nothing_is_left(layer: str, name: str) -> None:
    fake = FakeCuda(memory_bytes=MEMORY)
    found = device_checks.CHECKS[name](LAYERS[layer](fake))
    assert found
    assert fake.live() == NOTHING


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", session_checks.CHECKS)
def test_a_session_that_works_passes_and_nothing_is_left(layer: str, name: str) -> None:
    fake = FakeCuda(memory_bytes=MEMORY)
    subject = session_checks.copying(LAYERS[layer](fake), RUNS)
    assert session_checks.CHECKS[name](subject)
    assert fake.live() == NOTHING


def test_a_graph_is_told_from_none() -> None:
    check = session_checks.with_and_without_graph
    found = [
        check(session_checks.copying(FakeCuda(memory_bytes=MEMORY, graphs=each)))
        for each in (True, False)
    ]
    assert found == [
        "launched as one graph",
        "no graph of ours: the device layer has no CUDA graphs",
    ]


# ── And each fails on a GPU that is broken in its way ────────────────────────────────────


class NoName(FakeCuda):
    def gpu(self) -> Any:
        return super().gpu().__class__("Fake", "86", 1, 1)


class KeepsMemory(FakeCuda):
    """What is freed is not free."""

    kept = 0

    def free(self, pointer: int) -> None:
        self.kept += self._memory[pointer].nbytes
        super().free(pointer)

    def _free_bytes(self) -> int:
        return super()._free_bytes() - self.kept


class EventsTakeMemory(FakeCuda):
    def destroy_event(self, event: int) -> None:
        super().destroy_event(event)
        self.memory_bytes -= 1 << 15


class LosesTheLastByte(FakeCuda):
    def copy(self, to: int, pointer: int, nbytes: int, stream: int) -> None:
        super().copy(to, pointer, nbytes - 1, stream)


class CopiesFromTheBeginning(FakeCuda):
    """Of page-locked memory it takes the whole array's beginning, not the part's."""

    def upload(self, pointer: int, array: np.ndarray, stream: int) -> None:
        start = next(
            each
            for first, each in self._pinned.items()
            if first <= array.ctypes.data < first + each.nbytes
        )
        super().upload(pointer, start[: array.nbytes], stream)


class Hurries(FakeCuda):
    """An upload does not wait for what is in the stream before it."""

    def upload(self, pointer: int, array: np.ndarray, stream: int) -> None:
        self.view(pointer, array.shape, array.dtype)[...] = array


class MixesStreams(FakeCuda):
    """All downloads come from where the last upload went."""

    last = 0

    def upload(self, pointer: int, array: np.ndarray, stream: int) -> None:
        self.last = pointer
        super().upload(pointer, array, stream)

    def download(self, array: np.ndarray, pointer: int, stream: int) -> None:
        super().download(array, self.last, stream)


class Milliseconds(FakeCuda):
    def elapsed_ns(self, start: int, end: int) -> int:
        return super().elapsed_ns(start, end) // 1_000_000


class DoesWhatItCaptures(FakeCuda):
    def end_capture(self, stream: int) -> int:
        graph = super().end_capture(stream)
        self.launch(graph, stream)
        return graph


class LaunchesOnce(FakeCuda):
    def launch(self, graph: int, stream: int) -> None:
        super().launch(graph, stream)
        self._graphs[graph] = []


class WaitsWhileCapturing(FakeCuda):
    def wait(self, stream: int) -> None:
        if not self.is_capturing(stream):
            super().wait(stream)


class DoesNotTellMemory(FakeCuda):
    def malloc(self, nbytes: int) -> int:
        try:
            return super().malloc(nbytes)
        except DeviceError as error:
            raise DeviceError(error.message) from error


class IsLostWithoutMemory(FakeCuda):
    def malloc(self, nbytes: int) -> int:
        try:
            return super().malloc(nbytes)
        except DeviceError as error:
            self._break("out of memory")
            raise error


BROKEN_DEVICES = [
    ("says what it is", NoName, "'86' is no compute capability"),
    ("memory comes back", KeepsMemory, "did not come back"),
    ("streams and events come back", EventsTakeMemory, "did not come back"),
    ("round trip", LosesTheLastByte, "bytes came back otherwise"),
    ("part of page-locked memory", CopiesFromTheBeginning, "came back otherwise"),
    ("a stream's order", Hurries, "found what was not there yet"),
    ("two streams", MixesStreams, "has other bytes"),
    ("time between events", Milliseconds, "is no speed of a GPU|ns passed"),
    ("CUDA graph", DoesWhatItCaptures, "2 is there in place of 1"),
    ("CUDA graph", LaunchesOnce, "is there in place of"),
    ("a capture that fails", WaitsWhileCapturing, "it was not refused"),
    ("out of memory", DoesNotTellMemory, "it is not told to be out of memory"),
]


@pytest.mark.parametrize(("name", "broken", "told"), BROKEN_DEVICES)
def test_a_gpu_that_is_broken_is_found_out(name: str, broken: type[FakeCuda], told: str) -> None:
    with pytest.raises(CheckFailed, match=told):
        device_checks.CHECKS[name](broken(memory_bytes=MEMORY))


def test_a_gpu_that_is_lost_ends_the_checks() -> None:
    fake = IsLostWithoutMemory(memory_bytes=MEMORY)
    checks = {name: device_checks.CHECKS[name] for name in ("out of memory", "round trip")}
    first, second = layers.checked("pycuda", checks, fake, job.Job(ROOT))
    assert (first.what, first.outcome) == ("pycuda: out of memory", "failed")
    assert second.outcome == "skipped"
    assert second.reason.startswith("the GPU was lost")


def test_each_check_of_a_device_has_one_that_fails_it() -> None:
    assert {name for name, *_ in BROKEN_DEVICES} == device_checks.CHECKS.keys()


# ── And so on sessions ───────────────────────────────────────────────────────────────────


def _session(change: Callable[[Any], None]) -> Any:
    """A subject each of whose sessions is changed after it was opened."""
    fake = FakeCuda(memory_bytes=MEMORY)
    subject = session_checks.copying(fake, RUNS)

    def opened(cuda_graph: bool) -> Any:
        session = subject.open(cuda_graph)
        change(session)
        return session

    return session_checks.Subject(
        subject.name, opened, fake, subject.largest, subject.expected, subject.runs
    )


def _drifts(session: Any) -> None:
    """Each run adds a little."""
    run, count = session.run, [0]

    def drifting(feeds: Any) -> Any:
        count[0] += 1
        return {name: each + count[0] for name, each in run(feeds).items()}

    session.run = drifting


def _gives_its_own_memory(session: Any) -> None:
    run, kept = session.run, {}

    def shared(feeds: Any) -> Any:
        for name, each in run(feeds).items():
            kept.setdefault(name, each)[...] = each
        return kept

    session.run = shared


def _is_wrong_as_a_graph(session: Any) -> None:
    run = session.run

    def stale(feeds: Any) -> Any:
        found = run(feeds)
        return {name: each + session.graph_launched for name, each in found.items()}

    session.run = stale


def _leaks(session: Any) -> None:
    run = session.run

    def leaking(feeds: Any) -> Any:
        session._device.memory_bytes -= 1 << 15
        return run(feeds)

    session.run = leaking


def _leaks_on_the_host(session: Any) -> None:
    run, kept = session.run, []

    def leaking(feeds: Any) -> Any:
        kept.append(np.ones(1 << 15, np.float32))
        return run(feeds)

    session.run = leaking


def _keeps_its_memory(session: Any) -> None:
    close = session.close

    def closing() -> None:
        session._device.memory_bytes -= 1 << 20
        close()

    session.close = closing


def _takes_anything(session: Any) -> None:
    run, zero = session.run, np.zeros((1, 1), np.float32)

    def taking(feeds: Any) -> Any:
        try:
            return run(feeds)
        except StageError:
            return {"y": zero}

    session.run = taking


def _asks_the_gpu(session: Any) -> None:
    """What is wrong with an input is left to CUDA to find."""
    run = session.run

    def asking(feeds: Any) -> Any:
        try:
            return run(feeds)
        except StageError as error:
            raise DeviceError(error.message) from error

    session.run = asking


def _forgets_a_size(session: Any) -> None:
    run, memory = session.run, session._device.memory
    session._device.malloc = lambda nbytes: (
        0 if nbytes > memory()[1] else FakeCuda.malloc(session._device, nbytes)
    )
    session.run = run


def _disturbs(session: Any) -> None:
    """Every session writes to the memory of the one that was opened before."""
    fake = session._device
    before = getattr(fake, "before", None)
    fake.before = session
    run = session.run

    def disturbing(feeds: Any) -> Any:
        found = run(feeds)
        if before is not None:
            before.wrong = True
        return {name: each + getattr(session, "wrong", False) for name, each in found.items()}

    session.run = disturbing


def _has_no_clock(session: Any) -> None:
    session._device.elapsed_ns = lambda start, end: 0


def _reads_the_host(session: Any) -> None:
    """An input on the GPU is taken for zeros."""
    run = session.run

    def reading(feeds: Any) -> Any:
        given = {
            name: each if isinstance(each, np.ndarray) else np.zeros((2, 1 << 15), np.float32)
            for name, each in feeds.items()
        }
        return run(given)

    session.run = reading


BROKEN_SESSIONS = [
    ("the same answers", _drifts, "'y' differs by"),
    ("results are the caller's", _gives_its_own_memory, "overwritten by a later run"),
    ("with and without a graph", _is_wrong_as_a_graph, "run 2 as a graph: 'y' differs"),
    ("nothing grows", _leaks, "bytes of the GPU more after"),
    ("nothing grows", _leaks_on_the_host, "bytes of the host more after"),
    ("all is given back", _keeps_its_memory, "bytes did not come back"),
    ("wrong inputs", _takes_anything, "it was not refused"),
    ("wrong inputs", _asks_the_gpu, "it came as far as the GPU"),
    ("after close", _takes_anything, "a run after close: it was not refused"),
    ("memory is short", _forgets_a_size, "it was not refused"),
    ("two sessions", _disturbs, "session 0: 'y' differs"),
    ("time is split", _has_no_clock, "the network took 0 ns"),
    ("input on the GPU", _reads_the_host, "an input on the GPU: 'y' differs"),
]


@pytest.mark.parametrize(("name", "change", "told"), BROKEN_SESSIONS)
def test_a_session_that_is_broken_is_found_out(
    name: str, change: Callable[[Any], None], told: str
) -> None:
    with pytest.raises(CheckFailed, match=told):
        session_checks.CHECKS[name](_session(change))


def test_each_check_of_a_session_has_one_that_fails_it() -> None:
    assert {name for name, *_ in BROKEN_SESSIONS} == session_checks.CHECKS.keys()
