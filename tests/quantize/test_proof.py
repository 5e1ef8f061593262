"""Proof that a form agrees with fp32: what is compared, and what stops a build."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from edgekd.artifacts import OnnxModel, TensorSpec
from edgekd.calibration.feeds import Feeds
from edgekd.data import UNLABELLED
from edgekd.errors import QuantizeError
from edgekd.quantize.prepare import prepare
from edgekd.quantize.proof import EXACT, Noise, batches, prove, sqnr
from tests.quantize import foreign
from tests.quantize.foreign import node, random

Y = {"y": np.array([3.0, 4.0], np.float32)}


def _with(*outputs: np.ndarray) -> dict[str, np.ndarray]:
    return {f"output{place}": np.asarray(each) for place, each in enumerate(outputs)}


def test_decibels_of_energies() -> None:
    assert sqnr(Y, {"y": np.array([3.0, 4.5])}) == pytest.approx(20.0)
    assert sqnr(Y, Y) == np.inf
    assert sqnr({"y": np.zeros(2)}, Y) == -np.inf
    assert sqnr(Y, {"y": np.array([3.0, np.nan])}) == -np.inf
    assert sqnr(Y, {"y": np.array([3.0, np.inf])}) == -np.inf


def test_a_mask_of_infinities_that_is_kept_is_no_difference() -> None:
    masked = {"y": np.array([3.0, -np.inf])}
    assert sqnr(masked, masked) == np.inf
    assert sqnr(masked, {"y": np.array([3.3, -np.inf])}) == pytest.approx(20.0)


def test_each_output_counts_for_itself() -> None:
    boxes, scores = np.full(8, 1e3), np.full(8, 0.5)
    near, wrong = _with(boxes, scores + 0.005), _with(boxes, scores * 0)
    assert sqnr(_with(boxes, scores), near) == pytest.approx(40.0)
    assert sqnr(_with(boxes, scores), wrong) == pytest.approx(0.0)


def test_integers_are_compared_where_there_are_no_floats() -> None:
    labels = np.array([1, 2, 2])
    assert sqnr(_with(np.ones(3), labels), _with(np.ones(3), labels + 1)) == np.inf
    assert sqnr(_with(labels), _with(labels + 1)) == pytest.approx(10 * np.log10(3))


def test_outputs_whose_shape_depends_on_the_values() -> None:
    assert sqnr(_with(np.ones(3), np.ones(2)), _with(np.ones(3), np.ones(4))) == np.inf
    with pytest.raises(QuantizeError, match="no output can be compared"):
        sqnr(_with(np.ones(2)), _with(np.ones(4)))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_batches_add_up(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    expected, found = rng.normal(size=(2, sum(sizes), 3))
    whole = Noise()
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        whole.see({"y": expected[part]}, {"y": found[part]})
        start += size
    assert whole.decibels() == pytest.approx(sqnr({"y": expected}, {"y": found}))


def test_batches_are_those_that_the_model_takes() -> None:
    free, fixed = TensorSpec("x", "float32", ("N", 3)), TensorSpec("m", "float32", (4, 3))
    assert list(batches(40, (free,), 16)) == [slice(0, 16), slice(16, 32), slice(32, 40)]
    assert list(batches(10, (free, fixed), 16)) == [slice(0, 4), slice(4, 8)]  # no half batch


def _classifier(folder: Path, rounded: float = 0.0) -> OnnxModel:
    """Four pixels to three classes; its weights rounded to a grid of that step."""
    weight = random(4, 3)
    if rounded:
        weight = np.rint(weight / np.float32(rounded)) * np.float32(rounded)
    gemm = foreign.model([node("Gemm", ["x", "w"], ["y"])], {"x": ["N", 4]}, ["y"], {"w": weight})
    folder.mkdir()
    onnx.save(foreign.shaped(gemm, "N", 3), folder / "given.onnx")
    return prepare(folder / "given.onnx", folder)


def test_a_proof_of_two_forms(tmp_path: Path) -> None:
    exact = _classifier(tmp_path / "exact")
    forms = {"u8s8": _classifier(tmp_path / "fine", 0.01), "s8s8": exact}
    x = random(50, 4)
    w, rounded = (
        numpy_helper.to_array(onnx.load(each.path).graph.initializer[0])
        for each in (exact, forms["u8s8"])
    )
    seen: list[int] = []
    proof = prove(exact, forms, Feeds({"x": x}), 20, tmp_path, lambda done, *_: seen.append(done))
    expected = sqnr({"y": x @ w}, {"y": x @ rounded})
    assert proof.to_fp32["u8s8"] == pytest.approx(expected, abs=0.01)
    assert proof.to_fp32["s8s8"] == EXACT  # finite, for the store's JSON
    assert proof.between == {"s8s8/u8s8": pytest.approx(expected, abs=0.01)}
    assert proof.samples == 50
    assert proof.top1 == {}
    assert seen == [16, 32, 48, 50]


def test_a_form_below_the_least_stops_the_build(tmp_path: Path) -> None:
    exact = _classifier(tmp_path / "exact")
    forms = {"good": exact, "bad": _classifier(tmp_path / "bad", 2.0)}
    feeds = Feeds({"x": random(50, 4)})
    with pytest.raises(QuantizeError, match=r"form bad .* stands \d\.\d dB .* 10 dB are asked"):
        prove(exact, forms, feeds, 10, tmp_path)
    assert prove(exact, forms, feeds, -10, tmp_path).to_fp32["bad"] < 10


def test_top1_where_samples_have_labels(tmp_path: Path) -> None:
    exact, coarse = _classifier(tmp_path / "exact"), _classifier(tmp_path / "coarse", 1.0)
    x = random(60, 4)
    scores = x @ numpy_helper.to_array(onnx.load(exact.path).graph.initializer[0])
    labels = scores.argmax(1)
    labels[:20] = UNLABELLED
    proof = prove(exact, {"u8s8": coarse}, Feeds({"x": x}, labels=labels), -10, tmp_path)
    assert proof.top1["fp32"] == 100
    rounded = x @ numpy_helper.to_array(onnx.load(coarse.path).graph.initializer[0])
    right = (rounded.argmax(1) == labels)[20:].mean()
    assert 0.3 < right < 1
    assert proof.top1["u8s8"] == pytest.approx(100 * right)


@pytest.mark.parametrize("labels", [np.full(60, 7), np.full(60, UNLABELLED)])
def test_labels_that_the_model_has_no_score_for(labels: np.ndarray, tmp_path: Path) -> None:
    exact = _classifier(tmp_path / "exact")
    feeds = Feeds({"x": random(60, 4)}, labels=labels)
    assert prove(exact, {"u8s8": exact}, feeds, 10, tmp_path).top1 == {}
