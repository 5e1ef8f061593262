"""An ONNX graph as lint rules look at it.

Tensors are left where they are: only those that a rule asks for (scales, zero points, axes, the
bounds of a Clip) are read, so that a model of any size is looked at in little memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekd.errors import QuantizeError, RecipeError
from edgekd.quantize.graphs import nodes_of, opset, tensors_of
from edgekd.targets import Target

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]

PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
LINEAR = {"QuantizeLinear", "DequantizeLinear"}
PASSIVE = {
    "DepthToSpace",
    "Flatten",
    "Identity",
    "MaxPool",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
"""Operators whose outputs are values of their first input: the grid stays the same."""

_LARGE = 1 << 20
"""Bytes above which a tensor is none that a rule would ask for."""


@dataclass(frozen=True)
class Linear:
    """A QuantizeLinear or a DequantizeLinear.

    Attributes:
        stored: what the integer side is stored as, such as ``int8``, by ONNX's name in lower case.
        scale: one value, or one a channel; None where it is computed at run time.
        zero_point: the same; zeros where the node has none.
        axis: of the channels; None where there is one scale.
        blocked: scales belong to blocks along the axis.
    """

    node: onnx.NodeProto
    stored: str
    scale: Array | None
    zero_point: Array | None
    axis: int | None
    blocked: bool

    @property
    def quantises(self) -> bool:
        """A QuantizeLinear."""
        return str(self.node.op_type) == "QuantizeLinear"


@dataclass(frozen=True)
class Tensor:
    """A type by ONNX's name in lower case, and a shape whose free dimensions have names."""

    kind: str
    shape: tuple[int | str, ...] | None


class View:
    """A model, local functions written out, and what it is to run on.

    Args:
        model: external tensors not loaded.
        path: of its file.
        capabilities: of the GPUs it is built for, such as ``8.9``; empty where that is not known.

    Attributes:
        nodes: of the graph itself; those of subgraphs are in ``everything`` alone.
        functions: names of the local functions that the file had.
        fault: what onnx finds wrong with shapes and types; empty where nothing is.
    """

    def __init__(
        self, model: onnx.ModelProto, path: Path, target: Target, capabilities: tuple[str, ...]
    ) -> None:
        from onnx.inliner import inline_local_functions

        self.target = target
        self.capabilities = capabilities
        self.path = path
        self.functions = [each.name for each in model.functions]
        self.model = inline_local_functions(model) if self.functions else model
        self.graph = self.model.graph
        self.nodes = list(self.graph.node)
        self.opset = opset(self.model)
        self.initialisers = {each.name: each for each in self.graph.initializer}
        self.inputs = [each for each in self.graph.input if each.name not in self.initialisers]
        self.outputs = {each.name for each in self.graph.output}
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.tensors, self.fault = _infer(self.model)
        self.constants = _constants(self.nodes, set(self.initialisers))

    @property
    def everything(self) -> Iterator[onnx.NodeProto]:
        """Every node, those within If, Loop and Scan too."""
        return nodes_of(self.graph)

    @cached_property
    def linears(self) -> Mapping[str, Linear]:
        """Every Q and DQ, by what it gives."""
        return {node.output[0]: self._linear(node) for node in self.nodes if node.op_type in LINEAR}

    @cached_property
    def grids(self) -> list[Linear]:
        """Every Q and DQ, but no DQ that is exactly the inverse of the Q before it."""
        return [
            each
            for each in self.linears.values()
            if each.quantises
            or (before := self.linears.get(each.node.input[0])) is None
            or list(before.node.input[1:]) != list(each.node.input[1:])
        ]

    @cached_property
    def products(self) -> list[onnx.NodeProto]:
        """Convolutions and products of matrices of which some input is read through a DQ."""
        return [
            node
            for node in self.nodes
            if node.op_type in PRODUCTS and any(map(self.behind, node.input[:2]))
        ]

    def dequantised(self, name: str) -> Linear | None:
        """The DQ that gives a tensor."""
        found = self.linears.get(name)
        return None if found is None or found.quantises else found

    def behind(self, name: str) -> Linear | None:
        """The DQ that gives a tensor, or what the tensor is a rearrangement of."""
        while name in self.producers and self.producers[name].op_type in PASSIVE:
            name = self.producers[name].input[0]
        return self.dequantised(name)

    def source(self, linear: Linear) -> str:
        """The real tensor that a DQ stands for: what its Q reads, or its stored constant."""
        name: str = linear.node.input[0]
        before = self.linears.get(name)
        return name if before is None else str(before.node.input[0])

    def whole(self, node: onnx.NodeProto) -> bool:
        """Whether a product reads both of its inputs through a DQ."""
        return node.op_type in PRODUCTS and all(map(self.behind, node.input[:2]))

    def only(self, name: str) -> list[onnx.NodeProto]:
        """Who reads a tensor; nobody where it is an output of the graph as well."""
        return [] if name in self.outputs else self.readers.get(name, [])

    def constant(self, name: str) -> Array | None:
        """The value of a stored constant; None where it is computed, or there is none.

        Raises:
            QuantizeError: it is in another file, which cannot be read.
        """
        import onnx
        from onnx import numpy_helper

        tensor = self.initialisers.get(name)
        node = self.producers.get(name)
        if tensor is None and node is not None and node.op_type == "Constant":
            tensor = next((each.t for each in node.attribute if each.name == "value"), None)
        if tensor is None:
            return None
        try:
            value: Array = numpy_helper.to_array(tensor, str(self.path.parent))
        except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
            raise QuantizeError(
                f"{self.path} keeps '{name}' in another file, which cannot be read:"
                f" {str(error).splitlines()[0]}",
                "put that file beside it",
            ) from error
        return value

    def kind(self, name: str) -> str:
        """The type of a tensor, empty where it is not known."""
        return self.tensors[name].kind if name in self.tensors else ""

    def shape(self, name: str) -> tuple[int | str, ...] | None:
        """The shape of a tensor, None where not even its rank is known."""
        return self.tensors[name].shape if name in self.tensors else None

    def attribute(self, node: onnx.NodeProto, name: str, default: int) -> int:
        """An integer attribute."""
        return next((int(each.i) for each in node.attribute if each.name == name), default)

    def _linear(self, node: onnx.NodeProto) -> Linear:
        scale = self.constant(node.input[1])
        if scale is not None:
            scale = scale.astype(np.float64)
        zero = node.input[2] if len(node.input) > 2 else ""
        zero_point = self.constant(zero) if zero else np.zeros(1)
        declared = self.attribute(node, "output_dtype", 0)
        if zero:
            stored = self.kind(zero)
        elif node.op_type == "DequantizeLinear":
            stored = self.kind(node.input[0])
        else:
            stored = _name(declared) if declared else "uint8"
        per_channel = scale is not None and scale.size > 1
        return Linear(
            node=node,
            stored=stored,
            scale=scale,
            zero_point=None if zero_point is None else zero_point.astype(np.float64),
            axis=self.attribute(node, "axis", 1) if per_channel else None,
            blocked=bool(self.attribute(node, "block_size", 0)),
        )


