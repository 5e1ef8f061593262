"""The load generator. It knows sessions and feeds, and nothing of models."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter_ns

import numpy as np
import numpy.typing as npt

from edgekd.backends.base import Arrays, Session

CLOCK = "time.perf_counter_ns"
REACQUAINT = 10
"""Calls that are made and not timed where a session's turn begins. Another session has just had
the caches: the first calls would measure the taking of turns, which no application does."""
Nanoseconds = npt.NDArray[np.int64]


@dataclass
class Timings:
    """Every timed call of one session, in order: when it began, and how long it took."""

    starts_ns: list[Nanoseconds] = field(default_factory=list)
    latencies_ns: list[Nanoseconds] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Calls so far."""
        return sum(len(each) for each in self.latencies_ns)

    @property
    def spent_ns(self) -> int:
        """Time spent in them."""
        return sum(int(each.sum()) for each in self.latencies_ns)


def closed_loop(
    session: Session, feeds: Sequence[Arrays], calls: int, limit_ns: int
) -> tuple[Nanoseconds, Nanoseconds]:
    """Calls one after another, until ``calls`` are made or ``limit_ns`` is spent.

    Returns:
        When each call began, and its latency, in nanoseconds of ``CLOCK``.
    """
    run, feed_count = session.run, len(feeds)
    starts = np.zeros(calls, np.int64)  # touched now, so that no page faults later
    latencies = np.zeros(calls, np.int64)
    made = 0
    end = perf_counter_ns() + limit_ns
    while made < calls:
        feed = feeds[made % feed_count]
        before = perf_counter_ns()
        run(feed)
        after = perf_counter_ns()
        starts[made] = before
        latencies[made] = after - before
        made += 1
        if after > end:
            break
    return starts[:made], latencies[:made]


def interleaved(
    sessions: Sequence[Session],
    feeds: Sequence[Sequence[Arrays]],
    *,
    calls: int,
    blocks: int,
    limit_ns: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Timings]:
    """Times sessions in turn, so that a change of the machine's speed meets all of them.

    Each of ``blocks`` rounds visits every session in a fresh random order and times its share
    of ``calls`` there, or as many as fit into its share of ``limit_ns``. One block before the
    first is warm-up and is not kept, nor are the first ``REACQUAINT`` calls of each turn.

    Args:
        sessions: what is timed.
        feeds: for each session those that it is given in turn.
        calls: of each session.
        blocks: rounds.
        limit_ns: the most time for each session.
        seed: of the order.
        progress: told of each round.
    """
    timings = [Timings() for _ in sessions]
    rng = np.random.default_rng(seed)
    blocks = min(blocks, calls)
    bounds = [calls * done // blocks for done in range(blocks + 1)]
    with quiet_collector():
        for session, own in zip(sessions, feeds, strict=True):
            closed_loop(session, own, bounds[1], limit_ns // blocks)
        begin = perf_counter_ns()
        for done in range(blocks):
            share = bounds[done + 1] - bounds[done]
            for index in rng.permutation(len(sessions)):
                closed_loop(sessions[index], feeds[index], REACQUAINT, limit_ns // blocks // 2)
                starts, latencies = closed_loop(
                    sessions[index], feeds[index], share, limit_ns // blocks
                )
                timings[index].starts_ns.append(starts - begin)
                timings[index].latencies_ns.append(latencies)
            progress(done + 1, blocks)
    return timings


def throughput(session: Session, feed: Arrays, batch: int, limit_ns: int) -> float:
    """Items a second, back to back, with ``batch`` items in ``feed``."""
    with quiet_collector():
        closed_loop(session, [feed], 3, limit_ns)
        starts, latencies = closed_loop(session, [feed], 100_000, limit_ns)
    spent_ns = int(starts[-1] + latencies[-1] - starts[0])
    return batch * len(starts) / (spent_ns / 1e9)


@contextmanager
def quiet_collector() -> Iterator[None]:
    """No garbage collection while something is timed."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
