"""ONNX operators in torch: the table that a graph is run by where it is trained.

It holds what the exporter writes for networks that classify images. An operator takes its
node's attributes and inputs, an input left out being None. Shapes are int64 tensors on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Attributes = Mapping[str, Any]
Operator = Callable[..., Tensor | Sequence[Tensor]]

_TYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}
"""By ``onnx.TensorProto.DataType``."""


def unfit(kind: str, attributes: Attributes, outputs: int) -> str:
    """Why a node cannot be run by the table, in a few words; empty where it can."""
    if kind not in OPERATORS:
        return "no such operator"
    if attributes.get("auto_pad", "NOTSET") != "NOTSET":
        return "auto_pad"
    if attributes.get("mode", "constant") != "constant":
        return f"mode {attributes['mode']}"
    if attributes.get("to", 1) not in _TYPES:
        return "its type"
    pads = attributes.get("pads", ())
    if kind == "ConvTranspose" and "output_shape" in attributes:
        return "output_shape"
    if (
        kind in ("AveragePool", "ConvTranspose")
        and pads[: len(pads) // 2] != pads[len(pads) // 2 :]
    ):
        return "uneven pads"
    if outputs > 1 and kind != "Split":
        return "more than one output"
    return ""


def _conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = weight.ndim - 2
    x, pads = _padded(a, x, rank, 0.0)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    result: Tensor = convolve(
        x,
        weight,
        bias,
        a.get("strides", [1] * rank),
        pads,
        a.get("dilations", [1] * rank),
        a.get("group", 1),
    )
    return result


def _conv_transpose(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = weight.ndim - 2
    deconvolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    result: Tensor = deconvolve(
        x,
        weight,
        bias,
        a.get("strides", [1] * rank),
        a.get("pads", [0] * 2 * rank)[:rank],
        a.get("output_padding", [0] * rank),
        a.get("group", 1),
        a.get("dilations", [1] * rank),
    )
    return result


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    rank = len(a["kernel_shape"])
    x, pads = _padded(a, x, rank, -math.inf)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    strides, dilations = a.get("strides", [1] * rank), a.get("dilations", [1] * rank)
    result: Tensor = pool(
        x, a["kernel_shape"], strides, pads, dilations, bool(a.get("ceil_mode", 0))
    )
    return result


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    rank = len(a["kernel_shape"])
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    result: Tensor = pool(
        x,
        a["kernel_shape"],
        a.get("strides", [1] * rank),
        a.get("pads", [0] * rank)[:rank],
        bool(a.get("ceil_mode", 0)),
        bool(a.get("count_include_pad", 0)),
    )
    return result


def _padded(a: Attributes, x: Tensor, rank: int, value: float) -> tuple[Tensor, list[int]]:
    """The input, and the padding left to torch, which pads both ends of an axis alike."""
    pads = a.get("pads", [0] * 2 * rank)
    first, last = pads[:rank], pads[rank:]
    if first == last:
        return x, first
    return F.pad(x, _from_the_last_axis(first, last), value=value), [0] * rank


def _from_the_last_axis(first: Sequence[int], last: Sequence[int]) -> list[int]:
    pairs = zip(reversed(first), reversed(last), strict=True)
    return [each for pair in pairs for each in pair]


def _pad(
    a: Attributes,
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    amounts = pads.tolist()
    first, last = [0] * x.ndim, [0] * x.ndim
    over = range(x.ndim) if axes is None else axes.tolist()
    for place, axis in enumerate(over):
        first[axis], last[axis] = amounts[place], amounts[len(amounts) // 2 + place]
    fill = 0.0 if value is None else value.item()
    return F.pad(x, _from_the_last_axis(first, last), value=fill)


def _gemm(a: Attributes, left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    left = left.T if a.get("transA", 0) else left
    right = right.T if a.get("transB", 0) else right
    product: Tensor = a.get("alpha", 1.0) * (left @ right)
    return product if bias is None else product + a.get("beta", 1.0) * bias


def _reduction(over: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def operator(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        given = a.get("axes", []) if axes is None else axes.tolist()
        if not given and a.get("noop_with_empty_axes", 0):
            return x
        return over(x, given or list(range(x.ndim)), bool(a.get("keepdims", 1)))

    return operator


def _batch_norm(
    a: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, bias, eps=a.get("epsilon", 1e-5))


def _layer_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    shape = list(x.shape[a.get("axis", -1) :])
    return F.layer_norm(x, shape, scale, bias, a.get("epsilon", 1e-5))


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = shape.tolist()
    if not a.get("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(a: Attributes, x: Tensor) -> Tensor:
    axis = a.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(axes.tolist())


def _unsqueeze(a: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(each % rank for each in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def _split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
    axis = a.get("axis", 0)
    each = sizes.tolist() if sizes is not None else -(-x.shape[axis] // a["num_outputs"])
    parts: Sequence[Tensor] = torch.functional.split(x, each, axis)
    return parts


def _slice(
    a: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    over = range(starts.numel()) if axes is None else axes.tolist()
    strides = [1] * starts.numel() if steps is None else steps.tolist()
    for axis, start, end, stride in zip(over, starts.tolist(), ends.tolist(), strides, strict=True):
        places = range(x.shape[axis])[start:end:stride]
        x = x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))
    return x


def _gather(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.ndim
    places = indices.to(x.device) % x.shape[axis]
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, places.flatten()).reshape(shape)


def _expand(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x + x.new_zeros(shape.tolist())


def _divide(a: Attributes, left: Tensor, right: Tensor) -> Tensor:
    whole = not left.is_floating_point()
    return torch.div(left, right, rounding_mode="trunc" if whole else None)


def _clip(
    a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


OPERATORS: dict[str, Operator] = {
    # products and what normalises
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": lambda a, x, y: x @ y,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": lambda a, x, scale, bias: F.instance_norm(
        x, weight=scale, bias=bias, eps=a.get("epsilon", 1e-5)
    ),
    "LayerNormalization": _layer_norm,
    # pooling
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda a, x: x.mean(list(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda a, x: x.amax(list(range(2, x.ndim)), keepdim=True),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    # activations
    "Relu": lambda a, x: F.relu(x),
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
    "PRelu": lambda a, x, slope: torch.where(x < 0, slope * x, x),
    "Elu": lambda a, x: F.elu(x, a.get("alpha", 1.0)),
    "Clip": _clip,
    "HardSwish": lambda a, x: F.hardswish(x),
    "HardSigmoid": lambda a, x: (a.get("alpha", 0.2) * x + a.get("beta", 0.5)).clamp(0, 1),
    "Sigmoid": lambda a, x: torch.sigmoid(x),
    "Tanh": lambda a, x: torch.tanh(x),
    "Erf": lambda a, x: torch.erf(x),
    "Softplus": lambda a, x: F.softplus(x),
    "Softmax": lambda a, x: torch.softmax(x, a.get("axis", -1)),
    "LogSoftmax": lambda a, x: torch.log_softmax(x, a.get("axis", -1)),
    # arithmetic
    "Add": lambda a, x, y: x + y,
    "Sub": lambda a, x, y: x - y,
    "Mul": lambda a, x, y: x * y,
    "Div": _divide,
    "Pow": lambda a, x, y: torch.pow(x, y),
    "Sqrt": lambda a, x: torch.sqrt(x),
    "Reciprocal": lambda a, x: torch.reciprocal(x),
    "Exp": lambda a, x: torch.exp(x),
    "Neg": lambda a, x: -x,
    "Abs": lambda a, x: torch.abs(x),
    "Max": lambda a, *xs: reduce(torch.maximum, xs),
    "Min": lambda a, *xs: reduce(torch.minimum, xs),
    # shape
    "Identity": lambda a, x: x,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": lambda a, x: x.permute(a.get("perm", list(reversed(range(x.ndim))))),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": lambda a, *xs: torch.cat(xs, a["axis"]),
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Expand": _expand,
    "Pad": _pad,
    "Shape": lambda a, x: torch.tensor(x.shape[a.get("start", 0) : a.get("end")]),
    "Cast": lambda a, x: x.to(_TYPES[a["to"]]),
}
