"""Resizing: Pillow's, bit for bit, in numpy alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekd.resample import bilinear, coefficients

sides = st.integers(1, 90)


def _pillow(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Rows first, then columns, whatever the version."""
    channels = []
    for channel in np.ascontiguousarray(image.transpose(2, 0, 1)):
        made = Image.fromarray(channel)
        for size in ((width, made.height), (width, height)):
            made = made.resize(size, Image.Resampling.BILINEAR)
        channels.append(np.asarray(made))
    return np.stack(channels)


@given(st.integers(0, 99), sides, sides, sides, sides, st.integers(1, 4))
@example(0, 1, 1, 90, 90, 3)
@example(0, 90, 90, 1, 1, 3)
@example(1, 90, 1, 1, 90, 1)
@example(2, 30, 30, 30, 30, 3)
@example(3, 30, 40, 30, 13, 3)
@example(4, 30, 40, 13, 40, 1)
def test_it_is_what_pillow_makes(
    seed: int, h: int, w: int, to_h: int, to_w: int, channels: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (h, w, channels), np.uint8)
    assert np.array_equal(bilinear(image, to_h, to_w), _pillow(image, to_h, to_w))


@settings(max_examples=20)
@given(st.integers(1, 20_000), st.integers(1, 300))
def test_long_rows(before: int, after: int) -> None:
    """White is where rounded weights that add to more than one would first be seen."""
    for pixels in (
        np.full((1, before, 1), 255, np.uint8),
        np.random.default_rng(before).integers(0, 256, (1, before, 1), np.uint8),
    ):
        assert np.array_equal(bilinear(pixels, 1, after), _pillow(pixels, 1, after))
        assert np.array_equal(
            bilinear(pixels.transpose(1, 0, 2), after, 1)[:, :, 0], bilinear(pixels, 1, after)[:, 0]
        )


def test_a_photo_s_size() -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    assert np.array_equal(bilinear(image, 224, 224), _pillow(image, 224, 224))
    assert np.array_equal(bilinear(image[:, :, ::-1], 224, 224), _pillow(image, 224, 224)[::-1])


def test_to_half_the_size_by_hand() -> None:
    """A triangle over four pixels, 1 : 3 : 3 : 1; at an edge the pixel outside is left out."""
    start, stop, weights = coefficients(8, 4)
    assert (start.tolist(), stop.tolist()) == ([0, 1, 3, 5], [3, 5, 7, 8])
    assert weights[1] == pytest.approx([1 / 8, 3 / 8, 3 / 8, 1 / 8])
    assert weights[0] == pytest.approx([3 / 7, 3 / 7, 1 / 7, 0], abs=2**-23)
    row = np.array([0, 80, 160, 240, 240, 240, 240, 240], np.uint8)[None, :, None]
    assert bilinear(row, 1, 4).tolist() == [[[57, 190, 240, 240]]]


@given(sides, sides)
def test_what_is_of_one_colour_stays_so(before: int, after: int) -> None:
    for level in (0, 1, 127, 254, 255):
        image = np.full((before, after, 1), level, np.uint8)
        assert (bilinear(image, after, before) == level).all()
