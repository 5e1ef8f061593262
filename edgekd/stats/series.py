"""Latencies in the order in which they were measured: warm-up and dependence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Series = npt.NDArray[Any]

_FEWEST = 20
"""Samples; fewer show no warm-up."""
_SIGMA = 4.5
"""What a change of level must reach: the largest of all splits of a steady series stays below it
in more than 99 of 100."""
_FIRST = 16
"""Samples that may be told by being slow all together; of more the level is told."""
_CHANCE = 0.002
"""That they are so by accident, of all these numbers together: half of it goes to the first
alone, a quarter to the first two, and so on."""
_EFFECT = 0.02
"""A change of the median by less does not matter, however sure it is."""
_DEPENDENT = 0.5


def warm_up(latencies_ns: Series) -> int:
    """How many leading samples are not of the steady state; 0 where all are.

    Two tests on ranks, which no outlier sways, are repeated on what they leave: the first few
    samples all among the slowest, and the split at which Wilcoxon's rank sum stands out most
    (Pettitt's test for a change point, standardised, so that it sees early ones). Dependence of
    the steady state's samples is allowed for. A change in the second half is no warm-up.
    """
    n = len(latencies_ns)
    cut = 0
    while cut < n // 2 and n - cut >= _FEWEST:
        found = _change(latencies_ns[cut:], n // 2 - cut)
        if not found:
            break
        cut += found
    return cut


def autocorrelation(values: Series, lag: int = 1) -> float:
    """The correlation of values with those ``lag`` later; 0 where there is nothing to vary."""
    n = len(values)
    if lag >= n:
        return 0.0
    centred = values - np.mean(values, dtype=np.float64)
    spread = float(centred @ centred)
    return float(centred[:-lag] @ centred[lag:]) / spread if spread else 0.0


def effective(values: Series) -> float:
    """How many independent values would tell the mean as well: at most as many as there are.

    Geyer's initial monotone sequence (Statistical Science 7, 1992): autocorrelations are summed
    by pairs, none larger than the one before, for as long as these are positive.
    """
    n = len(values)
    if n < 4 or np.ptp(values) == 0:
        return float(n)
    centred = values - np.mean(values, dtype=np.float64)
    size = 1 << (2 * n - 1).bit_length()  # no lag wraps around
    power = np.abs(np.fft.rfft(centred, size)) ** 2
    correlations = np.fft.irfft(power, size)[: n // 2 * 2]
    pairs = correlations.reshape(-1, 2).sum(1) / correlations[0]
    ends = np.flatnonzero(pairs <= 0)
    positive = np.minimum.accumulate(pairs[: ends[0] if len(ends) else None])
    return float(n / max(1.0, 2 * positive.sum() - 1))


def effective_by_rank(values: Series) -> float:
    """How many independent values would tell percentiles as well: those go by ranks.

    A few outliers, which tell nothing of their neighbours, hide dependence from ``effective``.
    """
    return effective(_ranks(values))


def is_dependent(values: Series) -> bool:
    """Whether samples resemble those before them so much that intervals promise too much.

    It is so where they are worth less than half as many, ``effective_by_rank``. Intervals are
    then too narrow by 1.4 and more, and a 95 % interval holds the truth in at most 83 %.
    """
    return effective_by_rank(values) < _DEPENDENT * len(values)


def _change(values: Series, most: int) -> int:
    """The first ``most`` samples at most that are of another level than what follows, or 0."""
    n = len(values)
    ranks = _ranks(values)
    worth = effective(ranks[n // 2 :]) / (n - n // 2)
    counts = np.arange(1, min(_FIRST, most) + 1)
    fastest = np.minimum.accumulate(values[: len(counts)])
    slow = n - np.searchsorted(np.sort(values), fastest)  # as slow as all of the first
    surprise = counts * worth * np.log(slow / n) - np.log(_CHANCE * 0.5**counts)
    if surprise.min() < 0:
        return int(surprise.argmin()) + 1
    spread = float(np.var(ranks))
    if not spread:
        return 0
    splits = np.arange(1, n)
    sums = np.cumsum(ranks - ranks.mean())[:-1]
    scores = np.abs(sums) / np.sqrt(spread * splits * (n - splits) / (n - 1))
    scores[: _FIRST // 2] = 0  # a rank sum of so few is not normal
    split = int(scores.argmax()) + 1
    if split > most or scores[split - 1] * math.sqrt(worth) < _SIGMA:
        return 0
    before, after = np.median(values[:split]), np.median(values[split:])
    return split if abs(before - after) >= _EFFECT * after else 0


def _ranks(values: Series) -> npt.NDArray[np.float64]:
    """The rank of each value from 1 on; equal values share the middle of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return middle
