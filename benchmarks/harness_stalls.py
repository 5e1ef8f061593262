"""A session with planted stalls: what a camera's run tells of it, and what closed loops tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import Any

import numpy as np
import record

from edgekd import trace, verdict
from edgekd.backends.base import Arrays
from edgekd.bench import loadgen
from edgekd.bench.arrivals import POLICIES, open_loop, periodic
from edgekd.bench.load import closed_loop, quiet_collector
from edgekd.bench.scenarios import Load
from edgekd.bench.timer import fine_timers
from edgekd.measurements import Misses
from edgekd.recipe import BudgetSettings
from edgekd.stats import percentiles

MS = 1_000_000
PERIOD_NS = 10 * MS
SHARES = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999}
_PULSE = np.zeros(1, np.int64)
_FEEDS: list[Arrays] = [{"x": np.zeros(1, np.float32)}]


@dataclass(frozen=True)
class Plan:
    """How long each call takes: 1 ms, 43 ms every so often, and three of 24 ms in a row.

    No stall ends within 2 ms of a frame's being due, so that it is certain which are lost.
    """

    frames: int = 3000
    every: int = 500
    burst: int = 1400

    def took_ns(self, call: int) -> int:
        """Of the call with this number."""
        if self.burst <= call < self.burst + 3:
            return 24 * MS
        return 43 * MS if call % self.every == self.every // 2 else MS


QUICK = Plan(frames=70, every=30, burst=55)


class Stalling:
    """A session that spins for as long as the plan says."""

    inputs: Any = ()
    outputs: Any = ()

    def __init__(self, plan: Plan) -> None:
        self.plan, self.calls = plan, 0

    def run(self, feeds: Arrays) -> Arrays:
        """One call."""
        end = perf_counter_ns() + self.plan.took_ns(self.calls)
        self.calls += 1
        while perf_counter_ns() < end:
            pass
        return {}


def simulated(plan: Plan, policy: str) -> list[int | None]:
    """The response of every frame as it must be; None for one that is never answered."""
    responses: list[int | None] = [None] * plan.frames
    free, calls, waiting = 0, 0, []

    def work(frame: int) -> None:
        nonlocal free, calls
        free = max(free, frame * PERIOD_NS) + plan.took_ns(calls)
        calls += 1
        responses[frame] = free - frame * PERIOD_NS

    for frame in range(plan.frames):
        due = frame * PERIOD_NS
        while waiting and free <= due:
            work(waiting.pop(0))
        if free <= due:
            work(frame)
        elif policy == "queue":
            waiting.append(frame)
        elif policy == "drop-oldest":
            waiting = [frame]
    for frame in waiting:
        work(frame)
    return responses


def planted(responses: list[int | None]) -> list[str]:
    """A row of the table, from the simulation."""
    late = [each is None or each > PERIOD_NS for each in responses]
    longest = run = 0
    for each in late:
        run = run + 1 if each else 0
        longest = max(longest, run)
    answered = sorted(each for each in responses if each is not None)
    tails = [answered[math.ceil(share * len(answered)) - 1] for share in SHARES.values()]
    return _cells(sum(late), len(late), responses.count(None), longest, tails)


def seen(plan: Plan, policy: str, session: Any) -> trace.Trace:
    """The trace of a camera's run."""
    kept = trace.empty(plan.frames)
    due = partial(periodic, period_ns=PERIOD_NS)
    with fine_timers(), quiet_collector():
        drive = open_loop(session, _FEEDS, due, policy)
        made = drive(kept, 0, 3600 * 10**9, _PULSE)
    return kept[:made]


def back_to_back(plan: Plan, session: Any) -> trace.Trace:
    """The trace of as many calls in a closed loop."""
    kept = trace.empty(plan.frames)
    with quiet_collector():
        closed_loop(session, _FEEDS)(kept, 0, 3600 * 10**9, _PULSE)
    return kept


def reported(kept: trace.Trace) -> list[str]:
    """A row of the table, from a trace, as ``edgekd bench`` tells it."""
    told: Misses = verdict.misses(kept, PERIOD_NS, BudgetSettings(fps=1e9 / PERIOD_NS))
    summary = percentiles.summary(trace.response(kept))
    tails = [summary[name] for name in SHARES]
    return _cells(told.missed, told.frames, told.dropped, told.longest_burst, tails)


def of_loadgen(plan: Plan) -> list[str]:
    """A row of the table, from LoadGen's SingleStream."""
    load = Load(frames=plan.frames, seconds=3600.0)
    told = loadgen.run(Stalling(plan), _FEEDS, load)["latency_ns"]  # type: ignore[arg-type]
    return ["not counted", "", "", *(f"{told[name] / MS:.2f}" for name in SHARES)]


def _cells(missed: int, frames: int, dropped: int, longest: int, tails_ns: list[int]) -> list[str]:
    share = f"{missed:,} of {frames:,} ({100 * missed / frames:.2f} %)"
    return [share, f"{dropped}", f"{longest}", *(f"{each / MS:.2f}" for each in tails_ns)]


def part(quick: bool) -> str:
    """The table, and what is to be said of it."""
    plan = QUICK if quick else Plan()
    rows = []
    for policy in POLICIES:
        rows.append([f"camera, {policy}", "planted", *planted(simulated(plan, policy))])
        rows.append(["", "reported", *reported(seen(plan, policy, Stalling(plan)))])
    rows.append(["EdgeKD single-stream", "", *reported(back_to_back(plan, Stalling(plan)))])
    rows.append(["LoadGen SingleStream", "", *of_loadgen(plan)])
    headings = (
        "run", "", "late or never", "never answered", "longest burst", "p50, ms", "p99, ms",
        "p99.9, ms",
    )  # fmt: skip
    return "\n\n".join(
        [
            "## Planted stalls",
            record.table(headings, rows),
            (
                f"A call takes 1 ms; every {plan.every}th 43 ms, and calls {plan.burst} to"
                f" {plan.burst + 2} 24 ms each. A camera sends {1e9 / PERIOD_NS:g} frames a"
                f" second, each to be answered within {PERIOD_NS / MS:g} ms. *planted*: by a"
                " simulation that shares nothing with the load generator. Percentiles: over"
                " answered frames, from when each was due; of a closed loop, of the call. What is"
                " reported beyond what was planted is the machine's own. A closed loop waits with"
                " the session: a stall is one slow call to it, and several lost frames to a"
                " camera."
            ),
        ]
    )
