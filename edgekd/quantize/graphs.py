"""What every pass over an ONNX graph needs: its nodes, constants and names, at any depth."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.errors import QuantizeError

if TYPE_CHECKING:
    import onnx

_IR_OF_19 = 9
"""The file format that opset 19 came with."""
EXTERNAL_ABOVE = 1_500_000_000
"""Bytes of tensors above which they are kept beside the file; a protobuf holds 2 GB."""


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those within If, Loop and Scan too."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from nodes_of(inner)


def subgraphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    """The bodies of an If, Loop or Scan."""
    for each in node.attribute:
        if each.HasField("g"):
            yield each.g
        yield from each.graphs


def reads(node: onnx.NodeProto) -> set[str]:
    """The tensors that a node needs, those that its subgraphs read from outside too."""
    names = set(node.input)
    for inner in subgraphs(node):
        names |= {name for each in inner.node for name in reads(each)}
        names |= {each.name for each in inner.output}
    return names


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Puts each node after those that it reads from, and else leaves them in their order."""
    nodes = list(graph.node)
    makers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    sorter = TopologicalSorter(
        {
            place: {makers[name] for name in reads(node) if name in makers}
            for place, node in enumerate(nodes)
        }
    )
    sorter.prepare()
    ready: list[int] = []
    ordered = []
    while sorter.is_active():
        for place in sorter.get_ready():
            heapq.heappush(ready, place)
        first = heapq.heappop(ready)
        ordered.append(nodes[first])
        sorter.done(first)
    del graph.node[:]
    graph.node.extend(ordered)


def name_nodes(graph: onnx.GraphProto) -> None:
    """Gives each node without a name, or with another's, one after its operator and output."""
    taken = {each.name for each in graph.node}
    seen = {""}
    for node in graph.node:
        if node.name in seen:
            output = next(filter(None, node.output), "")
            name = wanted = f"{node.op_type}_{output}"
            number = 2
            while name in taken:
                name, number = f"{wanted}_{number}", number + 1
            node.name = name
            taken.add(name)
        seen.add(node.name)


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Constants: initialisers, and those within nodes."""
    yield from graph.initializer
    for node in graph.node:
        yield from (each.t for each in node.attribute if each.HasField("t"))
        for inner in subgraphs(node):
            yield from tensors_of(inner)


def tensor_bytes(graph: onnx.GraphProto) -> int:
    """The size of the constants, wherever they are kept."""
    from onnx import helper

    return sum(
        math.prod(each.dims) * helper.tensor_dtype_to_np_dtype(each.data_type).itemsize
        for each in tensors_of(graph)
    )


def is_large(graph: onnx.GraphProto) -> bool:
    """Whether its constants have to lie beside the file."""
    return tensor_bytes(graph) > EXTERNAL_ABOVE


def save(proto: onnx.ModelProto, path: Path) -> None:
    """Writes a model whose constants are loaded; where they are large, to ``<path>.data``."""
    import onnx

    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)  # or else onnx would add to it
    onnx.save(proto, path, save_as_external_data=is_large(proto.graph), location=data.name)


def opset(proto: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    return max((e.version for e in proto.opset_import if e.domain in ("", "ai.onnx")), default=1)


def raise_opset(proto: onnx.ModelProto, least: int, name: str, why: str) -> onnx.ModelProto:
    """The model at an opset that has what is to be written in it; as it is where it has that.

    Raises:
        QuantizeError: onnx cannot raise it; ``name`` and ``why`` are told.
    """
    from onnx import version_converter

    if opset(proto) >= least:
        return proto
    try:
        found = version_converter.convert_version(proto, least)
    except (version_converter.ConvertError, RuntimeError) as error:
        first_line = str(error).splitlines()[0]
        raise QuantizeError(
            f"{name} has opset {opset(proto)}, and onnx cannot raise it to the {least} that"
            f" {why} needs: {first_line}",
            f"export it with opset {least} or later",
        ) from error
    found.ir_version = max(found.ir_version, _IR_OF_19)
    return found


def title(node: onnx.NodeProto) -> str:
    """What to call a node: by its first output where it has no name."""
    return str(node.name or next(filter(None, node.output), ""))
