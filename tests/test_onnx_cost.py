"""What ONNX nodes cost, against torch's count and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import models, onnx_cost
from edgekd.artifacts import OnnxModel
from tests.backends.engines import to_int8

FREE = ("batch", 4, 8, 8)


def graph_of(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    shape: tuple[str | int | None, ...] = FREE,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    gives = helper.make_tensor_value_info("y", kind, None)
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    return helper.make_model(helper.make_graph(nodes, "g", [given], [gives], stored))


def test_macs_are_the_networks_own(onnx_model: OnnxModel, tmp_path: Path) -> None:
    _, total = models.cost(models.create("resnet8", 10, 1), (1, 8, 8))
    for path in (onnx_model.path, to_int8(onnx_model, tmp_path / "int8").path):
        one = onnx_cost.read(path)
        assert sum(node.macs or 0 for node in one.nodes) == total
        three = onnx_cost.read(path, {"image": (3, 1, 8, 8)})
        assert sum(node.macs or 0 for node in three.nodes) == 3 * total
        assert {node.op for node in one.nodes if node.macs} == {"Conv", "Gemm"}


@pytest.mark.parametrize(
    ("op", "left", "right", "out", "transposed", "count"),
    [
        ("Conv", (1, 4, 8, 8), (6, 4, 3, 3), (1, 6, 8, 8), False, 6 * 64 * 36),
        ("Conv", (1, 4, 8, 8), (4, 1, 3, 3), (1, 4, 4, 4), False, 4 * 16 * 9),  # depthwise
        ("ConvTranspose", (1, 4, 8, 8), (4, 2, 2, 2), (1, 2, 16, 16), False, 256 * 8),
        ("Gemm", (5, 7), (7, 3), (5, 3), False, 5 * 7 * 3),
        ("Gemm", (7, 5), (7, 3), (5, 3), True, 5 * 7 * 3),
        ("MatMul", (2, 5, 7), (7, 3), (2, 5, 3), False, 2 * 5 * 7 * 3),
    ],
)
def test_a_product_is_counted_by_its_shapes(
    op: str,
    left: tuple[int, ...],
    right: tuple[int, ...],
    out: tuple[int, ...],
    transposed: bool,
    count: int,
) -> None:
    assert onnx_cost.macs(op, left, right, out, transposed) == count


def test_a_quantised_operators_weight_is_its_fourth_input() -> None:
    scale, zero = np.float32(1), np.uint8(0)
    weights = {"s": np.array(scale), "z": np.array(zero), "w": np.ones((6, 4, 3, 3), np.uint8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "z", "s", "z"], ["y"]),
    ]
    found = onnx_cost.of(graph_of(nodes, weights, kind=TensorProto.UINT8))
    assert found.nodes[1].macs == 6 * 36 * 36


def test_what_has_no_known_shape_has_no_count() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    weights = {"w": np.ones((6, 4, 3, 3), np.float32)}
    free = graph_of([conv], weights, ("batch", 4, "height", "width"))
    found = onnx_cost.of(free)
    assert found.nodes[0].macs is None
    assert found.moved({found.nodes[0].name}) is None
    sized = onnx_cost.of(free, {"x": (2, 4, 8, 8)})
    assert sized.nodes[0].macs == 2 * 6 * 36 * 36


def test_a_node_without_a_name_has_the_one_that_onnx_runtime_gives_it() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    assert [each.name for each in onnx_cost.of(graph_of(nodes, {})).nodes] == ["Relu_0", "Relu_1"]


def test_a_kernel_moves_what_crosses_its_edge_once() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Add", ["b", "b"], ["y"], name="add"),
    ]
    found = onnx_cost.of(graph_of(nodes, {"w": np.ones((6, 4, 3, 3), np.float32)}))
    read, weight, made = 4 * 4 * 64, 4 * 6 * 36, 4 * 6 * 36
    assert found.moved({"conv"}) == read + weight + made
    assert found.moved({"conv", "relu"}) == read + weight + made
    assert found.moved({"conv", "relu", "add"}) == read + weight + made
    assert found.moved({"add"}) == 2 * made


def test_through_a_dequantize_that_nothing_runs_a_kernel_reads_what_is_stored() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="Q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="DQ"),
        helper.make_node("Relu", ["d"], ["y"], name="relu"),
    ]
    found = onnx_cost.of(graph_of(nodes, {"s": np.array(np.float32(1)), "z": np.array(np.int8(0))}))
    size = 4 * 64
    assert found.moved({"relu"}) == 4 * size + 4 * size
    assert found.moved({"relu"}, through={"DQ"}) == size + 4 * size
    assert found.moved({"Q"}, through={"DQ"}) == 4 * size + size + 4 + 1  # its scale and zero too
