"""Methods against slow formulas of their own, and on tensors of every kind."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekd.calibration import methods
from edgekd.calibration.methods import (
    CANDIDATES,
    METHODS,
    MOST_CLIPPED,
    SMOOTHING,
    THRESHOLDS,
    label,
    range_of,
)
from edgekd.calibration.statistics import Statistics
from edgekd.errors import CalibrationError

floats = arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32))


def of(*batches: np.ndarray) -> Statistics:
    found = Statistics()
    for each in batches:
        found.see(np.asarray(each))
    return found


def drawn(seed: int) -> np.ndarray:
    """A tensor of one of several shapes, some of few values."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 3000))
    kind = seed % 5
    if kind == 0:
        return rng.normal(size=size)
    if kind == 1:
        return np.maximum(rng.normal(size=size), 0)
    if kind == 2:
        return rng.standard_cauchy(size)
    if kind == 3:
        return -rng.exponential(size=size)
    return np.concatenate([rng.normal(size=size), [40.0]])


@given(floats)
def test_minmax_is_the_smallest_and_largest_with_zero_within(values: np.ndarray) -> None:
    low, high = range_of(of(values), "minmax", 100)
    assert (low, high) == (min(0.0, float(values.min())), max(0.0, float(values.max())))


def test_a_moving_average_follows_the_batches() -> None:
    batches = [np.array([-1.0, 2.0]), np.array([-3.0, 12.0])]
    assert range_of(of(*batches), "moving_average", 100) == pytest.approx((-1.2, 3.0))


@given(floats, st.sampled_from([60.0, 90.0, 99.0, 99.99, 100.0]))
def test_a_percentile_is_numpys_to_two_bins(values: np.ndarray, percentile: float) -> None:
    found = of(values)
    low, high = range_of(found, "percentile", percentile)
    everything = values.astype(np.float64)
    upper = np.quantile(everything, percentile / 100, method="inverted_cdf")
    lower = -np.quantile(-everything, percentile / 100, method="inverted_cdf")
    assert high == pytest.approx(max(0.0, upper), abs=2 * found.above.width)
    assert low == pytest.approx(min(0.0, lower), abs=2 * found.below.width)


def divergence(counts: list[int], bins: int) -> float:
    """Migacz's, bin by bin."""
    p = [float(each) for each in counts[:bins]]
    levels: dict[int, list[int]] = {}
    for k in range(bins):
        levels.setdefault(k * 128 // bins, []).append(k)
    q = [0.0] * bins
    for of_level in levels.values():
        filled = [k for k in of_level if counts[k]]
        for k in filled:
            q[k] = sum(counts[each] for each in filled) / len(filled)
    if not sum(q):
        return math.inf
    p[-1] += sum(counts[bins:])
    total, inside = sum(counts), sum(counts[:bins])
    p = [each / total for each in p]
    q = [each / inside for each in q]
    if p[-1] and not q[-1]:
        q = [each * (1 - SMOOTHING) for each in q[:-1]] + [SMOOTHING]
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


@pytest.mark.parametrize("seed", range(5))
def test_entropy_is_the_least_divergence(seed: int) -> None:
    found = of(drawn(seed))
    histogram = found.magnitudes()
    used = int(np.flatnonzero(histogram.counts)[-1]) + 1
    tried = np.unique(np.linspace(128, used, THRESHOLDS).astype(int))[seed::11]
    fast = methods._divergences(histogram.counts[:used], tried)
    expected = [divergence(histogram.counts.tolist(), each) for each in tried.tolist()]
    assert fast == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_entropys_threshold_is_the_best_of_those_tried(seed: int) -> None:
    found = of(drawn(seed))
    histogram = found.magnitudes()
    low, high = range_of(found, "entropy", 100)
    used = int(np.flatnonzero(histogram.counts)[-1]) + 1
    tried = np.unique(np.linspace(128, used, THRESHOLDS).astype(int))
    kept = np.array([histogram.counts[:each].sum() for each in tried]) / histogram.counts.sum()
    tried = tried[kept >= 1 - MOST_CLIPPED]
    best = min(float(each) for each in methods._divergences(histogram.counts[:used], tried))
    chosen = max(-low, high) / histogram.width
    bins = int(tried[np.searchsorted(tried, chosen - 1e-6)])  # a bound ends at the extreme
    assert divergence(histogram.counts.tolist(), bins) == pytest.approx(best, abs=1e-9)


def squared_error(counts: np.ndarray, threshold: float) -> float:
    """By rounding 200 values of each bin, evenly spread."""
    values = (np.arange(len(counts))[:, None] + (np.arange(200) + 0.5) / 200).ravel()
    step = threshold / 127
    rounded = step * np.clip(np.rint(values / step), -127, 127)
    return float(((values - rounded) ** 2) @ np.repeat(counts / 200, 200))


@pytest.mark.parametrize("seed", range(5))
def test_mse_is_the_least_squared_error(seed: int) -> None:
    found = of(drawn(seed))
    histogram = found.magnitudes()
    low, high = range_of(found, "mse", 100)
    largest = max(-found.low, found.high) / histogram.width
    tried = largest * np.geomspace(1 / 256, 1, THRESHOLDS)
    fast = methods._squared_errors(histogram.counts, tried)
    some = slice(seed, None, 16)
    expected = [squared_error(histogram.counts, each) for each in tried[some]]
    assert fast[some] == pytest.approx(expected, rel=2e-3)
    chosen = max(-low, high) / histogram.width
    assert squared_error(histogram.counts, chosen) <= 1.002 * min(expected)


@settings(deadline=None)
@given(st.lists(floats, min_size=1, max_size=3), st.sampled_from(sorted(METHODS)))
def test_a_range_is_finite_with_zero_and_no_wider_than_the_values(
    batches: list[np.ndarray], method: str
) -> None:
    low, high = range_of(of(*batches), method, 99.0)
    everything = np.concatenate(batches)
    assert min(0.0, everything.min()) <= low <= 0 <= high <= max(0.0, everything.max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.zeros(100), (0.0, 0.0)),
        (np.full(100, 3.0), (0.0, 3.0)),
        (np.full(100, -3.0), (-3.0, 0.0)),
        (np.full(100, np.pi), (0.0, np.pi)),
        (np.array([]), (0.0, 0.0)),
        (np.full(10, 1e-30), (0.0, 1e-30)),
        (np.full(10, 3e38), (0.0, 3e38)),
    ],
)
def test_constant_zero_empty_tiny_and_huge(
    method: str, values: np.ndarray, expected: tuple[float, float]
) -> None:
    assert range_of(of(values), method, 99.99) == pytest.approx(expected, rel=1e-9, abs=0)


