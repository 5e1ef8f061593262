"""Forms: scales that runtimes take, and twins that hold the same values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekd.quantize.forms import (
    FORMS,
    LARGEST,
    Scale,
    numpy_dtype,
    stored_weight,
    symmetric_int8,
    unsigned_twin,
    weight_scales,
)

bounds = st.tuples(st.floats(-1e5, 0), st.floats(0, 1e5))


def _round_trip(x: np.ndarray, scale: Scale) -> np.ndarray:
    limits = np.iinfo(scale.dtype)
    stored = np.clip(np.rint(x / scale.scale) + scale.zero_point, limits.min, limits.max)
    return (stored - scale.zero_point) * scale.scale


@given(bounds)
def test_tensorrts_form_is_symmetric_with_a_positive_normal_scale(
    pair: tuple[float, float],
) -> None:
    scale = symmetric_int8(*pair)
    assert (scale.zero_point, scale.dtype) == (0, "int8")
    assert np.float32(scale.scale) >= np.finfo(np.float32).tiny
    if max(-pair[0], pair[1]) > 1e-20:
        np.testing.assert_allclose(scale.scale * 127, max(-pair[0], pair[1]))


@given(bounds)
def test_a_twin_holds_what_tensorrts_form_holds(pair: tuple[float, float]) -> None:
    """As finely, and up to twice as finely what is to one side of zero."""
    low, high = pair
    ours, twin = symmetric_int8(*pair), unsigned_twin(*pair)
    assert twin.dtype == "uint8"
    if min(-low, high) > 0.51 * max(-low, high):
        assert (twin.scale, twin.zero_point) == (ours.scale, 128)  # the very same values
    elif min(-low, high) < 0.49 * max(-low, high) and max(-low, high) > 1e-15:
        assert twin.zero_point == round(-low / twin.scale)
        np.testing.assert_allclose(twin.scale, (high - low) / 255)
    x = np.linspace(*pair, 101)
    for scale in (ours, twin):
        step = scale.scale * (1 + 1e-9) + 1e-30
        assert np.abs(_round_trip(x, scale) - x).max() <= step  # half, but at a skewed end
        assert np.median(np.abs(_round_trip(x, scale) - x)) <= step / 2
    assert twin.scale <= ours.scale


@given(bounds)
def test_arms_form_holds_the_twins_values(pair: tuple[float, float]) -> None:
    twin, arm = FORMS["u8s8"].activation(*pair), FORMS["a8s8"].activation(*pair)
    assert (arm.scale, arm.dtype) == (twin.scale, "int8")
    x = np.linspace(1.5 * pair[0], 1.5 * pair[1], 101)
    np.testing.assert_array_equal(_round_trip(x, arm), _round_trip(x, twin))


@given(bounds)
def test_fp8_puts_the_larger_magnitude_at_its_largest_value(pair: tuple[float, float]) -> None:
    scale = FORMS["f8"].activation(*pair)
    assert (scale.zero_point, scale.dtype) == (0, "float8_e4m3fn")
    if max(-pair[0], pair[1]) > 1e-20:
        np.testing.assert_allclose(scale.scale * 448, max(-pair[0], pair[1]))


def test_a_tensor_of_zeros_gets_a_scale_that_is_no_zero() -> None:
    for form in FORMS.values():
        assert form.activation(0.0, 0.0).scale > 1e-3
        assert form.activation(0.0, 1e-44).scale > 1e-3


@pytest.mark.parametrize("dtype", LARGEST)
@given(arrays(np.float32, (4, 3, 2), elements=st.floats(-1e3, 1e3, width=32)), st.integers(-3, 2))
def test_weights_have_one_scale_a_channel_that_reaches_the_largest(
    dtype: str, w: np.ndarray, axis: int
) -> None:
    scales = weight_scales(w, axis, dtype)
    assert scales.shape == (w.shape[axis],)
    assert scales.dtype == np.float32
    assert (scales > 0).all()
    stored = stored_weight(w, scales, axis, dtype)
    assert (stored.shape, stored.dtype) == (w.shape, numpy_dtype(dtype))
    assert np.abs(stored.astype(np.float32)).max() <= LARGEST[dtype]
    for channel, kept, scale in zip(
        np.moveaxis(w, axis, 0), np.moveaxis(stored, axis, 0), scales, strict=True
    ):
        largest = np.abs(channel).max()
        # int8 rounds to half a step; E4M3 to one part in 16, below its least normal in steps.
        allowed = scale / 2 if dtype == "int8" else np.maximum(np.abs(channel) / 16, scale * 2**-10)
        assert (np.abs(kept.astype(np.float32) * scale - channel) <= 1.0001 * allowed + 1e-20).all()
        if largest > 1e-20:
            np.testing.assert_allclose(scale, largest / LARGEST[dtype], rtol=1e-6)
            assert np.abs(kept.astype(np.float32)).max() == LARGEST[dtype]


def test_fp8_rounds_to_what_it_can_hold() -> None:
    values = np.array([[448.0, 1.0, 1.06, 1.07, 0.3, 2**-9, 2**-11]], np.float32)
    stored = stored_weight(values, np.ones(1, np.float32), 0, "float8_e4m3fn")
    assert stored.astype(np.float32).tolist() == [[448, 1, 1, 1.125, 0.3125, 2**-9, 0]]
