"""The load generator: closed loops, and sessions that take turns.

It knows sessions and feeds, and nothing of models. What a session answers is looked at after
the clock was read.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgekd import trace as traces
from edgekd.artifacts import TensorSpec
from edgekd.backends.base import Arrays, Session
from edgekd.errors import BenchError, EdgekdError
from edgekd.trace import Nanoseconds, Trace

REACQUAINT = 10
"""Calls that are made and not timed where a session's turn begins. Another session has just had
the caches: the first calls would measure the taking of turns, which no application does."""
_SPARE = 1.5
EVERY_ANSWER = 65_536
"""An open loop looks at each answer of up to so many numbers; of larger ones, and in a closed
loop, at one in ``SOME_ANSWERS``."""
SOME_ANSWERS = 16

Pulse = npt.NDArray[np.int64]
"""The first number: when the last call came back, or when the next is due, where that is waited
for. Whoever supervises reads it."""


class Drive(Protocol):
    """A scenario: gives frames to one session and writes down when they came back."""

    def __call__(self, trace: Trace, begin_ns: int, limit_ns: int, pulse: Pulse) -> int:
        """Fills the trace from its first frame on.

        Args:
            trace: of this turn alone.
            begin_ns: of the whole run, by the clock; times are told from there.
            limit_ns: begin no frame later than this after the turn began.
            pulse: told of each answer.

        Returns:
            How many frames were due.

        Raises:
            BenchError: the session fails, or answers what it should not.
        """


@dataclass(frozen=True)
class Timings:
    """The calls of one session that took turns with others.

    Attributes:
        trace: every timed call, in order.
        blocks: at which of them its turns began.
        failure: why it was given no more calls; None where nothing failed.
    """

    trace: Trace
    blocks: tuple[int, ...]
    failure: EdgekdError | None = None

    @property
    def latencies_ns(self) -> list[Nanoseconds]:
        """How long each call took, by turn."""
        return np.split(traces.service(self.trace), self.blocks[1:])

    @property
    def count(self) -> int:
        """Calls that were answered."""
        return len(traces.service(self.trace))

    @property
    def spent_ns(self) -> int:
        """Time spent in them."""
        return int(traces.service(self.trace).sum())


def closed_loop(session: Session, feeds: Sequence[Arrays]) -> Drive:
    """One call after another: a frame is due when the last has been answered.

    The first answer to each of ``feeds`` is looked at, and then one in ``SOME_ANSWERS``.
    """
    look = onlooker(session)

    def drive(trace: Trace, begin_ns: int, limit_ns: int, pulse: Pulse) -> int:
        run, feed_count, frames = session.run, len(feeds), len(trace)
        end = perf_counter_ns() + limit_ns
        for frame in range(frames):
            feed = feeds[frame % feed_count]
            before = perf_counter_ns()
            try:
                outputs = run(feed)
            except Exception as error:
                trace[frame] = before - begin_ns, before - begin_ns, traces.NEVER
                raise failed(frame, error) from error
            after = perf_counter_ns()
            begun = before - begin_ns
            trace[frame] = begun, begun, after - begin_ns
            pulse[0] = after
            if after < before:
                raise went_back(frame, before - after)
            # To look at an answer costs the next call the caches, which no bare loop pays.
            if frame < feed_count or not frame % SOME_ANSWERS:
                look(frame, outputs)
            if after > end:
                return frame + 1
        return frames

    return drive


def several_at_once(session: Session, feeds: Sequence[Arrays], streams: int) -> Drive:
    """A closed loop in which each frame is a query: a call for each of so many streams, in turn.

    MLPerf's MultiStream: the query is answered when the last of its samples is. For a session
    that takes them all in one batch, ``closed_loop`` with such feeds does the same.
    """

    class Query:
        inputs, outputs = session.inputs, session.outputs

        def run(self, feed: Sequence[Arrays]) -> Arrays:
            outputs: Arrays = {}
            for each in feed:
                outputs = session.run(each)
            return outputs

    grouped = [
        [feeds[(first + stream) % len(feeds)] for stream in range(streams)]
        for first in range(len(feeds))
    ]
    return closed_loop(Query(), grouped)  # type: ignore[arg-type]


def onlooker(session: Session) -> Callable[[int, Arrays], None]:
    """What looks at the answer to a frame, once its time is written down.

    It raises a BenchError where an output has another shape than it should, or holds what is no
    number.
    """
    specs = tuple(session.outputs)

    def look(frame: int, outputs: Arrays) -> None:
        for spec in specs:
            found = outputs.get(spec.name)
            if found is None:
                raise BenchError(f"frame {frame}: there is no output '{spec.name}'")
            if not _fits(found.shape, spec):
                raise BenchError(
                    f"frame {frame}: output '{spec.name}' has shape {found.shape}, and"
                    f" {spec.shape} was declared"
                )
            small = found.size <= EVERY_ANSWER or not frame % SOME_ANSWERS
            if small and found.dtype.kind == "f" and not _finite(found):
                raise BenchError(
                    f"frame {frame}: output '{spec.name}' holds values that are not finite",
                    "times of a network that computes nonsense mean nothing",
                )

    return look


def _finite(values: npt.NDArray[Any]) -> bool:
    """Whether all are numbers; ``all()`` is Python and costs the next call more of its caches."""
    return bool(np.count_nonzero(np.isfinite(values)) == values.size)


def went_back(frame: int, by_ns: int) -> BenchError:
    """What to raise where the clock did."""
    return BenchError(
        f"frame {frame}: the clock went back by {by_ns} ns",
        "no time of this run can be trusted; look at the machine's clock source",
    )


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    return len(shape) == len(spec.shape) and all(
        isinstance(declared, str) or declared == found
        for found, declared in zip(shape, spec.shape, strict=True)
    )


def failed(frame: int, error: Exception) -> EdgekdError:
    """What to raise where a session did: a fault of a vendor's own kind gets a sentence."""
    if isinstance(error, EdgekdError):
        return BenchError(f"frame {frame}: {error.message}", error.hint)
    return BenchError(f"frame {frame}: {type(error).__name__}: {' '.join(str(error).split())}")


