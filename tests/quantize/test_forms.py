"""Forms: scales that runtimes take, and twins that hold the same values."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekd.quantize.forms import FORMS, Scale, symmetric_int8, unsigned_twin, weight_scales

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
    """Same scale at zero point 128, or 127/255 of it at zero point 0 (research: 37.6 dB apart)."""
    ours, twin = symmetric_int8(*pair), unsigned_twin(*pair)
    assert twin.dtype == "uint8"
    if pair[0] < 0:
        assert (twin.scale, twin.zero_point) == (ours.scale, 128)
    elif pair[1] > 1e-15:
        assert twin.zero_point == 0
        np.testing.assert_allclose(twin.scale, ours.scale * 127 / 255)
    x = np.linspace(*pair, 101)
    for scale in (ours, twin):
        assert np.abs(_round_trip(x, scale) - x).max() <= scale.scale / 2 * (1 + 1e-9) + 1e-30


def test_a_tensor_of_zeros_gets_a_scale_that_is_no_zero() -> None:
    for form in FORMS.values():
        assert form.activation(0.0, 0.0).scale > 1e-3
        assert form.activation(0.0, 1e-44).scale > 1e-3


@given(arrays(np.float32, (4, 3, 2), elements=st.floats(-1e3, 1e3, width=32)), st.integers(-3, 2))
def test_weights_have_one_scale_a_channel_that_reaches_the_largest(
    w: np.ndarray, axis: int
) -> None:
    scales = weight_scales(w, axis)
    assert scales.shape == (w.shape[axis],)
    assert scales.dtype == np.float32
    assert (scales > 0).all()
    for channel, scale in zip(np.moveaxis(w, axis, 0), scales, strict=True):
        assert np.abs(np.rint(channel / scale)).max() <= 127
        if np.abs(channel).max() > 1e-20:
            np.testing.assert_allclose(scale, np.abs(channel).max() / 127, rtol=1e-6)
