"""Where Q/DQ goes: a table by operator, and the edges it picks in a graph.

Kernels want different things. TensorRT quantises the inputs of products, not their outputs, and
fuses what follows (bias, ReLU, SiLU, the sum of a residual block) into them by itself; its FP8
kernels are products alone. A CPU's convolution is int8 only where its output is stored as int8
too, and each float operator between two of int8 costs a pass over memory each way: there, what
can be int8 is int8, from one float operator to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from edgekd.quantize.forms import Form, Kernels, Scale
from edgekd.quantize.graphs import reads

if TYPE_CHECKING:
    import onnx


class Part(Enum):
    """What an operator does with int8 (or FP8)."""

    PRODUCT = "multiplies in it: always reads it"
    WRITER = "a product that is fast only where its output, past a ReLU, is stored as int8 too"
    OFFERER = "a product that can store its output, past a ReLU, as int8 at no cost"
    POOL = "always reads it"
    SUM = "reads it, but for the input whose product it is fused with"
    FOLLOWER = "reads it where another reader has it stored"
    INTEGER = "computes in it where all inputs are at hand in it, and then stores it"
    JOIN = "the same, with one scale for all inputs and the output"
    MOVER = "passes it on as it is, with one scale before and after"
    BRIDGE = "computes in float, for a pass over memory, what is at hand in it again"
    FLOAT = "does nothing with it"


@dataclass(frozen=True)
class Rule:
    """How one operator takes part.

    Attributes:
        data: places of the inputs that are activations; () for every one.
        parts: by kernels; where they are not named, FLOAT.
        weight: place of the weight; None for none.
        bias: place of the bias; None for none.
        axis: of the weight's output channels; of a Gemm, as ``transB`` says.
    """

    data: tuple[int, ...]
    parts: Mapping[Kernels, Part]
    weight: int | None = None
    bias: int | None = None
    axis: int = 0


def _parts(
    tensorrt: Part = Part.FLOAT, cpu: Part = Part.FLOAT, fp8: Part = Part.FLOAT
) -> Mapping[Kernels, Part]:
    return {"tensorrt": tensorrt, "cpu": cpu, "fp8": fp8}


_PRODUCT = _parts(Part.PRODUCT, Part.PRODUCT, Part.PRODUCT)
_MOVER = Rule((0,), _parts(cpu=Part.MOVER))
_BRIDGE = Rule((0,), _parts(cpu=Part.BRIDGE))

RULES: dict[str, Rule] = {
    # products
    "Conv": Rule((0,), _parts(Part.PRODUCT, Part.WRITER, Part.PRODUCT), weight=1, bias=2),
    "ConvTranspose": Rule((0,), _PRODUCT, weight=1, axis=1),
    "Gemm": Rule((0,), _parts(Part.PRODUCT, Part.OFFERER, Part.PRODUCT), weight=1, bias=2),
    "MatMul": Rule((0,), _PRODUCT, weight=1, axis=-1),  # of attention, see _View.activations
    # pooling
    "AveragePool": Rule((0,), _parts(Part.POOL, Part.INTEGER)),
    "GlobalAveragePool": Rule((0,), _parts(Part.POOL, Part.INTEGER)),
    "ReduceMean": Rule((0,), _parts(Part.POOL)),  # of an image, see lowering
    # elementwise
    "Add": Rule((0, 1), _parts(Part.SUM, Part.INTEGER)),
    "Mul": Rule((0, 1), _parts(Part.FOLLOWER, Part.INTEGER)),
    "Sigmoid": Rule((0,), _parts(cpu=Part.INTEGER)),  # and so SiLU, which is x · sigmoid(x)
    "LeakyRelu": Rule((0,), _parts(cpu=Part.INTEGER)),
    **dict.fromkeys(("HardSwish", "HardSigmoid", "Relu", "Clip", "PRelu", "Elu", "Tanh"), _BRIDGE),
    # what moves values; a MaxPool's Q commutes with it
    "Concat": Rule((), _parts(Part.JOIN, Part.JOIN)),
    **dict.fromkeys(("MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze"), _MOVER),
    **dict.fromkeys(("Unsqueeze", "Slice", "Gather", "Expand", "Tile", "Resize", "Split"), _MOVER),
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
        moved: sets of activations that hold the same values, and so have one scale.
        joined: sets of what a Concat reads and writes.
        outputs: of the graph, those that are written through Q/DQ.
    """

    edges: frozenset[tuple[int, int]]
    weights: dict[int, Weight]
    kept_float: tuple[str, ...]
    moved: tuple[frozenset[str], ...] = ()
    joined: tuple[frozenset[str], ...] = ()
    outputs: frozenset[str] = frozenset()


