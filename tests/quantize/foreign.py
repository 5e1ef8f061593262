"""Small models such as other people's exporters write them, and samples for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
Foreign = tuple[onnx.ModelProto, dict[str, Array]]

SAMPLES = 16
FLOAT = TensorProto.FLOAT


def random(*shape: int, seed: int = 0) -> Array:
    """float32 of a normal distribution."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def node(op: str, reads: Sequence[str], writes: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, reads, writes, **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    constants: Mapping[str, Array],
    *,
    opset: int = 17,
    domains: Mapping[str, int] | None = None,
    ir: int = 8,
    kind: int = FLOAT,
) -> onnx.ModelProto:
    """A graph whose inputs are of one type, and whose outputs have a free shape of four."""
    imports = [helper.make_opsetid(*each) for each in {"": opset, **(domains or {})}.items()]
    free = ["a", "b", "c", "d"]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, free) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=imports, ir_version=ir)


def shaped(proto: onnx.ModelProto, *shape: int | str) -> onnx.ModelProto:
    """Says another shape of the first output."""
    first = proto.graph.output[0]
    kind = first.type.tensor_type.elem_type
    first.CopyFrom(helper.make_tensor_value_info(first.name, kind, shape))
    return proto


def convolution() -> Foreign:
    """Conv and batch norm, and nodes without a name."""
    statistics = {name: random(8, seed=place) for place, name in enumerate(("s", "b", "m"))}
    proto = model(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
            node("Relu", ["n"], ["r"], name="Conv_c"),
            node("Conv", ["r", "w2"], ["y"], name="last"),
        ],
        {"x": ["N", 3, "H", "W"]},
        ["y"],
        {
            "w": random(8, 3, 3, 3),
            **statistics,
            "v": np.ones(8, np.float32),
            "w2": random(4, 8, 1, 1),
        },
    )
    return proto, {"x": random(SAMPLES, 3, 8, 8)}


def composed() -> Foreign:
    """Operators that ONNX Runtime would write out as many."""
    proto = model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Identity", ["scale"], ["scale_too"]),
            node("GroupNormalization", ["c", "scale_too", "shift"], ["g"], num_groups=2),
            node("HardSwish", ["g"], ["h"]),
            node("Mish", ["h"], ["i"]),
            node("Conv", ["i", "w2"], ["j"]),
            node("HardSwish", ["j"], ["y"]),
        ],
        {"x": ["N", 3, 8, 8]},
        ["y"],
        {
            "w": random(8, 3, 1, 1),
            "scale": random(8) + 2,
            "shift": random(8),
            "w2": random(4, 8, 1, 1),
        },
        opset=21,
        ir=10,
    )
    return proto, {"x": random(SAMPLES, 3, 8, 8)}


