"""Did int8 run? What an engine's layers compute in, from TensorRT's engine inspector.

The JSON is that of docs.nvidia.com, TensorRT, "Engine Inspector", which "Migrating
IEngineInspector Usage from TensorRT 10.x to 11.x" changes: ``Format/Datatype`` of a layer's
tensors became two fields, and ``Bindings`` became ``I/O Tensors``, which is not read here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.artifacts import Artifact
from edgekd.errors import StageError

if TYPE_CHECKING:
    import tensorrt as trt

# What a type is called, alone ("Half") or within a layout ("Channel major FP16 format where
# channel % 8 == 0"). The first that matches counts: BFloat16 and Float16 hold the word Float.
_TYPES = {
    name: re.compile(words, re.IGNORECASE)
    for name, words in {
        "bf16": "bfloat16|bf16",
        "fp16": "fp16|float16|half",
        "fp8": "fp8|e4m3|e5m2",
        "fp4": "fp4|e2m1",
        "uint8": "uint8",
        "int8": "int8",
        "int4": "int4",
        "int32": "int32",
        "int64": "int64",
        "bool": "bool",
        "fp32": "fp32|float",
    }.items()
}
UNKNOWN = "unknown"
_ARITHMETIC = ("fp32", "fp16", "bf16", "int8", "fp8", "fp4", UNKNOWN)

# LayerType: "CaskConvolution", "CaskGemmConvolution", "Deconvolution", "MatrixMultiply", "gemm".
_COMPUTES = re.compile(r"conv(?!er)|gemm|matrixmultiply|fullyconnected", re.IGNORECASE)
_OPAQUE = re.compile(r"myelin|foreignnode|kgen|fusion", re.IGNORECASE)
_PRODUCT = re.compile(r"gemm|fprop|dgrad|conv(?!er)", re.IGNORECASE)
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=\[ONNX Layer: |[\x1e\x1f\s]|$)")
_SHOWN = 5


@dataclass(frozen=True)
class LayerFact:
    """One layer of an engine, as it was built.

    Attributes:
        name: TensorRT's name for it.
        kind: its LayerType; empty where the engine does not tell.
        role: ``compute`` (convolutions and matrix products), ``opaque`` (a fused region of
            which TensorRT tells the ends alone), ``reformat`` or ``other``.
        precision: what it computes in: the type of its first input that holds numbers.
        inputs: the types of its inputs, as ``fp16``; ``unknown`` where the shape decides.
        outputs: the types of its outputs.
        nodes: the ONNX nodes that it was made from, where the engine names them.
    """

    name: str
    kind: str
    role: str
    precision: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What an engine's layers compute in.

    Attributes:
        layers: in the order in which they run.
        detailed: the engine was built to tell types; without it nothing below says anything.
        by_precision: how many layers that compute do so in which precision.
        int8_share: of those whose precision is known, what share reads int8; None for none.
        reformats: layers that only copy a tensor to another layout or type.
        opaque: fused regions, counted apart; they may hold products or none.
    """

    layers: tuple[LayerFact, ...]
    detailed: bool
    by_precision: Mapping[str, int]
    int8_share: float | None
    reformats: int
    opaque: int


@dataclass(frozen=True, kw_only=True)
class Inspected(Artifact):
    """What an engine's layers compute in, as the store keeps it."""

    inspection: Inspection


def inspect(library: Any, engine: trt.ICudaEngine) -> Inspection:
    """Asks an engine that is loaded.

    Where the batch is free a format is known for given shapes alone, so the optimum of the first
    profile is set in a context that has no memory and runs nothing.

    Args:
        library: the module ``tensorrt`` or ``tensorrt_rtx``.
        engine: built with ``ProfilingVerbosity.DETAILED``.

    Raises:
        StageError: the library has no answer, or one that is not of a known form.
    """
    inspector: trt.EngineInspector = engine.create_engine_inspector()
    context: trt.IExecutionContext | None = engine.create_execution_context(
        library.ExecutionContextAllocationStrategy.USER_MANAGED
    )
    if context is None:
        raise StageError("TensorRT makes no execution context to inspect the engine in")
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_mode(name) == library.TensorIOMode.INPUT:
            context.set_input_shape(name, engine.get_tensor_profile_shape(name, 0)[1])
    inspector.execution_context = context
    return parse(inspector.get_engine_information(library.LayerInformationFormat.JSON))


