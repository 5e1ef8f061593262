"""Percentiles of latencies, what can be said of them, and from how many samples on."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgekd.stats import binomial

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
CONFIDENCE = 0.99


def percentile(ordered: npt.NDArray[np.int64], share: float) -> int:
    """The nearest-rank percentile of sorted samples: the least that ``share`` do not exceed."""
    return int(ordered[max(0, math.ceil(share * len(ordered)) - 1)])


def summary(latencies_ns: npt.NDArray[np.int64]) -> dict[str, int]:
    """p50, p90, p99, p99.9 and the maximum, in nanoseconds."""
    ordered = np.sort(latencies_ns)
    figures = {name: percentile(ordered, share) for name, share in PERCENTILES.items()}
    return {**figures, "max": int(ordered[-1])}


def fewest(share: float, confidence: float = CONFIDENCE) -> int:
    """The fewest samples from which a percentile can be told.

    With them at least two samples lie above the true percentile with this confidence, which
    is MLPerf LoadGen's early-stopping rule with one overlatency query allowed: 64 for p90,
    662 for p99, 6,636 for p99.9 at 99 %.
    """
    n = 2
    while share**n + n * (1 - share) * share ** (n - 1) > 1 - confidence:
        n += 1
    return n


def early_stopping(
    latencies_ns: npt.NDArray[np.int64], share: float, confidence: float = CONFIDENCE
) -> int | None:
    """MLPerf LoadGen's early-stopping estimate of a percentile, which is no more than this.

    LoadGen finds the largest t for which t or fewer samples beyond the percentile would be a
    rarity (loadgen/early_stopping.cc, with a tolerance of zero), and reports the t-th largest
    sample (``EarlyStopping`` in loadgen/results.cc). The (t + 1)-th would hold already; the
    same rank is taken, so that both tools tell the same number.

    Returns:
        That sample; None where there are fewer than ``fewest``.
    """
    n = len(latencies_ns)
    if n == 0:
        return None
    first, chances = binomial.cdf(n, 1 - share)
    rare = int(np.searchsorted(chances, 1 - confidence, side="right"))
    beyond = first + rare - 1
    if beyond < 1:
        return None
    return int(np.partition(latencies_ns, n - beyond)[n - beyond])


def interval(
    latencies_ns: npt.NDArray[np.int64], share: float, confidence: float = 0.95
) -> tuple[int, int] | None:
    """Order statistics that hold the true percentile between them with this confidence.

    Exact for independent samples of any distribution: the number of samples at or below the
    percentile is binomial. None where the samples are too few for an upper bound.
    """
    n = len(latencies_ns)
    if n == 0:
        return None
    tail = (1 - confidence) / 2
    first, chances = binomial.cdf(n, share)
    low = first + int(np.searchsorted(chances, tail, side="right"))  # P(count < low) <= tail
    high = first + int(np.searchsorted(chances, 1 - tail)) + 1  # P(count >= high) <= tail
    if low < 1 or high > n:
        return None
    ordered = np.sort(latencies_ns)
    return int(ordered[low - 1]), int(ordered[high - 1])
