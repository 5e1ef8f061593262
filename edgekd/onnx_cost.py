"""What the nodes of an ONNX model cost: multiply-accumulates and bytes, by inferred shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One operator of a graph.

    Attributes:
        macs: multiply-accumulates; 0 of what is no product, None where a shape is not known.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int | None


@dataclass(frozen=True)
class Graph:
    """A model's operators, local functions written out, and the sizes of its tensors.

    Attributes:
        nodes: in the file's order, which is topological.
        outputs: names of the graph's.
        nbytes: of each tensor; without those whose shape is not known.
    """

    nodes: tuple[Node, ...]
    outputs: frozenset[str]
    nbytes: Mapping[str, int]

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that gives a tensor."""
        return {name: node for node in self.nodes for name in node.outputs}

    def moved(self, names: Collection[str], through: Collection[str] = ()) -> int | None:
        """Bytes that one kernel made of several nodes reads and writes; None where not known.

        What one of them gives to another of them alone stays in the kernel and is not counted.

        Args:
            names: of the nodes in the kernel.
            through: of DequantizeLinear nodes that nothing runs: who reads what they give reads
                what they take.
        """

        def stored(tensor: str) -> str:
            while tensor in self.producers and self.producers[tensor].name in through:
                tensor = self.producers[tensor].inputs[0]
            return tensor

        inside = [node for node in self.nodes if node.name in names]
        made = {name for node in inside for name in node.outputs}
        taken = {stored(name) for node in inside for name in node.inputs} - made
        wanted = self.outputs | {
            stored(name)
            for node in self.nodes
            if node.name not in names and node.name not in through
            for name in node.inputs
        }
        sizes = [self.nbytes.get(name) for name in taken | (made & wanted)]
        known = [each for each in sizes if each is not None]
        return sum(known) if len(known) == len(sizes) else None


def beside(path: Path) -> tuple[Path, ...]:
    """The files beside an ONNX file that hold its tensors."""
    import onnx

    held = onnx.load(path, load_external_data=False).graph.initializer
    names = {
        entry.value for each in held for entry in each.external_data if entry.key == "location"
    }
    return tuple(path.parent / name for name in sorted(names))


def read(path: Path, shapes: Mapping[str, Shape] | None = None) -> Graph:
    """The graph of an ONNX file, whose tensors in other files are left there; see ``of``."""
    import onnx

    return of(onnx.load(path, load_external_data=False), shapes)


def of(model: onnx.ModelProto, shapes: Mapping[str, Shape] | None = None) -> Graph:
    """The graph of a model.

    Args:
        model: is changed.
        shapes: of inputs by name; what is not given is one sample, where the batch is free.
    """
    from onnx.inliner import inline_local_functions
    from onnx.shape_inference import infer_shapes

    if model.functions:
        model = inline_local_functions(model)
    graph = model.graph
    weights = {each.name for each in graph.initializer}
    for value in graph.input:
        kind = value.type.tensor_type
        given = (shapes or {}).get(value.name)
        if given is not None:
            kind.ClearField("shape")
            for size in given:
                kind.shape.dim.add().dim_value = size
        elif value.name not in weights and kind.shape.dim:
            first = kind.shape.dim[0]
            first.dim_value = first.dim_value or 1
    del graph.value_info[:]  # they are of another batch, maybe
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = infer_shapes(model, data_prop=True).graph
    found = _shapes(graph)
    return Graph(
        nodes=tuple(_node(index, each, found) for index, each in enumerate(graph.node)),
        outputs=frozenset(each.name for each in graph.output),
        nbytes=_nbytes(graph, found),
    )


def macs(op: str, left: Shape, right: Shape, out: Shape, transposed: bool = False) -> int:
    """Multiply-accumulates of one product.

    Args:
        op: one of ``PRODUCTS``.
        left: the shape of the data.
        right: of the weight, or of the other factor.
        out: of the result.
        transposed: the data of a Gemm is.
    """
    return PRODUCTS[op].count(left, right, out, transposed)


@dataclass(frozen=True)
class _Product:
    """Where an operator's factors are among its inputs, and how it is counted."""

    count: Callable[[Shape, Shape, Shape, bool], int]
    left: int = 0
    right: int = 1


def _conv(x: Shape, w: Shape, y: Shape, _: bool) -> int:
    return math.prod(y) * math.prod(w[1:])


def _deconv(x: Shape, w: Shape, y: Shape, _: bool) -> int:
    return math.prod(x) * math.prod(w[1:])


def _matmul(x: Shape, w: Shape, y: Shape, transposed: bool) -> int:
    return math.prod(y) * x[0 if transposed else -1]


PRODUCTS = {
    "Conv": _Product(_conv),
    "ConvInteger": _Product(_conv),
    "ConvTranspose": _Product(_deconv),
    "Gemm": _Product(_matmul),
    "MatMul": _Product(_matmul),
    "MatMulInteger": _Product(_matmul),
    "QLinearConv": _Product(_conv, right=3),
    "QLinearMatMul": _Product(_matmul, right=3),
}
"""The operators that are counted: convolutions and products of matrices."""


def _node(index: int, node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> Node:
    count: int | None = 0
    product = PRODUCTS.get(node.op_type)
    if product is not None:
        names = (node.input[product.left], node.input[product.right], node.output[0])
        left, right, out = map(shapes.get, names)
        transposed = any(each.name == "transA" and each.i for each in node.attribute)
        count = None
        if left is not None and right is not None and out is not None:
            count = macs(node.op_type, left, right, out, transposed)
    return Node(
        name=node.name or f"{node.op_type}_{index}",  # as ONNX Runtime calls it
        op=node.op_type,
        inputs=tuple(each for each in node.input if each),
        outputs=tuple(each for each in node.output if each),
        macs=count,
    )


def _shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    found = {each.name: tuple(each.dims) for each in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        sizes = kind.shape.dim
        if kind.HasField("shape") and all(each.HasField("dim_value") for each in sizes):
            found[value.name] = tuple(each.dim_value for each in sizes)
    return found


def _nbytes(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> dict[str, int]:
    from onnx.helper import tensor_dtype_to_np_dtype

    kinds = {each.name: each.data_type for each in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kinds[value.name] = value.type.tensor_type.elem_type
    return {
        name: math.prod(shape) * int(tensor_dtype_to_np_dtype(kinds[name]).itemsize)
        for name, shape in shapes.items()
        if kinds[name]
    }
