"""What is kept of a tensor's values: extremes and histograms, whatever the number of batches."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]

BINS = 4096
"""Of each histogram: a power of two, so that bins merge in pairs."""
MOMENTUM = 0.1
"""How far one batch's extremes move their average."""

_EXPONENT = BINS.bit_length() - 1
_BLOCK = 1 << 16  # what is worked on at a time stays in the processor's cache


class Histogram:
    """Of magnitudes above 0.

    The width of a bin is the least power of two with which the largest magnitude still has a
    bin. Scaling by it is exact, and doubling it merges bins in pairs, so that width and counts
    depend on the magnitudes alone: not on their order, nor on how they were cut into batches
    or spread over histograms that were merged.

    Attributes:
        width: 0 where there is no magnitude.
        counts: (BINS,), bin k is from ``k · width`` up to, not including, ``(k + 1) · width``.
    """

    def __init__(self) -> None:
        self.width = 0.0
        self.counts: Counts = np.zeros(BINS, np.int64)

    def reach(self, largest: float) -> None:
        """Makes room for a magnitude."""
        if largest > 0:  # 2**-900 is far below float32, and keeps the width above zero
            self.widen(math.ldexp(1.0, max(math.frexp(largest)[1], -900) - _EXPONENT))

    def widen(self, width: float) -> None:
        """Makes bins as wide as this, if they are narrower."""
        if self.width < width:
            self.counts = self.at(width)
            self.width = width

    def at(self, width: float) -> Counts:
        """The counts of bins that are wider by a power of two, or as wide."""
        if self.width in (0.0, width):
            same: Counts = self.counts.copy()
            return same
        merged = np.zeros_like(self.counts)
        inside = self.counts.reshape(-1, int(min(width / self.width, BINS))).sum(1)
        merged[: len(inside)] = inside
        return merged

    def merge(self, other: Histogram) -> None:
        """Takes in what another one counted."""
        self.widen(other.width)
        self.counts += other.at(self.width)

    def beyond(self, bound: float) -> float:
        """How many magnitudes lie above one, those in its bin taken to be spread evenly."""
        place = bound / self.width if self.width else 0.0
        whole = int(min(place, BINS - 1))
        within = self.counts[whole] * max(0.0, whole + 1 - place)
        return float(self.counts[whole + 1 :].sum() + within)


class Statistics:
    """Of one tensor's values over any number of batches, in constant memory.

    Attributes:
        count: of values.
        low: the smallest value, or 0 if that is smaller; NaN once a value was not finite.
        high: the largest value, or 0 if that is larger; NaN once a value was not finite.
        average: exponential moving average of the batches' extremes, zero within
            (Jacob et al. 2018, arXiv 1712.05877, section 3.1).
        above: of the positive values.
        below: of the magnitudes of the negative values. Exact zeros are in neither.
    """

    def __init__(self) -> None:
        self.count = 0
        self.low = 0.0
        self.high = 0.0
        self.average = (0.0, 0.0)
        self.above = Histogram()
        self.below = Histogram()

    def see(self, values: Array) -> None:
        """Takes in one batch of floats, of any shape."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not math.isfinite(high - low):  # NaN anywhere makes both NaN
            self.low = self.high = math.nan
            return
        low, high = min(low, 0.0), max(high, 0.0)
        self._average(low, high, MOMENTUM if self.count else 1.0)
        self.count += values.size
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.above.reach(high)
        self.below.reach(-low)
        if low < high:
            self._tally(values.reshape(-1), low < 0)

    def merge(self, other: Statistics) -> None:
        """Takes in what another one saw; averages are weighted by the number of values."""
        if other.count:
            self._average(*other.average, other.count / (self.count + other.count))
        self.count += other.count
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.above.merge(other.above)
        self.below.merge(other.below)

    def rectified(self) -> Statistics:
        """Of the same values after a ReLU."""
        found = copy.deepcopy(self)
        found.low = 0.0
        found.average = (0.0, self.average[1])
        found.below = Histogram()
        return found

    def magnitudes(self) -> Histogram:
        """Of the positive and the negative values together."""
        found = copy.deepcopy(self.above)
        found.merge(self.below)
        return found

    def clipped(self, low: float, high: float) -> float:
        """The share of values below ``low`` or above ``high``, which have zero between them."""
        outside = self.above.beyond(high) if high < self.high else 0.0
        outside += self.below.beyond(-low) if low > self.low else 0.0
        return outside / self.count if self.count else 0.0

    def _average(self, low: float, high: float, share: float) -> None:
        a, b = self.average
        self.average = (a + share * (low - a), b + share * (high - b))

    def _tally(self, values: Array, signed: bool) -> None:
        """Counts values, all of which have a bin.

        Truncation puts magnitudes of either sign below the first width into one place; how
        many were positive and how many negative tells them and the zeros apart.
        """
        widths = [each for each in (self.above.width, self.below.width) if each]
        # Powers of two scale exactly where float32 can hold them.
        narrow = values.dtype.itemsize <= 4 and min(widths) > 2.0**-100 and max(widths) < 2.0**100
        up, down = (
            (np.float32 if narrow else np.float64)(1 / (each or widths[0]))
            for each in (self.above.width, self.below.width)
        )
        further = np.maximum if up > down else np.minimum
        scaled = np.empty(min(_BLOCK, values.size), up.dtype)
        places = np.empty(len(scaled), np.int64)
        counts = np.zeros(2 * BINS, np.int64)
        positive = negative = 0
        for start in range(0, values.size, _BLOCK):
            block = values[start : start + _BLOCK]
            inside = slice(0, block.size)
            with np.errstate(over="ignore"):  # what overflows by the other's width is not taken
                np.multiply(block, up, out=scaled[inside])
                if signed and up != down:  # each sign by its own width
                    further(scaled[inside], block * down, out=scaled[inside])
            np.copyto(places[inside], scaled[inside], casting="unsafe")
            places[inside] += BINS
            counts += np.bincount(places[inside], minlength=2 * BINS)
            positive += int(np.count_nonzero(block > 0))
            negative += int(np.count_nonzero(block < 0)) if signed else 0
        for histogram, found, seen in (
            (self.above, counts[BINS + 1 :], positive),
            (self.below, counts[BINS - 1 : 0 : -1], negative),
        ):
            histogram.counts[1:] += found
            histogram.counts[0] += seen - int(found.sum())
