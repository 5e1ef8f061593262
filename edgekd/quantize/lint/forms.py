"""What a Q/DQ may look like: types, zero points, scales, channels. See ``rules`` for the table.

Each function yields a node and what is odd about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgekd.quantize.lint.facts import STORED
from edgekd.quantize.lint.view import LINEAR, PASSIVE, PRODUCTS, Linear, View

if TYPE_CHECKING:
    import onnx

Odd = Iterator[tuple["onnx.NodeProto | None", str]]

_NORMAL = float(np.finfo(np.float32).tiny)


def unsigned(view: View) -> Odd:
    """Q/DQ that stores uint8, by its zero point or by having none."""
    for each in view.grids:
        if each.stored == "uint8":
            has = len(each.node.input) > 2 and each.node.input[2]
            yield each.node, "uint8" if has else "without a zero point, which makes it uint8"


def shifted(view: View) -> Odd:
    """Zero points other than 0, of signed types."""
    for each in view.grids:
        if each.stored != "uint8" and each.zero_point is not None and each.zero_point.any():
            worst = each.zero_point.ravel()[np.abs(each.zero_point).argmax()]
            yield each.node, f"zero point {worst:g}"


def integer_bias(view: View) -> Odd:
    """DQ of int32."""
    for each in view.grids:
        if each.stored == "int32":
            yield each.node, "int32"


def impossible_scale(view: View) -> Odd:
    """Scales that are zero, negative, infinite or not a number."""
    for each in view.grids:
        if each.scale is not None:
            bad = each.scale[~(np.isfinite(each.scale) & (each.scale > 0))]
            if bad.size:
                yield each.node, f"scale {bad[0]:g}"


def denormal_scale(view: View) -> Odd:
    """Positive scales below the smallest normal float32."""
    for each in view.grids:
        if each.scale is not None:
            bad = each.scale[(each.scale > 0) & (each.scale < _NORMAL)]
            if bad.size:
                yield each.node, f"scale {bad[0]:.3g}"


def odd_type(view: View) -> Odd:
    """Q/DQ that stores what no other rule names and TensorRT does not take."""
    for each in view.grids:
        if each.stored not in STORED | {"uint8", "int32"}:
            yield each.node, each.stored or "of no type that can be told"


def channels_of_activation(view: View) -> Odd:
    """One scale a channel on what is not a constant."""
    for each in view.grids:
        if each.axis is not None and not each.blocked:
            name = each.node.input[0]
            if name not in view.constants:
                assert each.scale is not None
                yield each.node, f"{each.scale.size} scales along axis {each.axis}"


def weight_axis(view: View) -> Odd:
    """Scales of a weight that lie along another axis than its output channels."""
    for node, weight in _weights(view):
        if weight.axis is None or weight.blocked:
            continue
        shape = view.shape(node.input[1])
        rank = len(shape) if shape else weight.axis + 1
        axis, wanted = weight.axis % rank, channel_axis(view, node) % rank
        if axis != wanted:
            yield node, f"scales along axis {axis}, output channels along axis {wanted}"


def single_scale(view: View) -> Odd:
    """Weights with one scale for all channels."""
    for node, weight in _weights(view):
        shape = view.shape(node.input[1])
        channels = shape[channel_axis(view, node)] if shape and len(shape) > 1 else 1
        if weight.scale is not None and weight.scale.size == 1 and channels != 1:
            yield node, f"one scale for {channels} channels"


def computed_grid(view: View) -> Odd:
    """Scales or zero points that are computed when the model runs."""
    for each in view.grids:
        if each.scale is None or each.zero_point is None:
            yield each.node, "scale" if each.scale is None else "zero point"


def unequal_pair(view: View) -> Odd:
    """A DQ whose scale or zero point is not that of the Q before it."""
    for each in view.grids:
        before = view.linears.get(each.node.input[0])
        if each.quantises or before is None or before.scale is None or each.scale is None:
            continue
        if not np.array_equal(before.scale, each.scale):
            yield each.node, f"scale {each.scale.ravel()[0]:g} after {before.scale.ravel()[0]:g}"
        elif (
            before.zero_point is not None
            and each.zero_point is not None
            and not np.array_equal(before.zero_point, each.zero_point)
        ):
            now, then = each.zero_point.ravel()[0], before.zero_point.ravel()[0]
            yield each.node, f"zero point {now:g} after {then:g}"


def half_floats(view: View) -> Odd:
    """Q/DQ between integers and float16 or bfloat16."""
    for each in view.grids:
        kind = view.kind(each.node.input[1])
        if kind in ("float16", "bfloat16"):
            yield each.node, kind


def signed_concat(view: View) -> Odd:
    """A quantised convolution that reads int8 out of a Concat; see ``_from_concat``."""
    for node in view.products:
        data, weight = (view.behind(name) for name in node.input[:2])
        if node.op_type != "Conv" or weight is None or view.attribute(node, "group", 1) > 1:
            continue
        concat = _from_concat(view, node.input[0])
        if concat is None:
            continue
        feeds = [view.behind(name) for name in concat.input]
        near = [data] if data is not None else feeds
        if any(each is not None and each.stored == "int8" for each in near):
            yield node, f"reads int8 from the Concat '{concat.name or concat.output[0]}'"


def functions(view: View) -> Odd:
    """Local functions of the file."""
    for name in view.functions:
        yield None, f"function '{name}'"


def channel_axis(view: View, node: onnx.NodeProto) -> int:
    """Where the output channels of a product's weight lie."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    return -2 if view.attribute(node, "transB", 0) else -1


def _weights(view: View) -> Iterator[tuple[onnx.NodeProto, Linear]]:
    """Products with a constant weight that is read through a DQ, and that DQ."""
    for node in view.nodes:
        if node.op_type in PRODUCTS and node.input[1] in view.constants:
            weight = view.dequantised(node.input[1])
            if weight is not None:
                yield node, weight


_SAME_INTEGERS = {"Add", "Clip", "Concat", "Div", "Identity", "Mul", "Relu", "Resize", "Sub"}


def _from_concat(view: View, name: str) -> onnx.NodeProto | None:
    """The Concat that a tensor comes from, through what OpenVINO computes along with it.

    A MaxPool whose result is quantised anew ends the search: there it is right.
    """
    anew = False
    while name in view.producers:
        node: onnx.NodeProto = view.producers[name]
        if node.op_type == "Concat":
            return node
        anew |= node.op_type == "QuantizeLinear"
        varying = [each for each in node.input if each and each not in view.constants]
        if node.op_type == "MaxPool" and anew:
            return None
        if node.op_type not in _SAME_INTEGERS | LINEAR | PASSIVE or len(varying) != 1:
            return None
        name = varying[0]
    return None
