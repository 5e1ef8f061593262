"""The process that measures: it opens engines, gives them frames, and writes down what came.

It is told what to do on stdin and writes into a folder: traces that whoever supervises has laid
out there and can read at any moment, and at the end ``done.json``, or ``failed.json``: what it
prints may be a library's. It imports nothing that its engines do not need.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import Any

import numpy as np

from edgekd import trace
from edgekd.artifacts import EngineFile, TensorSpec
from edgekd.backends.base import Session, batches, find
from edgekd.bench import host, load, loadgen
from edgekd.bench.load import Drive, Pulse
from edgekd.bench.scenarios import Feeds, Load, call_size, cut, driver
from edgekd.bench.timer import fine_timers
from edgekd.errors import BenchError, EdgekdError

LIFE, SILENCE, STEPS, BEGIN, TURN = PULSE = range(5)
"""Of the file ``pulse.npy``: the last sign of life, or until when none is due; for how long there
may be none from then on; the steps done, of ``blocks`` and one for each engine; when the run
began; whose turn it is. Times are the clock's, in nanoseconds."""
DONE, FAILED = "done.json", "failed.json"
PAUSE_S = 0.5
_OPENING_NS = 600 * 10**9  # a GPU's runtime may compile first
_WARM_NS = 10**9  # where there is one block it would else be all of it
_THROUGHPUT_NS = 500_000_000
_SPLIT_CALLS = 200
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        engines: each with the .npz of samples that it is given.
        load: what is asked of each.
        threads: of a CPU, for one inference.
        timeout_s: how long one call may take.
        folder: of the traces.
    """

    engines: tuple[tuple[EngineFile, Path], ...]
    load: Load
    threads: int
    timeout_s: float
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """The inverse of ``request``."""
        return {
            "engines": [[to_json(engine), str(feeds)] for engine, feeds in self.engines],
            "load": asdict(self.load),
            "threads": self.threads,
            "timeout_s": self.timeout_s,
            "folder": str(self.folder),
        }


def request(record: Mapping[str, Any]) -> Request:
    """A request from its JSON."""
    return Request(
        engines=tuple((from_json(each), Path(feeds)) for each, feeds in record["engines"]),
        load=Load(**{**record["load"], "batches": tuple(record["load"]["batches"])}),
        threads=record["threads"],
        timeout_s=record["timeout_s"],
        folder=Path(record["folder"]),
    )


def work(wanted: Request) -> None:
    """Measures, and writes ``done.json``.

    Raises:
        EdgekdError: an engine cannot be opened.
    """
    count = len(wanted.engines)
    pulse: Pulse = _mapped(wanted.folder / "pulse.npy")
    own = [_mapped(wanted.folder / f"{index}.npy") for index in range(count)]
    asked = wanted.load
    pulse[SILENCE] = _OPENING_NS
    with contextlib.ExitStack() as stack:
        sessions, feeds = [], []
        for index, (engine, path) in enumerate(wanted.engines):
            pulse[LIFE], pulse[TURN] = perf_counter_ns(), index
            opened = find(engine.backend).open(engine, wanted.threads)
            sessions.append(stack.enter_context(opened))
            with np.load(path, allow_pickle=False) as arrays:
                feeds.append(dict(arrays))
        drives = [
            driver(session, fed, *batches(engine), asked)
            for session, fed, (engine, _) in zip(sessions, feeds, wanted.engines, strict=True)
        ]
        stack.enter_context(fine_timers())
        begin = perf_counter_ns()
        pulse[BEGIN] = pulse[LIFE] = begin
        pulse[SILENCE] = int(wanted.timeout_s * 1e9)

        def progress(done: int, total: int) -> None:
            pulse[STEPS] = done

        timings = load.in_turns(
            [_in_turn(each, index, pulse) for index, each in enumerate(drives)],
            own,
            blocks=asked.blocks,
            least=asked.least,
            warm_ns=_WARM_NS,
            limit_ns=int(asked.seconds * 1e9),
            seed=asked.seed,
            begin_ns=begin,
            pulse=pulse,
            progress=progress,
        )
        records = []
        for index, (session, fed, (engine, _), timing) in enumerate(
            zip(sessions, feeds, wanted.engines, timings, strict=True)
        ):
            pulse[TURN] = index
            record: dict[str, Any] = {"count": len(timing.trace), "blocks": timing.blocks}
            failure = timing.failure
            if failure is None:
                try:
                    record |= _beside(session, fed, engine, asked, pulse)
                except EdgekdError as error:
                    failure = BenchError(f"after its turns, {error.message}", error.hint)
            if failure is not None:
                record["failure"] = [failure.message, failure.hint]
            records.append(record)
            pulse[STEPS] += 1
    _leave(wanted.folder / DONE, records)


def _in_turn(drive: Drive, index: int, pulse: Pulse) -> Drive:
    """Says whose turn it is, so that who hangs can be named."""

    def turn(*given: Any, **named: Any) -> int:
        pulse[TURN] = index
        return drive(*given, **named)

    return turn


def _beside(
    session: Session, fed: Feeds, engine: EngineFile, asked: Load, pulse: Pulse
) -> dict[str, Any]:
    """What is measured when turns are over: throughput, starts after a pause, the GPU's part."""
    least, most = batches(engine)
    rates = {}
    sizes = [max(least, min(size, most or size)) for size in asked.batches]
    for size in dict.fromkeys(sizes):
        batch = cut(fed, size)[0]
        limit_ns = min(_THROUGHPUT_NS, int(asked.seconds * 1e9))
        rates[str(size)] = load.throughput(session, batch, size, limit_ns, pulse)
    single = cut(fed, least)
    paused = trace.empty(asked.pauses)
    drive = load.closed_loop(session, single)
    with load.quiet_collector():
        for index in range(asked.pauses):
            pulse[LIFE] = perf_counter_ns() + int(PAUSE_S * 1e9)  # to wait is not to hang
            sleep(PAUSE_S)
            drive(paused[index : index + 1], 0, _THROUGHPUT_NS, pulse)
        splits = _splits(session, single, pulse)
    checked: dict[str, Any] = {}
    if asked.loadgen:
        patience = int(pulse[SILENCE])
        pulse[LIFE] = perf_counter_ns() + int(asked.seconds * 1e9)  # it gives no sign meanwhile
        pulse[SILENCE] = _OPENING_NS
        per_call = sizes[-1] if asked.scenario == "offline" else call_size(asked, least, most)
        calls = cut(fed, per_call)
        checked = loadgen.run(session, calls, asked, per_call)
        pulse[LIFE], pulse[SILENCE] = perf_counter_ns(), patience
    return {
        "loadgen": checked,
        "throughput": rates,
        "pauses_ns": trace.service(paused).tolist(),
        "splits_ns": splits,
    }