def place(
    graph: onnx.GraphProto, form: Form, known: Collection[str], keep_float: Collection[str] = ()
) -> Placement:
    """Applies the rules to a graph.

    Args:
        graph: fp32, batch norm folded, nodes in topological order.
        form: decides by its kernels.
        known: the tensors that have a range; others stay in float.
        keep_float: names of nodes that stay in float.
    """
    view = _View(graph, form.kernels, frozenset(known), frozenset(keep_float))
    if form.kernels == "cpu":
        stored = _stored_on_cpu(view)
        edges = {edge for name in stored for edge in view.readers.get(name, ())}
        outputs = stored & view.outputs
    else:
        edges = _read_by_tensorrt(view)
        stored = {view.nodes[index].input[at] for index, at in edges}
        outputs = set()
    return Placement(
        edges=frozenset(edges),
        weights=view.weights(),
        kept_float=tuple(
            node.name
            for index, node in enumerate(view.nodes)
            if node.op_type in PRODUCTS and view.parts[index] not in _MULTIPLIES
        ),
        moved=_tied(view, stored, Part.MOVER),
        joined=_tied(view, stored, Part.JOIN),
        outputs=frozenset(outputs),
    )


def scales(
    placement: Placement, ranges: Mapping[str, tuple[float, float]], form: Form
) -> dict[str, Scale]:
    """Each activation's scale; those that share one get that of all their ranges together.

    On a CPU what is never negative shares none with what may be: its ReLU could not be folded
    into the kernel that makes it, and that kernel would be float.
    """
    sets = [set(each) for each in placement.moved]
    for each in placement.joined:
        signed = {name for name in each if ranges[name][0] < 0}
        sets.append(signed if signed and form.kernels == "cpu" else set(each))
    groups: dict[str, set[str]] = {}
    for tied in sets:
        whole = set().union(*(groups.get(name, {name}) for name in tied))
        groups |= dict.fromkeys(whole, whole)
    found = {}
    for name in ranges:
        group = groups.get(name, {name})
        low = min(ranges[each][0] for each in group)
        high = max(ranges[each][1] for each in group)
        found[name] = form.activation(low, high)
    return found


_MULTIPLIES = (Part.PRODUCT, Part.WRITER, Part.OFFERER)


