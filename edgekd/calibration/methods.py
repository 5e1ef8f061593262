"""From a tensor's statistics to its range: pure functions, one a method.

Zero lies within every range, a range never exceeds the values seen, and an even grid of int8
over the larger magnitude is what entropy and mse judge by: 127 steps to either side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.calibration.statistics import Counts, Histogram, Statistics
from edgekd.errors import CalibrationError, near_matches

Floats = npt.NDArray[np.float64]
Method = Callable[[Statistics, float], tuple[float, float]]

LEVELS = 128
"""Magnitudes that symmetric int8 tells apart, zero among them."""
STEPS = LEVELS - 1
"""From zero to the largest of them."""
THRESHOLDS = 128
"""How many thresholds entropy and mse try."""
SMOOTHING = 1e-4
"""The share that entropy gives to a bin which a quantised tensor leaves empty."""
MOST_CLIPPED = 0.01
"""The share of the magnitudes that entropy may clip."""

_EQUAL = 1e-12


def minmax(statistics: Statistics, percentile: float) -> tuple[float, float]:
    """The smallest and the largest value."""
    return statistics.low, statistics.high


def moving_average(statistics: Statistics, percentile: float) -> tuple[float, float]:
    """Of the smallest and the largest value of each batch."""
    return statistics.average


def percentile(statistics: Statistics, percentile: float) -> tuple[float, float]:
    """What leaves out a share of the values at either end.

    Args:
        percentile: of the values that lie at or below the upper bound, and at or above the
            lower one, such as 99.99; 100 gives the smallest and the largest.
    """
    out = statistics.count - math.ceil(statistics.count * percentile / 100)
    return _clip(statistics, _bound(statistics.below, out), _bound(statistics.above, out))


def entropy(statistics: Statistics, percentile: float) -> tuple[float, float]:
    """The threshold after which quantised magnitudes tell most of what they were.

    For each threshold: P is the histogram up to it, what lies beyond added to its last bin; Q
    is the histogram up to it, averaged over the bins of each of the ``LEVELS`` that are not
    empty. The least Kullback-Leibler divergence of P from Q wins, the widest of equals
    (Migacz 2017, GTC S7310). Where what was clipped falls into a bin that Q leaves empty, Q
    gives it ``SMOOTHING``. Exact zeros, which every threshold keeps, are left out: after a ReLU
    they would outweigh the rest. What has no values near zero, such as the output of a softmax,
    diverges least where all is clipped to one bin: thresholds beyond ``MOST_CLIPPED`` are not
    tried.
    """
    histogram = statistics.magnitudes()
    counts = histogram.counts
    used = _used(counts)
    if used <= LEVELS:
        return statistics.low, statistics.high
    bins = np.unique(np.linspace(LEVELS, used, THRESHOLDS).astype(np.int64))
    bins = bins[_running(counts)[bins] >= (1 - MOST_CLIPPED) * counts.sum()]
    bound = float(bins[_least(_divergences(counts[:used], bins))]) * histogram.width
    return _clip(statistics, bound, bound)


def mse(statistics: Statistics, percentile: float) -> tuple[float, float]:
    """The threshold with the least squared error of int8's grid; bins are taken to be even."""
    histogram = statistics.magnitudes()
    if not histogram.width:
        return 0.0, 0.0
    largest = max(-statistics.low, statistics.high) / histogram.width
    thresholds = largest * np.geomspace(1 / 256, 1, THRESHOLDS)
    counts = histogram.counts[: _used(histogram.counts)]
    bound = float(thresholds[_least(_squared_errors(counts, thresholds))]) * histogram.width
    return _clip(statistics, bound, bound)


METHODS: Mapping[str, Method] = {
    "minmax": minmax,
    "moving_average": moving_average,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}

CANDIDATES: tuple[tuple[str, float], ...] = (
    ("minmax", 100.0),
    ("percentile", 99.9),
    ("percentile", 99.99),
    ("percentile", 99.999),
    ("entropy", 100.0),
    ("mse", 100.0),
)
"""What ``auto`` tries: methods, each with its percentile."""


