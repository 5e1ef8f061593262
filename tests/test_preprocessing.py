"""Preprocessing: the formula, channel by channel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgekd.artifacts import Preprocessing
from edgekd.preprocessing import normalise, sha256

unit = st.floats(0, 1)


@given(unit, unit, st.floats(0.05, 1), st.floats(0.05, 1), st.integers(0, 255))
def test_it_is_pixel_over_255_minus_mean_over_deviation(
    m0: float, m1: float, s0: float, s1: float, pixel: int
) -> None:
    images = np.full((2, 2, 3, 3), pixel, np.uint8)
    out = normalise(images, Preprocessing((m0, m1), (s0, s1)))
    assert out.dtype == np.float32
    expected = [(pixel / 255 - m0) / s0, (pixel / 255 - m1) / s1]
    np.testing.assert_allclose(out[0, :, 0, 0], expected, rtol=1e-5, atol=1e-4)
    assert np.array_equal(normalise(images[0], Preprocessing((m0, m1), (s0, s1))), out[0])


def test_a_model_that_takes_channels_last() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 3, 4), np.uint8)
    first = Preprocessing((0.4, 0.5), (0.2, 0.3))
    last = replace(first, layout="NHWC")
    assert np.array_equal(normalise(images, last), normalise(images, first).transpose(0, 2, 3, 1))
    assert np.array_equal(normalise(images[0], last), normalise(images, last)[0])
    assert len({sha256(first), sha256(last), sha256(replace(first, mean=(0.4, 0.6)))}) == 3