def parse(text: str) -> Inspection:
    """Reads the inspector's JSON of TensorRT 10 and 11 and of TensorRT for RTX.

    Raises:
        StageError: it is not JSON, or not of a known form.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StageError(f"the engine inspector's answer is not JSON: {error}") from error
    found = document.get("Layers") if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise StageError("the engine inspector's answer has no list of layers")
    layers = tuple(_layer(each, index) for index, each in enumerate(found))
    precisions = Counter(each.precision for each in layers if each.role == "compute")
    roles = Counter(each.role for each in layers)
    known = precisions.total() - precisions[UNKNOWN]
    return Inspection(
        layers=layers,
        detailed=any(each.kind for each in layers),
        by_precision=dict(precisions.most_common()),
        int8_share=precisions["int8"] / known if known else None,
        reformats=roles["reformat"],
        opaque=roles["opaque"],
    )


def summary(inspection: Inspection, precision: str = "int8") -> list[str]:
    """Sentences on one engine: where the precision it was built for ran, and where it did not.

    Args:
        inspection: of the engine.
        precision: what the engine was built for.
    """
    if not inspection.detailed:
        return ["the engine was built without layer details: nothing is known of its precisions"]
    compute = [each for each in inspection.layers if each.role == "compute"]
    opaque = [each for each in inspection.layers if each.role == "opaque"]
    said = []
    if compute:
        runs = inspection.by_precision.get(precision, 0)
        parts = [f"{precision} runs in {runs} of {_count(len(compute), 'compute layer')}"]
        if inspection.reformats:
            parts.append(_count(inspection.reformats, "reformat"))
        for other in inspection.by_precision:
            if other != precision:
                names = [_called(each) for each in compute if each.precision == other]
                parts.append(f"{'not known' if other == UNKNOWN else other} in: {_some(names)}")
        said.append("; ".join(parts))
    else:
        said.append("no layer that computes stands alone")
    if opaque:
        reads = sum(precision in each.inputs for each in opaque)
        said.append(
            f"{_count(len(opaque), 'fused region')} beside them, of which the ends alone are"
            f" known; {precision} enters {reads}"
        )
    return said


def _layer(given: Any, index: int) -> LayerFact:
    if isinstance(given, str):  # all that LAYER_NAMES_ONLY tells
        return LayerFact(given, "", "other", UNKNOWN, (), (), ())
    if not isinstance(given, dict):
        raise StageError(f"layer {index} of the engine inspector's answer is no object")
    name, kind, tactic, metadata, origin = (
        _text(given.get(key)) for key in ("Name", "LayerType", "TacticName", "Metadata", "Origin")
    )
    inputs, outputs = (_tensors(given.get(key, []), index, key) for key in ("Inputs", "Outputs"))
    numbers = [each for each in inputs if each in _ARITHMETIC]
    return LayerFact(
        name=name,
        kind=kind,
        role=_role(kind, name, tactic, origin),
        precision=numbers[0] if numbers else UNKNOWN,
        inputs=inputs,
        outputs=outputs,
        nodes=tuple(dict.fromkeys(_NODE.findall(metadata))),
    )


def _role(kind: str, name: str, tactic: str, origin: str) -> str:
    if kind.lower() == "reformat" or origin == "REFORMAT":
        return "reformat"
    if _OPAQUE.search(kind) or name.startswith("{ForeignNode["):
        # A product with what follows it fused in is a product, which its tactic's name tells.
        return "compute" if kind.lower() == "fusion" and _PRODUCT.search(tactic) else "opaque"
    return "compute" if _COMPUTES.search(kind) else "other"


def _tensors(given: Any, index: int, key: str) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise StageError(f"{key} of layer {index} are not a list of tensors")
    return tuple(_type(each) for each in given)


def _type(tensor: Mapping[str, Any]) -> str:
    """The type of one tensor; a field of the type alone comes before one of the layout too."""
    for key in ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format"):
        for name, words in _TYPES.items():
            if words.search(_text(tensor.get(key))):
                return name
    return UNKNOWN


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _called(layer: LayerFact) -> str:
    return " + ".join(layer.nodes) or layer.name


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