def _splits(session: Session, feeds: Sequence[Any], pulse: Pulse) -> dict[str, list[int]]:
    """Copies to the GPU, the network, and copies from it, of some calls; empty without a GPU."""
    timed = getattr(session, "timed", None)
    found: dict[str, list[int]] = {}
    if timed is None:
        return found
    for index in range(_SPLIT_CALLS):
        _, split = timed(feeds[index % len(feeds)])
        pulse[LIFE] = perf_counter_ns()
        for name in ("h2d", "gpu", "d2h"):
            found.setdefault(name, []).append(int(getattr(split, f"{name}_ns")))
    return found


def first_answers(engine: EngineFile, feeds: Path, threads: int) -> dict[str, Any]:
    """When the runtime was imported, and how long opening the engine and two calls took.

    Args:
        engine: what is opened.
        feeds: .npz of one batch: more would count as the engine's memory.
        threads: of a CPU, for one inference.
    """
    backend = find(engine.backend)
    backend.probe()
    imported = perf_counter_ns()
    with np.load(feeds, allow_pickle=False) as arrays:  # an application has it: in no span
        feed = dict(arrays)
    calls = trace.empty(2)
    begun = perf_counter_ns()
    with backend.open(engine, threads) as session:
        opened = perf_counter_ns()
        load.closed_loop(session, [feed])(calls, 0, _OPENING_NS, np.zeros(1, np.int64))
    return {
        "imported_ns": imported,
        "spans_ns": [opened - begun, *trace.service(calls).tolist()],
        "peak_memory_bytes": host.peak_memory_bytes(),
    }


def _cold(engine: EngineFile, feeds: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    return first_answers(engine, feeds, asked["threads"])


def _profile(engine: EngineFile, feeds: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    from edgekd.bench import layers

    with np.load(feeds, allow_pickle=False) as arrays:
        feed = cut(dict(arrays), batches(engine)[0])[0]
    model = None if asked["model"] is None else Path(asked["model"])
    return asdict(layers.profile(engine, model, feed, asked["threads"]))


_ANSWERS = {"cold": _cold, "profile": _profile}


def to_json(engine: EngineFile) -> dict[str, Any]:
    """An engine as JSON, without what the store knows of it and what its files hold."""
    record = asdict(engine)
    for name in ("key", "content", "files", "inputs", "producer_versions", "contents"):
        del record[name]
    record["path"] = str(engine.path)
    record["parts"] = [str(each) for each in engine.parts]
    return record


def from_json(record: Mapping[str, Any]) -> EngineFile:
    """The inverse of ``to_json``."""
    specs = {
        name: tuple(
            TensorSpec(each["name"], each["dtype"], tuple(each["shape"])) for each in record[name]
        )
        for name in ("model_inputs", "model_outputs")
    }
    path = Path(record["path"])
    parts = tuple(Path(each) for each in record["parts"])
    return EngineFile(**{**record, **specs, "path": path, "parts": parts})


def _leave(path: Path, record: Any) -> None:
    """Writes JSON that is there whole or not at all."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(record))
    partial.rename(path)


def _mapped(path: Path) -> trace.Trace:
    """A file as an array that others see changing."""
    mapped = np.load(path, mmap_mode="r+", allow_pickle=False)
    return np.asarray(mapped)  # a plain array of the same memory: rows are written faster


def _depend_on(parent: int) -> None:
    """Ends this process with its parent, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended in the meantime
            os._exit(1)


def _main() -> int:
    asked = json.load(sys.stdin)
    _depend_on(asked["parent"])
    folder = Path(asked["folder"])
    try:
        if "what" in asked:
            answer = _ANSWERS[asked["what"]]
            found = answer(from_json(asked["engine"]), Path(asked["feeds"]), asked)
            _leave(folder / DONE, found)
        else:
            work(request(asked))
    except EdgekdError as error:
        _leave(folder / FAILED, [error.message, error.hint])
        return error.exit_code
    except Exception as error:
        _leave(folder / FAILED, [f"{type(error).__name__}: {' '.join(str(error).split())}", ""])
        raise
    return 0


if __name__ == "__main__":
    sys.exit(_main())