def old() -> Foreign:
    """Opset 9, IR 3: weights are inputs with a default; Dropout and Upsample are the old ones."""
    weights = {
        "w": random(4, 3, 3, 3),
        "b": random(4),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    proto = model(
        [
            node("Conv", ["x", "w", "b"], ["c"]),
            node("Dropout", ["c"], ["d"], ratio=0.5),
            node("Upsample", ["d", "scales"], ["u"], mode="nearest"),
            node("Conv", ["u", "w2"], ["y"]),
        ],
        {
            "x": [1, 3, 8, 8],
            **{name: value.shape for name, value in weights.items()},
            "w2": [4, 4, 1, 1],
        },
        ["y"],
        {**weights, "w2": random(4, 4, 1, 1)},
        opset=9,
        ir=3,
    )
    return proto, {"x": random(SAMPLES, 3, 8, 8)}


def roundabout_weights() -> Foreign:
    """Weights that are Constant nodes, or behind Identity, Transpose and Reshape."""
    constant = numpy_helper.from_array(random(4, 3, 1, 1), "value")
    proto = model(
        [
            node("Constant", [], ["w"], value=constant),
            node("Conv", ["x", "w"], ["c"]),
            node("Identity", ["v"], ["v2"]),
            node("Transpose", ["v2"], ["v3"], perm=[1, 0, 2, 3]),
            node("Conv", ["c", "v3"], ["d"]),
            node("Reshape", ["u", "shape"], ["u2"]),
            node("Conv", ["d", "u2"], ["y"]),
        ],
        {"x": ["N", 3, 8, 8]},
        ["y"],
        {"v": random(4, 8, 1, 1), "u": random(16), "shape": np.array([2, 8, 1, 1], np.int64)},
    )
    return proto, {"x": random(SAMPLES, 3, 8, 8)}


def tied_weights() -> Foreign:
    """One weight for two convolutions, and for the bias of another and a sum."""
    proto = model(
        [
            node("Conv", ["x", "w", "b"], ["c"]),
            node("Relu", ["c"], ["r"]),
            node("Conv", ["r", "w", "b"], ["d"]),
            node("Add", ["d", "x"], ["e"]),
            node("Mul", ["e", "w4"], ["y"]),
        ],
        {"x": ["N", 4, 8, 8]},
        ["y"],
        {"w": random(4, 4, 1, 1), "b": random(4), "w4": random(1, 4, 1, 1)},
    )
    return proto, {"x": random(SAMPLES, 4, 8, 8)}


def several_inputs() -> Foreign:
    """Two float inputs and one of integers, two outputs."""
    proto = model(
        [
            node("Conv", ["image", "w"], ["c"]),
            node("GlobalAveragePool", ["c"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Gather", ["table", "token"], ["t"], axis=0),
            node("ReduceMean", ["t"], ["u"], axes=[1], keepdims=0),
            node("Concat", ["f", "u", "more"], ["j"], axis=1),
            node("Gemm", ["j", "v", "b"], ["y"], transB=1),
            node("Sigmoid", ["j"], ["z"]),
        ],
        {"image": ["N", 3, "H", "W"], "more": ["N", 4]},
        ["y", "z"],
        {"w": random(8, 3, 3, 3), "table": random(20, 6), "v": random(5, 18), "b": random(5)},
    )
    proto.graph.input.append(helper.make_tensor_value_info("token", TensorProto.INT64, ["N", 7]))
    for each, width in zip(proto.graph.output, (5, 18), strict=True):
        each.CopyFrom(helper.make_tensor_value_info(each.name, FLOAT, ["N", width]))
    tokens = np.random.default_rng(0).integers(0, 20, (SAMPLES, 7))
    arrays = {"image": random(SAMPLES, 3, 9, 7), "more": random(SAMPLES, 4), "token": tokens}
    return proto, arrays


def products() -> Foreign:
    """Gemm with alpha, beta and transA; MatMul with its weight on the left, and with none."""
    proto = model(
        [
            node("MatMul", ["left", "x"], ["m"]),
            node("MatMul", ["m", "right"], ["n"]),
            node("Transpose", ["n"], ["t"], perm=[0, 2, 1]),
            node("MatMul", ["n", "t"], ["a"]),
            node("Softmax", ["a"], ["s"]),
            node("MatMul", ["s", "n"], ["o"]),
            node("Reshape", ["o", "flat"], ["f"]),
            node("Gemm", ["f", "v", "b"], ["g"], alpha=0.5, beta=2.0),
            node("Transpose", ["g"], ["h"]),
            node("Gemm", ["h", "v2"], ["y"], transA=1, transB=1),
        ],
        {"x": ["N", 6, 8]},
        ["y"],
        {
            "left": random(5, 6), "right": random(8, 8), "flat": np.array([-1, 40], np.int64),
            "v": random(40, 7), "b": random(7), "v2": random(3, 7),
        },
    )  # fmt: skip
    return shaped(proto, "N", 3), {"x": random(SAMPLES, 6, 8)}


def other_dimensions() -> Foreign:
    """Conv1d, Conv3d and ConvTranspose."""
    proto = model(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1]),
            node("Relu", ["c"], ["r"]),
            node("Reshape", ["r", "cube"], ["d"]),
            node("Conv", ["d", "w3"], ["e"], pads=[1, 1, 1, 1, 1, 1]),
            node("Reshape", ["e", "square"], ["f"]),
            node("ConvTranspose", ["f", "wt", "b"], ["y"], strides=[2, 2], group=2),
        ],
        {"x": ["N", 3, 64]},
        ["y"],
        {
            "w": random(4, 3, 3), "w3": random(2, 4, 3, 3, 3), "wt": random(4, 3, 2, 2),
            "b": random(6), "cube": np.array([0, 4, 4, 4, 4], np.int64),
            "square": np.array([0, 4, 8, 4], np.int64),
        },
    )  # fmt: skip
    return proto, {"x": random(SAMPLES, 3, 64)}


