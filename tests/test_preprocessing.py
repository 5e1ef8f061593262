"""Preprocessing: an image as Pillow would make it, then the formula, channel by channel."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekd.artifacts import Preprocessing
from edgekd.data.pixels import fit
from edgekd.preprocessing import box, normalise, prepare, sha256

GREY = Preprocessing((0.5,), (0.25,))
COLOUR = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
unit = st.floats(0, 1)
sides = st.integers(1, 40)
shares = st.none() | st.floats(0, 1, exclude_min=True)


def _noise(seed: int, *shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


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


def test_the_colour_is_told_by_the_channels_unless_it_is_said() -> None:
    assert (GREY.color, COLOUR.color) == ("L", "RGB")
    assert Preprocessing((0.0,) * 4, (1.0,) * 4).color is None
    assert Preprocessing((0.0,), (1.0,), color=None).color is None
    assert replace(COLOUR, crop=0.5).color == "RGB"


@given(st.integers(0, 9), sides, sides, sides, sides, shares, st.data())
def test_an_application_makes_of_an_image_what_training_makes_of_it(
    seed: int, h: int, w: int, to_h: int, to_w: int, crop: float | None, data: st.DataObject
) -> None:
    """``prepare`` has numpy alone, ``fit`` is Pillow: the same, bit for bit."""
    given_channels, channels = (data.draw(st.sampled_from([1, 3])) for _ in range(2))
    image, shape = _noise(seed, h, w, given_channels), (channels, to_h, to_w)
    how = replace(GREY if channels == 1 else COLOUR, crop=crop)
    made = prepare(image, how, shape)
    assert (made.dtype, made.shape) == (np.uint8, shape)
    assert made.flags.c_contiguous
    assert np.array_equal(made, fit(image.transpose(2, 0, 1), shape, crop or 0.0))


@given(st.integers(0, 9), sides, sides)
def test_colour_becomes_grey_as_pillow_has_it(seed: int, h: int, w: int) -> None:
    image = _noise(seed, h, w, 3)
    expected = np.asarray(Image.fromarray(image).convert("L"))
    assert np.array_equal(prepare(image, GREY, (1, h, w))[0], expected)


def test_grey_by_hand() -> None:
    """19595 + 38470 + 7471 = 65536: white stays white; the parts are 0.299, 0.587 and 0.114."""
    image = np.array([[[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert prepare(image, GREY, (1, 1, 4)).tolist() == [[[255, 76, 150, 29]]]


@pytest.mark.parametrize("how", [GREY, COLOUR, replace(COLOUR, crop=0.6)])
def test_the_other_order_of_channels_and_any_strides(how: Preprocessing) -> None:
    whole = _noise(0, 50, 60, 4)
    view = whole[3:48:2, 50:5:-3, :3]
    plain = np.ascontiguousarray(view)
    shape = (len(how.mean), 9, 7)
    expected = prepare(plain, how, shape)
    assert np.array_equal(prepare(view, how, shape), expected)
    assert np.array_equal(prepare(plain[:, :, ::-1], how, shape, "BGR"), expected)
    assert not np.array_equal(prepare(plain, how, shape, "BGR"), expected)


def test_a_grey_image_needs_no_channel_and_becomes_colour() -> None:
    image = _noise(1, 12, 10)
    assert np.array_equal(prepare(image, GREY, (1, 12, 10))[0], image)
    made = prepare(image, COLOUR, (3, 5, 5), "BGR")
    assert np.array_equal(made, prepare(image[:, :, None], GREY, (1, 5, 5)).repeat(3, 0))


def test_channels_that_show_no_colour_are_left_as_they_are() -> None:
    image = _noise(2, 8, 8, 2)
    made = prepare(image, Preprocessing((0.5,) * 2, (0.5,) * 2), (2, 4, 8))
    for channel in range(2):
        assert np.array_equal(made[channel], prepare(image[:, :, channel], GREY, (1, 4, 8))[0])


@pytest.mark.parametrize(
    ("size", "into", "share", "expected"),
    [
        ((480, 640), (224, 224), 1.0, (0, 80, 480, 480)),
        ((480, 640), (224, 224), 0.875, (30, 110, 420, 420)),
        ((640, 480), (224, 224), 0.875, (110, 30, 420, 420)),
        ((1080, 1920), (96, 128), 1.0, (0, 240, 1080, 1440)),
        ((100, 101), (10, 10), 1.0, (0, 0, 100, 100)),
        ((3, 3), (10, 10), 0.5, (0, 0, 2, 2)),  # 1.5 is rounded up, and the rest is below, right
        ((1, 1), (7, 9), 0.01, (0, 0, 1, 1)),
        ((1000, 1), (1, 1000), 1.0, (499, 0, 1, 1)),
    ],
)
def test_the_box_that_is_cut_out(
    size: tuple[int, int], into: tuple[int, int], share: float, expected: tuple[int, ...]
) -> None:
    assert box(*size, *into, share) == expected


@given(*[st.integers(1, 5000)] * 4, st.floats(0, 1, exclude_min=True))
def test_the_box_by_fractions(h: int, w: int, to_h: int, to_w: int, share: float) -> None:
    """In exact arithmetic: the largest box of the proportions, rounded, and the share of it."""
    top, left, tall, wide = box(h, w, to_h, to_w, share)
    scale = min(Fraction(h, to_h), Fraction(w, to_w))
    for place, found, whole, ideal in ((top, tall, h, scale * to_h), (left, wide, w, scale * to_w)):
        assert 1 <= found <= whole
        assert place == (whole - found) // 2
        largest = int(ideal + Fraction(1, 2))
        assert abs(found - max(1, largest * Fraction(share))) <= Fraction(1, 2) + Fraction(1, 2**30)


@pytest.mark.parametrize(
    ("image", "how", "order", "words"),
    [
        (np.zeros((4, 4), np.float32), GREY, "RGB", "the image is float32: give uint8 pixels"),
        (np.zeros((4, 4, 4), np.uint8), COLOUR, "RGB", "4 channels: give 1 or 3, without alpha"),
        (np.zeros((4, 4, 2), np.uint8), GREY, "RGB", "the image has 2 channels: give 1 or 3"),
        (np.zeros((3, 4, 5, 3), np.uint8), COLOUR, "RGB", r"shape (3, 4, 5, 3): give (height, w"),
        (np.zeros(4, np.uint8), GREY, "RGB", "the image has shape (4,)"),
        (np.zeros((0, 4, 3), np.uint8), COLOUR, "RGB", "has shape (0, 4, 3)"),
        (np.zeros((4, 4, 0), np.uint8), COLOUR, "RGB", "has shape (4, 4, 0)"),
        (np.zeros((4, 4, 3), np.uint8), COLOUR, "rgb", "is 'rgb': give RGB or BGR"),
    ],
)
def test_what_is_no_image(
    image: npt.NDArray[Any], how: Preprocessing, order: str, words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        prepare(image, how, (len(how.mean), 4, 4), order)


def test_a_model_of_two_channels_takes_no_others() -> None:
    how = Preprocessing((0.5,) * 2, (0.5,) * 2)
    with pytest.raises(ValueError, match="the image has 3 channels: give 2$"):
        prepare(np.zeros((4, 4, 3), np.uint8), how, (2, 4, 4))
