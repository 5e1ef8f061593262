"""The forms of explicit Q/DQ: how a range becomes a scale, and what else differs.

One file cannot serve every runtime. TensorRT takes symmetric int8 alone and wants biases in
float and the sum of a residual block fused with its convolution; ONNX Runtime and OpenVINO
on an x86 CPU fold a ReLU only into uint8 with zero point 0 and want every tensor quantised;
Arm's kernels multiply int8 by int8. All forms come from the same ranges: where TensorRT's
scale for a tensor is ``s``, the CPUs' is ``s · 127 / 255`` at the type's lowest value if no
value is negative, and ``s`` at its middle if as many are; what reaches much further to one side,
as what SiLU and GELU make, gets a zero point of its own. FP8 is E4M3 (Micikevicius et al. 2022,
arXiv:2209.05433), whose largest value is 448.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Kernels = Literal["tensorrt", "fp8", "cpu"]

SMALLEST_SCALE = float(np.finfo(np.float32).tiny) * 2**24
"""Scales below are as good as zero, and TensorRT refuses zeros and denormals."""
INT32_ROOM = 2.0**30
"""The largest magnitude that a bias is stored with, so that sums still fit."""
LARGEST = {"int8": 127, "float8_e4m3fn": 448}
"""The magnitude that a weight's largest value is stored with, by type."""


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
        name: of what activations are stored as, then weights.
        activation: from a range (low, high) to a scale.
        weight: what weights are stored as, by channel, at zero point 0.
        kernels: whose wishes placement follows.
        integer_bias: biases become int32 at the product of the scales.
        opset: the first that has what the form is written in.
    """

    name: str
    activation: Callable[[float, float], Scale]
    weight: str
    kernels: Kernels
    integer_bias: bool
    opset: int


def symmetric_int8(low: float, high: float) -> Scale:
    """TensorRT's: zero point 0, the larger magnitude at 127."""
    return Scale(_positive(max(-low, high) / 127), 0, "int8")


def unsigned_twin(low: float, high: float) -> Scale:
    """uint8 over the same range, at up to twice the resolution where it is to one side of zero."""
    if low >= 0:
        return Scale(_positive(high / 255), 0, "uint8")
    if 2 * min(-low, high) > max(-low, high):
        return Scale(_positive(max(-low, high) / 127), 128, "uint8")
    scale = _positive((high - low) / 255)
    return Scale(scale, round(-low / scale), "uint8")


def shifted_twin(low: float, high: float) -> Scale:
    """The values of ``unsigned_twin``, stored 128 lower."""
    twin = unsigned_twin(low, high)
    return Scale(twin.scale, twin.zero_point - 128, "int8")


def e4m3(low: float, high: float) -> Scale:
    """The larger magnitude at 448; small values keep three bits of mantissa."""
    return Scale(_positive(max(-low, high) / 448), 0, "float8_e4m3fn")


FORMS = {
    each.name: each
    for each in (
        Form("s8s8", symmetric_int8, "int8", "tensorrt", integer_bias=False, opset=13),
        Form("u8s8", unsigned_twin, "int8", "cpu", integer_bias=True, opset=13),
        Form("a8s8", shifted_twin, "int8", "cpu", integer_bias=True, opset=13),
        Form("f8", e4m3, "float8_e4m3fn", "fp8", integer_bias=False, opset=19),
    )
}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The type of that name; FP8 is not numpy's own, but onnx brings it along."""
    if name != "float8_e4m3fn":
        return np.dtype(name)
    from onnx import TensorProto, helper

    return np.dtype(helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN))


def weight_scales(
    weight: npt.NDArray[np.float32], axis: int, dtype: str = "int8"
) -> npt.NDArray[np.float32]:
    """One symmetric scale a channel, shape (channels,); a channel of zeros gets that of ones."""
    others = tuple(each for each in range(weight.ndim) if each != axis % weight.ndim)
    steps = LARGEST[dtype]
    largest = np.abs(weight).max(axis=others)
    return np.where(largest / steps > SMALLEST_SCALE, largest / steps, 1 / steps).astype(np.float32)


def stored_weight(
    weight: npt.NDArray[np.float32], scales: npt.NDArray[np.float32], axis: int, dtype: str
) -> Array:
    """A weight as it is stored at given scales, in a given type, same shape."""
    steps = LARGEST[dtype]
    shape = [-1 if each == axis % weight.ndim else 1 for each in range(weight.ndim)]
    real = weight / scales.reshape(shape)
    nearest = np.clip(np.rint(real) if dtype == "int8" else real, -steps, steps)
    stored: Array = nearest.astype(numpy_dtype(dtype))
    return stored


def _positive(scale: float) -> float:
    return scale if scale > SMALLEST_SCALE else 1 / 127
