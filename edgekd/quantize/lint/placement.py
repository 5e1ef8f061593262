"""Where Q/DQ lies: what a runtime can fuse into integers, and what it cannot. See ``rules``.

Each function yields a node and what is odd about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekd.quantize.lint.forms import Odd
from edgekd.quantize.lint.view import PRODUCTS, Linear, View

if TYPE_CHECKING:
    import onnx

_SMALLEST = {"int8": -128, "uint8": 0}
"""What is stored in 8 bits, and the smallest number of each."""
_CLIPS = {"Relu", "Clip"}
_INTEGERS = {"Add", "AveragePool", "Concat", "GlobalAveragePool", "Mul"}
"""What ONNX Runtime computes on integers where all that it reads and gives is quantised."""


def residual(view: View) -> Odd:
    """A sum with a quantised convolution, of which neither input is quantised."""
    for node in _sums(view):
        made = [name for name in node.input if _product(view, name)]
        if made and not any(map(view.behind, node.input)):
            other = next((name for name in node.input if name not in made), node.input[0])
            yield node, f"reads '{other}' in float"


def before_sum(view: View) -> Odd:
    """Q/DQ between a convolution and the sum that would be fused with it."""
    for node in _sums(view):
        pairs = [view.dequantised(name) for name in node.input]
        through = [each for each in pairs if each and _product(view, view.source(each))]
        direct = any(_product(view, name) for name in node.input)
        if through and not direct:
            yield node, f"reads '{view.source(through[0])}' through Q/DQ"


def concat_scales(view: View) -> Odd:
    """Branches of a Concat on different grids."""
    for node in view.nodes:
        if node.op_type == "Concat":
            feeds = [each for each in map(view.behind, node.input) if each]
            scales = {_grid(each) for each in feeds}
            if len(scales) > 1:
                found = (each.scale for each in feeds if each.scale is not None)
                seen = sorted({float(each.ravel()[0]) for each in found})
                yield node, f"scales {', '.join(f'{each:.4g}' for each in seen)}"


def concat_floats(view: View) -> Odd:
    """A Concat of which some branches are quantised and others are not."""
    for node in view.nodes:
        if node.op_type == "Concat":
            varying = [name for name in node.input if name not in view.constants]
            float_ones = [name for name in varying if not view.behind(name)]
            if float_ones and len(float_ones) < len(varying):
                yield node, f"reads '{float_ones[0]}' in float"


def half_product(view: View) -> Odd:
    """A product of which one input is quantised and the other is not."""
    for node in view.products:
        found = [view.behind(name) for name in node.input[:2]]
        quantised = [each for each in found if each is not None]
        if len(quantised) == 1 and not quantised[0].blocked and quantised[0].stored != "int4":
            name = node.input[found.index(None)]
            what = "weight" if name in view.constants else "input"
            yield node, f"its {what} '{name}' is float"


def float_result(view: View) -> Odd:
    """A quantised convolution whose result is not quantised, or only after what cannot fold.

    A result of the whole model is let be.
    """
    for node in view.products:
        if node.op_type != "Conv" or not view.whole(node):
            continue
        name = _after_clip(view, node)
        readers = view.only(name)
        quantisers = [view.linears[each.output[0]] for each in readers if _quantises(each)]
        if len(quantisers) < len(readers):
            yield node, f"its result '{name}' is read in float"
        elif len(quantisers) > 1:
            yield node, f"its result '{name}' is quantised {len(quantisers)} times over"
        elif (
            quantisers
            and name != node.output[0]
            and (wide := _clips_more(view, name, quantisers[0]))
        ):
            yield node, wide


def float_bias(view: View) -> Odd:
    """A bias that is no int32 behind a DQ."""
    for node in view.products:
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and view.whole(node):
            name = node.input[2]
            if name in view.constants and not view.dequantised(name):
                yield node, f"its bias '{name}' is float"


def before_relu(view: View) -> Odd:
    """Q/DQ between a product and its ReLU."""
    for node in view.nodes:
        if node.op_type in _CLIPS and (pair := view.dequantised(node.input[0])):
            name = view.source(pair)
            if _product(view, name) and not pair.quantises:
                yield node, f"reads '{name}' through Q/DQ"


def batch_norm(view: View) -> Odd:
    """Batch norm after a quantised product."""
    for node in view.nodes:
        if node.op_type == "BatchNormalization":
            pair = view.dequantised(node.input[0])
            name = view.source(pair) if pair else node.input[0]
            if _product(view, name):
                yield node, f"scales '{name}'"


def left_float(view: View) -> Odd:
    """Products in float, in a model that has Q/DQ."""
    if view.linears:
        for node in view.nodes:
            if node.op_type in PRODUCTS and not any(map(view.behind, node.input[:2])):
                yield node, f"a {node.op_type} in float"


def island(view: View) -> Odd:
    """An operator that reads integers and gives float, or the other way round."""
    for node in view.nodes:
        varying = [name for name in node.input if name and name not in view.constants]
        if node.op_type not in _INTEGERS or len(varying) < len(list(filter(None, node.input))):
            continue
        reads = [bool(view.behind(name)) for name in varying]
        name = _after_clip(view, node)
        readers = view.only(name)
        gives = bool(readers) and all(map(_quantises, readers))
        if all(reads) and not gives:
            yield node, f"reads integers, and its result '{name}' is read in float"
        elif gives and not all(reads):
            name = varying[reads.index(False)]
            yield node, f"its result is quantised, and it reads '{name}' in float"


def relu_on_signed(view: View) -> Odd:
    """A ReLU after a quantised product, quantised to int8 with a zero point above -128."""
    for node in view.products:
        name = _after_clip(view, node)
        if name == node.output[0] or not view.whole(node):
            continue
        for each in view.only(name):
            found = view.linears.get(each.output[0])
            if _quantises(each) and found and found.stored == "int8" and not _at_bottom(found):
                yield view.producers[name], f"quantised with zero point {found.zero_point:g}"
                break


def shared_signed(view: View) -> Odd:
    """Activations in int8 whose DQ more than one operator reads."""
    for name, each in view.linears.items():
        readers = view.readers.get(name, [])
        varies = each.node.input[0] not in view.constants
        if varies and not each.quantises and each.stored == "int8" and len(readers) > 1:
            yield each.node, f"{len(readers)} operators read '{name}'"


def _sums(view: View) -> list[onnx.NodeProto]:
    """Sums of two activations."""
    return [
        node
        for node in view.nodes
        if node.op_type == "Add" and not view.constants.intersection(node.input)
    ]


def _product(view: View, name: str) -> bool:
    """Whether a product in int8 gives a tensor."""
    node = view.producers.get(name)
    if node is None or not view.whole(node):
        return False
    data = view.behind(node.input[0])
    return data is not None and data.stored in _SMALLEST


def _quantises(node: onnx.NodeProto) -> bool:
    return str(node.op_type) == "QuantizeLinear"


def _grid(linear: Linear) -> tuple[bytes, bytes, str]:
    scale, zero_point = (
        b"" if each is None else each.tobytes() for each in (linear.scale, linear.zero_point)
    )
    return scale, zero_point, linear.stored


def _after_clip(view: View, node: onnx.NodeProto) -> str:
    """What a node gives, or what the ReLU or Clip does that alone reads it."""
    name: str = node.output[0]
    readers = view.only(name)
    clips = len(readers) == 1 and readers[0].op_type in _CLIPS
    return str(readers[0].output[0]) if clips else name


def _at_bottom(linear: Linear) -> bool:
    """Whether the zero point is the smallest number of its type."""
    bottom = _SMALLEST.get(linear.stored)
    return linear.zero_point is not None and bool((linear.zero_point == bottom).all())


def _clips_more(view: View, name: str, linear: Linear) -> str:
    """How a Clip limits values that the Q after it would let through; empty where it does not."""
    node = view.producers[name]
    if node.op_type != "Clip" or linear.scale is None or linear.zero_point is None:
        return ""
    bounds = [view.constant(each) if each else None for each in (*node.input[1:], "", "")][:2]
    smallest = _SMALLEST.get(linear.stored, 0)
    ends = (np.array([smallest, smallest + 255]) - linear.zero_point) * linear.scale
    slack = float(linear.scale.max()) / 2
    low, high = bounds
    if low is not None and _at_bottom(linear) and float(ends.min()) < float(low) - slack:
        return f"its Clip starts at {float(low):g}, the Q after it at {float(ends.min()):.3g}"
    if high is not None and float(ends.max()) > float(high) + slack:
        return f"its Clip ends at {float(high):g}, the Q after it at {float(ends.max()):.3g}"
    return ""
