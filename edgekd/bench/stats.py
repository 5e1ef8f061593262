"""Percentiles of latencies, what can be said of them, and from how many samples on."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

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


def interval(
    latencies_ns: npt.NDArray[np.int64], share: float, confidence: float = 0.95
) -> tuple[int, int] | None:
    """Order statistics that hold the true percentile between them with this confidence.

    Exact for independent samples of any distribution: the number of samples at or below the
    percentile is binomial. None where the samples are too few for an upper bound.
    """
    n = len(latencies_ns)
    tail = (1 - confidence) / 2
    pmf = np.exp(
        [
            math.lgamma(n + 1)
            - math.lgamma(k + 1)
            - math.lgamma(n - k + 1)
            + k * math.log(share)
            + (n - k) * math.log1p(-share)
            for k in range(n + 1)
        ]
    )
    cdf = np.cumsum(pmf)
    low = int(np.searchsorted(cdf, tail, side="right"))  # P(count < low) <= tail
    high = int(np.searchsorted(cdf, 1 - tail)) + 1  # P(count >= high) <= tail
    if low < 1 or high > n:
        return None
    ordered = np.sort(latencies_ns)
    return int(ordered[low - 1]), int(ordered[high - 1])