class _View:
    """A graph, and what the rules ask of it.

    Attributes:
        readers: (node index, input index) by tensor.
        parts: of the nodes; FLOAT also where the user, a constant or a missing range says so.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        kernels: Kernels,
        known: frozenset[str],
        keep_float: frozenset[str],
    ) -> None:
        self.nodes = list(graph.node)
        self.constants = {each.name: each for each in graph.initializer}
        self.outputs = {each.name for each in graph.output}
        self.makers = {name: at for at, node in enumerate(self.nodes) for name in node.output}
        self.readers: dict[str, list[tuple[int, int]]] = {}
        for index, node in enumerate(self.nodes):
            for at, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((index, at))
        # If, Loop and Scan read what lies outside them as it was.
        self._raw = self.outputs.union(*(reads(node) - set(node.input) for node in self.nodes))
        self.known = known
        self.parts = [
            Part.FLOAT if node.name in keep_float else self._part(node, kernels)
            for node in self.nodes
        ]

    def weights(self) -> dict[int, Weight]:
        """Those of the products, by node index."""
        return {
            index: Weight(node.input[rule.weight], _channel_axis(node, rule.axis))
            for index, node in enumerate(self.nodes)
            if self.parts[index] in _MULTIPLIES
            and (rule := RULES[node.op_type]).weight is not None
            and node.input[rule.weight] in self.constants
        }

    def activations(self, index: int) -> list[str]:
        """The inputs of a node, which has a rule, that are activations."""
        node = self.nodes[index]
        return [node.input[at] for at in self.places(node)]

    def places(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """The places of those inputs."""
        rule = RULES[node.op_type]
        if node.op_type == "MatMul" and node.input[1] not in self.constants:
            return (0, 1)  # of attention
        return tuple(at for at in rule.data or range(len(node.input)) if at < len(node.input))

    def past_relu(self, index: int) -> str:
        """What a node's output becomes by ReLUs that are folded into the node's kernel."""
        name = str(self.nodes[index].output[0])
        while name not in self._raw and len(self.readers.get(name, ())) == 1:
            reader = self.nodes[self.readers[name][0][0]]
            if not (reader.op_type == "Relu" or self._is_clip_at_zero(reader)):
                break
            name = str(reader.output[0])
        return name

    def _part(self, node: onnx.NodeProto, kernels: Kernels) -> Part:
        rule = RULES.get(node.op_type)
        if rule is None or node.domain not in ("", "ai.onnx"):
            return Part.FLOAT
        names = {node.input[at] for at in self.places(node)}
        if names.intersection(self.constants) or not names <= self.known:
            return Part.FLOAT
        no_weight = rule.weight is not None and node.input[rule.weight] not in self.constants
        return Part.FLOAT if no_weight and node.op_type != "MatMul" else rule.parts[kernels]

    def _is_clip_at_zero(self, node: onnx.NodeProto) -> bool:
        from onnx import numpy_helper

        low = self.constants.get(node.input[1]) if len(node.input) > 1 else None
        return node.op_type == "Clip" and low is not None and bool(numpy_helper.to_array(low) == 0)


def _stored_on_cpu(view: _View) -> set[str]:
    """The activations that are int8 wherever they are read.

    A convolution of which a Concat in float makes use, and nothing else, becomes one in float:
    it embeds the patches of a vision transformer, beside the token of the class. As int8 it
    gains nothing there, and OpenVINO 2026.4 loses its input's zero point if the batch is free.
    """
    while True:
        stored, computed = _spread(view)
        stray = [
            index
            for index in computed
            if view.parts[index] is Part.WRITER
            and (ends := _ends(view, view.past_relu(index)))
            and all(view.nodes[at].op_type == "Concat" and at not in computed for at in ends)
        ]
        if not stray:
            return stored
        for index in stray:
            view.parts[index] = Part.FLOAT


def _ends(view: _View, name: str) -> set[int]:
    """The nodes that read a tensor, past those that move it."""
    found = set()
    for index, _ in view.readers.get(name, ()):
        if view.parts[index] is Part.MOVER:
            found |= set().union(*(_ends(view, each) for each in view.nodes[index].output))
        else:
            found.add(index)
    return found


def _spread(view: _View) -> tuple[set[str], set[int]]:
    """What is stored by the parts as they are, and the nodes whose output is computed as such."""
    stored: set[str] = set()
    computed: set[int] = set()
    for index, part in enumerate(view.parts):
        if part in _MULTIPLIES:
            stored.update(view.activations(index))
    at_hand = set(stored)  # what is stored, or is made of that at little cost
    for index, part in enumerate(view.parts):
        names = [] if part is Part.FLOAT else view.activations(index)
        if not at_hand.issuperset(names):
            continue
        if part in (Part.WRITER, Part.INTEGER, Part.JOIN):
            made = {view.past_relu(index)} & view.known
            if part is not Part.WRITER:
                made -= view.outputs  # a convolution's are stored, or else it is float
            stored.update(names, made)
            at_hand |= made
            computed.add(index)
        elif part in (Part.OFFERER, Part.MOVER, Part.BRIDGE):
            at_hand.update(view.nodes[index].output)
    carried = set(stored)
    movers = [index for index, part in enumerate(view.parts) if part is Part.MOVER]
    for index in movers:
        if carried.issuperset(view.activations(index)):
            carried.update(view.nodes[index].output)
    for index in reversed(movers):  # from what is stored to what is, all between is, too
        names = view.activations(index)
        if stored.issuperset(view.nodes[index].output) and carried.issuperset(names):
            stored.update(names)
    return stored, computed


def _read_by_tensorrt(view: _View) -> set[tuple[int, int]]:
    """(node index, input index) of what is read through Q/DQ."""
    edges = {
        (index, at)
        for index, part in enumerate(view.parts)
        if part in (*_MULTIPLIES, Part.POOL)
        for at in view.places(view.nodes[index])
    }
    for index, part in enumerate(view.parts):
        if part is Part.SUM:
            edges |= {(index, at) for at in _residual(view, index)}
    stored = {view.nodes[index].input[at] for index, at in edges}
    for index in reversed(range(len(view.parts))):
        node = view.nodes[index]
        if view.parts[index] is Part.JOIN and node.output[0] in stored:
            edges |= {(index, at) for at in range(len(node.input))}
            stored.update(node.input)
    for index, part in enumerate(view.parts):
        node = view.nodes[index]
        if part is Part.FOLLOWER or (part is Part.SUM and not _residual(view, index)):
            edges |= {(index, at) for at in view.places(node) if node.input[at] in stored}
    return edges


def _residual(view: _View, index: int) -> list[int]:
    """The inputs of an Add but for the product that it is fused with; none without such.

    The sum of a residual block is fused into the convolution that is computed last; a runtime
    that does so wants the other input quantised and nothing between that convolution and
    the sum.
    """
    names = view.nodes[index].input
    makers = [view.makers.get(name, -1) for name in names]
    fused = max((at for at in makers if at >= 0 and view.nodes[at].op_type in PRODUCTS), default=-1)
    return [at for at, maker in enumerate(makers) if maker != fused] if fused >= 0 else []


def _tied(view: _View, stored: set[str], part: Part) -> tuple[frozenset[str], ...]:
    """What the nodes of that part read and write, as far as it is stored."""
    found = []
    for index, each in enumerate(view.parts):
        names = view.activations(index) if each is part else []
        if names and stored.issuperset(names):
            found.append(frozenset({*names, *view.nodes[index].output} & stored))
    return tuple(each for each in found if len(each) > 1)


def _channel_axis(node: onnx.NodeProto, axis: int) -> int:
    if node.op_type == "Gemm":
        return 0 if any(each.name == "transB" and each.i for each in node.attribute) else 1
    return axis