def read(path: Path, target: Target, capabilities: tuple[str, ...] = ()) -> View:
    """Reads an ONNX file, but not the tensors in files beside it.

    Raises:
        RecipeError: there is no such file.
        QuantizeError: it is not an ONNX file.
    """
    import onnx

    if not path.is_file():
        raise RecipeError("there is no such file", "name an ONNX file", path=str(path))
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise QuantizeError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:  # the errors of protobuf, which differ by its version
        raise QuantizeError(f"{path} is not an ONNX file, or only a part of one") from error
    if not model.graph.node or not model.opset_import:
        raise QuantizeError(f"{path} is not an ONNX file, or only a part of one")
    nodes = nodes_of(model.graph)
    grids = {name for node in nodes if node.op_type in LINEAR for name in node.input[1:]}
    for tensor in tensors_of(model.graph):
        if len(tensor.raw_data) > _LARGE and tensor.name not in grids:
            tensor.ClearField("raw_data")
    return View(model, path, target, capabilities)


def _infer(model: onnx.ModelProto) -> tuple[dict[str, Tensor], str]:
    """What is known of each tensor, and what is wrong with them.

    What is wrong is not told where an operator is unknown to onnx, or a tensor is in another
    file: onnx would find fault with what it merely cannot see.
    """
    import onnx

    infer = onnx.shape_inference.infer_shapes
    graph, fault = infer(model, data_prop=True).graph, ""
    known = all(onnx.defs.has(node.op_type, node.domain) for node in nodes_of(model.graph))
    outside = any(each.data_location == each.EXTERNAL for each in tensors_of(model.graph))
    if known and not outside:
        try:
            infer(model, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            text = str(error)
            # A second one within is in the body that onnx itself gives an operator.
            if text.count("Inference error(s)") == 1:
                fault = text.splitlines()[0].removeprefix("[ShapeInferenceError] ")
    found = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        shape = None
        if kind.HasField("shape"):
            shape = tuple(
                each.dim_value if each.HasField("dim_value") else each.dim_param or "?"
                for each in kind.shape.dim
            )
        found[value.name] = Tensor(_name(kind.elem_type), shape)
    for tensor in graph.initializer:
        found[tensor.name] = Tensor(_name(tensor.data_type), tuple(tensor.dims))
    return found, fault


def _constants(nodes: list[onnx.NodeProto], known: set[str]) -> set[str]:
    """Names of what does not depend on any input."""
    for node in nodes:
        if all(name in known for name in node.input if name) and not node.op_type.startswith(
            "Random"
        ):
            known |= set(node.output)
    return known


def _name(kind: int) -> str:
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(kind)).lower()