def range_of(statistics: Statistics, method: str, percentile: float) -> tuple[float, float]:
    """A tensor's range (low, high) by a method's name.

    Raises:
        CalibrationError: there is no such method.
    """
    if method not in METHODS:
        raise CalibrationError(
            f"no calibration method is called '{method}'", near_matches(method, METHODS)
        )
    return METHODS[method](statistics, percentile)


def label(method: str, percentile: float) -> str:
    """A method's name in tables, such as ``percentile 99.99``."""
    return f"{method} {percentile:g}" if method == "percentile" else method


def _clip(statistics: Statistics, below: float, above: float) -> tuple[float, float]:
    return max(statistics.low, -below), min(statistics.high, above)


def _bound(histogram: Histogram, out: int) -> float:
    """The upper edge of the first bin beyond which no more than so many values lie."""
    beyond = np.cumsum(histogram.counts[::-1])[::-1]  # in this bin or further out
    return float(np.count_nonzero(beyond > out)) * histogram.width


def _used(counts: Counts) -> int:
    """How many bins there are up to the last that is not empty."""
    return int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0


def _least(values: Floats) -> int:
    """The place of the least value, and of the last among equals."""
    return int(np.flatnonzero(values <= values.min() + _EQUAL * abs(values.min()) + _EQUAL)[-1])


def _divergences(counts: Counts, bins: npt.NDArray[np.int64]) -> Floats:
    """P from Q for each number of bins, see ``entropy``; infinite where Q is empty.

    Of a bin with n of the N values, of which ``inside`` lie within the threshold, in a level
    with the mean m: p = n / N and q = m / inside. Summed over the bins of a level, log q has the
    level's sum for its weight, so that running sums at the levels' edges are all that is needed.
    """
    n = counts.astype(np.float64)
    total, last = n.sum(), n[bins - 1]
    edges = -(-bins[:, None] * np.arange(LEVELS + 1) // LEVELS)  # level · bins / LEVELS, rounded up
    values, filled = (np.diff(_running(each)[edges]) for each in (n, n > 0))
    inside = values.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = values / filled
        own = _running(_times_log(n, n))[bins] - _times_log(values, means).sum(1)
        out = total - inside
        smoothed = (out > 0) & (last == 0)
        shift = np.log(inside / total) - np.log1p(-SMOOTHING * smoothed)
        found = (own + inside * shift) / total
        # What was clipped adds to the last bin of P alone.
        p = (last + out) / total
        q = np.where(smoothed, SMOOTHING, means[:, -1] / inside)
        before = np.where(last > 0, last / total * np.log(last / total / q), 0.0)
        found += np.where(out > 0, p * np.log(p / q) - before, 0.0)
    return np.where(inside > 0, found, np.inf)


def _squared_errors(counts: Counts, thresholds: Floats) -> Floats:
    """The summed squared error of ``STEPS`` steps up to each threshold, which is in bins.

    Between two edges of the grid everything goes to one level, so that the moments of the
    values up to each edge are all that is needed.
    """
    n = counts.astype(np.float64)
    at = np.arange(len(n) + 1, dtype=np.float64)
    steps = thresholds[:, None] / STEPS
    levels = steps * np.arange(STEPS + 1)
    edges = np.minimum((levels + steps / 2)[:, :-1], len(n))  # the last level has no end
    places = np.minimum(edges.astype(np.int64), len(n) - 1)
    errors = np.zeros(len(thresholds))
    for power, factor in ((0, levels**2), (1, -2 * levels), (2, np.ones_like(levels))):
        whole = _running(n * np.diff(at ** (power + 1)) / (power + 1))
        partial = (edges ** (power + 1) - at[places] ** (power + 1)) / (power + 1)
        upto = whole[places] + n[places] * partial
        moments = np.diff(upto, axis=1, prepend=0.0, append=whole[-1])
        errors += (factor * moments).sum(1)
    return errors


def _running(values: npt.NDArray[Any]) -> Floats:
    """Sums of the first 0, 1, 2 … values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _times_log(factor: Floats, values: Floats) -> Floats:
    """``factor · log(values)``, 0 where the factor is."""
    return factor * np.log(np.where(factor > 0, values, 1.0))
