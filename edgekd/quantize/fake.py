"""A graph in torch that rounds as its Q/DQ form does, to be trained on.

What is trained is the exported graph itself, operator by operator, so that each Q/DQ lies on
the very edge that ``quantize`` writes it on, and a trained weight goes back to the initialiser
it came from. Rounding passes gradients straight through (Jacob et al. 2018, arXiv:1712.05877);
ranges stay those of the calibration table, weights' scales follow the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgekd.artifacts import CalibrationTable, OnnxModel, QuantizedModel
from edgekd.backends import ort
from edgekd.errors import QuantizeError
from edgekd.quantize.forms import FORMS, INT32_ROOM, LARGEST, SMALLEST_SCALE, Form, Scale
from edgekd.quantize.lowering import lower
from edgekd.quantize.operators import OPERATORS, Operator, unfit
from edgekd.quantize.placement import RULES, Placement, place, scales

if TYPE_CHECKING:
    import onnx

Images = npt.NDArray[np.float32]

FLOAT_TOLERANCE, ROUNDED_TOLERANCE = 1e-3, 0.05
"""Of the largest logit: as in ``export``, and as where int8 is emulated in ``evaluate``."""


def trainable(
    model: OnnxModel,
    table: CalibrationTable,
    form_name: str,
    *,
    keep_float: Collection[str] = (),
) -> FakeQuantized:
    """The network that ``quantize`` writes of the same arguments, with weights to train.

    A table without ranges gives the fp32 network.

    Raises:
        QuantizeError: a node's operator is not known here.
    """
    import onnx

    form = FORMS[form_name]
    graph = onnx.load(model.path).graph
    ranges = dict(table.ranges)
    ranges |= {new: ranges[old] for new, old in lower(graph, form).items() if old in ranges}
    placement = place(graph, form, ranges.keys(), keep_float)
    return FakeQuantized(graph, placement, scales(placement, ranges, form), form)


def export_trained(network: FakeQuantized, model: OnnxModel, x: Images, out_dir: Path) -> OnnxModel:
    """The fp32 model with the trained weights in it; ``quantize`` makes its form anew.

    Args:
        network: made from ``model``.
        x: normalised images, on which ``parity`` is measured without rounding.

    Raises:
        QuantizeError: it differs by more than a thousandth of the largest logit, or gives
            outputs that are not finite.
    """
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(model.path)
    trained = dict(zip(network.names, network.weights, strict=True))
    for each in proto.graph.initializer:
        if each.name in trained:
            values = trained[each.name].detach().cpu().numpy()
            each.CopyFrom(numpy_helper.from_array(values, each.name))
    path = out_dir / "model.onnx"
    onnx.save(proto, path)
    return OnnxModel(
        path=path,
        opset=model.opset,
        model_inputs=model.model_inputs,
        model_outputs=model.model_outputs,
        parity=_difference(network, path, x, rounding=False),
    )


def compare(network: FakeQuantized, quantized: QuantizedModel, x: Images) -> float:
    """The largest absolute difference between a network and the Q/DQ model of its weights.

    One sample in twenty is left out: a value on the edge between two steps may be rounded
    either way, and takes its whole sample along.

    Raises:
        QuantizeError: it is more than a twentieth of the largest logit.
    """
    return _difference(network, quantized.path, x, rounding=True)


def weight_scales(weight: Tensor, axis: int, dtype: str = "int8") -> Tensor:
    """``forms.weight_scales`` in torch: shape (channels,), without a gradient."""
    others = [each for each in range(weight.ndim) if each != axis % weight.ndim]
    scales = weight.detach().abs().amax(others) / LARGEST[dtype]
    return torch.where(scales > SMALLEST_SCALE, scales, 1 / LARGEST[dtype])


@dataclass(frozen=True)
class _Step:
    """One node.

    Attributes:
        reads: names of the inputs; empty for one left out.
        rounded: places of activations that are read through Q/DQ.
        weight: place of a weight that is read through Q/DQ; None for none.
        axis: of that weight's channels.
        bias: place of a bias that is; None for none.
        done: what no later step reads.
    """

    run: Operator
    attributes: Mapping[str, Any]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    rounded: tuple[int, ...]
    weight: int | None
    axis: int
    bias: int | None
    done: tuple[str, ...]


class FakeQuantized(nn.Module):
    """An fp32 ONNX graph with simulated quantisation; any batch size, no state but weights.

    The weights and biases of products are parameters; what else the graph holds stays as it is.

    Args:
        graph: nodes in topological order, one input, one output.
        placement: what is read through Q/DQ.
        scales: of activations, by name.
        form: decides on biases, and on what weights are stored as.

    Attributes:
        names: the initialisers that ``weights`` hold, in order.
        weights: float32.
        rounding: False makes it the fp32 network.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        placement: Placement,
        scales: Mapping[str, Scale],
        form: Form,
    ) -> None:
        super().__init__()
        from onnx import numpy_helper

        self.rounding = True
        held = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        tensors = {name: torch.from_numpy(value.copy()) for name, value in held.items()}
        self.names = _trained(graph, tensors)
        self.weights = nn.ParameterList(nn.Parameter(tensors.pop(name)) for name in self.names)
        # Buffers follow the module to a device; shapes stay on the CPU, where sizes are.
        self._sizes = {n: each for n, each in tensors.items() if not each.is_floating_point()}
        self._constants = [name for name in tensors if name not in self._sizes]
        for number, name in enumerate(self._constants):
            self.register_buffer(f"constant{number}", tensors[name])
        self._source, self._sink = graph.input[0].name, graph.output[0].name
        self._scales = dict(scales)
        self._weight = form.weight
        self._rounds_output = self._sink in placement.outputs
        self._steps = _steps(graph, placement, held if form.integer_bias else ())

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) to (n, classes)."""
        values: dict[str, Tensor] = {self._source: x, **self._sizes}
        values |= zip(self.names, self.weights, strict=True)
        values |= zip(self._constants, self.buffers(), strict=True)
        rounded: dict[str, Tensor] = {}  # once, whoever reads it
        for step in self._steps:
            inputs = [values[name] if name else None for name in step.reads]
            if self.rounding:
                for at in step.rounded:
                    name = step.reads[at]
                    if name not in rounded:
                        rounded[name] = _round_activation(values[name], self._scales[name])
                    inputs[at] = rounded[name]
                if step.weight is not None:
                    self._round_product(step, step.weight, inputs)
            results = step.run(step.attributes, *inputs)
            outputs = (results,) if isinstance(results, Tensor) else results
            values |= zip(step.writes, outputs, strict=True)
            for name in step.done:
                del values[name]
                rounded.pop(name, None)
        found = values[self._sink]
        if self.rounding and self._rounds_output:
            return _round_activation(found, self._scales[self._sink])
        return found

    def _round_product(self, step: _Step, place: int, inputs: list[Tensor | None]) -> None:
        """Reads a product's weight and, where the form has it so, its bias through Q/DQ."""
        weight = inputs[place]
        assert weight is not None
        scales = weight_scales(weight, step.axis, self._weight)
        if step.bias is not None:
            bias = inputs[step.bias]
            assert bias is not None
            of_input = self._scales[step.reads[0]].scale
            # A bias must fit into int32 at the product of the scales.
            scales = torch.maximum(scales, bias.detach().abs() / (of_input * INT32_ROOM))
            inputs[step.bias] = _round_bias(bias, float(np.float32(of_input)) * scales)
        inputs[place] = _ROUND_WEIGHT[self._weight](weight, scales, step.axis)


