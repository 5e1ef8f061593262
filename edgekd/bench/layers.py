"""Where an engine's time goes: a runtime's layers, joined with what their ONNX nodes cost.

A runtime names the nodes that a layer was made from, or some of them: ONNX Runtime the one whose
name the fused node took, OpenVINO and TensorRT most. What is not named runs where its input is
made, since runtimes fuse what follows a product into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from edgekd.artifacts import EngineFile
from edgekd.backends.base import Arrays, can_profile, find
from edgekd.bench import roofline
from edgekd.errors import BenchError
from edgekd.measurements import LayerTime, Profile
from edgekd.onnx_cost import PRODUCTS, Graph, Node, read

RUNS = 50

_FLOAT = ("fp32", "fp16", "bf16")
_LOW = ("int8", "fp8")
_COPIES = ("reformat", "convert")
_DEQUANTIZE = "DequantizeLinear"


def profile(
    engine: EngineFile, model: Path | None, feeds: Arrays, threads: int = 1, runs: int = RUNS
) -> Profile:
    """Runs an engine under its runtime's profiler.

    Args:
        engine: whose backend ``can_profile``.
        model: the ONNX file that it was built from; None where it is not known. Without it, and
            without the package ``onnx`` to read it, multiply-accumulates are not known.
        feeds: one batch.
        threads: of a CPU, for one inference.
        runs: inferences that count.

    Raises:
        BenchError: the backend has no profile.
        As ``Backend.open`` and ``Session.run``.
    """
    backend = find(engine.backend)
    if not can_profile(backend):
        raise BenchError(f"{engine.backend} does not say how long its layers take")
    total_ns, layers = backend.profile(engine, feeds, threads, runs)
    if model is not None and find_spec("onnx"):
        graph = read(model, {name: each.shape for name, each in feeds.items()})
        layers = join(layers, graph)
    on_cpu = engine.backend in roofline.RUNTIMES and "provider" not in engine.options
    return Profile(
        engine=engine.name,
        layers=layers,
        total_ns=total_ns,
        islands=islands(layers),
        roof=roofline.roof(threads) if on_cpu else None,
    )


def islands(layers: Sequence[LayerTime]) -> tuple[str, ...]:
    """Names of the compute layers in float that run between two in a lower precision."""
    computes = [each for each in layers if each.role == "compute"]
    low = [index for index, each in enumerate(computes) if each.precision in _LOW]
    if not low:
        return ()
    return tuple(each.name for each in computes[low[0] : low[-1]] if each.precision in _FLOAT)


def join(layers: Sequence[LayerTime], graph: Graph) -> tuple[LayerTime, ...]:
    """Layers with the nodes that they were made from, their multiply-accumulates and bytes.

    A layer that is found to multiply computes, whatever its runtime says.
    """
    owners = _owners(layers, graph)
    lost = {node.name for node in graph.nodes if node.name not in owners}
    unseen = {
        name
        for node in graph.nodes
        if node.op in PRODUCTS and node.name in lost
        for name in node.outputs
    }
    through = {node.name for node in graph.nodes if node.op == _DEQUANTIZE} & lost
    joined = []
    for index, layer in enumerate(layers):
        nodes = [node for node in graph.nodes if owners.get(node.name) == index]
        names = tuple(node.name for node in nodes)
        role = "compute" if any(node.op in PRODUCTS for node in nodes) else layer.role
        # What reads of a product that nobody names may hold it, and what else is in between.
        whole = not any(name in unseen for node in nodes for name in node.inputs)
        nbytes = layer.bytes
        if nbytes is None and names and whole:
            nbytes = graph.moved(names, through)
        macs = _macs(role, nodes) if whole else None
        joined.append(replace(layer, role=role, macs=macs, bytes=nbytes, nodes=names))
    return tuple(joined)


def _macs(role: str, nodes: Sequence[Node]) -> int | None:
    """Of one layer; None where the product that it must hold, or may, was not found."""
    counts = [node.macs for node in nodes]
    known = [each for each in counts if each is not None]
    found = any(node.op in PRODUCTS for node in nodes)
    told = found or role in _COPIES or (role == "other" and bool(nodes))
    return sum(known) if told and len(known) == len(counts) else None


def _owners(layers: Sequence[LayerTime], graph: Graph) -> dict[str, int]:
    """The layer in which each node runs, by name; without those of which it is not known."""
    places = dict(graph.producers) | {node.name: node for node in graph.nodes}
    owners: dict[str, int] = {}
    copies = [index for index, each in enumerate(layers) if each.role in _COPIES]
    rest = [index for index in range(len(layers)) if index not in set(copies)]
    for index in (*rest, *copies):  # a copy may be named for the product that it is made for
        for name in layers[index].nodes or (layers[index].name,):
            node = _named(name, places)
            if node is not None and not (index in copies and node.op in PRODUCTS):
                owners.setdefault(node.name, index)
    for index in rest:
        if layers[index].role == "compute":
            _take_product(index, graph, owners)
    for node in graph.nodes:
        if node.name in owners or node.op in PRODUCTS or node.op == _DEQUANTIZE:
            continue
        makers = list(_makers(node, graph))
        if makers and all(each.name in owners for each in makers):
            owners[node.name] = max(owners[each.name] for each in makers)
    return owners


def _named(name: str, places: Mapping[str, Node]) -> Node | None:
    """The node or the giver of a tensor of that name; or of the part of it before a slash."""
    while name:
        if name in places:
            return places[name]
        name = name.rpartition("/")[0]
    return None


def _take_product(index: int, graph: Graph, owners: dict[str, int]) -> None:
    """Gives a layer that is named for what was fused into its product that product too."""
    own = [node for node in graph.nodes if owners.get(node.name) == index]
    if any(node.op in PRODUCTS for node in own):
        return
    seen = set()
    while own:
        node = own.pop(0)  # the nearest first
        if node.op in PRODUCTS:
            owners[node.name] = index
            return
        seen.add(node.name)
        makers = _makers(node, graph)
        own.extend(each for each in makers if each.name not in {*owners, *seen})


def _makers(node: Node, graph: Graph) -> Iterable[Node]:
    """The nodes that give what a node reads, the Q of a DQ and not the DQ; no constants."""
    for name in node.inputs:
        maker = graph.producers.get(name)
        while maker is not None and maker.op == _DEQUANTIZE:
            maker = graph.producers.get(maker.inputs[0])
        if maker is not None and maker.op != "Constant":
            yield maker
