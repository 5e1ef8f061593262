"""Statistics: constant memory, and the same whatever the order, the batches and the parts."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekd.calibration.statistics import BINS, MOMENTUM, Histogram, Statistics

anything = arrays(np.float32, st.integers(0, 60), elements=st.floats(-(2.0**99), 2.0**99, width=32))
ordinary = arrays(np.float32, st.integers(1, 60), elements=st.floats(-100, 100, width=32))


def of(*batches: np.ndarray) -> Statistics:
    found = Statistics()
    for each in batches:
        found.see(each)
    return found


def facts(found: Statistics) -> tuple[object, ...]:
    """All but the average, which depends on the batches by its nature."""
    sides = [(each.width, each.counts.tolist()) for each in (found.above, found.below)]
    return found.count, found.low, found.high, *sides


def slow(magnitudes: np.ndarray, width: float) -> list[int]:
    """Independently: one by one, in double precision."""
    counts = [0] * BINS
    for each in magnitudes.astype(np.float64).tolist():
        counts[int(each / width)] += 1
    return counts


@given(anything)
def test_bins_are_what_they_are_said_to_be(values: np.ndarray) -> None:
    found = of(values)
    assert found.count == len(values)
    assert (found.low, found.high) == (min(0.0, *values, 0.0), max(0.0, *values, 0.0))
    for histogram, magnitudes in (
        (found.above, values[values > 0]),
        (found.below, -values[values < 0]),
    ):
        if not len(magnitudes):
            assert histogram.width == 0
            assert not histogram.counts.any()
            continue
        assert np.log2(histogram.width) % 1 == 0
        assert BINS / 2 <= float(magnitudes.max()) / histogram.width < BINS
        assert histogram.counts.tolist() == slow(magnitudes, histogram.width)


@given(st.lists(anything, min_size=1, max_size=6), st.randoms())
def test_order_batches_and_parts_change_nothing(batches, random) -> None:  # type: ignore[no-untyped-def]
    whole = facts(of(np.concatenate(batches)))
    random.shuffle(batches)
    assert facts(of(*batches)) == whole
    cut = random.randint(0, len(batches))
    merged = of(*batches[:cut])
    merged.merge(of(*batches[cut:]))
    assert facts(merged) == whole


@given(st.lists(ordinary, min_size=1, max_size=6))
def test_the_average_is_of_the_extremes_of_batches(batches: list[np.ndarray]) -> None:
    low, high = np.array([(min(0, each.min()), max(0, each.max())) for each in batches]).T
    weights = MOMENTUM * (1 - MOMENTUM) ** np.arange(len(batches))[::-1]
    weights[0] = (1 - MOMENTUM) ** (len(batches) - 1)  # the first batch starts it
    assert of(*batches).average == pytest.approx((low @ weights, high @ weights), abs=1e-4)


def test_merged_averages_have_the_weight_of_their_values() -> None:
    merged = of(np.full(30, 1.0))
    merged.merge(of(np.full(10, 5.0)))
    assert merged.average == pytest.approx((0.0, 2.0))
    merged.merge(Statistics())
    assert merged.average == pytest.approx((0.0, 2.0))


@given(st.lists(ordinary, min_size=1, max_size=4))
def test_a_relu_follows_without_looking(batches: list[np.ndarray]) -> None:
    before = of(*batches)
    seen = facts(before)
    after = before.rectified()
    expected = of(*(np.maximum(each, 0) for each in batches))
    assert facts(after) == facts(expected)
    assert after.average == pytest.approx(expected.average)
    after.see(np.full(3, 1e6))
    assert facts(before) == seen  # it is a copy


@given(ordinary)
def test_magnitudes_are_those_of_both_signs(values: np.ndarray) -> None:
    both = of(values).magnitudes()
    alone = of(np.abs(values)).above
    assert (both.width, both.counts.tolist()) == (alone.width, alone.counts.tolist())


@given(ordinary, st.floats(0, 1), st.floats(0, 1))
def test_what_a_range_clips(values: np.ndarray, down: float, up: float) -> None:
    found = of(values)
    values = values.astype(np.float64)
    low, high = down * found.low, up * found.high
    share = found.clipped(low, high)
    widths = found.below.width, found.above.width
    least = np.mean((values < low - widths[0]) | (values > high + widths[1]))
    most = np.mean((values < low + widths[0]) & (values < 0) | (values > high - widths[1]))
    assert least - 1e-9 <= share <= most + 1e-9
    assert found.clipped(found.low, found.high) == 0


def test_what_a_range_clips_of_many(rng: np.random.Generator) -> None:
    values = rng.normal(size=200_000).astype(np.float32)
    found = of(values)
    assert found.clipped(-1.5, 2) == pytest.approx(
        np.mean((values < -1.5) | (values > 2)), abs=1e-4
    )
    assert found.clipped(0, 0) == pytest.approx(np.mean(values != 0))
    assert Statistics().clipped(0, 0) == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_tensors_longer_than_a_block_of_any_float(
    rng: np.random.Generator, dtype: type, scale: float
) -> None:
    values = (scale * rng.normal(size=(3, 70_001))).astype(dtype)
    values[0, ::2] = 0
    values[values < 0] /= 8  # so that either sign has a width of its own
    found = of(values)
    assert found.below.width < found.above.width
    for histogram, side in ((found.above, values[values > 0]), (found.below, -values[values < 0])):
        edges = np.arange(BINS + 1) * histogram.width
        assert histogram.counts.tolist() == np.histogram(side.astype(np.float64), edges)[0].tolist()
    zeros = int((values == 0).sum())
    assert found.count == zeros + found.above.counts.sum() + found.below.counts.sum()


@pytest.mark.parametrize("largest", [1e-45, 1e-38, 3.4e38])
def test_the_ends_of_float32(largest: float) -> None:
    found = of(np.array([largest, -largest / 2, 0, largest], np.float32))
    assert found.above.counts.sum() == 2
    assert found.high == np.float32(largest)
    assert 0 < found.above.width * BINS / 2 <= found.high


def test_growth_keeps_every_count() -> None:
    """A range that grows a million times: bins are merged, no count is lost."""
    found = Statistics()
    for size in 10.0 ** np.arange(-3, 4):
        found.see(np.full(100, size, np.float32))
    assert found.above.counts.sum() == 700
    assert found.above.beyond(50) == 200


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows(bad: float) -> None:
    found = of(np.array([1.0, bad]), np.array([2.0]))
    assert np.isnan(found.high)


def test_no_values_are_no_batch() -> None:
    found = of(np.array([]), np.array([4.0]), np.zeros((0, 3)))
    assert (found.count, found.high, found.average) == (1, 4.0, (0.0, 4.0))


def test_an_empty_histogram_has_nothing_beyond() -> None:
    assert Histogram().beyond(0) == 0


def test_memory_does_not_grow_with_the_samples(rng: np.random.Generator) -> None:
    batch = rng.normal(size=10_000).astype(np.float32)
    found = of(batch)
    tracemalloc.start()
    for _ in range(5):
        found.see(batch)
    few, _ = tracemalloc.get_traced_memory()
    for _ in range(100):
        found.see(batch)
    many, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert many - few < 10_000
