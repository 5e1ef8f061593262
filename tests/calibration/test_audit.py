"""The audit: what is in a set, and whether its ranges have settled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd.artifacts import Dataset
from edgekd.calibration import audit, pool, sets
from edgekd.calibration.feeds import Feeds
from edgekd.calibration.sets import Opened
from edgekd.errors import CalibrationError
from edgekd.recipe import CalibrationSettings, DataSettings
from tests.data.conftest import some_digits


def _opened(tmp_path: Path, samples: int, **arrays: np.ndarray) -> Opened:
    """A set of samples of arrays, drawn by chance."""
    np.savez(tmp_path / "x.npz", **arrays)
    data = DataSettings(source=f"npz:{tmp_path / 'x.npz'}", validation=0.1)
    settings = CalibrationSettings(samples=samples, draw="random")
    sets.create(data, settings, tmp_path / "set.json", at_most=True)
    return sets.open_whole(tmp_path / "set.json")


@pytest.fixture(scope="module")
def digits(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = tmp_path_factory.mktemp("set")
    chosen = sets.choose(dataset, CalibrationSettings(samples=64), folder)
    return sets.open_whole(chosen.manifest)


def test_a_sound_set(digits: Opened) -> None:
    found = audit.of_samples(digits)
    assert found["samples"] == 64 and "ids" not in found
    assert found["sha256"] == digits.chosen.sha256
    assert (found["lacking"], found["duplicates"]) == ([], 0)
    assert found["overlap"] == {"validation": 0, "test": 0}
    told = audit.lines(found, None)
    assert told[0] == "64 samples of train of digits (stratified, seed 0); licence: CC BY 4.0"
    assert "10 classes, 6 to 7 a class" in told
    assert not [line for line in told if line.startswith("!")]


def test_copies_overlap_and_a_class_that_is_left_out(tmp_path: Path) -> None:
    """Images of which test repeats some and train repeats one; a class of two images."""
    pixels, labels = some_digits(3, 20)
    train = np.r_[0:18, 20:38, 40:42, 5]
    test = np.r_[18:20, 38:40, 42:50, 0:12]
    opened = _opened(
        tmp_path,
        30,
        train_images=pixels[train],
        train_labels=labels[train],
        test_images=pixels[test],
        test_labels=labels[test],
    )
    found = audit.of_samples(opened)
    chosen = [each.tobytes() for each in opened.feeds.arrays["image"]]
    in_test = {each.tobytes() for each in pixels[test]}
    assert found["overlap"]["test"] == sum(each in in_test for each in chosen) > 0
    assert found["duplicates"] == len(chosen) - len(set(chosen))
    opened = _with_places(opened, opened.pool.parts["train"].labels != 2)
    assert audit.of_samples(opened)["lacking"] == ["2"]
    told = audit.lines(found, None)
    assert f"! {found['overlap']['test']} with the content of one of test" in "\n".join(told)


def _with_places(opened: Opened, kept: np.ndarray) -> Opened:
    """The set without some samples of train."""
    places = opened.places[kept[opened.places]]
    labels = opened.pool.parts["train"].labels[places]
    told = replace(opened.manifest, per_class=pool.per_class(opened.pool, labels))
    return replace(opened, manifest=told, places=places)


def test_duplicates_are_counted_over_all_inputs(tmp_path: Path) -> None:
    same = np.zeros((20, 2), np.float32)
    other = np.repeat(np.arange(10, dtype=np.int64), 2)[:, None]
    found = audit.of_samples(_opened(tmp_path, 18, a=same, b=other))
    assert found["duplicates"] == 9  # of each value of b both rows, on one side
    assert found["overlap"] == {"validation": 0, "test": None}
    told = audit.lines(found, None)
    assert "no test part to compare with" in told
    assert "no preprocessing: the model takes these arrays as they are" in told


def _ranges(
    opened: Opened, method: str = "minmax", model: Path | None = None, **kind: Path
) -> dict:  # type: ignore[type-arg]
    collected = audit.pass_over(opened, model, kind.get("work", Path()))
    return audit.of_ranges(collected, method, 99.0)


def test_without_a_model_the_samples_tell(digits: Opened) -> None:
    found = _ranges(digits)
    x = digits.feeds.take(slice(0, 64))["image"]
    assert [*found["tensors"]] == ["image"]
    assert found["tensors"]["image"]["low"] == pytest.approx(x.min())
    assert found["tensors"]["image"]["high"] == pytest.approx(x.max())
    assert found["tensors"]["image"]["clipped"] == 0
    assert (found["moving"], found["verdict"]) == ([], "enough")
    found = _ranges(digits, "percentile")
    one = found["tensors"]["image"]
    outside = ((x > one["high"]) | (x < one["low"])).mean()
    assert one["clipped"] == pytest.approx(outside, abs=0.01)
    assert found["method"] == "percentile 99"


@pytest.mark.parametrize(("outlier", "verdict"), [(1.04, "enough"), (2.0, "more samples")])
def test_a_range_that_moves_in_the_second_half(
    tmp_path: Path, outlier: float, verdict: str
) -> None:
    values = np.linspace(0, 1, 60)[:, None].astype(np.float32)
    opened = _opened(tmp_path, 50, x=values)
    last = opened.feeds.arrays["x"].copy()
    last[10] = 1.0  # in the first half
    last[40] = outlier
    opened = replace(opened, feeds=Feeds({"x": last}))
    found = _ranges(opened)
    assert found["verdict"] == verdict
    assert found["tensors"]["x"]["moved"] == pytest.approx((outlier - 1) / outlier)
    told = audit.lines(audit.of_samples(opened), found)[-1]
    assert told.startswith(verdict)
    if verdict != "enough":
        assert (
            told == "more samples: 1 tensor still moves by > 5 % in the second half, of 1 (minmax)"
        )


def _model(path: Path, shape: tuple[int, ...]) -> Path:
    """A convolution to three channels, ReLU, and the mean over the picture."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, shape[0], 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel"], ["mixed"]),
            helper.make_node("Relu", ["mixed"], ["kept"]),
            helper.make_node("GlobalAveragePool", ["kept"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", *shape])],
        [helper.make_tensor_value_info("y", 1, ["n", 3, 1, 1])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def test_with_a_model_every_tensor_is_told_of(digits: Opened, tmp_path: Path) -> None:
    model = _model(tmp_path / "m.onnx", (1, 8, 8))
    found = _ranges(digits, model=model, work=tmp_path)
    assert found["tensors"].keys() == {"x", "mixed", "kept", "y"}
    kept, mixed = found["tensors"]["kept"], found["tensors"]["mixed"]
    assert kept["low"] == 0 > mixed["low"]
    assert kept["high"] == mixed["high"]
    moved = [each["moved"] for each in found["tensors"].values()]
    assert moved == sorted(moved, reverse=True)
    assert found["moving"] == [
        name for name, each in found["tensors"].items() if each["moved"] > 0.05
    ]
    assert [*tmp_path.iterdir()] == [model]


def test_a_set_made_for_another_model(digits: Opened, tmp_path: Path) -> None:
    path = _model(tmp_path / "m.onnx", (3, 32, 32))
    with pytest.raises(CalibrationError, match="1×8×8, and the model takes 3×32×32"):
        audit.pass_over(digits, path, tmp_path)


def test_one_sample_is_warned_of(tmp_path: Path) -> None:
    opened = _opened(tmp_path, 1, x=np.arange(20, dtype=np.float32)[:, None])
    assert any("! one sample" in line for line in audit.lines(audit.of_samples(opened), None))
    with pytest.raises(CalibrationError, match="one sample, which tells no range"):
        audit.pass_over(opened, None, tmp_path)
