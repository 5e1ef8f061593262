"""Open loops: frames come when they come, whether or not the last has been answered.

A camera sends one each period; requests to a server come at random. Response time runs from
when a frame was due, so that a stall is charged to every frame that it held up, which a closed
loop never sees.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from time import perf_counter_ns

import numpy as np

from edgekd import trace as traces
from edgekd.backends.base import Arrays, Session
from edgekd.bench.load import Drive, Pulse, failed, onlooker, went_back
from edgekd.bench.timer import wait_until
from edgekd.trace import Nanoseconds, Trace

POLICIES = {
    "queue": "every frame waits for its turn",
    "drop-oldest": "one frame waits; a newer one takes its place",
    "skip": "a frame that comes while another is worked on is never seen",
}


def periodic(frames: int, period_ns: float) -> Nanoseconds:
    """When a camera's frames are due, from its first on."""
    return np.round(np.arange(frames) * period_ns).astype(np.int64)


def poisson(frames: int, rate_per_s: float, seed: int) -> Nanoseconds:
    """When requests are due that know nothing of each other, at this rate on average."""
    gaps = np.random.default_rng(seed).exponential(1e9 / rate_per_s, frames)
    return np.round(np.cumsum(gaps)).astype(np.int64)


def open_loop(
    session: Session,
    feeds: Sequence[Arrays],
    due: Callable[[int], Nanoseconds],
    policy: str = "queue",
) -> Drive:
    """Frames as they are due, one at a time, late ones treated by a policy of ``POLICIES``.

    Args:
        session: what answers them.
        feeds: given in turn, by the frame's number.
        due: for a number of frames, when each is due, from the turn's beginning, ascending.
        policy: what becomes of frames that come while another is worked on.
    """
    look = onlooker(session)
    next_frame = _CHOICES[policy]

    def drive(trace: Trace, begin_ns: int, limit_ns: int, pulse: Pulse) -> int:
        run, feed_count, frames = session.run, len(feeds), len(trace)
        start = perf_counter_ns() + _LEAD_NS
        moments: list[int] = (due(frames) + start).tolist()
        end = start + limit_ns
        offset = begin_ns
        frame = 0
        while frame < frames:
            moment = moments[frame]
            now = perf_counter_ns()
            if max(now, moment) > end:  # those that still wait will not be answered in time
                waiting = bisect_right(moments, now)
                for dropped in range(frame, waiting):
                    trace[dropped] = moments[dropped] - offset, traces.NEVER, traces.NEVER
                return max(frame, waiting)
            feed = feeds[frame % feed_count]
            if now < moment:
                pulse[0] = moment  # to wait is not to hang
                wait_until(moment)
            before = perf_counter_ns()
            try:
                outputs = run(feed)
            except Exception as error:
                trace[frame] = moment - offset, before - offset, traces.NEVER
                raise failed(frame, error) from error
            after = perf_counter_ns()
            trace[frame] = moment - offset, before - offset, after - offset
            pulse[0] = after
            if after < before:
                raise went_back(frame, before - after)
            look(frame, outputs)
            chosen = next_frame(moments, frame + 1, after)
            for dropped in range(frame + 1, chosen):
                trace[dropped] = moments[dropped] - offset, traces.NEVER, traces.NEVER
            frame = chosen
        return frame

    return drive


_LEAD_NS = 1_000_000  # the first frame is waited for, as all are


def _queue(moments: Sequence[int], frame: int, now: int) -> int:
    return frame


def _drop_oldest(moments: Sequence[int], frame: int, now: int) -> int:
    """The newest frame that has come, or the next one to come."""
    while frame + 1 < len(moments) and moments[frame + 1] <= now:
        frame += 1
    return frame


def _skip(moments: Sequence[int], frame: int, now: int) -> int:
    """The next frame to come."""
    while frame < len(moments) and moments[frame] < now:
        frame += 1
    return frame


_CHOICES = {"queue": _queue, "drop-oldest": _drop_oldest, "skip": _skip}
