"""Warm-up where it is planted and not where it is absent; dependence against known processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from edgekd.stats.series import autocorrelation, effective, effective_by_rank, is_dependent, warm_up

TRIALS = 200


def _process(rng: np.random.Generator, trials: int, n: int, rho: float) -> np.ndarray:
    """Rows of a steady autoregressive process of variance 1; ``rho`` 0 is white noise."""
    noise = rng.normal(size=(trials, n + 200))
    return lfilter([np.sqrt(1 - rho**2)], [1, -rho], noise, axis=1)[:, 200:]


def _latencies(rng: np.random.Generator, trials: int, n: int) -> np.ndarray:
    """Rows of independent latencies round 1 ms, of which 1 % are ten times as long."""
    found = 1e6 * rng.lognormal(0, 0.05, (trials, n))
    found[rng.random(found.shape) < 0.01] *= 10
    return found.astype(np.int64)


@pytest.mark.parametrize("n", [25, 300, 3000])
@pytest.mark.parametrize("kind", ["outliers", "pareto", "coarse", 0.5, 0.9])
def test_steady_series_have_no_warm_up(n: int, kind: str | float) -> None:
    rng = np.random.default_rng(0)
    rows = {
        "outliers": lambda: _latencies(rng, TRIALS, n),
        "pareto": lambda: (1e6 * (1 + rng.pareto(1.1, (TRIALS, n)))).astype(np.int64),
        "coarse": lambda: rng.integers(4, 8, (TRIALS, n)),  # of a clock with few ticks
    }.get(kind, lambda: (1e6 * np.exp(0.2 * _process(rng, TRIALS, n, kind))).astype(np.int64))()
    # At most 1 % is meant; 4 % lies three deviations and more above for 200 trials.
    assert np.mean([warm_up(row) > 0 for row in rows]) < 0.04


@pytest.mark.parametrize(
    ("n", "planted", "factor"),
    [
        (5000, 1, 20),
        (1000, 3, 5),
        (1000, 8, 1.5),
        (1000, 50, 1.3),
        (1000, 250, 1.1),
        (1000, 250, 0.9),  # a clock that falls once it is warm
        (5000, 2000, 1.05),
    ],
)
def test_a_planted_warm_up_is_found_where_it_ends(n: int, planted: int, factor: float) -> None:
    rows = _latencies(np.random.default_rng(1), 50, n)
    rows[:, :planted] = (rows[:, :planted] * factor).astype(np.int64)
    found = np.array([warm_up(row) for row in rows])
    assert (found > 0).mean() >= 0.9
    assert abs(np.median(found) - planted) <= max(1, 0.02 * planted)
    assert (np.abs(found - planted) <= max(2, 0.1 * planted)).mean() >= 0.9


def test_a_decay_is_cut_until_it_no_longer_matters() -> None:
    rows = _latencies(np.random.default_rng(2), 50, 2000)
    rows = (rows * (1 + np.exp(-np.arange(2000) / 100))).astype(np.int64)
    found = np.array([warm_up(row) for row in rows])
    left = np.exp(-found / 100)
    assert np.median(left) < 0.05
    assert found.max() < 1000


def test_a_first_call_and_then_a_slower_clock_are_one_warm_up() -> None:
    row = _latencies(np.random.default_rng(3), 1, 4000)[0]
    row[:500] = (row[:500] * 1.2).astype(np.int64)
    row[:2] *= 100
    assert warm_up(row) == pytest.approx(500, abs=10)


def test_what_changes_later_is_no_warm_up() -> None:
    row = _latencies(np.random.default_rng(4), 1, 2000)[0]
    row[1500:] *= 2
    assert warm_up(row) == 0


@given(st.lists(st.integers(1, 10**9), max_size=200).map(np.array))
def test_no_more_than_half_is_ever_warm_up(latencies: np.ndarray) -> None:
    assert 0 <= warm_up(latencies.astype(np.int64)) <= len(latencies) // 2


@pytest.mark.parametrize("n", [0, 1, 5, 500])
def test_what_never_varies_is_steady_and_independent(n: int) -> None:
    same = np.full(n, 7, np.int64)
    assert warm_up(same) == 0
    assert effective(same) == n
    assert autocorrelation(same) == 0
    assert not is_dependent(same)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("lag", [1, 3])
def test_autocorrelation_is_the_processs(rho: float, lag: int) -> None:
    row = _process(np.random.default_rng(5), 1, 100_000, rho)[0]
    assert autocorrelation(row, lag) == pytest.approx(rho**lag, abs=0.02)
    assert autocorrelation(row[:lag], lag) == 0


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_the_effective_size_is_the_processs(rho: float) -> None:
    rows = _process(np.random.default_rng(6), 50, 5000, rho)
    found = np.mean([effective(row) for row in rows]) / 5000
    assert found == pytest.approx((1 - rho) / (1 + rho), rel=0.1)


def test_the_effective_size_tells_how_much_means_vary() -> None:
    rows = _process(np.random.default_rng(7), 400, 2000, 0.8)
    told = np.mean([row.var() / effective(row) for row in rows])
    assert rows.mean(1).var() == pytest.approx(told, rel=0.25)


def test_alternating_values_are_worth_no_more_than_they_are() -> None:
    assert effective(np.tile([1, 2], 500)) == 1000


@pytest.mark.parametrize("n", [100, 2000])
def test_dependence_is_told_of_series_that_have_it(n: int) -> None:
    rng = np.random.default_rng(8)
    independent = np.mean([is_dependent(row) for row in _latencies(rng, TRIALS, n)])
    rows = 1e6 * np.exp(0.1 * _process(rng, TRIALS, n, 0.8))
    rows[rng.random(rows.shape) < 0.01] *= 100  # which hide it from plain autocorrelation
    assert independent < 0.06
    assert np.mean([is_dependent(row.astype(np.int64)) for row in rows]) > 0.95


def test_outliers_hide_dependence_from_values_and_not_from_ranks() -> None:
    rng = np.random.default_rng(9)
    row = 1e6 * np.exp(0.1 * _process(rng, 1, 5000, 0.8)[0])
    calm = effective_by_rank(row)
    row[rng.random(5000) < 0.01] *= 100
    assert effective(row) > 0.8 * 5000
    assert effective_by_rank(row) == pytest.approx(calm, rel=0.3)
    assert effective_by_rank(row) < 0.2 * 5000
