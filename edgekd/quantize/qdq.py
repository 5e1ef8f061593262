"""The stage ``quantize``: a graph, a table of ranges and a form make an explicit Q/DQ model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import CalibrationTable, OnnxModel, QuantizedModel
from edgekd.errors import QuantizeError
from edgekd.progress import Progress, silent
from edgekd.quantize.forms import FORMS, INT32_ROOM, Form, Scale, weight_scales
from edgekd.quantize.placement import RULES, Placement, place

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]


def quantize(
    model: OnnxModel,
    table: CalibrationTable,
    form_name: str,
    out_dir: Path,
    progress: Progress = silent,
) -> QuantizedModel:
    """Writes the model in a form.

    Raises:
        QuantizeError: nothing in the model can be quantised, or the result is not valid ONNX.
    """
    import onnx
    from onnx import numpy_helper

    form = FORMS[form_name]
    proto = onnx.load(model.path)
    placement = place(proto.graph, form, set(table.ranges))
    if not placement.weights:
        raise QuantizeError(f"{model.path.name} has no convolution or product to quantise")
    scales = {name: form.activation(*bounds) for name, bounds in table.ranges.items()}
    constants = {each.name: numpy_helper.to_array(each) for each in proto.graph.initializer}
    nodes = list(proto.graph.node)
    edits = _Edits()
    _quantise_activations(edits, nodes, placement, scales)
    _quantise_weights(edits, nodes, placement, scales, constants, form)
    _apply(edits, proto.graph)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first_line = str(error).splitlines()[0]
        raise QuantizeError(
            f"the quantised {model.path.name} is not valid: {first_line}"
        ) from error
    path = out_dir / "model.onnx"
    onnx.save(proto, path)
    return QuantizedModel(
        path=path,
        form=form.name,
        model_inputs=model.model_inputs,
        model_outputs=model.model_outputs,
        kept_float=placement.kept_float,
    )


@dataclass
class _Edits:
    """What is to be done to a graph, before any of it is done.

    Attributes:
        after: Q and DQ by the activation that they follow.
        before: DQ of constants, by the index of the node that they precede.
        constants: new initialisers.
        read_as: what (node index, input index) is to read instead.
    """

    after: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    before: dict[int, list[onnx.NodeProto]] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    read_as: dict[tuple[int, int], str] = field(default_factory=dict)


def _quantise_activations(
    edits: _Edits, nodes: list[onnx.NodeProto], placement: Placement, scales: dict[str, Scale]
) -> None:
    """One Q/DQ pair an activation, whoever reads it."""
    from onnx import helper

    for index, place_of_input in sorted(placement.edges):
        name = nodes[index].input[place_of_input]
        edits.read_as[index, place_of_input] = f"{name}_dequantized"
        if name in edits.after:
            continue
        scale = scales[name]
        edits.constants[f"{name}_scale"] = np.array(scale.scale, np.float32)
        edits.constants[f"{name}_zero_point"] = np.array(scale.zero_point, scale.dtype)
        shared = [f"{name}_scale", f"{name}_zero_point"]
        stored, real = f"{name}_quantized", f"{name}_dequantized"
        edits.after[name] = [
            helper.make_node("QuantizeLinear", [name, *shared], [stored], f"{name}_Q"),
            helper.make_node("DequantizeLinear", [stored, *shared], [real], f"{name}_DQ"),
        ]


def _quantise_weights(
    edits: _Edits,
    nodes: list[onnx.NodeProto],
    placement: Placement,
    scales: dict[str, Scale],
    constants: dict[str, Array],
    form: Form,
) -> None:
    """Weights to int8 by channel and, where the form wants it, biases to int32."""
    for index, weight in placement.weights.items():
        node, rule = nodes[index], RULES[nodes[index].op_type]
        assert rule.weight is not None
        values = constants[weight.name]
        axis = weight.axis % values.ndim
        of_channel = weight_scales(values, axis)
        bias = None
        if form.integer_bias and rule.bias is not None and len(node.input) > rule.bias:
            bias = constants.get(node.input[rule.bias])
        if bias is not None and rule.bias is not None:
            of_input = scales[node.input[0]].scale
            # A bias must fit into int32 at the product of the scales.
            least = (np.abs(bias) / (of_input * INT32_ROOM)).astype(np.float32)
            of_channel = np.maximum(of_channel, least)
            product = np.float32(of_input) * of_channel
            stored = np.rint(bias.astype(np.float64) / product).astype(np.int32)
            edits.read_as[index, rule.bias] = _constant(
                edits, index, f"{node.name}_bias", stored, product, 0
            )
        shape = [-1 if each == axis else 1 for each in range(values.ndim)]
        rounded = np.rint(values / of_channel.reshape(shape))
        stored = np.clip(rounded, -127, 127).astype(np.int8)
        edits.read_as[index, rule.weight] = _constant(
            edits, index, f"{node.name}_weight", stored, of_channel, axis
        )


def _constant(
    edits: _Edits,
    index: int,
    name: str,
    stored: Array,
    scale: npt.NDArray[np.float32],
    axis: int,
) -> str:
    """A stored constant and the DQ that makes it real, before a node; what the node reads."""
    from onnx import helper

    edits.constants[f"{name}_quantized"] = stored
    edits.constants[f"{name}_scale"] = scale
    edits.constants[f"{name}_zero_point"] = np.zeros(len(scale), stored.dtype)
    names = [f"{name}_{part}" for part in ("quantized", "scale", "zero_point")]
    real = f"{name}_dequantized"
    edits.before.setdefault(index, []).append(
        helper.make_node("DequantizeLinear", names, [real], f"{name}_DQ", axis=axis)
    )
    return real


def _apply(edits: _Edits, graph: onnx.GraphProto) -> None:
    """Writes the nodes in their new order, and drops the constants that nobody reads now."""
    from onnx import numpy_helper

    nodes = list(graph.node)
    del graph.node[:]
    for source in graph.input:
        graph.node.extend(edits.after.get(source.name, []))
    for index, node in enumerate(nodes):
        for place_of_input in range(len(node.input)):
            if (index, place_of_input) in edits.read_as:
                node.input[place_of_input] = edits.read_as[index, place_of_input]
        graph.node.extend([*edits.before.get(index, []), node])
        for name in node.output:
            graph.node.extend(edits.after.get(name, []))
    still_read = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in still_read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for name, value in edits.constants.items():
        graph.initializer.append(numpy_helper.from_array(value, name))
    del graph.value_info[:]  # shapes of tensors that are gone; the checker infers them anew
