"""Whether int8 can pay: too little work, or no kernels for it. See ``rules`` for the table.

Each function yields a node and what is odd about it; no node where it is about the whole model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd import onnx_cost
from edgekd.quantize.lint.forms import Odd
from edgekd.quantize.lint.view import View

if TYPE_CHECKING:
    import onnx

FEW_CHANNELS = 16
SMALL = 2e6
"""Multiply-accumulates of a network that int8 makes slower rather than faster."""


def few_channels(view: View) -> Odd:
    """Quantised convolutions of few channels, not depthwise ones."""
    for node in _convolutions(view):
        shape = view.shape(node.input[1])
        if not shape or view.attribute(node, "group", 1) > 1:
            continue
        gives, takes = shape[:2]
        if isinstance(gives, int) and isinstance(takes, int) and min(gives, takes) < FEW_CHANNELS:
            yield node, f"{takes} channels in, {gives} out"


def depthwise(view: View) -> Odd:
    """Quantised depthwise convolutions."""
    for node in _convolutions(view):
        shape, groups = view.shape(node.input[1]), view.attribute(node, "group", 1)
        if groups > 1 and shape and shape[1] == 1:
            yield node, f"{groups} groups"


def little_work(view: View) -> Odd:
    """A quantised model of few multiply-accumulates in all."""
    if not view.products:
        return
    counts = [macs(view, node) for node in view.nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
    if counts and all(counts) and sum(counts) < SMALL:
        yield None, f"{sum(counts) / 1e6:.2f} million multiply-accumulates"


def transposed(view: View) -> Odd:
    """Quantised transposed convolutions."""
    for node in view.products:
        if node.op_type == "ConvTranspose":
            yield node, "quantised"


def macs(view: View, node: onnx.NodeProto) -> int:
    """Multiply-accumulates for one sample; 0 where the shapes are not known."""
    left, weight, out = (view.shape(name) for name in (*node.input[:2], node.output[0]))
    if not left or not weight or not out:
        return 0
    sizes = [
        tuple(each for each in shape if isinstance(each, int))
        for shape in ((1, *left[1:]), weight, (1, *out[1:]))
    ]
    if list(map(len, sizes)) != [len(left), len(weight), len(out)]:
        return 0
    return onnx_cost.macs(node.op_type, sizes[0], sizes[1], sizes[2])


def _convolutions(view: View) -> list[onnx.NodeProto]:
    return [node for node in view.products if node.op_type == "Conv" and view.whole(node)]
