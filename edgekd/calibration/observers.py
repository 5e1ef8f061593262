"""Ranges of a tensor over any number of batches, in memory that does not grow with them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgekd.errors import CalibrationError

Array = npt.NDArray[Any]


class Observer(Protocol):
    """Sees batches, then tells the range (low, high); zero always lies within."""

    def see(self, values: Array) -> None:
        """Takes in one batch of a tensor's values, of any shape."""

    def range(self) -> tuple[float, float]:
        """The range so far."""


class MinMax:
    """The smallest and largest value."""

    def __init__(self) -> None:
        self.low = 0.0
        self.high = 0.0

    def see(self, values: Array) -> None:
        """See ``Observer.see``."""
        if values.size:
            self.low = min(self.low, float(values.min()))
            self.high = max(self.high, float(values.max()))

    def range(self) -> tuple[float, float]:
        """See ``Observer.range``."""
        return self.low, self.high


class Percentile:
    """The range that leaves out a share of the values at either end.

    Two histograms of magnitudes, for values above and below zero, share one width. When a
    value falls outside, the width doubles and neighbouring bins merge, so nothing that was
    counted is lost and the memory is ``2 · bins`` counts whatever comes. A bound is exact to
    one bin, at most ``2 / bins`` of the largest magnitude.

    Args:
        percentile: of the values that lie at or below the upper bound, and at or above the
            lower one, such as 99.99; 100 is the outermost occupied bin, held to min and max.
        bins: a power of two.
    """

    def __init__(self, percentile: float, bins: int = 4096) -> None:
        self._out = 1 - percentile / 100
        self._bins = bins
        self._width = 0.0
        self._above = np.zeros(bins, np.int64)
        self._below = np.zeros(bins, np.int64)
        self._seen = 0
        self._extreme = MinMax()

    def see(self, values: Array) -> None:
        """See ``Observer.see``."""
        values = values.ravel().astype(np.float64)
        self._extreme.see(values)
        self._seen += values.size
        largest = max(-self._extreme.low, self._extreme.high)
        if largest == 0:
            return
        if self._width == 0:
            self._width = largest / self._bins
        while largest > self._width * self._bins:
            self._double()
        for histogram, part in (
            (self._above, values[values > 0]),
            (self._below, -values[values < 0]),
        ):
            places = np.minimum((part / self._width).astype(np.int64), self._bins - 1)
            histogram += np.bincount(places, minlength=self._bins)

    def range(self) -> tuple[float, float]:
        """See ``Observer.range``."""
        low, high = self._extreme.range()
        return max(low, -self._bound(self._below)), min(high, self._bound(self._above))

    def _bound(self, histogram: npt.NDArray[np.int64]) -> float:
        """The upper edge of the first bin beyond which no more than the share lies."""
        beyond = np.cumsum(histogram[::-1])[::-1]  # in this bin or further out
        kept = np.flatnonzero(beyond > self._out * self._seen)
        return float((kept[-1] + 1) * self._width) if len(kept) else 0.0

    def _double(self) -> None:
        for histogram in (self._above, self._below):
            merged = histogram.reshape(-1, 2).sum(1)
            histogram[:] = 0
            histogram[: len(merged)] = merged
        self._width *= 2


def make(method: str, percentile: float) -> Observer:
    """The observer of a method's name.

    Raises:
        CalibrationError: there is no such method.
    """
    if method == "minmax":
        return MinMax()
    if method == "percentile":
        return Percentile(percentile)
    raise CalibrationError(f"no calibration method is called '{method}'")
