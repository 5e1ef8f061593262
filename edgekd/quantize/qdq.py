"""The stage ``quantize``: a graph, a table of ranges and a form make an explicit Q/DQ model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import CalibrationTable, OnnxModel, Progress, QuantizedModel, silent
from edgekd.errors import QuantizeError
from edgekd.quantize.forms import FORMS, Form, Scale, weight_scales
from edgekd.quantize.placement import RULES, Placement, place

if TYPE_CHECKING:
    import onnx

_INT32_ROOM = 2.0**30


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

    form = FORMS[form_name]
    proto = onnx.load(model.path)
    placement = place(proto.graph, form, set(table.ranges))
    if not placement.weights:
        raise QuantizeError(f"{model.path.name} has no convolution or product to quantise")
    scales = {name: form.activation(*bounds) for name, bounds in table.ranges.items()}
    _rewrite(proto.graph, placement, scales, form)
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


def _rewrite(
    graph: onnx.GraphProto, placement: Placement, scales: dict[str, Scale], form: Form
) -> None:
    """Puts Q/DQ after the producer of each chosen activation, and DQ before each weight."""
    from onnx import helper, numpy_helper

    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    nodes = list(graph.node)
    after: dict[str, list[onnx.NodeProto]] = {}  # by the tensor that they follow
    before: dict[int, list[onnx.NodeProto]] = {}  # by the node that they precede
    added: dict[str, npt.NDArray[np.generic]] = {}
    read_as: dict[tuple[int, int], str] = {}

    for index, place_of_input in sorted(placement.edges):
        name = nodes[index].input[place_of_input]
        read_as[index, place_of_input] = f"{name}_dequantized"
        if name in after:
            continue
        scale = scales[name]
        added[f"{name}_scale"] = np.array(scale.scale, np.float32)
        added[f"{name}_zero_point"] = np.array(scale.zero_point, scale.dtype)
        shared = [f"{name}_scale", f"{name}_zero_point"]
        after[name] = [
            helper.make_node(
                "QuantizeLinear",
                [name, *shared],
                [f"{name}_quantized"],
                f"{name}_QuantizeLinear",
            ),
            helper.make_node(
                "DequantizeLinear",
                [f"{name}_quantized", *shared],
                [f"{name}_dequantized"],
                f"{name}_DequantizeLinear",
            ),
        ]

    for index, weight in placement.weights.items():
        node, rule = nodes[index], RULES[nodes[index].op_type]
        assert rule.weight is not None
        values = constants[weight.name]
        per_channel = weight_scales(values, weight.axis)
        bias = None
        if form.integer_bias and rule.bias is not None and len(node.input) > rule.bias:
            bias = constants.get(node.input[rule.bias])
        if bias is not None:
            # A bias must fit into int32 at the product of the scales.
            of_input = scales[node.input[0]].scale
            per_channel = np.maximum(per_channel, np.abs(bias) / (of_input * _INT32_ROOM))
            per_channel = per_channel.astype(np.float32)
            product = (np.float32(of_input) * per_channel).astype(np.float32)
            stored = np.rint(bias.astype(np.float64) / product).astype(np.int32)
            name = _dequantized(before, added, index, f"{node.name}_bias", stored, product, 0)
            read_as[index, rule.bias] = name  # type: ignore[index]
        axis = weight.axis % values.ndim
        shape = [-1 if each == axis else 1 for each in range(values.ndim)]
        rounded = np.rint(values / per_channel.reshape(shape))
        stored = np.clip(rounded, -127, 127).astype(np.int8)
        name = _dequantized(before, added, index, f"{node.name}_weight", stored, per_channel, axis)
        read_as[index, rule.weight] = name

    del graph.node[:]
    for source in graph.input:
        graph.node.extend(after.get(source.name, []))
    for index, node in enumerate(nodes):
        for place_of_input in range(len(node.input)):
            if (index, place_of_input) in read_as:
                node.input[place_of_input] = read_as[index, place_of_input]
        graph.node.extend([*before.get(index, []), node])
        for name in node.output:
            graph.node.extend(after.get(name, []))

    still_read = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in still_read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in added.items())
    del graph.value_info[:]


def _dequantized(
    before: dict[int, list[onnx.NodeProto]],
    added: dict[str, npt.NDArray[np.generic]],
    index: int,
    name: str,
    stored: npt.NDArray[np.generic],
    scale: npt.NDArray[np.float32],
    axis: int,
) -> str:
    """Adds a stored constant and the DQ that makes it real; returns the name to read."""
    from onnx import helper

    added[f"{name}_quantized"] = stored
    added[f"{name}_scale"] = scale
    added[f"{name}_zero_point"] = np.zeros(len(scale), stored.dtype)
    before.setdefault(index, []).append(
        helper.make_node(
            "DequantizeLinear",
            [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"],
            [f"{name}_dequantized"],
            f"{name}_DequantizeLinear",
            axis=axis,
        )
    )
    return f"{name}_dequantized"
