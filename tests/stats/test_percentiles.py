"""Statistics against independent formulas and against distributions whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy import stats as scipy_stats

from edgekd.stats.percentiles import (
    PERCENTILES,
    early_stopping,
    fewest,
    interval,
    percentile,
    summary,
)

samples = st.lists(st.integers(1, 10**9), min_size=1, max_size=300).map(np.array)


@given(samples, st.floats(0.001, 0.999))
def test_a_percentile_is_the_least_sample_that_the_share_does_not_exceed(
    latencies: np.ndarray, share: float
) -> None:
    found = percentile(np.sort(latencies), share)
    assert found == np.quantile(latencies, share, method="inverted_cdf")
    assert found in latencies
    assert (latencies <= found).mean() >= share - 1e-12


@given(samples)
def test_a_summary_is_ordered_and_keeps_the_worst(latencies: np.ndarray) -> None:
    found = summary(latencies)
    assert list(found) == ["p50", "p90", "p99", "p99_9", "max"]
    assert list(found.values()) == sorted(found.values())
    assert found["max"] == latencies.max()


@pytest.mark.parametrize(("share", "n"), [(0.9, 64), (0.95, 130), (0.99, 662), (0.999, 6636)])
def test_the_fewest_samples_are_mlperfs(share: float, n: int) -> None:
    assert fewest(share) == n
    # As a statement on the binomial distribution: at most 1 % that fewer than two lie above.
    assert (
        scipy_stats.binom.cdf(1, n, 1 - share) <= 0.01 < scipy_stats.binom.cdf(1, n - 1, 1 - share)
    )


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("distribution", [scipy_stats.lognorm(1), scipy_stats.pareto(2)])
def test_intervals_hold_the_truth_as_often_as_they_say(share: float, distribution) -> None:  # type: ignore[no-untyped-def]
    truth = distribution.ppf(share) * 1e6
    rng = np.random.default_rng(1)
    trials = 400
    held = 0
    for _ in range(trials):
        found = interval((distribution.rvs(1000, random_state=rng) * 1e6).astype(np.int64), share)
        assert found is not None
        held += found[0] <= truth <= found[1]
    # 95 % are promised; 92 % lies three deviations below for 400 trials.
    assert held / trials >= 0.92


def test_too_few_samples_have_no_interval() -> None:
    assert interval(np.arange(100), 0.999) is None
    assert interval(np.arange(100), 0.5) is not None
    assert interval(np.array([], np.int64), 0.5) is None


@given(st.integers(20, 400), st.sampled_from([0.5, 0.9]))
def test_the_ranks_are_the_binomials_own(n: int, share: float) -> None:
    found = interval(np.arange(1, n + 1), share)
    below = scipy_stats.binom(n, share)
    if found is None:
        assert share**n > 0.025 or (1 - share) ** n > 0.025
        return
    low, high = found
    assert below.cdf(low - 1) <= 0.025 + 1e-9  # the truth lies under the lower bound
    assert below.sf(high - 1) <= 0.025 + 1e-9  # or over the upper


def test_a_million_samples_have_the_binomials_ranks() -> None:
    n, share = 1_000_000, 0.999
    below = scipy_stats.binom(n, share)
    found = interval(np.arange(1, n + 1), share)
    assert found is not None
    low, high = found
    assert below.cdf(low - 1) <= 0.025 < below.cdf(low)
    assert below.sf(high - 1) <= 0.025 < below.sf(high - 2)


def _ranks_of_loadgen(n: int, share: float) -> int | None:
    """Its own way: t from 1 on, for as long as h + t queries are no more than there are."""

    def fewest_within(t: int) -> int:
        h = 1
        while special.betainc(h, t + 1, share) > 0.01:
            h += 1
        return h

    t = 0
    while fewest_within(t + 1) + t + 1 <= n:
        t += 1
    return n - t + 1 if t else None


@pytest.mark.parametrize(
    ("n", "share"),
    [
        (63, 0.9),
        (64, 0.9),
        (65, 0.9),
        (300, 0.9),
        (661, 0.99),
        (662, 0.99),
        (2500, 0.99),
        (90, 0.5),
    ],
)
def test_early_stopping_takes_the_sample_that_loadgen_takes(n: int, share: float) -> None:
    samples = np.random.default_rng(0).permutation(np.arange(1, n + 1))
    assert early_stopping(samples, share) == _ranks_of_loadgen(n, share)


@pytest.mark.parametrize("share", [0.9, 0.99, 0.999])
def test_early_stopping_begins_where_a_percentile_can_be_told(share: float) -> None:
    n = fewest(share)
    assert early_stopping(np.arange(1, n), share) is None
    assert early_stopping(np.arange(1, n + 1), share) == n
    assert early_stopping(np.array([], np.int64), share) is None


@pytest.mark.parametrize(("n", "share"), [(64, 0.9), (500, 0.9), (662, 0.99), (3000, 0.99)])
def test_early_stopping_is_above_the_percentile_as_often_as_it_says(n: int, share: float) -> None:
    trials = 3000
    samples = np.random.default_rng(1).random((trials, n))
    samples.sort(axis=1)
    rank = early_stopping(np.arange(1, n + 1), share)
    assert rank is not None
    assert (samples[:, rank - 1] >= share).mean() >= 0.99 - 3 * np.sqrt(0.99 * 0.01 / trials)
    two_lower = samples[:, rank - 3]
    assert (two_lower >= share).mean() < 0.99 or n < 100  # and is no larger than it needs to be


@given(st.integers(1, 3000), st.sampled_from([*PERCENTILES.values()]))
def test_the_estimate_lies_above_the_plain_percentile(n: int, share: float) -> None:
    samples = np.arange(1, n + 1)
    found = early_stopping(samples, share)
    assert found is None or found >= percentile(samples, share)