def _round_activation(x: Tensor, scale: Scale) -> Tensor:
    if scale.dtype == "float8_e4m3fn":
        return _round_to_fp8(x, torch.tensor(scale.scale, device=x.device))
    limits = torch.iinfo(getattr(torch, scale.dtype))
    real: Tensor = torch.fake_quantize_per_tensor_affine(
        x, float(np.float32(scale.scale)), scale.zero_point, limits.min, limits.max
    )
    return real


def _round_weight(weight: Tensor, scales: Tensor, axis: int) -> Tensor:
    zero_points = torch.zeros_like(scales, dtype=torch.int32)
    real: Tensor = torch.fake_quantize_per_channel_affine(
        weight, scales, zero_points, axis % weight.ndim, -127, 127
    )
    return real


def _round_weight_to_fp8(weight: Tensor, scales: Tensor, axis: int) -> Tensor:
    shape = [-1 if each == axis % weight.ndim else 1 for each in range(weight.ndim)]
    return _round_to_fp8(weight, scales.reshape(shape))


def _round_to_fp8(x: Tensor, scale: Tensor) -> Tensor:
    within = torch.clamp(x / scale, -LARGEST["float8_e4m3fn"], LARGEST["float8_e4m3fn"])
    stored = within.detach().to(torch.float8_e4m3fn).to(within.dtype)
    return (within + (stored - within.detach())) * scale


