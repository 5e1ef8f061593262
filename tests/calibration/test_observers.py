"""Observers: constant memory, any order and size of batches, every shape of distribution."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekd.calibration.observers import MinMax, Percentile, make
from edgekd.errors import CalibrationError

floats = arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32))


def _seen(observer, *batches: np.ndarray):  # type: ignore[no-untyped-def]
    for each in batches:
        observer.see(each)
    return observer.range()


@given(st.lists(floats, min_size=1, max_size=6))
def test_minmax_is_the_smallest_and_largest_with_zero_within(batches: list[np.ndarray]) -> None:
    everything = np.concatenate(batches)
    low, high = _seen(MinMax(), *batches)
    assert low == min(0.0, float(everything.min()))
    assert high == max(0.0, float(everything.max()))


@given(st.lists(floats, min_size=1, max_size=6), st.sampled_from([60.0, 90.0, 99.0, 100.0]))
def test_a_percentile_is_numpys_to_one_bin(batches: list[np.ndarray], percentile: float) -> None:
    everything = np.concatenate(batches).astype(np.float64)
    low, high = _seen(Percentile(percentile), *batches)
    one_bin = 2 * float(np.abs(everything).max()) / 4096
    inverted = np.quantile(everything, percentile / 100, method="inverted_cdf")
    assert high == pytest.approx(max(0.0, inverted), abs=one_bin + 1e-30)
    lower = -np.quantile(-everything, percentile / 100, method="inverted_cdf")
    assert low == pytest.approx(min(0.0, lower), abs=one_bin + 1e-30)
    assert everything.min() <= max(low, everything.min())
    assert low >= min(0.0, everything.min())
    assert high <= max(0.0, everything.max())


@given(st.lists(floats, min_size=2, max_size=6), st.randoms())
def test_the_order_of_batches_moves_it_by_no_more_than_a_bin(batches, random) -> None:  # type: ignore[no-untyped-def]
    """The width that bins end up with depends on the first batch, so not bitwise."""
    one = _seen(Percentile(99.0), *batches)
    random.shuffle(batches)
    other = _seen(Percentile(99.0), *batches)
    one_bin = 4 * float(max(np.abs(each).max() for each in batches)) / 4096
    assert one == pytest.approx(other, abs=one_bin + 1e-30)


def test_growth_keeps_every_count() -> None:
    """A range that grows a million times: halves, quarters … of bins are merged, none is lost."""
    observer = Percentile(75.0)
    for size in 10.0 ** np.arange(-3, 4):
        observer.see(np.full(100, size, np.float32))
    # 75 % of 700 values lie at or below the sixth size.
    assert observer.range()[1] == pytest.approx(100.0, rel=0.05)


@pytest.mark.parametrize("method", ["minmax", "percentile"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.zeros(100), (0.0, 0.0)),
        (np.full(100, 3.0), (0.0, 3.0)),
        (np.full(100, -3.0), (-3.0, 0.0)),
        (np.array([]), (0.0, 0.0)),
        (np.full(10, 1e-30), (0.0, 1e-30)),
    ],
)
def test_constant_zero_one_sided_and_tiny(
    method: str, values: np.ndarray, expected: tuple[float, float]
) -> None:
    assert _seen(make(method, 99.99), values) == pytest.approx(expected, rel=1e-3, abs=1e-35)


def test_a_long_tail_is_cut_where_it_is_asked_to_be(rng: np.random.Generator) -> None:
    values = rng.standard_cauchy(100_000)
    low, high = _seen(Percentile(99.0, bins=1 << 20), values)
    # The Cauchy quantile at 0.99 is tan(π · 0.49) = 31.82.
    assert high == pytest.approx(31.82, rel=0.1)
    assert low == pytest.approx(-31.82, rel=0.1)
    assert _seen(MinMax(), values)[1] > 1_000


def test_memory_does_not_grow_with_the_samples(rng: np.random.Generator) -> None:
    observer = Percentile(99.9)
    batch = rng.normal(size=10_000).astype(np.float32)
    observer.see(batch)
    tracemalloc.start()
    for _ in range(5):
        observer.see(batch)
    few, _ = tracemalloc.get_traced_memory()
    for _ in range(100):
        observer.see(batch)
    many, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert many - few < 10_000


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="entropi"):
        make("entropi", 99.0)
