"""Waiting until a moment: sleep, then spin.

Sleep alone wakes tens of microseconds late, since Linux gathers the timers of a thread within
50 µs of each other (prctl(2), PR_SET_TIMERSLACK); spinning alone would keep a core hot that an
application leaves idle.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns, sleep

CLOCK = "time.perf_counter_ns"
SPIN_NS = 200_000
"""How long before the moment the spinning begins."""
_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30


def wait_until(moment_ns: int) -> None:
    """Returns at that moment of ``CLOCK``, or at once where it is past."""
    left = moment_ns - perf_counter_ns()
    if left > SPIN_NS:
        sleep((left - SPIN_NS) / 1e9)
    while perf_counter_ns() < moment_ns:
        pass


@contextmanager
def fine_timers() -> Iterator[None]:
    """Timers of this thread expire when they are due, where the system lets them."""
    if not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    before = libc.prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0)
    libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        yield
    finally:
        if before > 0:
            libc.prctl(_PR_SET_TIMERSLACK, before, 0, 0, 0)
