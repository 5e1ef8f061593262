"""A model in float16, whose inputs and outputs stay float32; int8 and fp8 within it stay too."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from edgekd.artifacts import OnnxModel, QuantizedModel
from edgekd.backends import ort
from edgekd.errors import QuantizeError
from edgekd.quantize.graphs import nodes_of, raise_opset, save, sort_nodes

if TYPE_CHECKING:
    import onnx


M = TypeVar("M", bound=OnnxModel | QuantizedModel)

_OPSET_OF_SCALES = 19
"""The first whose Q and DQ take scales in float16."""


def to_fp16(model: M, out_dir: Path, *, keep_float: Collection[str] = ()) -> M:
    """Converts by ONNX Runtime's own tool; weights beyond float16 are held to its limits.

    What is quantised stays so, and what is between becomes float16: the fastest that TensorRT's
    strong typing allows.

    Operators that need float32, such as NonMaxSuppression, keep it between casts, and so do
    the nodes of ``keep_float``.

    Raises:
        QuantizeError: the result is not valid ONNX.
        BackendUnavailable: ONNX Runtime is not installed.
    """
    import onnx

    ort.import_runtime()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    proto: onnx.ModelProto = convert_float_to_float16(
        _typed(model, half_scales=True),
        keep_io_types=True,
        disable_shape_infer=True,
        node_block_list=list(keep_float),
    )
    sort_nodes(proto.graph)  # the casts come last
    del proto.graph.value_info[:]
    path = out_dir / "model.onnx"
    save(proto, path)
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first_line = str(error).splitlines()[0]
        raise QuantizeError(f"{model.path.name} in float16 is not valid: {first_line}") from error
    if isinstance(model, OnnxModel):
        return replace(model, path=path, precision="fp16")
    return replace(model, path=path)


def emulate(model: M, out_dir: Path, *, keep_float: Collection[str] = ()) -> M:
    """A float32 model that rounds weights and every tensor outside of subgraphs to float16.

    ONNX Runtime has few float16 operators on a CPU: it runs a chain of them in float32, in
    which nothing overflows. This one shows what a device that computes in float16 would give.
    """
    from onnx import TensorProto, helper, numpy_helper

    proto = _typed(model)
    graph = proto.graph
    for each in graph.initializer:
        if each.data_type == TensorProto.FLOAT:
            most = np.finfo(np.float16).max
            rounded = np.clip(numpy_helper.to_array(each), -most, most).astype(np.float16)
            each.CopyFrom(numpy_helper.from_array(rounded.astype(np.float32), each.name))
    typed = (*graph.value_info, *graph.output, *graph.input)
    floats = {each.name for each in typed if each.type.tensor_type.elem_type == TensorProto.FLOAT}
    sources = {each.name: f"{each.name}_rounded" for each in graph.input if each.name in floats}
    nodes: list[onnx.NodeProto] = []

    def add_rounding(exact: str, rounded: str) -> None:
        half = f"{rounded}_half"
        nodes.append(helper.make_node("Cast", [exact], [half], to=TensorProto.FLOAT16))
        nodes.append(helper.make_node("Cast", [half], [rounded], to=TensorProto.FLOAT))

    for exact, rounded in sources.items():
        add_rounding(exact, rounded)
    for node in list(graph.node):
        for place, name in enumerate(node.input):
            node.input[place] = sources.get(name, name)
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in floats and node.name not in keep_float:
                node.output[place] = f"{name}_exact"
                add_rounding(f"{name}_exact", name)
    del graph.node[:]
    graph.node.extend(nodes)
    path = out_dir / "emulated.onnx"
    save(proto, path)
    return replace(model, path=path)


def _typed(model: OnnxModel | QuantizedModel, half_scales: bool = False) -> onnx.ModelProto:
    """The model with the type of every tensor, found while the weights are not there to copy.

    Args:
        half_scales: raise its opset to one in which the scales of Q and DQ may be float16.
    """
    import onnx

    proto = onnx.load(model.path, load_external_data=False)
    if half_scales and any(each.op_type == "DequantizeLinear" for each in nodes_of(proto.graph)):
        why = "float16 between int8"
        proto = raise_opset(proto, _OPSET_OF_SCALES, model.path.name, why)
    proto = onnx.shape_inference.infer_shapes(proto)
    onnx.load_external_data_for_model(proto, str(model.path.parent))
    return proto
