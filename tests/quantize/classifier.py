"""A classifier of digits that is made, not trained, and whose int8 is in trouble where it is told.

Three fully connected layers: two of random features, and a linear one that is fitted to the
labels. To spoil it, the first layer's first unit is scaled up and what reads it scaled down: the
fp32 function stays the same, and one scale for the whole activation no longer fits its units.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifacts import Dataset, OnnxModel, TensorSpec
from edgekd.calibration.feeds import Feeds, of_images
from edgekd.data import splits

Array = npt.NDArray[Any]
UNITS = 96


def images(dataset: Dataset, split: str, n: int | None = None) -> Feeds:
    """A split's images with their labels."""
    found = splits.read(dataset, split)
    return of_images("image", found.images[:n], dataset.preprocessing, found.labels[:n])


def unlabelled(feeds: Feeds) -> Feeds:
    return Feeds(feeds.arrays, feeds.preprocessing, None)


def classifier(dataset: Dataset, path: Path, spoil: float = 1.0, rare: float = 0.0) -> OnnxModel:
    """Writes it; ``fc1``, ``fc2`` and ``fc3`` are its layers.

    Args:
        spoil: by how much the first unit of ``fc1`` is scaled up, and read scaled down.
        rare: by how much another unit of ``fc1`` that nobody reads is scaled up, which is
            positive for a few images alone.
    """
    rng = np.random.default_rng(0)
    train = images(dataset, "train")
    x = train.take(slice(0, len(train)))["image"].reshape(len(train), -1)
    w1, b1 = rng.normal(size=(64, UNITS)) / 8, rng.normal(size=UNITS) / 4
    w2, b2 = rng.normal(size=(UNITS, UNITS)) / 8, rng.normal(size=UNITS) / 4
    b1[1] = -np.quantile(x @ w1[:, 1], 0.995)
    w2[1] = 0.0
    hidden = np.maximum(np.maximum(x @ w1 + b1, 0) @ w2 + b2, 0)
    wanted = np.eye(10)[train.labels]
    w3 = np.linalg.solve(hidden.T @ hidden + np.eye(UNITS), hidden.T @ wanted)
    for unit, factor in ((0, spoil), (1, 1 + rare)):
        w1[:, unit] *= factor
        b1[unit] *= factor
        w2[unit] /= factor
    constants = {"w1": w1, "b1": b1, "w2": w2, "b2": b2, "w3": w3}
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w1", "b1"], ["one"], "fc1"),
        helper.make_node("Relu", ["one"], ["first"], "relu1"),
        helper.make_node("Gemm", ["first", "w2", "b2"], ["two"], "fc2"),
        helper.make_node("Relu", ["two"], ["second"], "relu2"),
        helper.make_node("MatMul", ["second", "w3"], ["logits"], "fc3"),
    ]
    specs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("image", (1, 8, 8)), ("logits", (10,)))
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        specs[:1],
        specs[1:],
        [numpy_helper.from_array(each.astype(np.float32), n) for n, each in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(proto, path)
    return OnnxModel(
        path=path,
        opset=18,
        model_inputs=(TensorSpec("image", "float32", ("batch", 1, 8, 8)),),
        model_outputs=(TensorSpec("logits", "float32", ("batch", 10)),),
        parity=0.0,
    )
