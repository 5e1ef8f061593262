"""Sizes, shapes and times as a user writes them."""

from __future__ import annotations

from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.cli.sizes import megabytes, positive, shape


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", 4.0),
        ("4MB", 4.0),
        (" 4 mb ", 4.0),
        ("512kB", 0.512),
        ("2b", 2e-6),
        ("1.5GB", 1500.0),
        ("1KiB", 0.001024),
        ("1MiB", 1.048576),
        ("1.5GiB", 1610.612736),
    ],
)
def test_a_size_is_told_in_10_to_the_6_bytes(text: str, expected: float) -> None:
    assert megabytes(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "MB", "0", "0MB", "-1MB", "4TB", "4 M B", "1e5MB", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size; give one such as 4MB"):
        megabytes(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3,224,224", ("", (3, 224, 224))),
        ("image=3,224,224", ("image", (3, 224, 224))),
        ("serving:a=b=7", ("serving:a=b", (7,))),
    ],
)
def test_a_shape_has_a_name_or_none(text: str, expected: Any) -> None:
    assert shape(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x=", "=3", "3,0", "3,-1", "3,,4", "3,4,", "a,b", "3x4", "１"]
)
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no shape; give one such as image=3,224,224"):
        shape(text)


@given(st.floats(1e-6, 1e9))
def test_a_time_or_a_rate_is_what_it_says(value: float) -> None:
    assert positive(repr(value)) == value


@pytest.mark.parametrize(
    "text", ["0", "-1", "nan", "inf", "-inf", "1e-7", "1e10", "1e999", "", "x"]
)
def test_what_no_clock_can_count(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no number from 1e-06 to 1e"):
        positive(text)
