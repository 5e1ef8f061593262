"""What a TensorRT session must do on a real GPU, as functions that take a ``Subject``.

A subject is an engine that can be opened again and again: one that TensorRT built, or a network
that copies its input, which needs a device layer alone. As in ``device_checks``, each function
returns what it found or raises ``CheckFailed``, and the tests run the same ones on host memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from device_checks import MIB, UNNOTICED, CheckFailed, require

from edgekd.artifacts import EngineFile, TensorSpec
from edgekd.backends.cuda import Device
from edgekd.backends.tensorrt.session import TensorRtSession
from edgekd.errors import DeviceError, StageError

Feeds = dict[str, npt.NDArray[Any]]
CLOSE = 1e-3
"""Of the largest output: by how much two runs may differ that a library may compute otherwise."""
OPENINGS = 20
WARM = 300
"""Runs after which a library has compiled and kept what it wants to."""


@dataclass(frozen=True)
class Subject:
    """An engine.

    Attributes:
        name: for tables.
        open: a new session, with CUDA graphs or without.
        device: the GPU that it runs on, of whichever layer.
        largest: its largest batch.
        expected: the outputs for inputs, where they are known to the bit.
        runs: how many runs must leave nothing behind.
    """

    name: str
    open: Callable[[bool], TensorRtSession]
    device: Device
    largest: int
    expected: Callable[[Feeds], Feeds] | None = None
    runs: int = 10_000


# ── A network that copies its input ──────────────────────────────────────────────────────

_ROW = 1 << 15  # so that an engine's memory stands out from what a driver keeps
_COPIED = 8


class CopyEngine:
    """As much of TensorRT's engine as a session asks for."""

    def get_tensor_dtype(self, name: str) -> str:
        """Of input and output alike."""
        return "float32"


