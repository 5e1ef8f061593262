"""A trace: when each frame was due, begun and answered; and what can be read from it.

A trace is an int64 array (frames, 3) in nanoseconds from the run's beginning. A frame that was
dropped was due and never begun; one that a run ended in was begun and never answered.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Trace = npt.NDArray[np.int64]
Nanoseconds = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

DUE, BEGUN, ANSWERED = range(3)
NEVER = -1


def empty(frames: int) -> Trace:
    """A trace in which nothing has happened, its memory touched: no page faults later."""
    return np.full((frames, 3), NEVER, np.int64)


def reached(trace: Trace) -> Trace:
    """The frames that were due before the run ended."""
    rows: Trace = trace[trace[:, DUE] != NEVER]
    return rows


def answered(trace: Trace) -> Flags:
    """Which frames were answered."""
    flags: Flags = trace[:, ANSWERED] != NEVER
    return flags


def service(trace: Trace) -> Nanoseconds:
    """How long each answer took, from the call on."""
    done = trace[answered(trace)]
    took: Nanoseconds = done[:, ANSWERED] - done[:, BEGUN]
    return took


def response(trace: Trace) -> Nanoseconds:
    """How long each answer took, from when its frame was due."""
    done = trace[answered(trace)]
    took: Nanoseconds = done[:, ANSWERED] - done[:, DUE]
    return took


def decided(trace: Trace) -> Trace:
    """The frames whose fate is known: answered or dropped, not the one that a run ended in."""
    known = reached(trace)
    fates: Trace = known[answered(known) | (known[:, BEGUN] == NEVER)]
    return fates


def missed(trace: Trace, deadline_ns: int) -> Flags:
    """Which of the ``decided`` frames were dropped, or answered later than this after being due."""
    known = decided(trace)
    flags: Flags = ~answered(known) | (known[:, ANSWERED] - known[:, DUE] > deadline_ns)
    return flags


def waited_for(trace: Trace) -> Flags:
    """Which answered frames found the session idle: the one before had been answered by then."""
    done = trace[answered(trace)]
    before = np.concatenate([[NEVER], done[:-1, ANSWERED]])
    flags: Flags = before <= done[:, DUE]
    return flags


def lateness(trace: Trace) -> Nanoseconds:
    """How late the load generator itself began frames that nothing kept it from."""
    done = trace[answered(trace)]
    late: Nanoseconds = (done[:, BEGUN] - done[:, DUE])[waited_for(trace)]
    return late
