"""For every lint rule graphs that break it, and one like them that does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.quantize.lint_graphs import S8, U8, U8_POSITIVE, Grid, Net, float8

Make = Callable[[], onnx.ModelProto]


@dataclass(frozen=True)
class Case:
    """One way to break a rule.

    Attributes:
        name: what is odd, in a word or two; unique within the rule.
        op: the operator that a finding names; empty where it is about the whole model.
        capabilities: that the target is built for.
        only: the one backend that it concerns; empty for all that the rule does.
    """

    rule: str
    name: str
    op: str
    fails: Make
    passes: Make
    capabilities: tuple[str, ...] = ()
    only: str = ""


def conv(grid: Grid = S8, scale: object = 0.05, **attributes: int) -> onnx.ModelProto:
    """One convolution, all of it quantised; its input on a grid."""
    net = Net(opset=21)
    data = net.qdq("x", grid, scale, **attributes)
    return net.model(net.qdq(net.conv(data), grid, 0.2))


def weight(
    axis: int | None = 0, grid: Grid = S8, scale: float = 0.01, data: Grid = S8
) -> onnx.ModelProto:
    """One convolution; its weight on a grid."""
    net = Net()
    stored = net.weight(16, 16, 3, 3, axis=axis, grid=grid, scale=scale)
    return net.model(net.qdq(net.conv(net.qdq("x", data), weight=stored), data, 1.0))


def without_zero_point() -> onnx.ModelProto:
    net = Net()
    scale = net.constant(np.float32(0.05))
    stored = net.node("QuantizeLinear", "x", scale)
    return net.model(net.conv(net.node("DequantizeLinear", stored, scale)))


def biased(stored: bool) -> onnx.ModelProto:
    net = Net()
    data = net.qdq("x")
    bias = net.int32_bias(16) if stored else net.real(16)
    return net.model(net.conv(data, bias=bias))


def matmul(axis: int = 1, grid: Grid = S8) -> onnx.ModelProto:
    net = Net("batch", 32)
    return net.model(net.node("MatMul", net.qdq("x", grid), net.weight(32, 16, axis=axis)))


def gemm(grid: Grid = U8, axis: int = 0, stored_bias: bool = True) -> onnx.ModelProto:
    """A Gemm whose result is float."""
    net = Net("batch", 32)
    bias = net.int32_bias(16) if stored_bias else net.real(16)
    inputs = net.qdq("x", grid), net.weight(16, 32, axis=axis), bias
    return net.model(net.node("Softmax", net.node("Gemm", *inputs, transB=1)))


def computed_scale() -> onnx.ModelProto:
    net = Net()
    shared = net.node("ReduceMax", "x", keepdims=0), net.constant(np.int8(0))
    stored = net.node("QuantizeLinear", "x", *shared)
    return net.model(net.conv(net.node("DequantizeLinear", stored, *shared)))


def unequal_pair() -> onnx.ModelProto:
    net = Net()
    stored = net.node("QuantizeLinear", "x", *net.grid(0.05, S8))
    return net.model(net.conv(net.node("DequantizeLinear", stored, *net.grid(0.1, S8))))


def half() -> onnx.ModelProto:
    net = Net(kind=TensorProto.FLOAT16)
    shared = net.constant(np.float16(0.05)), net.constant(np.int8(0))
    stored = net.node("QuantizeLinear", "x", *shared)
    return net.model(net.node("Relu", net.node("DequantizeLinear", stored, *shared)))


def skip(quantised_skip: bool, quantised_branch: bool) -> onnx.ModelProto:
    """A residual block."""
    net = Net()
    rest = net.node("Relu", "x")
    branch = net.conv(net.qdq(rest))
    branch = net.qdq(branch) if quantised_branch else branch
    return net.model(net.node("Add", branch, net.qdq(rest) if quantised_skip else rest))


def concat(
    first: float, second: float, grid: Grid = S8, op: str = "Conv", gives: int = 16
) -> onnx.ModelProto:
    """Two branches side by side, and a product that reads them; a scale of 0 leaves one float."""
    net = Net()
    mirrored = net.node("Neg", "x")
    branches = [
        net.qdq(name, grid, scale) if scale else name
        for name, scale in (("x", first), (mirrored, second))
    ]
    both = net.node("Concat", *branches, axis=1)
    return net.model(net.conv(both, 32, gives) if op == "Conv" else net.node(op, both))


def concat_then(*ops: str, grid: Grid = S8) -> onnx.ModelProto:
    """A Concat whose branches are float, and what follows until a convolution reads it."""
    net = Net()
    made = net.node("Concat", "x", net.node("Neg", "x"), axis=1)
    for op in ops:
        sizes = {"kernel_shape": [2, 2]} if op == "MaxPool" else {}
        made = net.qdq(made, grid) if op == "QDQ" else net.node(op, made, **sizes)
    return net.model(net.conv(made, 32))


def half_product(data: bool, stored: bool) -> onnx.ModelProto:
    net = Net()
    name = net.qdq("x") if data else "x"
    return net.model(net.conv(name, weight="" if stored else net.real(16, 16, 3, 3)))


def activated(*ops: str, grid: Grid = U8, last: Grid = U8, scale: float = 0.05) -> onnx.ModelProto:
    """A convolution and what follows it, QDQ among it, until a second convolution."""
    net = Net()
    made = net.conv(net.qdq("x", grid))
    for op in ops:
        if op == "QDQ":
            made = net.qdq(made, last, scale)
        elif op == "Clip":
            bounds = net.constant(np.float32(0)), net.constant(np.float32(6))
            made = net.node("Clip", made, *bounds)
        elif op == "BatchNormalization":
            made = net.node(op, made, *(net.constant(np.ones(16, np.float32)) for _ in range(4)))
        else:
            made = net.node(op, made)
    return net.model(net.conv(made))


def two_convs(both: bool) -> onnx.ModelProto:
    net = Net()
    made = net.conv(net.qdq("x"))
    if both:
        return net.model(net.conv(net.qdq(made)))
    return net.model(net.conv(made, weight=net.real(16, 16, 3, 3)))


def summed(grid: Grid, quantised: bool) -> onnx.ModelProto:
    """A sum of two quantised tensors."""
    net = Net()
    branch = net.qdq(net.conv(net.qdq("x", grid)), grid)
    made = net.node("Add", branch, net.qdq("x", grid))
    return net.model(net.node("Sigmoid", net.qdq(made, grid, 0.1) if quantised else made))


def shared(grid: Grid, one: bool) -> onnx.ModelProto:
    """Two convolutions that read the same tensor, through one DQ or two."""
    net = Net()
    first = net.qdq("x", grid)
    second = first if one else net.qdq("x", grid)
    return net.model(*(net.qdq(net.conv(each), grid, 0.2) for each in (first, second)))


def forked(one: bool) -> onnx.ModelProto:
    """A convolution whose result is quantised once or twice."""
    net = Net()
    made = net.node("Relu", net.conv(net.qdq("x", U8)))
    first = net.qdq(made, U8_POSITIVE)
    second = first if one else net.qdq(made, U8_POSITIVE)
    return net.model(*(net.qdq(net.conv(each), U8, 0.2) for each in (first, second)))


def plain(
    op: str, *shape: int | str, kind: int = TensorProto.FLOAT, **settings: int
) -> onnx.ModelProto:
    net = Net(*shape, kind=kind, **settings)
    return net.model(net.node(op, "x"))


def foreign(op: str, domain: str) -> onnx.ModelProto:
    net = Net()
    if op == "QDQ":
        return net.model(net.conv(net.qdq("x", domain=domain)))
    return net.model(net.node(op, "x", domain=domain))


def old(opset: int, axis: int | None = 0) -> onnx.ModelProto:
    """Weights with a scale a channel."""
    net = Net(opset=opset)
    return net.model(net.conv(net.qdq("x"), weight=net.weight(16, 16, 3, 3, axis=axis)))


def int16(opset: int) -> onnx.ModelProto:
    net = Net(opset=opset)
    return net.model(net.qdq("x", (0, np.int16)))


def float_gemm(kind: int) -> onnx.ModelProto:
    net = Net("batch", 32, kind=kind)
    dtype = np.float32 if kind == TensorProto.FLOAT else np.float16
    return net.model(net.node("MatMul", "x", net.constant(np.ones((32, 16), dtype))))


def integers() -> onnx.ModelProto:
    net = Net("batch", 32)
    stored = net.node("QuantizeLinear", "x", *net.grid(0.05, S8))
    product = net.node("MatMulInteger", stored, net.constant(np.ones((32, 16), np.int8)))
    return net.model(net.node("Cast", product, to=TensorProto.FLOAT))


def branches(inner: str) -> onnx.ModelProto:
    """An If, with an operator in one branch."""
    net = Net()
    extra = (net.real(16, 16, 1, 1),) if inner == "Conv" else ()
    bodies = {}
    for name, op, inputs in (("then", inner, ("x", *extra)), ("else", "Neg", ("x",))):
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        node = helper.make_node(op, inputs, [name], name=f"{name}_{op}")
        bodies[f"{name}_branch"] = helper.make_graph([node], name, [], [out])
    peak = net.node("ReduceMax", "x", keepdims=0)
    positive = net.node("Greater", peak, net.constant(np.float32(0)))
    return net.model(net.node("If", positive, **bodies))


def reduced(constant: bool) -> onnx.ModelProto:
    net = Net()
    axes = net.constant(np.array([2, 3])) if constant else net.input("axes", TensorProto.INT64, 2)
    return net.model(net.node("ReduceMean", "x", axes, keepdims=0))


def mismatched(rows: int) -> onnx.ModelProto:
    net = Net("batch", 32)
    return net.model(net.node("MatMul", "x", net.real(rows, 16)))


def rankless() -> onnx.ModelProto:
    net = Net()
    net.inputs[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    return net.model(net.node("Relu", "x"))


def cut() -> onnx.ModelProto:
    """An output whose size depends on what is in it."""
    net = Net("batch", 16)
    end = net.node("Cast", net.node("ReduceMax", "x", keepdims=1), to=TensorProto.INT64)
    flat = net.node("Reshape", end, net.constant(np.array([1])))
    inputs = net.constant(np.array([0])), flat, net.constant(np.array([1]))
    return net.model(net.node("Slice", "x", *inputs))


def channels(takes: int, gives: int, size: int = 8, group: int = 1) -> onnx.ModelProto:
    net = Net("batch", takes, size, size)
    stored = net.weight(gives, takes // group, 3, 3)
    return net.model(net.node("Conv", net.qdq("x"), stored, pads=[1, 1, 1, 1], group=group))


def transposed(op: str) -> onnx.ModelProto:
    net = Net()
    stored = net.weight(16, 16, 2, 2, axis=1 if op == "ConvTranspose" else 0)
    return net.model(net.qdq(net.node(op, net.qdq("x", U8), stored), U8))


def function(local: bool) -> onnx.ModelProto:
    net = Net()
    if not local:
        return net.model(net.node("Relu", "x"))
    body = [helper.make_node("Relu", ["a"], ["b"])]
    net.functions.append(
        helper.make_function("local", "Act", ["a"], ["b"], body, [helper.make_opsetid("", 19)])
    )
    return net.model(net.node("Act", "x", domain="local"))


def pooled(quantised: bool) -> onnx.ModelProto:
    net = Net()
    made = net.node("GlobalAveragePool", net.qdq("x", U8))
    return net.model(net.node("Sigmoid", net.qdq(made, U8) if quantised else made))


def _clean() -> onnx.ModelProto:
    return conv()


def _relu() -> onnx.ModelProto:
    return plain("Relu")


CASES = (
    Case("QDQ001", "uint8", "QuantizeLinear", lambda: conv(U8_POSITIVE), _clean),
    Case("QDQ001", "no zero point", "QuantizeLinear", without_zero_point, _clean),
    Case("QDQ001", "weight", "DequantizeLinear", lambda: weight(grid=U8_POSITIVE), weight),
    Case("QDQ002", "activation", "QuantizeLinear", lambda: conv((3, np.int8)), _clean),
    Case("QDQ002", "weight", "DequantizeLinear", lambda: weight(grid=(3, np.int8)), weight),
    Case("QDQ003", "bias", "DequantizeLinear", lambda: biased(True), lambda: biased(False)),
    Case("QDQ004", "zero", "QuantizeLinear", lambda: conv(scale=0.0), _clean),
    Case("QDQ004", "negative", "QuantizeLinear", lambda: conv(scale=-0.05), _clean),
    Case("QDQ004", "NaN", "QuantizeLinear", lambda: conv(scale=np.nan), _clean),
    Case("QDQ004", "infinite", "QuantizeLinear", lambda: conv(scale=np.inf), _clean),
    Case("QDQ004", "weight", "DequantizeLinear", lambda: weight(scale=0.0), weight),
    Case("QDQ005", "denormal", "QuantizeLinear", lambda: conv(scale=1e-40), _clean),
    Case("QDQ006", "int16", "QuantizeLinear", lambda: conv((0, np.int16)), _clean),
    Case("QDQ006", "uint16", "QuantizeLinear", lambda: conv((0, np.uint16)), _clean),
    Case(
        "QDQ007",
        "by channel",
        "QuantizeLinear",
        lambda: conv(scale=np.full(16, 0.05), axis=1),
        _clean,
    ),
    Case("QDQ008", "Conv", "Conv", lambda: weight(1, data=U8), lambda: weight(data=U8)),
    Case("QDQ008", "MatMul", "MatMul", lambda: matmul(0, U8), lambda: matmul(1, U8)),
    Case("QDQ008", "Gemm", "Gemm", lambda: gemm(axis=1), gemm),
    Case("QDQ009", "Conv", "Conv", lambda: weight(None), weight),
    Case("QDQ010", "scale", "QuantizeLinear", computed_scale, _clean),
    Case("QDQ011", "scale", "DequantizeLinear", unequal_pair, _clean),
    Case("QDQ012", "float16", "QuantizeLinear", half, _clean),
    Case("PLC001", "neither", "Add", lambda: skip(False, False), lambda: skip(True, False)),
    Case("PLC002", "both", "Add", lambda: skip(True, True), lambda: skip(True, False)),
    Case("PLC002", "branch", "Add", lambda: skip(False, True), lambda: skip(True, False)),
    Case("PLC003", "two", "Concat", lambda: concat(0.05, 0.1), lambda: concat(0.05, 0.05)),
    Case("PLC004", "one", "Concat", lambda: concat(0.05, 0), lambda: concat(0.05, 0.05)),
    Case("PLC004", "none", "Concat", lambda: concat(0, 0.05), lambda: concat(0, 0)),
    Case(
        "PLC005",
        "weight",
        "Conv",
        lambda: half_product(True, False),
        lambda: half_product(True, True),
    ),
    Case(
        "PLC005",
        "input",
        "Conv",
        lambda: half_product(False, True),
        lambda: half_product(False, False),
    ),
    Case(
        "PLC006",
        "HardSwish",
        "Conv",
        lambda: activated("HardSwish", "QDQ"),
        lambda: activated("QDQ", "HardSwish", "QDQ"),
    ),
    Case(
        "PLC006",
        "Clip",
        "Conv",
        lambda: activated("Clip", "QDQ", last=U8_POSITIVE),
        lambda: activated("Clip", "QDQ", last=U8_POSITIVE, scale=6 / 255),
    ),
    Case("PLC006", "twice", "Conv", lambda: forked(False), lambda: forked(True)),
    Case("PLC007", "Gemm", "Gemm", lambda: gemm(stored_bias=False), gemm),
    Case(
        "PLC008",
        "ReLU",
        "Relu",
        lambda: activated("QDQ", "Relu", "QDQ"),
        lambda: activated("Relu", "QDQ"),
    ),
    Case(
        "PLC009",
        "after",
        "BatchNormalization",
        lambda: activated("BatchNormalization", "QDQ"),
        lambda: activated("QDQ"),
    ),
    Case(
        "PLC009",
        "between",
        "BatchNormalization",
        lambda: activated("QDQ", "BatchNormalization"),
        lambda: activated("QDQ"),
    ),
    Case("PLC010", "second", "Conv", lambda: two_convs(False), lambda: two_convs(True)),
    Case("PLC011", "sum", "Add", lambda: summed(U8, False), lambda: summed(U8, True)),
    Case("PLC011", "pool", "GlobalAveragePool", lambda: pooled(False), lambda: pooled(True)),
    Case("OPS001", "Det", "Det", lambda: plain("Det", "batch", 3, 3), _relu, only="tensorrt"),
    Case("OPS001", "Det", "Det", lambda: plain("Det", "batch", 3, 3), _relu, only="tensorrt-rtx"),
    Case("OPS001", "Det", "Det", lambda: plain("Det", "batch", 3, 3), _relu, only="openvino"),
    Case("OPS001", "unheard of", "Sqare", lambda: plain("Sqare"), _relu),
    Case("OPS001", "inner", "Det", lambda: branches("Det"), _relu, only="tensorrt-rtx"),
    Case(
        "OPS002",
        "custom",
        "Foo",
        lambda: foreign("Foo", "my.domain"),
        lambda: foreign("QDQ", "com.microsoft"),
    ),
    Case("OPS003", "opset", "", lambda: plain("Relu", opset=27), lambda: plain("Relu", opset=26)),
    Case("OPS003", "IR", "", lambda: plain("Relu", ir=14), lambda: plain("Relu", ir=13)),
    Case("OPS004", "axis", "DequantizeLinear", lambda: old(12), lambda: old(13)),
    Case("OPS004", "no axis", "DequantizeLinear", lambda: old(12), lambda: old(12, None)),
    Case("OPS004", "int16", "QuantizeLinear", lambda: int16(20), lambda: int16(21)),
    Case(
        "OPS005",
        "float32",
        "MatMul",
        lambda: float_gemm(TensorProto.FLOAT),
        lambda: float_gemm(TensorProto.FLOAT16),
        ("7.5",),
    ),
    Case("OPS005", "int8", "MatMul", matmul, conv, ("7.5", "8.6")),
    Case("OPS006", "FP8", "QuantizeLinear", lambda: float8(Net()), _clean, ("8.6", "8.9")),
    Case(
        "OPS007",
        "FP8",
        "QuantizeLinear",
        lambda: float8(Net("batch", 32), "MatMul"),
        lambda: matmul(grid=U8),
    ),
    Case("OPS008", "MatMulInteger", "MatMulInteger", integers, matmul),
    Case("OPS009", "If", "If", lambda: branches("Conv"), lambda: branches("Relu")),
    Case("OPS010", "axes", "ReduceMean", lambda: reduced(False), lambda: reduced(True)),
    Case("OPS011", "sizes", "", lambda: mismatched(31), lambda: mismatched(32)),
    Case("SHP001", "size", "", lambda: plain("Relu", "batch", 16, "h", "w"), _relu),
    Case("SHP002", "no shape", "", rankless, _relu),
    Case("SHP003", "cut", "", cut, _relu),
    Case("SHP004", "batch", "", lambda: plain("Relu", 4, 16, 8, 8), _relu),
    Case("PAY001", "input", "Conv", lambda: channels(3, 16), lambda: channels(16, 16)),
    Case("PAY002", "small", "", lambda: channels(16, 16), lambda: channels(16, 16, 64)),
    Case(
        "PAY003",
        "ReLU",
        "Relu",
        lambda: activated("Relu", "QDQ", grid=S8, last=S8),
        lambda: activated("Relu", "QDQ", last=U8_POSITIVE),
    ),
    Case("PAY004", "depthwise", "Conv", lambda: channels(16, 16, group=16), _clean),
    Case("PAY005", "two", "DequantizeLinear", lambda: shared(S8, True), lambda: shared(S8, False)),
    Case("PAY005", "uint8", "DequantizeLinear", lambda: shared(S8, True), lambda: shared(U8, True)),
    Case(
        "PAY006",
        "transposed",
        "ConvTranspose",
        lambda: transposed("ConvTranspose"),
        lambda: transposed("Conv"),
    ),
    Case("OVN001", "branches", "Conv", lambda: concat(0.05, 0.05), lambda: concat(0.05, 0.05, U8)),
    Case(
        "OVN001", "whole", "Conv", lambda: concat_then("QDQ"), lambda: concat_then("QDQ", grid=U8)
    ),
    Case(
        "OVN001",
        "ReLU",
        "Conv",
        lambda: concat_then("Relu", "QDQ"),
        lambda: concat_then("Relu", "QDQ", grid=U8_POSITIVE),
    ),
    Case(
        "OVN001",
        "pool",
        "Conv",
        lambda: concat_then("QDQ", "MaxPool"),
        lambda: concat_then("MaxPool", "QDQ"),
    ),
    Case(
        "OVN001",
        "other product",
        "Conv",
        lambda: concat(0.05, 0.05),
        lambda: concat(0.05, 0.05, op="Relu"),
    ),
    Case("OVN002", "function", "", lambda: function(True), lambda: function(False)),
)
