"""Two engines against each other: accuracy by sample, latency by block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from edgekd.stats import binomial

_Z95 = 1.959963984540054
_FEWEST_BLOCKS = 5
Right = npt.NDArray[np.bool_]


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927), as fractions."""
    share, z2 = successes / n, _Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired(a: Right, b: Right) -> tuple[float, float, float]:
    """The share of ``a`` minus that of ``b`` on the same samples, in points, with a 95 % interval.

    Agresti and Min's interval (Statistics in Medicine 24, 2005): half an observation is
    added to each of the four cells, so that no difference at all still has a width.
    """
    n = len(a)
    gained, lost = _discordant(a, b)
    more, fewer, total = gained + 0.5, lost + 0.5, n + 2
    middle = (more - fewer) / total
    half = _Z95 * math.sqrt(more + fewer - (more - fewer) ** 2 / total) / total
    return 100 * (gained - lost) / n, 100 * (middle - half), 100 * (middle + half)


def mcnemar(a: Right, b: Right) -> float:
    """The two-sided p of McNemar's exact test: are ``a`` and ``b`` right equally often?

    Of the samples on which only one is right, either has half, were they equally good. The exact
    test errs no more often than its level; the mid-p one may.
    """
    gained, lost = _discordant(a, b)
    if gained == lost:
        return 1.0
    return min(1.0, 2 * binomial.at_most(min(gained, lost), gained + lost, 0.5))


def bootstrap_difference(
    a: Right, b: Right, seed: int = 0, *, confidence: float = 0.95, resamples: int = 10_000
) -> tuple[float, float, float]:
    """What ``paired`` tells, by resampling samples as pairs: the percentile bootstrap.

    Only how often each of the three outcomes is drawn matters (one gained, one lost, the same),
    and that is multinomial. Where ``a`` and ``b`` never differ it has no width; ``paired`` has.
    """
    n = len(a)
    gained, lost = _discordant(a, b)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, [gained / n, lost / n, (n - gained - lost) / n], resamples)
    tail = (1 - confidence) / 2
    low, high = np.quantile(100 * (drawn[:, 0] - drawn[:, 1]) / n, [tail, 1 - tail])
    return 100 * (gained - lost) / n, float(low), float(high)


def block_bootstrap_ratio(
    blocks_a: Sequence[npt.NDArray[np.int64]],
    blocks_b: Sequence[npt.NDArray[np.int64]],
    *,
    share: float = 0.5,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> tuple[float, float, float] | None:
    """A latency percentile of ``a`` divided by that of ``b``, with an interval.

    Both were timed in turns. Within a block samples are alike, and what changes the machine's
    speed from block to block meets both: blocks are resampled, not samples, and as pairs. The
    percentiles of the bootstrap's distribution are widened as Student's t would be for so few
    blocks (Hesterberg, The American Statistician 69, 2015, section 5.3).

    Args:
        blocks_a: latencies of each turn of ``a``.
        blocks_b: those of ``b``, as many turns; none is empty.
        share: of the percentile.
        confidence: of the interval.
        seed: of the resampling.
        resamples: how many.

    Returns:
        The ratio, and its interval's ends; None where there are fewer than five blocks.
    """
    count = len(blocks_a)
    if count != len(blocks_b):
        raise ValueError(f"{count} blocks cannot be paired with {len(blocks_b)}")
    if count < _FEWEST_BLOCKS:
        return None
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), resamples)
    weights = np.concatenate([np.ones((1, count), np.int64), drawn])
    ratios = _weighted_percentile(blocks_a, weights, share) / _weighted_percentile(
        blocks_b, weights, share
    )
    tail = _widened_tail((1 - confidence) / 2, count)
    low, high = np.quantile(ratios[1:], [tail, 1 - tail])
    return float(ratios[0]), float(low), float(high)


def _discordant(a: Right, b: Right) -> tuple[int, int]:
    """On how many samples only ``a`` is right, and on how many only ``b``."""
    return int((a & ~b).sum()), int((b & ~a).sum())


def _weighted_percentile(
    blocks: Sequence[npt.NDArray[np.int64]], weights: npt.NDArray[np.int64], share: float
) -> npt.NDArray[np.int64]:
    """The nearest-rank percentile of blocks, each taken as often as a row of ``weights`` says.

    All rows are bisected at once over the pooled values: nothing is resampled, nothing sorted
    twice.
    """
    ordered = [np.sort(each) for each in blocks]
    values = np.unique(np.concatenate(ordered))
    sizes = np.array([len(each) for each in ordered])
    needed = np.maximum(1, np.ceil(share * (weights @ sizes)))
    low, high = np.zeros(len(weights), np.int64), np.full(len(weights), len(values) - 1)
    while (low < high).any():
        middle = (low + high) // 2
        below = np.stack(
            [np.searchsorted(each, values[middle], side="right") for each in ordered], axis=1
        )
        enough = (weights * below).sum(1) >= needed
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    found: npt.NDArray[np.int64] = values[low]
    return found


def _widened_tail(tail: float, n: int) -> float:
    """The tail at which a bootstrap of ``n`` is to be read, to be as wide as Student's t.

    Student's quantile is that of Abramowitz and Stegun, 26.7.5.
    """
    z, v = -NormalDist().inv_cdf(tail), n - 1
    t = (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
    return NormalDist().cdf(-t * math.sqrt(n / v))
