"""Draws: each is an order of which a set is the beginning."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper

from edgekd.artifacts import Preprocessing
from edgekd.calibration import draw, features
from edgekd.calibration.pool import Part
from edgekd.data import UNLABELLED
from edgekd.errors import CalibrationError

labels = st.lists(st.integers(-1, 3), min_size=2, max_size=60).map(np.array)
points = arrays(np.float32, st.tuples(st.integers(3, 9), st.just(2)), elements=st.integers(-20, 20))


@given(labels, st.data())
def test_any_beginning_of_a_stratified_draw_is_one(given_labels: np.ndarray, data) -> None:  # type: ignore[no-untyped-def]
    n = data.draw(st.integers(1, len(given_labels)))
    everything = draw.stratified(given_labels, len(given_labels), 3)
    assert sorted(everything) == list(range(len(given_labels)))
    first = draw.stratified(given_labels, n, 3)
    assert np.array_equal(first, everything[:n])
    known = given_labels[given_labels != UNLABELLED]
    taken = given_labels[first]
    assert (taken != UNLABELLED).sum() == min(n, len(known))  # labelled ones come first
    for label, count in Counter(known.tolist()).items():
        share = min(n, len(known)) * count / len(known)
        others = len(set(known.tolist())) * count / len(known)
        assert abs((taken == label).sum() - share) <= 1 + others / 2


def test_a_random_draw_depends_on_its_seed_alone() -> None:
    one = draw.at_random(100, 20, 5)
    assert np.array_equal(one[:10], draw.at_random(100, 10, 5))
    assert len(set(one)) == 20
    assert not np.array_equal(one, draw.at_random(100, 20, 6))


@given(points, st.integers(1, 3))
def test_coverage_leaves_none_farther_than_twice_the_best_choice(
    given_points: np.ndarray, n: int
) -> None:
    distances = np.linalg.norm(given_points[:, None] - given_points[None], axis=2)
    best = min(
        distances[:, list(centres)].min(1).max()
        for centres in combinations(range(len(given_points)), n)
    )
    taken = draw.coverage(given_points, n)
    assert distances[:, taken].min(1).max() <= 2 * best + 1e-2
    assert np.array_equal(taken, draw.coverage(given_points, 3)[:n])


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_coverage_takes_no_sample_twice_even_where_all_are_alike(value: float) -> None:
    assert sorted(draw.coverage(np.full((6, 2), value, np.float32), 6)) == list(range(6))


def test_coverage_finds_the_rare(rng: np.random.Generator) -> None:
    common = rng.normal(0, 1, (500, 4)).astype(np.float32)
    rare = rng.normal(20, 0.1, (2, 4)).astype(np.float32)
    taken = draw.coverage(np.concatenate([common, rare]), 10)
    assert set(taken) & {500, 501}
    assert not set(draw.at_random(502, 10, 0)) & {500, 501}


def _part(**given_arrays: np.ndarray) -> Part:
    n = len(next(iter(given_arrays.values())))
    return Part(given_arrays, np.full(n, UNLABELLED), np.arange(n))


@pytest.mark.parametrize(("size", "expected"), [((8, 6), 48), ((16, 9), 64), ((1, 100), 8)])
def test_pixels_are_pooled_to_8_by_8(size: tuple[int, int], expected: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 1, *size), np.uint8)
    found = features.of_pixels(_part(image=images))
    assert found.shape == (70, expected)
    means = images.reshape(70, -1).mean(1)
    if size == (16, 9):  # two rows a field; the last column of fields is two wide
        fields = images[:, 0].reshape(70, 8, 2, 9).mean(2)
        fields = np.concatenate([fields[..., :7], fields[..., 7:].mean(2, keepdims=True)], 2)
        ratio = found / fields.reshape(70, -1)
        assert np.ptp(ratio) < 1e-4 * ratio.mean()
    else:
        assert np.corrcoef(found.mean(1), means)[0, 1] > 0.99


def test_arrays_of_several_inputs_count_alike() -> None:
    large, small = np.arange(0, 6e4, 1e4, np.float32), np.array([0, 1, 0, 1, 0, 1], np.float32)
    found = features.of_pixels(_part(large=large[:, None], small=small[:, None]))
    assert found.std(0) == pytest.approx([1, 1])


def _model(path: Path, nodes: list[onnx.NodeProto], batch: int | str, output: list[object]) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [batch, 1, 4, 4])],
        [helper.make_tensor_value_info("y", 1, output)],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_a_model_s_outputs_tell_samples_apart(batch: int | str, tmp_path: Path) -> None:
    """Its output is the largest pixel alone, in whatever batch it takes."""
    nodes = [helper.make_node("GlobalMaxPool", ["x"], ["y"])]
    model = _model(tmp_path / "m.onnx", nodes, batch, [batch, 1, 1, 1])
    images = np.random.default_rng(0).integers(0, 256, (10, 1, 4, 4), np.uint8)
    made = Preprocessing((0.5,), (0.25,))
    found = features.of_outputs(_part(image=images), made, model)
    largest = images.reshape(10, -1).max(1) / 255 * 4 - 2
    assert found[:, 0] == pytest.approx(largest / largest.std(), rel=1e-4)


def test_an_output_that_has_no_row_a_sample_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)]
    model = _model(tmp_path / "m.onnx", nodes, "n", [])
    images = np.zeros((4, 1, 4, 4), np.uint8)
    with pytest.raises(CalibrationError, match="output 'y' .* has no row a sample"):
        features.of_outputs(_part(image=images), Preprocessing((0.5,), (0.25,)), model)
