"""Small graphs with Q/DQ in them, as quantisers and people write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Grid = tuple[float, Any]

S8: Grid = (0, np.int8)
U8: Grid = (128, np.uint8)
U8_POSITIVE: Grid = (0, np.uint8)
A8: Grid = (0, np.int8)
A8_POSITIVE: Grid = (-128, np.int8)


class Net:
    """A graph of one input ``x``; each method adds to it and gives the name of what it made."""

    def __init__(
        self,
        *shape: int | str,
        opset: int = 19,
        ir: int = 10,
        kind: int = TensorProto.FLOAT,
    ) -> None:
        self.opset, self.ir, self.kind = opset, ir, kind
        self.inputs = [helper.make_tensor_value_info("x", kind, shape or ("batch", 16, 8, 8))]
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.rng = np.random.default_rng(0)

    def input(self, name: str, kind: int, *shape: int | str) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def node(
        self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> str:
        made = [f"{op.lower()}{len(self.nodes)}_{each}" for each in range(outputs)]
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, inputs, made, name=name, domain=domain, **attributes)
        )
        return made[0]

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        if not isinstance(value, onnx.TensorProto):
            value = numpy_helper.from_array(np.asarray(value))
        value.name = name
        self.constants.append(value)
        return name

    def grid(self, scale: Any, grid: Grid) -> list[str]:
        """A float32 scale, or several, and as many zero points."""
        scales = np.asarray(scale, np.float32)
        zero, dtype = grid
        return [self.constant(scales), self.constant(np.full(scales.shape, zero, dtype))]

    def qdq(
        self, name: str, grid: Grid = S8, scale: Any = 0.05, domain: str = "", **attributes: Any
    ) -> str:
        """A Q and a DQ."""
        shared = self.grid(scale, grid)
        stored = self.node("QuantizeLinear", name, *shared, domain=domain, **attributes)
        return self.node("DequantizeLinear", stored, *shared, domain=domain, **attributes)

    def weight(
        self, *shape: int, axis: int | None = 0, grid: Grid = S8, scale: float = 0.01
    ) -> str:
        """A stored weight and its DQ; an axis of None gives it a single scale."""
        stored = self.constant(self.rng.integers(-100, 100, shape).astype(grid[1]))
        if axis is None:
            return self.node("DequantizeLinear", stored, *self.grid(scale, grid))
        scales = scale * np.linspace(0.1, 1, shape[axis])
        return self.node("DequantizeLinear", stored, *self.grid(scales, grid), axis=axis)

    def real(self, *shape: int) -> str:
        """A weight in float32."""
        return self.constant(self.rng.normal(0, 0.1, shape).astype(np.float32))

    def int32_bias(self, channels: int) -> str:
        stored = self.constant(np.full(channels, 7, np.int32))
        shared = self.grid(np.full(channels, 5e-4), (0, np.int32))
        return self.node("DequantizeLinear", stored, *shared, axis=0)

    def conv(
        self, name: str, takes: int = 16, gives: int = 16, weight: str = "", bias: str = ""
    ) -> str:
        """A 3×3 convolution with a quantised weight, if none is given, and no bias."""
        weight = weight or self.weight(gives, takes, 3, 3)
        return self.node("Conv", name, weight, *filter(None, [bias]), pads=[1, 1, 1, 1])

    def model(self, *outputs: str, kind: int = 0) -> onnx.ModelProto:
        made = [helper.make_tensor_value_info(each, kind or self.kind, None) for each in outputs]
        graph = helper.make_graph(self.nodes, "g", self.inputs, made, self.constants)
        domains = {each.domain for each in self.nodes} - {""}
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(each, 1) for each in sorted(domains)]
        return helper.make_model(
            graph, opset_imports=imports, ir_version=self.ir, functions=self.functions
        )


def float8(net: Net, op: str = "Conv") -> onnx.ModelProto:
    """A product in FP8 E4M3, weights and activations."""
    kind = TensorProto.FLOAT8E4M3FN
    zero = net.constant(helper.make_tensor("z", kind, [], [0.0]))
    scale = net.constant(np.float32(0.05))
    stored = net.node("QuantizeLinear", "x", scale, zero)
    data = net.node("DequantizeLinear", stored, scale, zero)
    shape = (16, 16, 3, 3) if op == "Conv" else (32, 16)
    values = net.rng.normal(0, 1, shape).ravel()
    weight = net.constant(helper.make_tensor("w", kind, shape, values))
    zeros = net.constant(helper.make_tensor("z", kind, [16], [0.0] * 16))
    scales = net.constant(np.full(16, 0.01, np.float32))
    real = net.node("DequantizeLinear", weight, scales, zeros, axis=0 if op == "Conv" else 1)
    return net.model(net.node(op, data, real))
