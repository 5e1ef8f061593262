"""Lowering: the same numbers, by operators that a form's kernels have in int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd.backends import ort
from edgekd.quantize.forms import FORMS
from edgekd.quantize.lowering import lower


def mean(shape: tuple[int, ...], axes: list[int], opset: int = 18, **attributes: Any) -> Any:
    """A model of one ReduceMean."""
    constants = [numpy_helper.from_array(np.array(axes, np.int64), "axes")]
    reads = ["x", "axes"]
    if opset < 18:
        reads, constants, attributes = ["x"], [], {**attributes, "axes": axes}
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", reads, ["y"], "mean", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", 1, ["batch", *shape[1:]])],
        [helper.make_tensor_value_info("y", 1, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray, path: Path) -> np.ndarray:
    onnx.save(model, path)
    with ort.open_model(path, optimise=False) as session:
        return np.asarray(session.run({"x": x})["y"])


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(
    ("shape", "axes", "opset"),
    [((2, 3, 5, 4), [2, 3], 18), ((2, 3, 5, 4), [-1, -2], 13), ((2, 3, 7), [2], 18)],
)
def test_a_mean_over_pixels_becomes_a_pool(
    shape: tuple[int, ...], axes: list[int], opset: int, keepdims: int, tmp_path: Path
) -> None:
    model = mean(shape, axes, opset, keepdims=keepdims)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = run(model, x, tmp_path / "m.onnx")
    added = lower(model.graph, FORMS["u8s8"])
    assert model.graph.node[0].op_type == "GlobalAveragePool"
    assert model.graph.node[0].name == "mean"
    assert added == ({} if keepdims else {"y_pooled": "y"})
    found = run(model, x, tmp_path / "m.onnx")
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axes"), [((2, 3, 5, 4), [1, 2, 3]), ((2, 3, 5, 4), [3]), ((2, 6), [1])]
)
def test_any_other_mean_stays(shape: tuple[int, ...], axes: list[int]) -> None:
    model = mean(shape, axes)
    before = onnx.ModelProto.FromString(model.SerializeToString())
    assert lower(model.graph, FORMS["u8s8"]) == {}
    assert model == before


def test_a_gpus_kernels_have_the_mean_itself() -> None:
    for form in ("s8s8", "f8"):
        model = mean((2, 3, 5, 4), [2, 3])
        assert lower(model.graph, FORMS[form]) == {}
        assert model.graph.node[0].op_type == "ReduceMean"


def test_without_a_known_rank_it_stays() -> None:
    model = mean((2, 3, 5, 4), [-2, -1])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    lower(model.graph, FORMS["u8s8"])
    assert model.graph.node[0].op_type == "ReduceMean"
