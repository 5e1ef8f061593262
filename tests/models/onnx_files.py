"""ONNX files as other people's exporters make them, from one of our own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper


def change(
    source: Path,
    out: Path,
    *,
    batch: int | None = None,
    channels_last: bool = False,
    softmax: bool = False,
    flat: bool = False,
) -> Path:
    """A copy with a fixed batch, an NHWC input, a softmax or a one-dimensional output."""
    model = onnx.load(source)
    graph = model.graph
    del graph.value_info[:]
    image, logits = graph.input[0], graph.output[0]
    if softmax:
        graph.node.append(helper.make_node("Softmax", [logits.name], ["probs"], axis=-1))
        logits.name = "probs"
    if flat:
        shape = numpy_helper.from_array(np.array([-1]), "all")
        graph.initializer.append(shape)
        graph.node.append(helper.make_node("Reshape", [logits.name, "all"], ["flat"]))
        logits.name = "flat"
        del logits.type.tensor_type.shape.dim[1:]
        logits.type.tensor_type.shape.dim[0].dim_param = "all"
    dims = image.type.tensor_type.shape.dim
    if channels_last:
        c, h, w = (each.dim_value for each in dims[1:])
        for dim, value in zip(dims[1:], (h, w, c), strict=True):
            dim.dim_value = value
        node = helper.make_node("Transpose", ["nhwc"], [image.name], perm=[0, 3, 1, 2])
        graph.node.insert(0, node)
        image.name = "nhwc"
    if batch is not None:
        dims[0].dim_value = batch
        if not flat:
            logits.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.checker.check_model(model)
    onnx.save(model, out)
    return out


def of_type(out: Path, kind: int, shape: list[int | str | None], inputs: int = 1) -> Path:
    """A file that sums its inputs' images, of any type and shape."""
    specs = [helper.make_tensor_value_info(f"x{i}", kind, shape) for i in range(inputs)]
    result = helper.make_tensor_value_info("y", kind, None)
    names = [each.name for each in specs]
    node = helper.make_node("Sum" if inputs > 1 else "Identity", names, ["y"])
    graph = helper.make_graph([node], "g", specs, [result])
    save(graph, out)
    return out


def save(graph: onnx.GraphProto, out: Path) -> None:
    """Writes a graph as older exporters do."""
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), out)
