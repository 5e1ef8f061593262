"""Where Q/DQ goes: a table by operator, and the edges it picks in a graph.

Inputs of products are quantised, not their outputs, so that a runtime can fuse what follows
(bias, batch norm, ReLU, the sum of a residual block) into them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekd.quantize.forms import Form

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Rule:
    """Which inputs of an operator are quantised.

    Attributes:
        data: indices of activations.
        weight: index of the weight, which must be an initialiser; None for none.
        bias: index of the bias; None for none.
    """

    data: tuple[int, ...]
    weight: int | None = None
    bias: int | None = None


RULES = {
    "Conv": Rule((0,), weight=1, bias=2),
    "Gemm": Rule((0,), weight=1, bias=2),
    "MatMul": Rule((0,), weight=1),
    "Add": Rule((0, 1)),  # of a residual block; see _sum_inputs
    "GlobalAveragePool": Rule((0,)),
    "AveragePool": Rule((0,)),
    "ReduceMean": Rule((0,)),
}
PRODUCTS = {name for name, rule in RULES.items() if rule.weight is not None}


@dataclass(frozen=True)
class Weight:
    """A weight to quantise: the initialiser, and the axis of its output channels."""

    name: str
    axis: int


@dataclass(frozen=True)
class Placement:
    """What to quantise.

    Attributes:
        edges: (node index, input index) of each activation that is read through Q/DQ.
        weights: by node index.
        kept_float: names of products that stay in float.
    """

    edges: frozenset[tuple[int, int]]
    weights: dict[int, Weight]
    kept_float: tuple[str, ...]


def place(graph: onnx.GraphProto, form: Form, known: set[str]) -> Placement:
    """Applies the rules to a graph.

    Args:
        graph: fp32, batch norm folded, nodes in topological order.
        form: decides on sums.
        known: the tensors that have a range; others stay in float.
    """
    initialisers = {each.name for each in graph.initializer}
    producers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    edges: set[tuple[int, int]] = set()
    weights: dict[int, Weight] = {}
    kept_float = []
    for index, node in enumerate(graph.node):
        rule = RULES.get(node.op_type)
        if rule is None:
            continue
        inputs = [each for each in rule.data if each < len(node.input)]
        if node.op_type == "Add":
            inputs = _sum_inputs(graph, producers, index, form, initialisers)
        if not all(node.input[each] in known for each in inputs):
            inputs = []
        if rule.weight is not None:
            name = node.input[rule.weight]
            if name not in initialisers or not inputs:
                kept_float.append(node.name)
                continue
            weights[index] = Weight(name, _channel_axis(node))
        edges.update((index, each) for each in inputs)
    return Placement(frozenset(edges), weights, tuple(kept_float))


def _sum_inputs(
    graph: onnx.GraphProto,
    producers: dict[str, int],
    index: int,
    form: Form,
    initialisers: set[str],
) -> list[int]:
    """The inputs of an Add to quantise.

    The sum of a residual block is fused into the convolution that is computed last; a runtime
    that does so wants the other input quantised and nothing between that convolution and
    the sum. A sum with a constant, or of tensors that no product made, stays in float.
    """
    names = list(graph.node[index].input)
    if any(name in initialisers for name in names):
        return []
    from_product = [
        producers[name]
        for name in names
        if name in producers and graph.node[producers[name]].op_type in PRODUCTS
    ]
    if not from_product:
        return []
    if form.whole_sums:
        return [0, 1]
    fused = max(from_product)
    return [place for place, name in enumerate(names) if producers.get(name) != fused]


def _channel_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if any(each.name == "transB" and each.i for each in node.attribute) else 1
    return -1
