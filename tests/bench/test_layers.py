"""Profiles: layers of real engines joined with their ONNX nodes, and islands of float."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekd import models, onnx_cost, targets
from edgekd.artifacts import Checkpoint, OnnxModel, QuantizedModel
from edgekd.backends.base import build_engine
from edgekd.bench import layers, roofline
from edgekd.errors import BenchError
from edgekd.measurements import LayerTime, Profile, Roof
from edgekd.onnx_cost import Graph
from tests.backends.engines import build, feeds, inner, products, to_int8

ROOF = Roof({"fp32": 1e9, "int8": 4e9}, 1e9, 1)
TARGETS = ("onnxruntime-cpu", "openvino-cpu")


@pytest.fixture(autouse=True)
def _roof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "roof", lambda threads: replace(ROOF, threads=threads))


@pytest.fixture(scope="module")
def forms(
    onnx_model: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, OnnxModel | QuantizedModel]:
    folder = tmp_path_factory.mktemp("forms")
    return {
        "fp32": onnx_model,
        "int8": to_int8(onnx_model, folder / "int8"),
        "mixed": to_int8(onnx_model, folder / "mixed", [inner(onnx_model)]),
    }


def profile(
    model: OnnxModel | QuantizedModel, target: str, folder: Path, batch: int = 1
) -> Profile:
    return layers.profile(build(model, target, folder), model.path, feeds(batch), runs=5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["fp32", "int8", "mixed"])
def test_each_product_is_in_one_layer_and_all_its_work_is_counted(
    form: str, target: str, forms: dict[str, OnnxModel], tmp_path: Path
) -> None:
    found = profile(forms[form], target, tmp_path, batch=2)
    computes = [each for each in found.layers if each.role == "compute"]
    named = [name for each in found.layers for name in each.nodes]
    assert len(named) == len(set(named))
    for name in products(forms[form].path):
        assert [name in each.nodes for each in computes].count(True) == 1
    _, one = models.cost(models.create("resnet8", 10, 1), (1, 8, 8))
    assert sum(each.macs or 0 for each in computes) == 2 * one
    assert all(each.bytes for each in computes)
    assert sum(each.ns for each in found.layers) <= found.total_ns
    assert found.roof == ROOF


@pytest.mark.parametrize("target", TARGETS)
def test_a_node_kept_in_float_is_an_island(
    target: str, forms: dict[str, OnnxModel], onnx_model: OnnxModel, tmp_path: Path
) -> None:
    assert profile(forms["fp32"], target, tmp_path / "fp32").islands == ()
    assert profile(forms["int8"], target, tmp_path / "int8").islands == ()
    mixed = profile(forms["mixed"], target, tmp_path / "mixed")
    (island,) = mixed.islands
    (layer,) = [each for each in mixed.layers if each.name == island]
    assert inner(onnx_model) in layer.nodes
    assert layer.precision == "fp32"


@pytest.mark.parametrize("target", TARGETS)
def test_an_int8_layer_moves_int8(target: str, forms: dict[str, OnnxModel], tmp_path: Path) -> None:
    """The second convolution: 16 channels of 8 x 8 read and written, its weights and its bias."""
    sizes = {}
    for form in ("fp32", "int8"):
        computes = [
            each
            for each in profile(forms[form], target, tmp_path / form).layers
            if each.role == "compute"
        ]
        sizes[form] = computes[1].bytes
    values, bias = 2 * 16 * 64 + 16 * 16 * 9, 4 * 16
    assert sizes["fp32"] == 4 * values + bias
    scales = 4 + 1  # of its output's Q, which runs in it
    assert sizes["int8"] == values + bias + scales


def test_without_the_model_or_the_package_that_reads_it_there_are_times_alone(
    forms: dict[str, OnnxModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build(forms["int8"], "onnxruntime-cpu", tmp_path)
    alone = layers.profile(engine, None, feeds(), runs=2)
    assert alone.islands == ()
    assert all(each.macs is None for each in alone.layers)
    assert all(each.ns for each in alone.layers)
    monkeypatch.setattr(layers, "find_spec", lambda name: None)
    found = layers.profile(engine, engine.path, feeds(), runs=2)
    assert all(each.macs is None for each in found.layers)
    assert importlib.util.find_spec("onnx")


def test_a_runtime_that_tells_no_layers_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    engine = build_engine(checkpoint, "student", targets.load("torch"), tmp_path)
    with pytest.raises(BenchError, match="torch does not say how long its layers take"):
        layers.profile(engine, None, feeds())


def graph() -> Graph:
    """image - conv1 - relu - conv2 - add (with relu's) - softmax."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv1"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w"], ["c"], name="conv2"),
        helper.make_node("Add", ["c", "b"], ["d"], name="add"),
        helper.make_node("Softmax", ["d"], ["y"], name="softmax"),
    ]
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ("n", 2, 4, 4))],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w")],
    )
    return onnx_cost.of(helper.make_model(made))


