"""The process that watches another one measure.

Traces lie in memory that both see, so that nothing measured is lost when the other hangs, dies,
or is stopped: what came until then is a result, and is marked.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import Any

import numpy as np

from edgekd import trace
from edgekd.artifacts import EngineFile
from edgekd.bench import worker
from edgekd.bench.scenarios import Load
from edgekd.bench.watch import Watch
from edgekd.errors import BenchError
from edgekd.measurements import LayerTime, Profile, Roof
from edgekd.trace import Trace

STOPPED = "stopped by you"
PARTS = 100
"""Of a step, in which progress is told."""
_SHARED = Path("/dev/shm")  # memory that no disk is waited for  # noqa: S108
_LOOK_S = 0.5
_SOON_S = 0.05  # until the end is noticed
_SHORT_NS = 250_000_000  # counters of 10 ms tell nothing of less
_LONGEST_S = 900  # a GPU's runtime may compile first


@dataclass
class Run:
    """What came of one engine.

    Attributes:
        trace: as far as it got.
        blocks: at which frames its turns began.
        throughput: images a second, by batch.
        pauses_ns: of calls after half a second of nothing.
        splits_ns: the GPU's part of some calls; empty without one.
        loadgen: what MLPerf LoadGen measured of it, where that was asked.
        partial: why it ended early; empty where it did not.
        hint: what to do about that.
    """

    trace: Trace
    blocks: tuple[int, ...] = (0,)
    throughput: dict[str, float] = field(default_factory=dict)
    pauses_ns: list[int] = field(default_factory=list)
    splits_ns: dict[str, list[int]] = field(default_factory=dict)
    loadgen: dict[str, Any] = field(default_factory=dict)
    partial: str = ""
    hint: str = ""


def run(
    engines: Sequence[tuple[EngineFile, Path]],
    load: Load,
    *,
    threads: int,
    timeout_s: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Run], dict[str, Any]]:
    """Measures engines in a process of their own.

    Args:
        engines: each with the .npz of samples that it is given.
        load: what is asked of each.
        threads: of a CPU, for one inference.
        timeout_s: a call that takes longer is taken to hang, and the process is ended.
        progress: told of the parts of steps done, and in all, ``PARTS`` of each: of ``blocks``,
            and one for each engine.

    Returns:
        What came of each engine, and what else went on meanwhile. After Ctrl-C too: then every
        engine's ``partial`` is ``STOPPED``.

    Raises:
        BenchError: nothing could be measured.
    """
    with _shared_folder() as folder:
        request = worker.Request(tuple(engines), load, threads, timeout_s, folder)
        pulse = _lay_out(folder / "pulse.npy", (len(worker.PULSE),), 0)
        traces = [
            _lay_out(folder / f"{index}.npy", (load.frames, 3), trace.NEVER)
            for index in range(len(engines))
        ]
        pulse[worker.LIFE], pulse[worker.SILENCE] = perf_counter_ns(), 60 * 10**9
        total = PARTS * (load.blocks + len(engines))

        def told() -> None:
            progress(_parts_done(load, traces, int(pulse[worker.STEPS])), total)

        with _busy(load.background):
            ended, watched = _watch(request, pulse, told)
        runs = [Run(trace.reached(np.array(each))) for each in traces]
    begin = int(pulse[worker.BEGIN])
    _merge(runs, ended, [engine.name for engine, _ in engines], int(pulse[worker.TURN]))
    return runs, _relative(watched, begin, ours=load.background)


def cold_start(engine: EngineFile, feeds: Path, threads: int) -> tuple[list[int], int | None]:
    """A fresh process that opens the engine and runs it twice.

    Args:
        engine: what is opened.
        feeds: .npz of the one batch that it is given.
        threads: of a CPU, for one inference.

    Returns:
        How long until the runtime was imported, the engine open, the first and the second answer
        there, each from the one before, in nanoseconds; and its peak resident bytes, or None.

    Raises:
        BenchError: that process fails.
    """
    begin = perf_counter_ns()
    found = _ask("cold", engine, feeds, threads)
    return [found["imported_ns"] - begin, *found["spans_ns"]], found["peak_memory_bytes"]


def profile(engine: EngineFile, model: Path | None, feeds: Path, threads: int) -> Profile:
    """``layers.profile`` in a fresh process, which a vendor's profiler may spoil.

    Raises:
        BenchError: that process fails.
    """
    found = _ask("profile", engine, feeds, threads, None if model is None else str(model))
    layers = [LayerTime(**{**each, "nodes": tuple(each["nodes"])}) for each in found["layers"]]
    return Profile(
        engine=found["engine"],
        layers=tuple(layers),
        total_ns=found["total_ns"],
        islands=tuple(found["islands"]),
        roof=None if found["roof"] is None else Roof(**found["roof"]),
    )


def _ask(
    what: str, engine: EngineFile, feeds: Path, threads: int, model: str | None = None
) -> dict[str, Any]:
    """What a fresh process answers to one question on one engine."""
    asked = {
        "what": what,
        "engine": worker.to_json(engine),
        "feeds": str(feeds),
        "threads": threads,
        "model": model,
        "parent": os.getpid(),
    }
    with tempfile.TemporaryDirectory(prefix="edgekd-") as name:
        folder = Path(name)
        try:
            child = subprocess.run(
                _COMMAND, input=json.dumps({**asked, "folder": name}), text=True, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
                timeout=_LONGEST_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise BenchError(
                f"{engine.name} gives no answers within {_LONGEST_S} s in a process of its own"
            ) from error
        found = _answer(folder, child.returncode, child.stdout)
    if isinstance(found, tuple):
        reason, hint = found
        raise BenchError(f"{engine.name} does not run in a process of its own: {reason}", hint)
    return found  # type: ignore[no-any-return]


_WORDLESS = "its process ended without a word"
_COMMAND = [sys.executable, "-m", "edgekd.bench.worker"]


def _watch(
    request: worker.Request, pulse: Trace, progress: Callable[[], None]
) -> tuple[Any, dict[str, Any]]:
    """Waits for the worker; returns what it wrote, or why it did not, and what went on.

    The host is looked at from just before the run began until the worker has ended.
    """
    ended: Any = None
    with (request.folder / "errors").open("w+", errors="replace") as errors:
        child = subprocess.Popen(
            _COMMAND, stdin=subprocess.PIPE, stdout=errors, stderr=errors, text=True
        )
        watch, looked_ns = Watch(child.pid), 0
        try:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError), child.stdin:
                json.dump({**request.to_json(), "parent": os.getpid()}, child.stdin)
            watch.sample()
            while not _ends(child, _LOOK_S):
                if pulse[worker.BEGIN]:
                    looked_ns = perf_counter_ns()
                    progress()
                else:  # what went on while engines were opened disturbed nothing
                    watch = Watch(child.pid)
                watch.sample()
                silent = perf_counter_ns() - int(pulse[worker.LIFE])
                if silent > int(pulse[worker.SILENCE]):
                    ended = f"no answer came for {silent / 1e9:.0f} s"
                    break
            if perf_counter_ns() - looked_ns > _SHORT_NS:
                watch.sample()
        except KeyboardInterrupt:
            ended = STOPPED
        finally:
            child.kill()
            code = child.wait()
        if ended is None:
            errors.seek(0)
            ended = _answer(request.folder, code, errors.read())
    return ended, watch.record()


def _ends(child: subprocess.Popen[str], within_s: float) -> bool:
    """Whether a process ends by then. Its counters can still be read: nobody has waited for it."""
    until = perf_counter_ns() + int(within_s * 1e9)
    while perf_counter_ns() < until:
        if _has_ended(child):
            return True
        sleep(_SOON_S)
    return _has_ended(child)


def _has_ended(child: subprocess.Popen[str]) -> bool:
    if not hasattr(os, "waitid"):
        return child.poll() is not None
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _parts_done(load: Load, traces: Sequence[Trace], steps: int) -> int:
    """Of a run: by the steps that are done, or by its frames where these are further."""
    share = sum(map(_filled, traces)) / sum(map(len, traces))
    return max(PARTS * steps, int(PARTS * load.blocks * share))


def _merge(runs: Sequence[Run], ended: Any, names: Sequence[str], turn: int) -> None:
    """Adds to each run what the worker wrote, or why it wrote nothing: whose turn it was failed."""
    if isinstance(ended, list):
        for each, record in zip(runs, ended, strict=True):
            each.trace = each.trace[: record["count"]]
            each.blocks = tuple(record["blocks"])
            each.throughput = record.get("throughput", {})
            each.pauses_ns = record.get("pauses_ns", [])
            each.splits_ns = record.get("splits_ns", {})
            each.loadgen = record.get("loadgen", {})
            each.partial, each.hint = record.get("failure", ("", ""))
        return
    reason, hint = ended if isinstance(ended, tuple) else (ended, "")
    if not any(len(trace.service(each.trace)) for each in runs) and reason != STOPPED:
        raise BenchError(f"{names[turn]} could not be measured: {reason}", hint)
    for index, each in enumerate(runs):
        is_theirs = reason == STOPPED or index == turn
        each.partial = reason if is_theirs else f"ended with {names[turn]}: {reason}"
        each.hint = hint


def _relative(watched: dict[str, Any], begin: int, ours: int) -> dict[str, Any]:
    """What was watched, with times from the run's beginning; load of our own is no disturbance."""
    for each in (*watched["samples"], *watched["disturbances"]):
        for name in ("t_ns", "until_ns"):
            if name in each:
                each[name] -= begin
    if ours:
        watched["background"] = ours
        watched["disturbances"] = [
            each for each in watched["disturbances"] if "other" not in each["what"]
        ]
    return watched


