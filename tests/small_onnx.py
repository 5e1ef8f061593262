"""ONNX files of one node or two, for what is measured and not for what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
Dims = Sequence[int | str | None]


def write(
    path: Path, node: str, inputs: Mapping[str, tuple[int, Dims]], y: Dims | None, **attributes: Any
) -> Path:
    """A file with one node, from all inputs to ``y``, which has the type of the first one."""
    named = [helper.make_tensor_value_info(name, *each) for name, each in inputs.items()]
    kind = next((each for each, _ in inputs.values()), FLOAT)
    nodes = [helper.make_node(node, list(inputs), ["y"], name="only", **attributes)]
    return _save(path, nodes, named, y, kind)


def relu(path: Path, x: Dims = ("n", 3)) -> Path:
    """A file with one input."""
    return write(path, "Relu", {"x": (FLOAT, x)}, x)


def product(path: Path, *, external: bool = False, wide: int = 300) -> Path:
    """(n, 30) times a matrix, whose numbers lie in a file beside it where it is ``external``."""
    matrix = np.ones((30, wide), np.float32)
    weights = numpy_helper.from_array(matrix, "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"], name="product"),
        helper.make_node("Relu", ["z"], ["y"], name="relu"),
    ]
    named = [helper.make_tensor_value_info("x", FLOAT, ["n", 30])]
    return _save(path, nodes, named, ["n", wide], FLOAT, [weights], external)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    y: Dims | None,
    kind: int,
    weights: Sequence[onnx.TensorProto] = (),
    external: bool = False,
) -> Path:
    out = helper.make_tensor_value_info("y", kind, y)
    graph = helper.make_graph(nodes, "g", inputs, [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(
        model,
        path,
        save_as_external_data=external,
        location=f"{path.stem}.bin" if external else None,
        size_threshold=0,
    )
    return path