class CopyContext:
    """Copies ``x`` to ``y``, on the GPU and in the stream's order."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._nbytes = 0
        self._at: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """See TensorRT's."""
        self._nbytes = 4 * prod(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        """See TensorRT's."""
        self._at[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        """See TensorRT's."""
        self._device.copy(self._at["y"], self._at["x"], self._nbytes, stream)
        return True


def copying(device: Device, runs: int = 10_000) -> Subject:
    """A session whose network is a copy: all of it but TensorRT."""
    specs = [(TensorSpec(name, "float32", ("batch", _ROW)),) for name in ("x", "y")]
    file = EngineFile(
        role="copy",
        target="tensorrt",
        backend="tensorrt",
        backend_version="",
        device="cuda",
        precision="fp32",
        path=Path("none"),
        model_inputs=specs[0],
        model_outputs=specs[1],
        executed=True,
        options={"max_batch": str(_COPIED)},
    )

    def open_session(cuda_graph: bool) -> TensorRtSession:
        engine: Any = CopyEngine()
        context: Any = CopyContext(device)
        types = {"float32": "float32"}
        return TensorRtSession(engine, context, device, file, types, cuda_graph=cuda_graph)

    return Subject(
        "a network that copies", open_session, device, _COPIED, lambda fed: {"y": fed["x"]}, runs
    )


# ── The checks ───────────────────────────────────────────────────────────────────────────


def same_answers(subject: Subject) -> str:
    """A run gives the same whenever it is asked, whatever the batch before it was."""
    batches = sorted({1, 2, subject.largest // 2, subject.largest})
    with subject.open(True) as session:
        first = {batch: session.run(_feeds(session, batch, batch)) for batch in batches}
        for _ in range(3):
            for batch in batches:
                feeds = _feeds(session, batch, batch)
                found = session.run(feeds)
                _compare(found, first[batch], f"a batch of {batch}")
                if subject.expected is not None:
                    _compare(found, subject.expected(feeds), f"a batch of {batch}", exact=True)
    return f"batches of {', '.join(map(str, batches))}"


def own_results(subject: Subject) -> str:
    """What a run gave stays as it is when there is another."""
    with subject.open(True) as session:
        found = session.run(_feeds(session, 1, 0))
        before = {name: each.copy() for name, each in found.items()}
        for seed in range(1, 4):
            session.run(_feeds(session, 1, seed))
        for name, each in before.items():
            require(np.array_equal(each, found[name]), f"'{name}' was overwritten by a later run")
    return "unchanged after three more"


def with_and_without_graph(subject: Subject) -> str:
    """A CUDA graph gives what the engine gives without one, for new inputs too."""
    with subject.open(False) as plain, subject.open(True) as graphed:
        for seed in range(6):
            feeds = _feeds(plain, 1, seed)
            _compare(graphed.run(feeds), plain.run(feeds), f"run {seed + 1} as a graph")
        require(not plain.graph_launched, "a graph was launched that nobody asked for")
        if graphed.graph_launched:
            return "launched as one graph"
        return f"no graph of ours: {graphed.graph_refused or 'the library makes its own'}"


def nothing_grows(subject: Subject) -> str:
    """Runs of changing batches leave nothing behind, on the GPU or the host."""
    sizes = np.random.default_rng(0).integers(1, subject.largest + 1, subject.runs).tolist()
    with subject.open(True) as session:
        feeds = {size: _feeds(session, size, size) for size in range(1, subject.largest + 1)}
        for size in sizes[:WARM]:
            session.timed(feeds[size])
        for each in feeds.values():
            session.run(each)
        before, resident = subject.device.memory()[0], _resident()
        for size in sizes:
            session.run(feeds[size])
        grown = before - subject.device.memory()[0]
        on_host = _resident() - resident
    require(grown < UNNOTICED, f"{grown} bytes of the GPU more after {subject.runs} runs")
    require(on_host < 2 * UNNOTICED, f"{on_host} bytes of the host more after {subject.runs} runs")
    return f"{subject.runs} runs: {grown} bytes of the GPU more, {on_host} of the host"


def all_is_given_back(subject: Subject) -> str:
    """Sessions that are closed leave no memory of the GPU behind."""

    def once() -> None:
        with subject.open(True) as session:
            for _ in range(3):
                session.run(_feeds(session, subject.largest, 0))

    once()
    once()
    before = subject.device.memory()[0]
    for _ in range(OPENINGS):
        once()
    lost = before - subject.device.memory()[0]
    require(lost < UNNOTICED, f"{lost} bytes did not come back")
    return f"opened {OPENINGS} times; {lost} bytes did not come back"


def wrong_inputs(subject: Subject) -> str:
    """Another batch, type, shape or name than the engine's is refused; the next run works."""
    with subject.open(True) as session:
        feeds = _feeds(session, 1, 0)
        good = session.run(feeds)
        name = session.inputs[0].name
        value = feeds[name]
        wrong: dict[str, Any] = {
            "too large a batch": _feeds(session, subject.largest + 1, 0),
            "no batch": {key: each[:0] for key, each in feeds.items()},
            "another type": {**feeds, name: value.astype(np.float64)},
            "another shape": {**feeds, name: value[..., :-1]},
            "another name": {**feeds, f"{name}_": value},
            "nothing": {},
        }
        for what, given in wrong.items():
            refused = _refusal(lambda given=given: session.run(given), what)
            require(not isinstance(refused, DeviceError), f"{what}: it came as far as the GPU")
            _compare(session.run(feeds), good, f"the run after {what}")
    return ", ".join(wrong)


def after_close(subject: Subject) -> str:
    """A session that is closed says so, and can be closed again."""
    session = subject.open(True)
    feeds = _feeds(session, 1, 0)
    session.run(feeds)
    session.close()
    session.close()
    return _refusal(lambda: session.run(feeds), "a run after close").message


def memory_is_short(subject: Subject) -> str:
    """Somebody else's failed allocation does not disturb a session."""
    with subject.open(True) as session:
        feeds = _feeds(session, 1, 0)
        good = session.run(feeds)
        _, total = subject.device.memory()
        refused = _refusal(lambda: subject.device.malloc(2 * total), "more than there is")
        short = isinstance(refused, DeviceError) and refused.out_of_memory
        require(short, f"it is not told to be out of memory: {refused.message}")
        _compare(session.run(feeds), good, "the next run")
    return f"runs go on after {2 * total // MIB} MiB were refused"


def two_sessions(subject: Subject) -> str:
    """Two sessions of one engine, in turn, do not disturb each other."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(subject.open(True)) for _ in range(2)]
        feeds = [_feeds(each, 1 + index, index) for index, each in enumerate(sessions)]
        first = [each.run(fed) for each, fed in zip(sessions, feeds, strict=True)]
        for _ in range(5):
            for index, each in enumerate(sessions):
                _compare(each.run(feeds[index]), first[index], f"session {index}")
    return "ten runs in turn"


def split(subject: Subject) -> str:
    """The GPU's own clock splits a run into three parts, and the answer is the same."""
    with subject.open(True) as session:
        feeds = _feeds(session, 1, 0)
        plain = session.run(feeds)
        for _ in range(3):
            found, parts = session.timed(feeds)
            _compare(found, plain, "a timed run")
    require(parts.gpu_ns > 0, f"the network took {parts.gpu_ns} ns")
    require(min(parts.h2d_ns, parts.d2h_ns) >= 0, f"copies took {parts.h2d_ns}, {parts.d2h_ns} ns")
    return f"{parts.h2d_ns} + {parts.gpu_ns} + {parts.d2h_ns} ns"


def input_on_the_gpu(subject: Subject) -> str:
    """An input that lies on the GPU is used there: by the CUDA Array Interface, and by DLPack."""
    ways = ["CUDA Array Interface"]
    with subject.open(True) as session, ExitStack() as held:
        feeds = _feeds(session, 2, 0)
        plain = session.run(feeds)
        given: dict[str, Any] = {
            name: _put(subject.device, each, held) for name, each in feeds.items()
        }
        for _ in range(3):
            _compare(session.run(given), plain, "an input on the GPU")
        if find_spec("torch") is None:
            return f"{ways[0]}; torch, for DLPack, is not installed"
        import torch

        if not torch.cuda.is_available():
            return f"{ways[0]}; torch, for DLPack, finds no GPU"
        given = {name: torch.from_numpy(each).cuda() for name, each in feeds.items()}
        for _ in range(3):
            _compare(session.run(given), plain, "a tensor of torch")
        ways.append("DLPack from torch")
    return ", ".join(ways)


CHECKS: dict[str, Callable[[Subject], str]] = {
    "the same answers": same_answers,
    "results are the caller's": own_results,
    "with and without a graph": with_and_without_graph,
    "all is given back": all_is_given_back,
    "wrong inputs": wrong_inputs,
    "after close": after_close,
    "memory is short": memory_is_short,
    "two sessions": two_sessions,
    "time is split": split,
    "input on the GPU": input_on_the_gpu,
    "nothing grows": nothing_grows,  # the longest comes last
}
"""Every check by its name in tables."""


# ── What they share ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _OnGpu:
    """An array in the GPU's memory, by the CUDA Array Interface."""

    __cuda_array_interface__: dict[str, Any]


def _put(device: Device, array: npt.NDArray[Any], held: ExitStack) -> _OnGpu:
    """A copy of it in the GPU's memory."""
    pointer, host = device.malloc(array.nbytes), device.pinned(array.nbytes)
    held.callback(device.free, pointer)
    held.callback(device.unpin, host)
    stream = device.stream()
    held.callback(device.destroy_stream, stream)
    host[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    device.upload(pointer, host, stream)
    device.wait(stream)
    return _OnGpu(
        {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (pointer, False),
            "version": 3,
            "stream": None,
        }
    )


def _feeds(session: TensorRtSession, batch: int, seed: int) -> Feeds:
    """Random inputs of a batch."""
    rng = np.random.default_rng(seed)
    return {
        spec.name: rng.normal(size=(batch, *map(int, spec.shape[1:]))).astype(spec.dtype)
        for spec in session.inputs
    }


def _compare(found: Any, wanted: Any, what: str, *, exact: bool = False) -> None:
    for name, each in wanted.items():
        other = np.asarray(found[name], np.float64)
        require(other.shape == each.shape, f"{what}: '{name}' is of shape {other.shape}")
        apart = float(np.abs(other - each).max(initial=0))
        allowed = 0 if exact else CLOSE * float(np.abs(each).max(initial=0))
        require(apart <= allowed, f"{what}: '{name}' differs by {apart:.3g}")


def _refusal(act: Callable[[], Any], what: str) -> StageError:
    try:
        act()
    except StageError as error:
        return error
    raise CheckFailed(f"{what}: it was not refused")


def _resident() -> int:
    """Bytes of the host's memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
