"""The binomial distribution: how many of independent samples lie beyond something."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def cdf(n: int, share: float) -> tuple[int, npt.NDArray[np.float64]]:
    """The chances that at most ``first``, ``first + 1``, … of ``n`` happen, each with ``share``.

    Only counts near the mean are told: by Bernstein's inequality all others together have less
    than 1e-30, so that a million samples cost no more than some thousand numbers.

    Returns:
        ``first``, and the chances from there on. Before them it is 0, behind them 1.
    """
    mode = min(n, int((n + 1) * share))
    reach = math.ceil(12 * math.sqrt(n * share * (1 - share))) + 60
    first, last = max(0, mode - reach), min(n, mode + reach)
    counts = np.arange(first, last)
    odds = math.log(share) - math.log1p(-share)
    steps = np.log((n - counts) / (counts + 1)) + odds  # log pmf(k + 1) - log pmf(k)
    log_pmf = np.concatenate([[0.0], np.cumsum(steps)])
    pmf = np.exp(log_pmf - log_pmf.max())
    return first, np.cumsum(pmf) / pmf.sum()


def at_most(count: int, n: int, share: float) -> float:
    """The chance that at most ``count`` of ``n`` happen."""
    first, chances = cdf(n, share)
    if count < first:
        return 0.0
    return float(chances[min(count - first, len(chances) - 1)])