def _filled(rows: Trace) -> int:
    """The frames of a trace that were due by now: its first ones."""
    return bisect_left(
        range(len(rows)), True, key=lambda row: bool(rows[row, trace.DUE] == trace.NEVER)
    )


def _answer(folder: Path, code: int, printed: str) -> Any:
    """What a worker that ended has left; or a reason and a hint, why it left nothing.

    What it left is whole, however it ended then: runtimes fail as they are taken down.
    """
    if (folder / worker.DONE).exists():
        return json.loads((folder / worker.DONE).read_text())
    if (folder / worker.FAILED).exists():
        reason, hint = json.loads((folder / worker.FAILED).read_text())
        return reason, hint
    if code < 0:
        return f"its process was ended by signal {-code}", ""
    lines = printed.split("\n") if code else []  # of one that ended well they tell nothing
    return next(filter(None, map(str.strip, reversed(lines))), _WORDLESS), ""


@contextlib.contextmanager
def _shared_folder() -> Iterator[Path]:
    usable = _SHARED.is_dir() and os.access(_SHARED, os.W_OK)
    with tempfile.TemporaryDirectory(prefix="edgekd-", dir=_SHARED if usable else None) as name:
        yield Path(name)


def _lay_out(path: Path, shape: tuple[int, ...], value: int) -> Trace:
    """A file of numbers that two processes see, its room taken at once."""
    try:
        np.save(path, np.full(shape, value, np.int64))
    except OSError as error:
        raise BenchError(
            f"{path} cannot be written ({error.strerror})",
            "make room, or ask for fewer frames",
        ) from error
    return np.asarray(np.load(path, mmap_mode="r+", allow_pickle=False))


@contextlib.contextmanager
def _busy(processes: int) -> Iterator[None]:
    """Other work on this machine: each process copies through memory for as long as it may."""
    program = (
        "import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "import numpy as np\nparent = os.getppid()\na, b = np.zeros((2, 1 << 22))\n"
        "while os.getppid() == parent:\n"
        "    np.multiply(a, 1.000001, out=b)\n    np.add(b, 1e-9, out=a)\n"
    )
    with contextlib.ExitStack() as stack:
        for _ in range(processes):
            child = subprocess.Popen([sys.executable, "-c", program])
            stack.callback(child.wait)
            stack.callback(child.kill)
        yield