WORK = 2 * 16 * 2  # multiply-accumulates of either convolution
IMAGE, WEIGHT = 4 * 2 * 16, 4 * 4  # bytes


def layer(name: str, *nodes: str, role: str = "compute") -> LayerTime:
    return LayerTime(name, "", "fp32", role, 1000, nodes=nodes)


def test_what_is_not_named_runs_where_its_input_is_made() -> None:
    given_ = (layer("conv1"), layer("conv2"), layer("softmax", role="other"))
    first, second, last = layers.join(given_, graph())
    assert first.nodes == ("conv1", "relu")
    assert second.nodes == ("conv2", "add")
    assert last.nodes == ("softmax",)
    assert (first.macs, second.macs, last.macs) == (WORK, WORK, 0)
    assert first.bytes == 2 * IMAGE + WEIGHT
    assert second.bytes == 2 * IMAGE + WEIGHT


def test_a_layer_named_for_what_was_fused_into_its_product_has_the_product() -> None:
    first, second = layers.join((layer("1", "relu"), layer("2", "d", "softmax")), graph())
    assert first.nodes == ("conv1", "relu")
    assert second.nodes == ("conv2", "add", "softmax")  # d is what add gives
    assert (first.macs, second.macs) == (WORK, WORK)


def test_a_copy_that_is_named_for_a_product_is_none() -> None:
    copy, first, second = layers.join(
        (layer("copy", "conv1", role="reformat"), layer("1", "conv1"), layer("2", "conv2")),
        graph(),
    )
    assert (copy.nodes, copy.macs, copy.bytes) == ((), 0, None)
    assert first.macs == second.macs == WORK


def test_a_fused_region_that_holds_a_product_computes() -> None:
    region, rest = layers.join(
        (layer("region", "conv1", "relu", "conv2", role="other"), layer("s", "softmax")), graph()
    )
    assert (region.role, region.macs) == ("compute", 2 * WORK)
    assert rest.macs is None  # it says that it computes, and no product of it is known


def test_a_layer_that_may_hold_a_product_which_nobody_names_is_not_counted() -> None:
    dark, second = layers.join((layer("region", role="other"), layer("2", "conv2")), graph())
    assert (dark.nodes, dark.macs, dark.bytes) == ((), None, None)
    assert second.macs == WORK  # it reads what relu gives, which is in no layer either
    _, late = layers.join((layer("region", role="other"), layer("2", "add")), graph())
    assert late.macs == WORK
    lost = layers.join((layer("1", "relu", role="other"), layer("2", "conv2")), graph())
    assert (lost[0].macs, lost[0].bytes) == (None, None)


def test_a_name_with_something_added_after_a_slash_is_still_that_node() -> None:
    found = layers.join((layer("conv1/Fused/Scaled"), layer("conv2")), graph())
    assert found[0].nodes == ("conv1", "relu")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["compute", "other"]),
            st.sampled_from(["fp32", "fp16", "int8", "fp8", "unknown"]),
        )
    )
)
def test_islands_are_float_products_with_lower_ones_on_both_sides(
    kinds: list[tuple[str, str]],
) -> None:
    made = [
        LayerTime(str(index), "", precision, role, 1)
        for index, (role, precision) in enumerate(kinds)
    ]
    low = [int(each.name) for each in made if each.role == "compute"
           and each.precision in ("int8", "fp8")]  # fmt: skip
    expected = tuple(
        each.name
        for each in made
        if each.role == "compute"
        and each.precision in ("fp32", "fp16")
        and any(before < int(each.name) for before in low)
        and any(after > int(each.name) for after in low)
    )
    assert layers.islands(made) == expected
