"""One pass: the statistics of every float tensor, whatever the batches and the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifacts import Dataset, OnnxModel
from edgekd.calibration import collect as module
from edgekd.calibration.collect import Collected, collect
from edgekd.calibration.feeds import Feeds, of_images
from edgekd.calibration.statistics import Statistics
from edgekd.data import splits
from edgekd.errors import CalibrationError
from edgekd.store import hash_file

FLOAT = TensorProto.FLOAT


def of(values: np.ndarray) -> Statistics:
    found = Statistics()
    found.see(values)
    return found


def same(found: Statistics, values: np.ndarray) -> bool:
    """Whether statistics are exactly those of values seen at once, but for the average."""
    other = of(values)
    return (
        (found.count, found.low, found.high) == (other.count, other.low, other.high)
        and np.array_equal(found.above.counts, other.above.counts)
        and np.array_equal(found.below.counts, other.below.counts)
    )


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: Sequence[str],
    constants: dict[str, np.ndarray] | None = None,
    domains: Sequence[str] = ("",),
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(each, name) for name, each in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid(each, 1 if each else 18) for each in domains]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def run(path: Path, feeds: Feeds, tmp_path: Path, batch: int = 32) -> Collected:
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    found = collect(path, feeds, work, batch=batch)
    assert not list(work.iterdir())
    return found


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(50, 6)).astype(np.float32)


def test_a_network_on_images(onnx_model: OnnxModel, dataset: Dataset, tmp_path: Path) -> None:
    """Against onnx's own types, and every tensor as an output of one batch of all images."""
    import onnxruntime as rt

    images = splits.read(dataset, "train").images[:70]
    feeds = of_images("image", images, dataset.preprocessing)
    before = hash_file(onnx_model.path)
    calls: list[tuple[int, int]] = []
    found = collect(onnx_model.path, feeds, tmp_path, lambda *each: calls.append(each[:2]))
    assert hash_file(onnx_model.path) == before
    assert (found.samples, found.model_sha256) == (70, before.sha256)
    assert len(found.preprocessing_sha256) == 64
    assert calls == [(32, 70), (35, 70), (67, 70), (70, 70)]

    model = onnx.shape_inference.infer_shapes(onnx.load(onnx_model.path))
    typed = {each.name: each for each in (*model.graph.value_info, *model.graph.output)}
    made = [name for node in model.graph.node for name in node.output]
    names = [each for each in made if typed[each].type.tensor_type.elem_type == FLOAT]
    assert {"Relu", "Conv", "Add"} <= {node.op_type for node in model.graph.node}
    assert found.statistics.keys() == found.half.keys() == {"image", *names}
    del model.graph.output[:]
    model.graph.output.extend(typed[each] for each in names)
    session = rt.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = feeds.take(slice(None))
    whole = dict(zip(names, session.run(names, batch), strict=True)) | batch
    for name, values in whole.items():
        each, half = found.statistics[name], found.half[name]
        assert (each.count, half.count) == (values.size, values[:35].size)
        expected = [min(0.0, values.min()), max(0.0, values.max())]
        assert [each.low, each.high] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert half.high == pytest.approx(max(0.0, values[:35].max()), rel=1e-4, abs=1e-5)


NODES = [
    helper.make_node("Identity", ["x"], ["again"]),
    helper.make_node("Add", ["again", "one"], ["more"]),
    helper.make_node("Relu", ["more"], ["positive"]),
    helper.make_node("Reshape", ["positive", "shape"], ["flat"]),
    helper.make_node("Relu", ["flat"], ["still"]),
]
ONES = {"one": np.ones(1, np.float32), "shape": np.array([-1, 3, 2], np.int64)}


@pytest.mark.parametrize("batch", [1, 7, 25, 64])
def test_what_follows_from_another_tensor(x: np.ndarray, batch: int, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", NODES, {"x": ["n", 6]}, ["still"], ONES)
    found = run(path, Feeds({"x": x}), tmp_path, batch)
    assert found.preprocessing_sha256 == ""
    expected = {"x": x, "again": x, "more": x + 1}
    expected |= dict.fromkeys(("positive", "flat", "still"), np.maximum(x + 1, 0))
    assert found.statistics.keys() == expected.keys()
    for name, values in expected.items():
        assert same(found.statistics[name], values)
        assert same(found.half[name], values[:25])


def test_a_model_of_so_many_samples_and_no_fewer(x: np.ndarray, tmp_path: Path) -> None:
    """50 samples by 8: neighbours fill up, and none is counted twice."""
    nodes = [
        helper.make_node("Add", ["x", "one"], ["more"]),
        helper.make_node("ReduceMax", ["more"], ["largest"], keepdims=0),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"x": [8, 6]}, ["more", "largest"], ONES)
    found = run(path, Feeds({"x": x}), tmp_path)
    assert same(found.statistics["more"], x + 1)
    assert same(found.statistics["x"], x)
    assert same(found.half["more"], x[:25] + 1)
    assert found.statistics["largest"].high == (x + 1).max()
    nine = run(path, Feeds({"x": x[:9]}), tmp_path)  # its halves are smaller than a batch
    assert same(nine.statistics["more"], x[:9] + 1)
    assert same(nine.half["more"], x[:4] + 1)


