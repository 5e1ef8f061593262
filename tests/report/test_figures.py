"""Figures as people read them."""

from __future__ import annotations

import pytest

from edgekd.report import figures


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (figures.milliseconds(15_300), "0.0153"),
        (figures.milliseconds(16_666_667), "16.7"),
        (figures.milliseconds(2_345_678_900), "2,346"),
        (figures.milliseconds(None), "—"),
        (figures.interval([1_200_000, 1_270_000]), "[1.2, 1.27]"),
        (figures.interval(None), ""),
        (figures.plain(61.52), "61.5"),
        (figures.plain(1010.4), "1,010"),
        (figures.count(31_000_000), "31 M"),
        (figures.count(512), "512"),
        (figures.size(1_080_000), "1.08 MB"),
        (figures.size(99), "99 B"),
        (figures.signed([0.04, -0.11, 0.19]), "+0.04 [−0.11, +0.19]"),
        (figures.ratio(12.34), "12.3×"),
        (figures.percent(0.00013), "0.013 %"),
        (figures.percent(0), "0 %"),
        (figures.whole(36_000), "36,000"),
        (figures.accuracy(None), "—"),
        (figures.chance(0.0312), "0.031"),
        (figures.chance(0.0002), "< 0.001"),
    ],
)
def test_figures(told: str, said: str) -> None:
    assert told == said
