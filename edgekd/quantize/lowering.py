"""What a form's kernels have under another name: the same graph, said in their words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.quantize.forms import Form

if TYPE_CHECKING:
    import onnx


def lower(graph: onnx.GraphProto, form: Form) -> dict[str, str]:
    """Makes of each mean over an image's pixels a GlobalAveragePool, for which CPUs have int8.

    Args:
        graph: fp32; changed in place. Nodes keep their names, tensors theirs.

    Returns:
        The tensors that it adds, each by the tensor whose values it holds.
    """
    if form.kernels != "cpu":
        return {}
    from onnx import helper

    constants = {each.name: each for each in graph.initializer}
    ranks = {
        each.name: len(each.type.tensor_type.shape.dim)
        for each in (*graph.input, *graph.value_info)
        if each.type.tensor_type.HasField("shape")
    }
    added: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        if node.op_type != "ReduceMean" or not _is_of_pixels(node, ranks, constants):
            nodes.append(node)
            continue
        made = node.output[0]
        keeps = all(each.i for each in node.attribute if each.name == "keepdims")
        pooled = made if keeps else f"{made}_pooled"
        nodes.append(
            helper.make_node("GlobalAveragePool", node.input[:1], [pooled], name=node.name)
        )
        if not keeps:
            added[pooled] = made
            nodes.append(
                helper.make_node("Flatten", [pooled], [made], name=f"{node.name}_flat", axis=1)
            )
    del graph.node[:]
    graph.node.extend(nodes)
    return added


def _is_of_pixels(
    node: onnx.NodeProto, ranks: dict[str, int], constants: dict[str, onnx.TensorProto]
) -> bool:
    """Whether it is over every axis but the first two."""
    from onnx import numpy_helper

    rank = ranks.get(node.input[0], 0)
    if len(node.input) > 1:
        given = constants.get(node.input[1])
        axes = [] if given is None else numpy_helper.to_array(given).tolist()
    else:
        axes = [axis for each in node.attribute if each.name == "axes" for axis in each.ints]
    return rank > 2 and sorted(axis % rank for axis in axes) == list(range(2, rank))