@pytest.mark.parametrize("method", METHODS)
def test_one_sided(method: str, rng: np.random.Generator) -> None:
    values = np.maximum(rng.normal(size=20_000), 0)
    low, high = range_of(of(values), method, 99.9)
    assert low == 0
    assert 2 < high <= values.max()
    assert range_of(of(-values), method, 99.9) == pytest.approx((-high, 0))


def test_a_long_tail_is_cut_where_it_is_worth_it(rng: np.random.Generator) -> None:
    """A hundred thousand values of a normal distribution, and one far out."""
    found = of(np.concatenate([rng.normal(size=100_000), [60.0]]))
    highs = {name: range_of(found, name, 99.99)[1] for name in METHODS}
    assert highs["minmax"] == highs["moving_average"] == 60
    assert highs["percentile"] == pytest.approx(3.72, abs=0.3)
    assert highs["entropy"] < 15
    assert 15 < highs["mse"] < 45  # the one value weighs as much as all the rounding


def test_zeros_do_not_count_for_entropy(rng: np.random.Generator) -> None:
    values = rng.normal(size=10_000)
    without = range_of(of(values), "entropy", 100)
    assert range_of(of(values, np.zeros(1_000_000)), "entropy", 100) == without


@pytest.mark.parametrize("method", METHODS)
def test_values_far_from_zero_are_not_clipped_to_one(method: str, rng: np.random.Generator) -> None:
    """Such as a softmax's over classes that are all as likely, with one value in a tried bin."""
    many = rng.uniform(0.4, 0.9, 100_000)
    found = of(many)
    used = int(np.flatnonzero(found.above.counts)[-1]) + 1
    tried = np.linspace(128, used, THRESHOLDS).astype(int)
    alone = max(tried[tried < 0.39 / found.above.width]) - 0.5
    found.see(np.array([alone * found.above.width]))
    low, high = range_of(found, method, 99.9)
    assert low == 0
    assert high > np.quantile(many, 0.985) or method == "moving_average"


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(CalibrationError, match=r"'entropi'.*did you mean 'entropy'"):
        range_of(Statistics(), "entropi", 99.0)


def test_what_auto_tries() -> None:
    labels = [label(*each) for each in CANDIDATES]
    assert labels == [
        "minmax", "percentile 99.9", "percentile 99.99", "percentile 99.999", "entropy", "mse",
    ]  # fmt: skip
    assert {name for name, _ in CANDIDATES} <= METHODS.keys()
