"""The binomial distribution against scipy's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from edgekd.stats.binomial import at_most, cdf

shares = st.one_of(st.floats(1e-6, 1 - 1e-6), st.sampled_from([0.5, 0.01, 0.999]))


@given(st.integers(0, 2000), shares, st.data())
def test_chances_are_scipys(n: int, share: float, data: st.DataObject) -> None:
    count = data.draw(st.integers(-1, n))
    assert at_most(count, n, share) == pytest.approx(binom.cdf(count, n, share), abs=1e-12)


@pytest.mark.parametrize("share", [1e-5, 0.01, 0.5, 0.999])
def test_of_a_million_only_the_likely_counts_are_told(share: float) -> None:
    n = 1_000_000
    first, chances = cdf(n, share)
    last = first + len(chances) - 1
    assert len(chances) < 15_000
    assert first == 0 or binom.cdf(first - 1, n, share) < 1e-30
    assert last == n or binom.sf(last, n, share) < 1e-30
    middle = first + len(chances) // 3
    assert at_most(middle, n, share) == pytest.approx(binom.cdf(middle, n, share), rel=1e-8)