def control_flow() -> Foreign:
    """If, Loop and Scan that read from outside, with products of their own, between two Convs."""
    of_four = [helper.make_tensor_value_info(n, FLOAT, None) for n in ("then", "other", "next")]
    then = helper.make_graph([node("Mul", ["c", "two"], ["then"])], "t", [], [of_four[0]])
    other = helper.make_graph([node("Conv", ["c", "v"], ["other"])], "o", [], [of_four[1]])
    body = helper.make_graph(
        [node("Add", ["state", "c"], ["next"]), node("Identity", ["go"], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, None),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), of_four[2]],
    )
    step = helper.make_graph(
        [node("Conv", ["row", "v1"], ["out"]), node("Add", ["sum_in", "one"], ["sum_out"])],
        "step",
        [helper.make_tensor_value_info(name, FLOAT, None) for name in ("sum_in", "row")],
        [
            helper.make_tensor_value_info("sum_out", FLOAT, []),
            helper.make_tensor_value_info("out", FLOAT, ["N", 4, 8]),
        ],
    )
    proto = model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("ReduceMean", ["c"], ["mean"], keepdims=0),
            node("Greater", ["mean", "zero"], ["flag"]),
            node("If", ["flag"], ["i"], then_branch=then, else_branch=other),
            node("Loop", ["turns", "yes", "i"], ["l"], body=body),
            node("Scan", ["one", "l"], ["done", "s"], body=step, num_scan_inputs=1,
                 scan_input_axes=[2], scan_output_axes=[2]),
            node("Conv", ["s", "w2"], ["y"]),
        ],
        {"x": ["N", 3, 8, 8]},
        ["y"],
        {
            "w": random(4, 3, 1, 1), "v": random(4, 4, 1, 1), "v1": random(4, 4, 1),
            "w2": random(2, 4, 1, 1), "two": np.array(2, np.float32),
            "zero": np.array(0, np.float32), "one": np.array(1, np.float32),
            "turns": np.array(2, np.int64), "yes": np.array(True),
        },
    )  # fmt: skip
    return proto, {"x": random(SAMPLES, 3, 8, 8)}


def microsofts() -> Foreign:
    """An operator of ONNX Runtime's own, and a function of the model's."""
    function = helper.make_function(
        "mine",
        "Twice",
        ["a"],
        ["b"],
        [node("Add", ["a", "a"], ["b"], name="sum")],
        [helper.make_opsetid("", 17)],
    )
    proto = model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Gelu", ["c"], ["g"], domain="com.microsoft"),
            node("Twice", ["g"], ["t"], domain="mine"),
            node("Conv", ["t", "w2"], ["y"]),
        ],
        {"x": ["N", 3, 8, 8]},
        ["y"],
        {"w": random(4, 3, 1, 1), "w2": random(4, 4, 1, 1)},
        domains={"com.microsoft": 1, "mine": 1},
    )
    proto.functions.append(function)
    return proto, {"x": random(SAMPLES, 3, 8, 8)}


def empty_tensors() -> Foreign:
    """Resize with an empty region of interest, Concat with nothing."""
    proto = model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Resize", ["c", "roi", "scales"], ["r"], mode="linear"),
            node("Concat", ["r", "nothing"], ["j"], axis=1),
            node("Conv", ["j", "w2"], ["y"]),
        ],
        {"x": [1, 3, 4, 4]},
        ["y"],
        {
            "w": random(4, 3, 1, 1), "w2": random(4, 4, 1, 1), "roi": np.zeros(0, np.float32),
            "scales": np.array([1, 1, 2, 2], np.float32),
            "nothing": np.zeros((1, 0, 8, 8), np.float32),
        },
    )  # fmt: skip
    return proto, {"x": random(SAMPLES, 3, 4, 4)}


def large(folder: Path) -> Path:
    """A file of two products with more than 2 GB of weights beside it, nearly all of them 0."""
    narrow, wide = 1024, 263_000
    size = 4 * narrow * wide
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"])]
    proto = shaped(model(nodes, {"x": ["N", narrow]}, ["y"], {}), "N", narrow)
    for place, (name, shape) in enumerate({"w": (narrow, wide), "v": (wide, narrow)}.items()):
        tensor = proto.graph.initializer.add(name=name, dims=shape, data_type=FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        where = {"location": "large.bin", "offset": place * size, "length": size}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
    with (folder / "large.bin").open("wb") as file:
        for place in range(2):
            file.seek(place * size)
            file.write(random(100 * narrow).tobytes())
        file.truncate(2 * size)  # the rest is a hole, which reads as zeros
    path = folder / "large.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


FOREIGN: dict[str, Callable[[], Foreign]] = {
    each.__name__: each
    for each in (
        convolution,
        composed,
        old,
        roundabout_weights,
        tied_weights,
        several_inputs,
        products,
        other_dimensions,
        control_flow,
        microsofts,
        empty_tensors,
    )
}
