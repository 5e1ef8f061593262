"""Operators in torch: what ONNX Runtime gives for a node, torch gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from edgekd.backends import ort
from edgekd.quantize.operators import OPERATORS, unfit

Given = np.ndarray | list[int] | float | None


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


IMAGE = _random(2, 4, 7, 6)
INPUTS = {"Gemm": IMAGE[0, 0], "Squeeze": IMAGE[:, :1], "Sqrt": np.abs(IMAGE)}
POSITIVE = np.abs(_random(4)) + np.float32(0.5)
CASES: list[tuple[str, dict[str, Any], list[Given]]] = [
    ("Conv", {"pads": [1, 1, 1, 1], "strides": [2, 1], "group": 2}, [_random(6, 2, 3, 3)]),
    ("Conv", {"pads": [0, 1, 1, 0], "dilations": [1, 2]}, [_random(3, 4, 2, 2), _random(3)]),
    (
        "ConvTranspose",
        {"pads": [1, 0, 1, 0], "strides": [2, 1], "group": 2, "output_padding": [1, 0]},
        [_random(4, 3, 3, 2), _random(6)],
    ),
    ("ConvTranspose", {"dilations": [1, 2]}, [_random(4, 3, 2, 2)]),
    ("Gemm", {"transB": 1, "alpha": 0.5, "beta": 2.0}, [_random(3, 6), _random(3)]),
    ("Gemm", {"transA": 1}, [_random(7, 3)]),
    ("MatMul", {}, [_random(6, 5)]),
    ("BatchNormalization", {"epsilon": 1e-2}, [_random(4), _random(4), _random(4), POSITIVE]),
    ("InstanceNormalization", {}, [_random(4), _random(4)]),
    ("LayerNormalization", {"epsilon": 1e-2}, [_random(6), _random(6)]),
    ("LayerNormalization", {"axis": 2}, [_random(7, 6)]),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, []),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, []),
    ("MaxPool", {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}, []),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, []),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}, []),
    ("GlobalAveragePool", {}, []),
    ("GlobalMaxPool", {}, []),
    ("ReduceMean", {}, [[-1, -2]]),
    ("ReduceMean", {"keepdims": 0, "noop_with_empty_axes": 0}, []),
    ("ReduceMean", {"noop_with_empty_axes": 1}, []),
    ("ReduceSum", {"keepdims": 0}, [[1]]),
    ("ReduceMax", {}, [[2, 3]]),
    *((kind, {}, []) for kind in ("Relu", "Sigmoid", "Tanh", "Erf", "Softplus", "HardSwish")),
    *((kind, {}, []) for kind in ("LeakyRelu", "Elu", "HardSigmoid", "Softmax", "LogSoftmax")),
    ("LeakyRelu", {"alpha": 0.3}, []),
    ("Elu", {"alpha": 0.3}, []),
    ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.4}, []),
    ("Softmax", {"axis": 1}, []),
    ("PRelu", {}, [_random(4, 1, 1)]),
    ("Clip", {}, [-0.5, 0.75]),
    ("Clip", {}, [None, 0.25]),
    *((kind, {}, [_random(4, 1, 6)]) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    ("Pow", {}, [2.0]),
    *((kind, {}, []) for kind in ("Exp", "Neg", "Abs", "Identity", "Reciprocal", "Sqrt")),
    ("Reshape", {}, [[0, -1, 3]]),
    ("Flatten", {}, []),
    ("Flatten", {"axis": 2}, []),
    ("Transpose", {"perm": [0, 2, 3, 1]}, []),
    ("Transpose", {}, []),
    ("Squeeze", {}, [[-3]]),
    ("Squeeze", {}, []),
    ("Unsqueeze", {}, [[0, -1]]),
    ("Concat", {"axis": 1}, [_random(2, 3, 7, 6)]),
    ("Slice", {}, [[1, -3], [2**62, -1], [1, -1]]),
    ("Slice", {}, [[-1], [-(2**63)], [2], [-2]]),
    ("Gather", {"axis": 2}, [[3, -1]]),
    ("Gather", {"axis": 1}, [np.array(2)]),
    ("Expand", {}, [[3, 1, 1, 1, 1]]),
    ("Pad", {}, [[1, 0, 2, 1], 0.5, [1, -1]]),
    ("Shape", {}, []),
    ("Shape", {"start": 1, "end": -1}, []),
    ("Cast", {"to": onnx.TensorProto.INT32}, []),
]


def test_every_operator_is_held_against_onnx_runtime() -> None:
    assert {kind for kind, _, _ in CASES} | {"Split"} == OPERATORS.keys()


def _array(given: Given) -> np.ndarray | None:
    if isinstance(given, float):
        return np.array(given, np.float32)
    return None if given is None else np.asarray(given)


@pytest.mark.parametrize(
    ("kind", "attributes", "more"),
    CASES,
    ids=[f"{kind}-{n}" for n, (kind, _, _) in enumerate(CASES)],
)
def test_a_node_gives_what_onnx_runtime_gives(
    kind: str, attributes: dict[str, Any], more: list[Given], tmp_path: Path
) -> None:
    x = INPUTS.get(kind, IMAGE)
    others = [_array(each) for each in more]
    expected = _by_onnx_runtime(kind, attributes, [x, *others], 1, tmp_path)[0]
    assert unfit(kind, attributes, 1) == ""
    tensors = [None if each is None else torch.from_numpy(each.copy()) for each in (x, *others)]
    found = OPERATORS[kind](attributes, *tensors)
    assert isinstance(found, torch.Tensor)
    assert found.numpy().dtype == expected.dtype
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert found.shape == expected.shape


@pytest.mark.parametrize(
    ("attributes", "sizes"), [({"axis": 1}, [1, 3]), ({"axis": 2, "num_outputs": 2}, None)]
)
def test_split_gives_every_part(
    attributes: dict[str, int], sizes: list[int] | None, tmp_path: Path
) -> None:
    given = [IMAGE] if sizes is None else [IMAGE, np.array(sizes)]
    expected = _by_onnx_runtime("Split", attributes, given, 2, tmp_path)
    found = OPERATORS["Split"](attributes, *map(torch.from_numpy, given))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)


def test_whole_numbers_are_divided_as_onnx_divides_them() -> None:
    found = OPERATORS["Div"]({}, torch.tensor([7, -7]), torch.tensor([2, 2]))
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [3, -3]


@pytest.mark.parametrize(
    ("kind", "attributes", "outputs", "reason"),
    [
        ("Det", {}, 1, "no such operator"),
        ("Conv", {"auto_pad": "SAME_UPPER"}, 1, "auto_pad"),
        ("Pad", {"mode": "reflect"}, 1, "mode reflect"),
        ("Cast", {"to": onnx.TensorProto.BFLOAT16}, 1, "its type"),
        ("AveragePool", {"pads": [0, 0, 1, 1]}, 1, "uneven pads"),
        ("ConvTranspose", {"pads": [0, 0, 1, 1]}, 1, "uneven pads"),
        ("ConvTranspose", {"output_shape": [9, 9]}, 1, "output_shape"),
        ("MaxPool", {}, 2, "more than one output"),
    ],
)
def test_what_the_table_cannot_run_is_said_before_it_is_run(
    kind: str, attributes: dict[str, Any], outputs: int, reason: str
) -> None:
    assert unfit(kind, attributes, outputs) == reason


def _by_onnx_runtime(
    kind: str,
    attributes: dict[str, Any],
    inputs: list[np.ndarray | None],
    outputs: int,
    folder: Path,
) -> list[np.ndarray]:
    """The first input is fed, the others are constants."""
    names = ["" if each is None else f"i{n}" for n, each in enumerate(inputs)]
    results = [f"o{n}" for n in range(outputs)]
    first, *others = inputs
    assert first is not None
    node = helper.make_node(kind, names, results, "node", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("i0", 1, first.shape)],
        [onnx.ValueInfoProto(name=each) for each in results],
        [
            numpy_helper.from_array(each, name)
            for name, each in zip(names[1:], others, strict=True)
            if each is not None
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = folder / "m.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    with ort.open_model(path, optimise=False) as session:
        return [session.run({"i0": first})[name] for name in results]
