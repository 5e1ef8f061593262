"""How long an engine took, in a fixed number of counters.

Nanoseconds are counted in buckets: one for each below 64, and from there on 32 for each power of
two, so that what is told of a latency is at most 1/64 of it beside the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from threading import Lock

import numpy as np

BUCKETS = 64 + (62 - 6 + 1) * 32
"""As many as 63 bits need."""


@dataclass(frozen=True)
class Stats:
    """What became of an engine's calls and of the frames that were submitted to it.

    Attributes:
        count: those that were answered.
        p50_ns: half of the answers came within this time; 0 while there is none.
        p99_ns: likewise 99 of 100.
        misses: answers that came later than the deadline, and frames that got none, for they were
            dropped or the engine raised.
        deadline_ns: 0 where there is none, and no answer is late.
    """

    count: int
    p50_ns: int
    p99_ns: int
    misses: int
    deadline_ns: int


class Tally:
    """Counts latencies; any thread may.

    Args:
        deadline_ns: what takes longer is a miss; 0 for none.
    """

    def __init__(self, deadline_ns: int) -> None:
        self._deadline_ns = deadline_ns
        self._late_ns = deadline_ns or 1 << 63
        self._lock = Lock()
        self.reset()

    def add(self, ns: int) -> None:
        """Counts an answer."""
        power = ns.bit_length() - 1
        # As ``bucket``, whose call would take as long as all of this.
        index = (power << 5) + (ns >> (power - 5)) - 160 if power > 5 else ns
        with self._lock:
            self._counts[index] += 1
            if ns > self._late_ns:
                self._misses += 1

    def drop(self) -> None:
        """Counts a frame that gets no answer."""
        with self._lock:
            self._misses += 1

    def stats(self) -> Stats:
        """What was counted since the last ``reset``."""
        with self._lock:
            counts, misses = self._counts.copy(), self._misses
        p50, p99 = (quantile(counts, share) for share in (0.5, 0.99))
        return Stats(sum(counts), p50, p99, misses, self._deadline_ns)

    def reset(self) -> None:
        """Forgets what was counted."""
        with self._lock:
            self._counts = [0] * BUCKETS
            self._misses = 0


def bucket(ns: int) -> int:
    """Which bucket a time belongs to, from 0 to 2**63 - 1 nanoseconds.

    >>> [bucket(each) for each in (0, 63, 64, 65, 66, 127, 128, 1_000_000)]
    [0, 63, 64, 64, 65, 95, 96, 509]
    """
    if ns < 64:
        return ns
    power = ns.bit_length() - 1
    return 64 + (power - 6) * 32 + ((ns >> (power - 5)) - 32)


def middle(index: int) -> int:
    """The time that a bucket is told as."""
    if index < 64:
        return index
    power, step = divmod(index - 64, 32)
    width = 2 << power
    return (32 + step) * width + width // 2


def quantile(counts: Sequence[int], share: float) -> int:
    """The time within which this share of what was counted lies; 0 where nothing was."""
    ranks = np.cumsum(counts)
    total = int(ranks[-1])
    if not total:
        return 0
    return middle(int(np.searchsorted(ranks, max(1, ceil(share * total)))))