def test_several_inputs_and_types(x: np.ndarray, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "y"], ["product"]),
        helper.make_node("Cast", ["product"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Relu", ["whole"], ["integers"]),
        helper.make_node("Constant", [], ["fixed"], value_float=9.0),
        helper.make_node("Add", ["product", "fixed"], ["sum"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"x": ["n", 2, 3], "y": ["n", 3, 1]}, ["sum"])
    a, b = x.reshape(-1, 2, 3), x[:, :3].reshape(-1, 3, 1)
    found = run(path, Feeds({"x": a, "y": b}), tmp_path)
    assert found.statistics.keys() == {"x", "y", "product", "sum"}
    assert same(found.statistics["y"], b)
    assert found.statistics["product"].high == pytest.approx((a @ b).max(), rel=1e-5)


def test_operators_that_onnx_does_not_know(x: np.ndarray, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("FastGelu", ["x"], ["g"], domain="com.microsoft"),
        helper.make_node("Add", ["g", "one"], ["y"]),
    ]
    domains = ("", "com.microsoft")
    path = write(tmp_path / "m.onnx", nodes, {"x": ["n", 6]}, ["y"], ONES, domains)
    assert run(path, Feeds({"x": x}), tmp_path).statistics.keys() == {"x", "g", "y"}


def test_control_flow_is_run_and_not_looked_into(x: np.ndarray, tmp_path: Path) -> None:
    def branch(op: str) -> onnx.GraphProto:
        inner = helper.make_node(op, ["x", "one"], [f"{op}_inside"])
        return helper.make_graph(
            [inner], op, [], [helper.make_tensor_value_info(f"{op}_inside", FLOAT, None)]
        )

    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "one"], ["is_large"]),
        helper.make_node(
            "If", ["is_large"], ["y"], then_branch=branch("Sub"), else_branch=branch("Add")
        ),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"x": ["n", 6]}, ["y"], {"one": np.float32([1])})
    found = run(path, Feeds({"x": x}), tmp_path)
    assert found.statistics.keys() == {"x", "most", "y"}
    assert same(found.statistics["y"], x - 1)


def test_constants_beside_the_model(x: np.ndarray, tmp_path: Path) -> None:
    weight = np.eye(6, dtype=np.float32)
    plain = write(
        tmp_path / "plain.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ["n", 6]},
        ["y"],
        {"w": weight},
    )
    path = tmp_path / "m.onnx"
    model = onnx.load(plain)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    before = hash_file(tmp_path / "w.bin")
    assert same(run(path, Feeds({"x": x}), tmp_path).statistics["y"], x)
    assert hash_file(tmp_path / "w.bin") == before


def test_batches_are_small_where_tensors_are_large(
    x: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "m.onnx", NODES[:2], {"x": ["n", 6]}, ["more"], ONES)
    monkeypatch.setattr(module, "_BATCH_BYTES", 10 * 6 * 4)  # ten samples of "more"
    seen: list[int] = []
    collect(path, Feeds({"x": x}), tmp_path, lambda done, *_: seen.append(done))
    assert seen == [10, 20, 25, 35, 45, 50]


def test_nan_is_named_by_its_tensor(x: np.ndarray, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sub", ["x", "big"], ["negative"]),
        helper.make_node("Sqrt", ["negative"], ["root"]),
    ]
    big = {"big": np.array([1e3], np.float32)}
    path = write(tmp_path / "m.onnx", nodes, {"x": ["n", 6]}, ["root"], big)
    with pytest.raises(CalibrationError, match="tensor 'root' holds NaN or infinity"):
        run(path, Feeds({"x": x}), tmp_path)
    assert not list((tmp_path / "work").iterdir())


def test_samples_of_another_model(x: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", NODES[:2], {"x": ["n", 5]}, ["more"], ONES)
    with pytest.raises(CalibrationError, match="have shape 6, and the model takes 5"):
        run(path, Feeds({"x": x}), tmp_path)
