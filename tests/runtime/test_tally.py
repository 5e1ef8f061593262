"""Latencies in buckets: the layout, what a bucket is told as, and quantiles."""

from __future__ import annotations

import threading
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.runtime.tally import BUCKETS, Stats, Tally, bucket, middle, quantile

TIMES = st.integers(0, 2**63 - 1)


def by_lists() -> list[tuple[int, int]]:
    """The lower bound and the width of every bucket, written out."""
    fine = [(ns, 1) for ns in range(64)]
    coarse = [
        (2**power + step * 2**power // 32, 2**power // 32)
        for power in range(6, 63)
        for step in range(32)
    ]
    return fine + coarse


def test_the_layout() -> None:
    layout = by_lists()
    assert len(layout) == BUCKETS
    for index, (lower, width) in enumerate(layout):
        assert bucket(lower) == bucket(lower + width - 1) == index
        assert middle(index) == lower + width // 2
    ends = [lower + width for lower, width in layout]
    assert ends[:-1] == [lower for lower, _ in layout[1:]]
    assert ends[-1] == 2**63


@pytest.mark.parametrize(
    ("ns", "index", "told"),
    [
        (0, 0, 0),
        (63, 63, 63),
        (64, 64, 65),
        (65, 64, 65),
        (127, 95, 127),
        (128, 96, 130),
        (1_000, 190, 1_000),
        (1_000_000, 509, 999_424 + 8_192),
        (20_000_000, 646, 19_922_944 + 262_144),
        (2**63 - 1, BUCKETS - 1, 2**63 - 2**56),
    ],
)
def test_some_by_hand(ns: int, index: int, told: int) -> None:
    assert (bucket(ns), middle(index)) == (index, told)


@given(TIMES)
def test_what_is_told_is_within_a_64th(ns: int) -> None:
    told = middle(bucket(ns))
    assert abs(told - ns) * 64 <= ns


@given(TIMES, TIMES)
def test_a_longer_time_is_in_no_lower_bucket(one: int, other: int) -> None:
    assert (bucket(one) <= bucket(other)) or one > other


@given(st.lists(TIMES, min_size=1, max_size=300), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_that_of_what_the_buckets_say(times: list[int], share: float) -> None:
    counts = [0] * BUCKETS
    for each in times:
        counts[bucket(each)] += 1
    told = sorted(middle(bucket(each)) for each in times)
    assert quantile(counts, share) == told[max(1, ceil(share * len(times))) - 1]
    as_floats = np.array(told, float)
    assert np.quantile(as_floats, share, method="inverted_cdf") == float(quantile(counts, share))


@given(st.lists(TIMES, max_size=100), st.integers(1, 10**9))
def test_a_tally_counts_as_the_functions_say(times: list[int], deadline: int) -> None:
    tally = Tally(deadline)
    counts = [0] * BUCKETS
    for each in times:
        tally.add(each)
        counts[bucket(each)] += 1
    late = sum(each > deadline for each in times)
    p50, p99 = quantile(counts, 0.5), quantile(counts, 0.99)
    assert tally.stats() == Stats(len(times), p50, p99, late, deadline)


def test_without_a_deadline_no_answer_is_late_but_what_is_dropped_is_missed() -> None:
    tally = Tally(0)
    tally.add(2**62)
    assert tally.stats().misses == 0
    tally.drop()
    assert tally.stats().misses == 1
    assert tally.stats().count == 1


def test_nothing_counted_and_all_forgotten() -> None:
    tally = Tally(7)
    assert tally.stats() == Stats(0, 0, 0, 0, 7)
    tally.add(8)
    tally.drop()
    tally.reset()
    assert tally.stats() == Stats(0, 0, 0, 0, 7)


def test_threads_lose_no_count() -> None:
    tally = Tally(10)

    def work() -> None:
        for each in range(2000):
            tally.add(each % 20)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (tally.stats().count, tally.stats().misses) == (16_000, 7_200)
