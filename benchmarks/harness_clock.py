"""What EdgeKD's load generator costs: beside a bare call, and against a camera's clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import harness_sut
import numpy as np
import numpy.typing as npt
import record
from harness_tools import engine_of, in_turn

from edgekd import trace
from edgekd.backends.base import Arrays
from edgekd.backends.ort import OrtSession
from edgekd.bench import loadgen, supervise
from edgekd.bench.arrivals import open_loop, periodic
from edgekd.bench.load import REACQUAINT, closed_loop, quiet_collector
from edgekd.bench.scenarios import Feeds, Load, cut
from edgekd.bench.timer import fine_timers
from edgekd.stats.percentiles import PERCENTILES, interval, percentile

OVERHEAD_NS, LATE_NS = 1000, 20_000
RATES = (60, 200, 500)
_PULSE = np.zeros(1, np.int64)
_FEW = 700  # frames; of fewer p99 cannot be told
Times = npt.NDArray[np.int64]


class Nothing:
    """A session that answers at once."""

    inputs: Any = ()
    outputs: Any = ()
    answer: Arrays = {}  # noqa: RUF012  # nobody changes it

    def run(self, feeds: Arrays) -> Arrays:
        """Nothing."""
        return self.answer


# ── Overhead ─────────────────────────────────────────────────────────────────────────────


def tightest(run: Callable[..., Any], given: Sequence[tuple[Any, ...]], calls: int) -> Times:
    """The shortest loop in Python that times every call."""
    times, clock, several = np.zeros(calls, np.int64), perf_counter_ns, len(given)
    with quiet_collector():
        for index in range(-REACQUAINT, calls):
            arguments = given[index % several]
            before = clock()
            run(*arguments)
            after = clock()
            times[index] = after - before
    return times


def closed(session: Any, feeds: Sequence[Arrays], calls: int) -> trace.Trace:
    """A turn of EdgeKD's closed loop."""
    drive, kept = closed_loop(session, feeds), trace.empty(calls)
    with quiet_collector():
        for each in (trace.empty(REACQUAINT), kept):
            drive(each, 0, 60 * 10**9, _PULSE)
    return kept


def _p(times: Times) -> dict[str, int]:
    ordered = np.sort(times)
    return {name: percentile(ordered, PERCENTILES[name]) for name in ("p50", "p90", "p99")}


def overhead(models: Mapping[str, Path], samples: Mapping[str, Feeds], quick: bool) -> str:
    """The tables of what EdgeKD's loop adds to a call."""
    rounds, seconds = (6, 0.002) if quick else (51, 0.1)
    rows = []
    nothing, empty = Nothing(), [{"x": np.zeros(1, np.float32)}]
    calls = 500 if quick else 10_000
    asked = Load(frames=calls, seconds=60.0)
    tools = {
        "tightest loop": partial(_tight, nothing.run, [(empty[0],)], calls),
        "EdgeKD single-stream": partial(_closed, nothing, empty, calls),
        "LoadGen SingleStream": lambda: loadgen.run(nothing, empty, asked)["latency_ns"],  # type: ignore[arg-type]
    }
    rows += _beside("nothing", in_turn(tools, rounds, 0))
    for name, path in models.items():
        feeds = cut(samples[name], 1)
        inner = harness_sut.opened(path)
        session = OrtSession(inner)
        names = [each.name for each in session.outputs]
        bare = [(names, each) for each in feeds]
        once = _p(trace.service(closed(session, feeds, 50)))["p50"]
        calls = max(50, int(seconds * 1e9 / once))
        tools = {
            "tightest loop": partial(_tight, inner.run, bare, calls),
            "EdgeKD's session in that loop": partial(_tight, session.run, [*zip(feeds)], calls),
            "EdgeKD single-stream": partial(_closed, session, feeds, calls),
        }
        rows += _beside(f"{name}, onnxruntime", in_turn(tools, rounds, 0))
    headings = ("session", "p50 of the tightest loop, µs", "tool", "it adds at p50, ns", "at p99")
    between = _between(nothing, empty, 10_000)
    return "\n\n".join(
        [
            "## Overhead over the bare call",
            record.table(headings, rows),
            (
                "The tightest loop is `before = clock(); session.run(names, feed); after ="
                " clock()` on ONNX Runtime's own session. EdgeKD's session calls that one and names"
                " the outputs; its closed loop then writes down three times, and looks at one"
                " answer in sixteen: to look at each cost the next call 2 µs of its caches. The"
                " median over"
                f" {rounds} rounds in which both took turns, and its 95 % interval; bold beyond"
                f" {OVERHEAD_NS / 1000:g} µs. Between calls, outside of what is timed, EdgeKD's"
                f" loop spends {between / 1000:.2f} µs on a session that answers nothing: it"
                " writes down three times and looks at the answer."
            ),
        ]
    )


def _tight(run: Callable[..., Any], given: Sequence[tuple[Any, ...]], calls: int) -> Any:
    return _p(tightest(run, given, calls))


def _closed(session: Any, feeds: Sequence[Arrays], calls: int) -> Any:
    return _p(trace.service(closed(session, feeds, calls)))


