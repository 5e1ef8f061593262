"""The forms of explicit Q/DQ: how a range becomes a scale, and what else differs.

One file cannot serve every runtime. TensorRT takes symmetric int8 alone and wants biases in
float and the sum of a residual block fused with its convolution; ONNX Runtime and OpenVINO
on a CPU fold a ReLU only into uint8 with zero point 0 and want every tensor quantised. Both
forms come from the same ranges: where TensorRT's scale for a tensor is ``s``, the twin's is
``s · 127 / 255`` with zero point 0 if no value is negative, and ``s`` with zero point 128 if
some are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SMALLEST_SCALE = float(np.finfo(np.float32).tiny) * 2**24
"""Scales below are as good as zero, and TensorRT refuses zeros and denormals."""
INT32_ROOM = 2.0**30
"""The largest magnitude that a bias is stored with, so that sums still fit."""


@dataclass(frozen=True)
class Scale:
    """``real = scale · (stored - zero_point)``, stored as ``dtype``."""

    scale: float
    zero_point: int
    dtype: str


@dataclass(frozen=True)
class Form:
    """One family of targets.

    Attributes:
        name: ``s8s8`` or ``u8s8``: activations, then weights.
        activation: from a range (low, high) to a scale.
        integer_bias: biases become int32 at the product of the scales.
        whole_sums: both inputs of an Add are quantised, not the residual one alone.
    """

    name: str
    activation: Callable[[float, float], Scale]
    integer_bias: bool
    whole_sums: bool


def symmetric_int8(low: float, high: float) -> Scale:
    """TensorRT's: zero point 0, the larger magnitude at 127."""
    return Scale(_positive(max(-low, high) / 127), 0, "int8")


def unsigned_twin(low: float, high: float) -> Scale:
    """uint8 over the same range, at twice the resolution where no value is negative."""
    if low >= 0:
        return Scale(_positive(high / 255), 0, "uint8")
    return Scale(_positive(max(-low, high) / 127), 128, "uint8")


FORMS = {
    each.name: each
    for each in (
        Form("s8s8", symmetric_int8, integer_bias=False, whole_sums=False),
        Form("u8s8", unsigned_twin, integer_bias=True, whole_sums=True),
    )
}


def weight_scales(weight: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    """One symmetric int8 scale a channel, shape (channels,); a channel of zeros gets 1/127."""
    others = tuple(each for each in range(weight.ndim) if each != axis % weight.ndim)
    largest = np.abs(weight).max(axis=others)
    return np.where(largest / 127 > SMALLEST_SCALE, largest / 127, 1 / 127).astype(np.float32)


def _positive(scale: float) -> float:
    return scale if scale > SMALLEST_SCALE else 1 / 127
