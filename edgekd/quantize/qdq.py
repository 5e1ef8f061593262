"""The stage ``quantize``: a graph, a table of ranges and a form make an explicit Q/DQ model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import CalibrationTable, OnnxModel, QuantizedModel
from edgekd.errors import QuantizeError, near_matches
from edgekd.progress import Progress, silent
from edgekd.quantize.forms import (
    FORMS,
    INT32_ROOM,
    Array,
    Form,
    Scale,
    numpy_dtype,
    stored_weight,
    weight_scales,
)
from edgekd.quantize.graphs import nodes_of, raise_opset, reads, save
from edgekd.quantize.lowering import lower
from edgekd.quantize.placement import PRODUCTS, RULES, Placement, place, scales

if TYPE_CHECKING:
    import onnx


def quantize(
    model: OnnxModel,
    table: CalibrationTable,
    form_name: str,
    out_dir: Path,
    progress: Progress = silent,
    *,
    keep_float: Collection[str] = (),
) -> QuantizedModel:
    """Writes the model in a form, to ``model.onnx``; a large one's tensors lie beside it.

    Args:
        keep_float: names of nodes that stay in float.

    Raises:
        QuantizeError: nothing in the model can be quantised, a node to keep is not in it, it
            cannot be raised to the opset that the form needs, or the result is not valid ONNX.
    """
    import onnx
    from onnx import numpy_helper

    form = FORMS[form_name]
    proto = raise_opset(
        onnx.load(model.path, load_external_data=False),
        form.opset,
        model.path.name,
        f"form {form.name}",
    )
    onnx.load_external_data_for_model(proto, str(model.path.parent))
    graph = proto.graph
    _check_names(graph, keep_float)
    ranges = dict(table.ranges)
    ranges |= {new: ranges[old] for new, old in lower(graph, form).items() if old in ranges}
    placement = place(graph, form, ranges.keys(), keep_float)
    if {each.name for each in graph.node if each.op_type in PRODUCTS} <= {*placement.kept_float}:
        raise QuantizeError(f"{model.path.name} has no convolution or product to quantise")
    of_activations = scales(placement, ranges, form)
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    nodes = list(graph.node)
    taken = {
        *constants,
        *(name for node in nodes_of(graph) for name in (*node.input, *node.output)),
    }
    edits = _Edits(taken)
    _quantise_activations(edits, nodes, placement, of_activations)
    _quantise_weights(edits, nodes, placement, of_activations, constants, form)
    _apply(edits, graph)
    path = out_dir / "model.onnx"
    save(proto, path)
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        for each in (path, path.with_name(f"{path.name}.data")):
            each.unlink(missing_ok=True)
        first_line = str(error).splitlines()[0]
        raise QuantizeError(
            f"the quantised {model.path.name} is not valid: {first_line}"
        ) from error
    return QuantizedModel(
        path=path,
        form=form.name,
        model_inputs=model.model_inputs,
        model_outputs=model.model_outputs,
        kept_float=placement.kept_float,
        precision="fp8" if form.kernels == "fp8" else "int8",
        calibration_sha256=_hash(table),
    )


def _hash(table: CalibrationTable) -> str:
    """sha256 of the ranges, whatever their order."""
    ranges = {name: [float(bound) for bound in each] for name, each in table.ranges.items()}
    return hashlib.sha256(json.dumps(ranges, sort_keys=True).encode()).hexdigest()


def _check_names(graph: onnx.GraphProto, keep_float: Collection[str]) -> None:
    names = {node.name for node in graph.node}
    for each in keep_float:
        if each not in names:
            raise QuantizeError(
                f"no node to keep in float is called '{each}'", near_matches(each, names)
            )


@dataclass
class _Edits:
    """What is to be done to a graph, before any of it is done.

    Attributes:
        taken: names of tensors, which a new one must not have.
        after: Q and DQ by the activation that they follow.
        before: DQ of constants, by the index of the node that they precede.
        constants: new initialisers.
        read_as: what (node index, input index) is to read instead.
        renamed: outputs of the graph that a DQ is to write, by what their maker is to call them.
    """

    taken: set[str]
    after: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    before: dict[int, list[onnx.NodeProto]] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    read_as: dict[tuple[int, int], str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def fresh(self, name: str) -> str:
        """That name, or one like it that no tensor has."""
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def constant(self, name: str, value: Array) -> str:
        """A new initialiser of about that name; its name."""
        found = self.fresh(name)
        self.constants[found] = value
        return found


def _quantise_activations(
    edits: _Edits,
    nodes: list[onnx.NodeProto],
    placement: Placement,
    of_activations: Mapping[str, Scale],
) -> None:
    """One Q/DQ pair an activation, whoever reads it."""
    from onnx import helper

    for name in sorted(placement.outputs):
        edits.renamed[name] = edits.fresh(f"{name}_float")
    real: dict[str, str] = {}
    read = [(edge, nodes[edge[0]].input[edge[1]]) for edge in sorted(placement.edges)]
    for name in dict.fromkeys([*(name for _, name in read), *sorted(placement.outputs)]):
        scale = of_activations[name]
        zero_point = np.array(scale.zero_point, numpy_dtype(scale.dtype))
        shared = [
            edits.constant(f"{name}_scale", np.array(scale.scale, np.float32)),
            edits.constant(f"{name}_zero_point", zero_point),
        ]
        made, stored = edits.renamed.get(name, name), edits.fresh(f"{name}_quantized")
        real[name] = name if name in edits.renamed else edits.fresh(f"{name}_dequantized")
        edits.after[name] = [
            helper.make_node("QuantizeLinear", [made, *shared], [stored], f"{name}_Q"),
            helper.make_node("DequantizeLinear", [stored, *shared], [real[name]], f"{name}_DQ"),
        ]
    edits.read_as |= {edge: real[name] for edge, name in read}


def _quantise_weights(
    edits: _Edits,
    nodes: list[onnx.NodeProto],
    placement: Placement,
    of_activations: Mapping[str, Scale],
    constants: Mapping[str, Array],
    form: Form,
) -> None:
    """Weights by channel and, where the form wants it, biases to int32."""
    for index, weight in placement.weights.items():
        node, rule = nodes[index], RULES[nodes[index].op_type]
        assert rule.weight is not None
        values = constants[weight.name]
        axis = weight.axis % values.ndim
        of_channel = weight_scales(values, axis, form.weight)
        bias = None
        if form.integer_bias and rule.bias is not None and len(node.input) > rule.bias:
            bias = constants.get(node.input[rule.bias])
        if bias is not None and rule.bias is not None:
            of_input = of_activations[node.input[0]].scale
            # A bias must fit into int32 at the product of the scales.
            least = (np.abs(bias) / (of_input * INT32_ROOM)).astype(np.float32)
            of_channel = np.maximum(of_channel, least)
            product = np.float32(of_input) * of_channel
            stored = np.rint(bias.astype(np.float64) / product).astype(np.int32)
            edits.read_as[index, rule.bias] = _constant(
                edits, index, f"{node.name}_bias", stored, product, 0
            )
        edits.read_as[index, rule.weight] = _constant(
            edits,
            index,
            f"{node.name}_weight",
            stored_weight(values, of_channel, axis, form.weight),
            of_channel,
            axis,
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

    names = [
        edits.constant(f"{name}_quantized", stored),
        edits.constant(f"{name}_scale", scale),
        edits.constant(f"{name}_zero_point", np.zeros(len(scale), stored.dtype)),
    ]
    real = edits.fresh(f"{name}_dequantized")
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
        names = list(node.output)
        for at, name in enumerate(names):
            node.output[at] = edits.renamed.get(name, name)
        graph.node.extend([*edits.before.get(index, []), node])
        for name in names:
            graph.node.extend(edits.after.get(name, []))
    still_read = {name for node in graph.node for name in reads(node)}
    still_read |= {each.name for each in graph.output}
    kept = [each for each in graph.initializer if each.name in still_read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for name, value in edits.constants.items():
        graph.initializer.append(numpy_helper.from_array(value, name))
    del graph.value_info[:]  # shapes of tensors that are gone; the checker infers them anew
