"""Sensitivity: the layer that int8 ruins is found, and kept in float where that may be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.artifacts import CalibrationTable, Dataset, Mix, OnnxModel, QuantizedModel
from edgekd.calibration.collect import collect
from edgekd.calibration.table import tabulate
from edgekd.quantize.judge import Judge
from edgekd.quantize.qdq import quantize
from edgekd.quantize.sensitivity import analyse, choose, losses
from edgekd.recipe import QuantizeSettings
from tests.quantize.classifier import UNITS, classifier, images, unlabelled

SETTINGS = QuantizeSettings(max_drop=1.0)


@pytest.fixture(scope="module")
def spoilt(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """A classifier whose second layer is lost in int8."""
    return classifier(dataset, tmp_path_factory.mktemp("spoilt") / "model.onnx", spoil=3000.0)


@pytest.fixture(scope="module")
def table(
    spoilt: OnnxModel, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> CalibrationTable:
    folder = tmp_path_factory.mktemp("collect")
    return tabulate(collect(spoilt.path, images(dataset, "train"), folder), "minmax", 100)


@pytest.mark.parametrize("form", ["s8s8", "u8s8"])
def test_the_layer_that_int8_ruins_comes_first(
    spoilt: OnnxModel, table: CalibrationTable, dataset: Dataset, tmp_path: Path, form: str
) -> None:
    judge = Judge(spoilt, images(dataset, "validation"), 1000)
    worst, *others = losses(spoilt, table, form, judge, tmp_path)
    assert (worst.name, worst.op) == ("fc2", "Gemm")
    assert worst.lost is not None and worst.lost > 20
    assert worst.sqnr < 10
    assert {each.name for each in others} == {"fc1", "fc3"}
    assert [each.sqnr for each in others] == sorted(each.sqnr for each in others)
    for each in others:
        assert each.lost is not None and abs(each.lost) < 2
        assert each.sqnr > 30
    assert {each.name: each.macs for each in (worst, *others)} == {
        "fc1": 64 * UNITS, "fc2": UNITS * UNITS, "fc3": UNITS * 10
    }  # fmt: skip


def test_a_layer_alone_is_all_that_is_rounded(
    spoilt: OnnxModel, table: CalibrationTable, dataset: Dataset, tmp_path: Path
) -> None:
    """The loss that is told is that of the graph in which no other layer reads through Q/DQ."""
    judge = Judge(spoilt, images(dataset, "validation"), 50)
    found = {each.name: each.sqnr for each in losses(spoilt, table, "s8s8", judge, tmp_path)}
    model = quantize(spoilt, table, "s8s8", tmp_path, keep_float=["fc1", "fc2"])
    graph = onnx.load(model.path).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    read = {node.name: [makers.get(each) for each in node.input] for node in graph.node}
    assert read["fc3"] == ["DequantizeLinear"] * 2
    assert "DequantizeLinear" not in {*read["fc1"], *read["fc2"]}
    assert found["fc3"] == judge.score(model.path).sqnr


def test_it_is_kept_in_float_and_no_other(
    spoilt: OnnxModel, table: CalibrationTable, dataset: Dataset, tmp_path: Path
) -> None:
    feeds = images(dataset, "validation")
    found = analyse(spoilt, table, "u8s8", feeds, SETTINGS, tmp_path)
    assert [each.kept for each in found.mixes] == [(), ("fc2",)]
    before, after = found.mixes
    assert before.lost is not None and before.lost > 20
    assert after.lost is not None and after.lost <= 1
    assert after.sqnr > before.sqnr + 15
    assert found.chosen == 1
    assert found.layer_samples == found.mix_samples == len(feeds)
    assert not found.fp32_ns
    assert not list(tmp_path.iterdir())
    json.dumps([each.sqnr for each in (*found.layers, *found.mixes)], allow_nan=False)


def test_what_the_user_keeps_in_float_stays_so_in_every_mix(
    spoilt: OnnxModel, table: CalibrationTable, dataset: Dataset, tmp_path: Path
) -> None:
    feeds = images(dataset, "validation")
    found = analyse(spoilt, table, "u8s8", feeds, SETTINGS, tmp_path, keep_float=["fc2"])
    assert {each.name for each in found.layers} == {"fc1", "fc3"}
    assert [each.kept for each in found.mixes] == [()]
    assert found.mixes[0].lost is not None and found.mixes[0].lost <= 1


def test_top1_is_held_against_the_model_that_was_trained_further(
    spoilt: OnnxModel, table: CalibrationTable, dataset: Dataset, tmp_path: Path
) -> None:
    """A model that names one class alone is right one time in ten: nothing loses against it."""
    feeds = images(dataset, "validation")
    proto = onnx.load(spoilt.path)
    for each in proto.graph.initializer:
        if each.name == "w3":
            each.CopyFrom(onnx.numpy_helper.from_array(np.zeros((UNITS, 10), np.float32), "w3"))
    dull = replace(spoilt, path=tmp_path / "dull.onnx")
    onnx.save(proto, dull.path)
    (tmp_path / "work").mkdir()
    found = analyse(spoilt, table, "u8s8", feeds, SETTINGS, tmp_path / "work", original=dull)
    assert [each.kept for each in found.mixes] == [()]
    assert found.mixes[0].lost is not None and found.mixes[0].lost < 0
    assert found.layers[0].name == "fc2"


def test_latency_that_does_not_allow_it_stops_it(
    spoilt: OnnxModel, table: CalibrationTable, dataset: Dataset, tmp_path: Path
) -> None:
    timed: list[str] = []

    def timer(
        models: Sequence[OnnxModel | QuantizedModel],
    ) -> Mapping[str, Sequence[Mapping[str, int]]]:
        timed.extend(each.precision for each in models)
        assert all(each.path.is_file() for each in models)
        return {"cpu": [{"p50": p50, "p99": 2 * p50} for p50 in (1000, 500, 1100)]}

    feeds = images(dataset, "validation")
    found = analyse(spoilt, table, "u8s8", feeds, SETTINGS, tmp_path, timer=timer)
    assert timed == ["fp32", "int8", "int8"]
    assert found.fp32_ns == {"cpu": {"p50": 1000, "p99": 2000}}
    assert [each.latency_ns["cpu"]["p50"] for each in found.mixes] == [500, 1100]
    assert found.chosen == 0
    soon = analyse(spoilt, table, "u8s8", feeds, SETTINGS, tmp_path, timer=timer, deadline_ns=3000)
    assert soon.chosen == 1


def test_without_labels_the_sqnr_must_be_reached_by_as_few_as_will_do(
    onnx_model: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    feeds = unlabelled(images(dataset, "validation", 32))
    ranges = tabulate(collect(onnx_model.path, feeds, tmp_path), "percentile", 99)

    def kept(least: float) -> tuple[list[int], list[float], int]:
        settings = QuantizeSettings(min_sqnr=least)
        found = analyse(onnx_model, ranges, "s8s8", feeds, settings, tmp_path)
        assert all(each.lost is None for each in (*found.layers, *found.mixes))
        assert [each.sqnr for each in found.layers] == sorted(each.sqnr for each in found.layers)
        numbers = [len(each.kept) for each in found.mixes]
        return numbers, [each.sqnr for each in found.mixes], found.chosen

    numbers, sqnr, chosen = kept(1000.0)
    layers = sum(node.op_type in ("Conv", "Gemm") for node in onnx.load(onnx_model.path).graph.node)
    assert numbers == [0, 1, 2, 4, 8, layers - 1]  # one layer stays int8
    assert chosen == int(np.argmax(sqnr))
    least = (sqnr[2] + sqnr[3]) / 2
    assert sqnr[2] < least < sqnr[3]
    numbers, sqnr, chosen = kept(least)
    assert numbers == [0, 1, 2, 3, 4]
    assert sqnr[chosen] >= least
    assert all(each < least for each in sqnr[:chosen])


def _mixes(rows: Sequence[tuple[float, int]]) -> list[Mix]:
    return [
        Mix(tuple(map(str, range(place))), lost, 20.0, {"cpu": {"p50": ns, "p99": ns}})
        for place, (lost, ns) in enumerate(rows)
    ]


@given(
    st.lists(st.tuples(st.floats(-1, 9), st.integers(1, 100)), min_size=1, max_size=8),
    st.integers(1, 100),
)
def test_what_is_chosen_is_allowed_and_no_other_that_is_would_do_better(
    rows: list[tuple[float, int]], fp32: int
) -> None:
    mixes = _mixes(rows)
    fp32_ns = {"cpu": {"p50": fp32, "p99": fp32}}
    chosen = choose(mixes, fp32_ns, lambda lost, sqnr: lost is None or lost <= 1.0, None)
    allowed = [each for each, (_, ns) in enumerate(rows) if ns < fp32 or ns <= rows[0][1]]
    assert chosen in allowed
    enough = [each for each in allowed if rows[each][0] <= 1.0]
    if enough:
        assert chosen == enough[0]
    else:
        assert rows[chosen][0] == min(rows[each][0] for each in allowed)


def test_one_target_that_allows_it_is_enough() -> None:
    slow, fast = {"p50": 50, "p99": 50}, {"p50": 10, "p99": 10}
    mixes = [
        Mix((), 5.0, 9.0, {"a": fast, "b": fast}),
        Mix(("x",), 0.0, 20.0, {"a": slow, "b": {"p50": 20, "p99": 20}}),
    ]
    fp32 = {"a": {"p50": 40, "p99": 40}, "b": {"p50": 30, "p99": 30}}
    assert choose(mixes, fp32, lambda lost, sqnr: lost == 0.0, None) == 1
    assert choose(mixes, fp32, lambda lost, sqnr: lost == 0.0, 15) == 0