def in_turns(
    drives: Sequence[Drive],
    own_traces: Sequence[Trace],
    *,
    blocks: int,
    least: int = 0,
    limit_ns: int,
    warm_ns: int | None = None,
    seed: int,
    begin_ns: int,
    pulse: Pulse,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Timings]:
    """Sessions in turn, so that a change of the machine's speed meets all of them.

    Each of ``blocks`` rounds visits every session in a fresh random order and gives it its share
    of the frames, or as many as fit into its share of ``limit_ns``. One block before the first
    is warm-up and is not kept, nor are the first ``REACQUAINT`` calls of each turn. A session
    that fails gets no more turns; what it did until then is kept, and where it was is said:
    frames are counted within a turn.

    Args:
        drives: what gives frames to each session.
        own_traces: for each, with room for its frames.
        blocks: rounds.
        least: frames that each gets however long they take, judged by those of the warm-up.
        limit_ns: the most time for each session.
        warm_ns: the most time for each in the warm-up; None for that of a block.
        seed: of the order.
        begin_ns: the run's beginning.
        pulse: told of each answer.
        progress: told of each round.
    """
    rng = np.random.default_rng(seed)
    frames = max(map(len, own_traces))
    blocks = min(blocks, frames)
    filled = [0] * len(drives)
    starts: list[list[int]] = [[] for _ in drives]
    failures: list[EdgekdError | None] = [None] * len(drives)
    share_ns = limit_ns // blocks

    def turn(index: int, trace: Trace, share: int, where: str = "warm-up, ") -> int:
        try:
            return drives[index](trace, begin_ns, share, pulse)
        except EdgekdError as error:
            failures[index] = BenchError(f"{where}{error.message}", error.hint)
            return len(traces.reached(trace))

    with quiet_collector():
        shares_ns = [share_ns] * len(drives)
        for index, trace in enumerate(own_traces):
            warm = traces.empty(max(1, len(trace) // blocks))
            turn(index, warm, share_ns if warm_ns is None else min(share_ns, warm_ns))
            took = traces.service(warm)
            needed = least / blocks * float(np.median(took)) if len(took) else 0.0
            shares_ns[index] = max(share_ns, int(_SPARE * needed))
        for done in range(blocks):
            where = f"turn {done + 1}, " if blocks > 1 else ""
            for index in rng.permutation(len(drives)):
                trace = own_traces[index]
                room = len(trace) * (done + 1) // blocks - len(trace) * done // blocks
                if failures[index] is None:
                    turn(index, traces.empty(REACQUAINT), shares_ns[index] // 2)
                if failures[index] is None and room:
                    first = filled[index]
                    starts[index].append(first)
                    own = trace[first : first + room]
                    filled[index] += turn(index, own, shares_ns[index], where)
            progress(done + 1, blocks)
    return [
        Timings(trace[:count], tuple(begun), failure)
        for trace, count, begun, failure in zip(own_traces, filled, starts, failures, strict=True)
    ]


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
    """Closed loops in this process, in turn; see ``in_turns``.

    Args:
        sessions: what is timed.
        feeds: for each session those that it is given in turn.
        calls: of each session.

    Raises:
        BenchError: a session fails.
    """
    timings = in_turns(
        [closed_loop(each, own) for each, own in zip(sessions, feeds, strict=True)],
        [traces.empty(calls) for _ in sessions],
        blocks=blocks,
        limit_ns=limit_ns,
        seed=seed,
        begin_ns=perf_counter_ns(),
        pulse=np.zeros(1, np.int64),
        progress=progress,
    )
    for each in timings:
        if each.failure is not None:
            raise each.failure
    return timings


def throughput(
    session: Session, feed: Arrays, batch: int, limit_ns: int, pulse: Pulse | None = None
) -> float:
    """Items a second, back to back, with ``batch`` items in ``feed``."""
    pulse = np.zeros(1, np.int64) if pulse is None else pulse
    drive = closed_loop(session, [feed])
    with quiet_collector():
        drive(traces.empty(3), 0, limit_ns, pulse)
        trace = traces.empty(100_000)
        made = drive(trace, perf_counter_ns(), limit_ns, pulse)
    spent_ns = int(trace[made - 1, traces.ANSWERED] - trace[0, traces.BEGUN])
    return batch * made / (spent_ns / 1e9)


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