def _between(session: Any, feeds: Sequence[Arrays], calls: int) -> float:
    """Nanoseconds from an answer to the next call, the median."""
    kept = closed(session, feeds, calls)
    return float(np.median(kept[1:, trace.BEGUN] - kept[:-1, trace.ANSWERED]))


def _beside(session: str, found: Mapping[str, npt.NDArray[Any]]) -> list[list[str]]:
    rows = []
    bare = found["tightest loop"]
    for name, each in found.items():
        if each is bare:
            continue
        more = each - bare
        told = [_spread(more[:, column]) for column in (0, 2)]
        if abs(np.median(more[:, 0])) > OVERHEAD_NS:
            told[0] = f"**{told[0]}**"
        rows.append([session, f"{np.median(bare[:, 0]) / 1000:.2f}", name, *told])
    return rows


def _spread(values: Any) -> str:
    bounds = interval(values, 0.5)
    assert bounds is not None
    return f"{np.median(values):+,.0f} [{bounds[0]:+,.0f}, {bounds[1]:+,.0f}]"


# ── Lateness ─────────────────────────────────────────────────────────────────────────────


def camera(session: Any, feeds: Sequence[Arrays], rate: int, frames: int) -> Times:
    """How late EdgeKD's generator released a camera's frames."""
    kept = trace.empty(frames)
    due = partial(periodic, period_ns=1e9 / rate)
    with fine_timers(), quiet_collector():
        open_loop(session, feeds, due)(kept, 0, 3600 * 10**9, _PULSE)
    return trace.lateness(kept)


def sleeping(session: Any, feeds: Sequence[Arrays], rate: int, frames: int) -> Times:
    """The same of a loop that sleeps until a frame is due, as most are written."""
    late = np.zeros(frames, np.int64)
    start = perf_counter_ns() + 1_000_000
    for frame in range(frames):
        moment = start + frame * 10**9 // rate
        left = moment - perf_counter_ns()
        if left > 0:
            time.sleep(left / 1e9)
        late[frame] = perf_counter_ns() - moment
        session.run(feeds[frame % len(feeds)])
    return late


def lateness(models: Mapping[str, Path], samples: Mapping[str, Feeds], folder: Path) -> str:
    """The table of how late frames are released."""
    runs = 5
    name, path = next(iter(models.items()))
    place = folder / "camera"
    place.mkdir()
    np.savez(place / "x.npz", **samples[name])  # type: ignore[arg-type]
    engine = engine_of(path, "onnxruntime-cpu", place)
    nothing, empty = Nothing(), [{"x": np.zeros(1, np.float32)}]

    def bench(rate: int, frames: int) -> Times:
        load = Load("camera", frames=frames, seconds=3600.0, blocks=1, period_ns=1e9 / rate)
        found, _ = supervise.run([(engine, place / "x.npz")], load, threads=1, timeout_s=60)
        return trace.lateness(found[0].trace)

    kinds: dict[str, Callable[[int, int], Times]] = {
        "EdgeKD, a session that answers nothing": partial(camera, nothing, empty),
        f"EdgeKD bench, {name}": bench,
        "`time.sleep` until it is due": partial(sleeping, nothing, empty),
    }
    rng = np.random.default_rng(0)
    found: dict[tuple[int, str], list[Times]] = {
        (rate, kind): [] for rate in RATES for kind in kinds
    }
    loads = []
    for _ in range(runs):
        for rate, kind in rng.permutation([(rate, kind) for rate in RATES for kind in kinds]):
            loads.append(os.getloadavg()[0])
            frames = max(_FEW, 5 * int(rate))
            found[int(rate), str(kind)].append(kinds[str(kind)](int(rate), frames))
    rows = [[str(rate), kind, *_late(each)] for (rate, kind), each in found.items()]
    headings = (
        "FPS", "generator", "p50, µs", "p99 of the best run", "of the median run",
        "of the worst", "worst frame",
    )  # fmt: skip
    return "\n\n".join(
        [
            "## How late a camera's frames are released",
            record.table(headings, rows),
            (
                f"{runs} runs of each, in random order, of 5 s or {_FEW} frames. Lateness: from"
                " when a frame was due to when it was begun, of those that no other frame kept"
                " waiting. *EdgeKD bench* is the whole of `edgekd bench --scenario camera`, with"
                f" the process that watches beside it. Bold beyond {LATE_NS / 1000:g} µs. Load"
                f" average when runs began: {min(loads):.1f} to {max(loads):.1f} on"
                f" {os.cpu_count()} cores; on cores that others use, whoever sleeps is woken when"
                " it suits the scheduler."
            ),
        ]
    )


def _late(runs: Sequence[Times]) -> list[str]:
    tails = sorted(_p(each)["p99"] for each in runs)
    middle = float(np.median([_p(each)["p50"] for each in runs]))
    told = [_us(each) for each in (tails[0], tails[len(tails) // 2], tails[-1])]
    return [f"{middle / 1000:.1f}", *told, f"{max(int(each.max()) for each in runs) / 1000:,.0f}"]


def _us(ns: float) -> str:
    return f"**{ns / 1000:,.1f}**" if ns > LATE_NS else f"{ns / 1000:,.1f}"