_ROUND_WEIGHT = {"int8": _round_weight, "float8_e4m3fn": _round_weight_to_fp8}


def _round_bias(bias: Tensor, scales: Tensor) -> Tensor:
    # torch's own rounds in float32, which has not the 31 bits that a bias is stored with.
    real = torch.round(bias.detach().double() / scales).float() * scales
    return real + (bias - bias.detach())


def _trained(graph: onnx.GraphProto, tensors: Mapping[str, Tensor]) -> list[str]:
    """The initialisers that are weights or biases of products, in the order they are read."""
    products: set[str] = set()
    found: dict[str, None] = {}
    for node in graph.node:
        rule = RULES.get(node.op_type)
        candidates: Sequence[str] = ()
        if rule is not None and rule.weight is not None:
            candidates = node.input[1:]
            products.update(node.output)
        elif node.op_type == "Add" and products.intersection(node.input):
            candidates = node.input  # the bias of a MatMul
        found |= dict.fromkeys(name for name in candidates if name in tensors)
    return list(found)


def _steps(graph: onnx.GraphProto, placement: Placement, integers: Container[str]) -> list[_Step]:
    """The nodes; biases named in ``integers`` are rounded."""
    last = {name: index for index, node in enumerate(graph.node) for name in node.input if name}
    made = {graph.input[0].name, *(name for node in graph.node for name in node.output)}
    made -= {each.name for each in graph.output}
    steps = []
    for index, node in enumerate(graph.node):
        attributes = {each.name: _value(each) for each in node.attribute}
        reason = unfit(node.op_type, attributes, len(node.output))
        if reason or node.domain:
            raise QuantizeError(
                f"node '{node.name}' ({node.op_type}) cannot be trained with simulated"
                f" quantisation: {reason or 'its domain is ' + node.domain}",
                "leave the fine-tuning out, or choose a student without it",
            )
        weight, rule = placement.weights.get(index), RULES.get(node.op_type)
        bias = None
        if weight is not None and rule is not None and rule.bias is not None:
            given = len(node.input) > rule.bias and node.input[rule.bias] in integers
            bias = rule.bias if given else None
        steps.append(
            _Step(
                run=OPERATORS[node.op_type],
                attributes=attributes,
                reads=tuple(node.input),
                writes=tuple(node.output),
                rounded=tuple(at for each, at in sorted(placement.edges) if each == index),
                weight=rule.weight if weight is not None and rule is not None else None,
                axis=0 if weight is None else weight.axis,
                bias=bias,
                done=tuple(n for n in dict.fromkeys(node.input) if n in made and last[n] == index),
            )
        )
    return steps


def _value(attribute: onnx.AttributeProto) -> Any:
    from onnx import helper

    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


def _difference(network: FakeQuantized, path: Path, x: Images, rounding: bool) -> float:
    """Between a network on the CPU and an ONNX file run as it is written."""
    here = copy.deepcopy(network).cpu().eval()
    here.rounding = rounding
    with torch.inference_mode():
        expected = here(torch.from_numpy(x)).numpy()
    with ort.open_model(path, optimise=False) as session:
        found = session.run({session.inputs[0].name: x})[session.outputs[0].name]
    of_samples = np.abs(found - expected).reshape(len(x), -1).max(1)
    difference = float(np.quantile(of_samples, 0.95 if rounding else 1.0))
    largest = float(np.abs(expected).max())
    if not np.isfinite(largest):
        raise QuantizeError(
            "the network trained with simulated quantisation gives NaN or infinity",
            "lower its learning rate",
        )
    if not difference <= (ROUNDED_TOLERANCE if rounding else FLOAT_TOLERANCE) * largest:
        raise QuantizeError(
            f"{path.name} differs by {difference:.3g} from the network it was trained as, on"
            f" logits of up to {largest:.3g}",
            "an operator was mistranslated; report the student's architecture",
        )
    return difference
