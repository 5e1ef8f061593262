"""Bounds of a miss rate: scipy's Clopper-Pearson, and how often they hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from edgekd.stats.misses import bursts, frames_needed, longest_burst, lower, upper

counts = st.integers(1, 20_000).flatmap(
    lambda n: st.tuples(st.one_of(st.integers(0, min(n, 20)), st.integers(0, n)), st.just(n))
)


@given(counts, st.sampled_from([0.9, 0.95, 0.99, 0.999]))
def test_bounds_are_clopper_and_pearsons(pair: tuple[int, int], confidence: float) -> None:
    misses, n = pair
    high = 1.0 if misses == n else beta.ppf(confidence, misses + 1, n - misses)
    low = 0.0 if misses == 0 else beta.ppf(1 - confidence, misses, n - misses + 1)
    assert upper(misses, n, confidence) == pytest.approx(high, rel=1e-7)
    assert lower(misses, n, confidence) == pytest.approx(low, rel=1e-7, abs=1e-15)
    assert lower(misses, n, confidence) <= misses / n <= upper(misses, n, confidence)


def test_figures_that_are_quoted() -> None:
    assert frames_needed(0.01, 0.99) == 459
    assert frames_needed(0.001, 0.99) == 4603
    assert frames_needed(0.01, 0.99, 1) == 662  # which is MLPerf's count for p99
    assert upper(0, 459, 0.99) <= 0.01 < upper(0, 458, 0.99)
    assert upper(0, 36_000, 0.99) == pytest.approx(0.000128, abs=1e-6)


@given(st.sampled_from([0.1, 0.01, 0.003]), st.sampled_from([0.5, 0.9, 0.99]), st.integers(0, 12))
def test_one_frame_less_would_not_do(rate: float, confidence: float, allowed: int) -> None:
    n = frames_needed(rate, confidence, allowed)
    assert upper(allowed, n, confidence) <= rate + 1e-12
    assert upper(allowed, n - 1, confidence) > rate


@pytest.mark.parametrize("rate", [0.0005, 0.01, 0.3])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_bounds_hold_as_often_as_they_say(rate: float, confidence: float) -> None:
    """Not drawn but summed over all outcomes: the chance itself."""
    n = 1000
    likely = np.arange(*binom.interval(1 - 1e-9, n, rate)).astype(int)
    chances = binom.pmf(likely, n, rate)
    over = sum(
        chance
        for misses, chance in zip(likely, chances, strict=True)
        if upper(int(misses), n, confidence) >= rate
    )
    under = sum(
        chance
        for misses, chance in zip(likely, chances, strict=True)
        if lower(int(misses), n, confidence) <= rate
    )
    assert over >= confidence - 1e-6
    assert under >= confidence - 1e-6


def test_more_misses_never_lower_the_bound() -> None:
    bounds = [upper(misses, 300, 0.99) for misses in range(301)]
    assert bounds == sorted(bounds)
    assert bounds[-1] == 1.0


@given(st.lists(st.booleans(), max_size=200).map(lambda each: np.array(each, bool)))
def test_bursts_are_the_runs_of_misses(missed: np.ndarray) -> None:
    runs = "".join("x" if each else " " for each in missed).split()
    assert bursts(missed).tolist() == [len(each) for each in runs]
    assert longest_burst(missed) == max((len(each) for each in runs), default=0)
