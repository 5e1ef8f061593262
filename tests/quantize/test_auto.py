"""``method = "auto"``: what is tried, what it is judged by, and which ranges win."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekd.artifacts import Dataset, OnnxModel, Trial
from edgekd.calibration.collect import Collected, collect
from edgekd.calibration.methods import CANDIDATES, label
from edgekd.calibration.table import tabulate
from edgekd.quantize.auto import best, choose
from edgekd.quantize.judge import Judge, beaten, few
from edgekd.quantize.qdq import quantize
from tests.quantize.classifier import classifier, images, unlabelled


@pytest.fixture(scope="module")
def model(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """One whose largest activations are rare and mean nothing."""
    path = tmp_path_factory.mktemp("auto") / "model.onnx"
    return classifier(dataset, path, rare=3000.0)


@pytest.fixture(scope="module")
def collected(
    model: OnnxModel, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Collected:
    return collect(model.path, images(dataset, "train"), tmp_path_factory.mktemp("collect"))


def test_the_ranges_that_keep_the_accuracy_win_and_every_trial_is_told(
    model: OnnxModel, collected: Collected, dataset: Dataset, tmp_path: Path
) -> None:
    feeds = images(dataset, "validation")
    forms = ["s8s8", "u8s8"]
    table = choose(model, collected, feeds, forms, tmp_path, set_sha256="ab")
    assert [each.method for each in table.tried] == [label(*each) for each in CANDIDATES]
    tried = {each.method: each for each in table.tried}
    for each in table.tried:
        assert each.metric == "top1"
        assert each.values.keys() == each.sqnr.keys() == set(forms)
    winner = tried[label(table.method, table.percentile)]
    assert min(tried["minmax"].values.values()) < 70 < 90 < min(winner.values.values())
    assert table.ranges == tabulate(collected, table.method, table.percentile).ranges
    assert table.set_sha256 == "ab"
    assert not list(tmp_path.iterdir())
    # What was told is what the form gives.
    (tmp_path / "form").mkdir()
    path = quantize(model, table, "u8s8", tmp_path / "form").path
    score = Judge(model, feeds, len(feeds)).score(path)
    assert score.top1 == winner.values["u8s8"]
    assert score.sqnr == winner.sqnr["u8s8"]


def test_without_labels_the_outputs_nearest_to_fp32_win(
    model: OnnxModel, collected: Collected, dataset: Dataset, tmp_path: Path
) -> None:
    table = choose(model, collected, unlabelled(images(dataset, "validation")), ["u8s8"], tmp_path)
    assert {each.metric for each in table.tried} == {"sqnr"}
    highest = max(table.tried, key=lambda each: each.sqnr["u8s8"])
    assert highest.method == label(table.method, table.percentile)
    assert highest.values == highest.sqnr


def _trial(name: str, values: dict[str, float], sqnr: dict[str, float]) -> Trial:
    return Trial(name, "top1", values, sqnr)


def test_a_table_is_worth_what_its_worst_form_is() -> None:
    low, high = np.arange(400) < 200, np.arange(400) < 380
    trials = [
        _trial("one-sided", {"a": 95.0, "b": 50.0}, {"a": 40.0, "b": 40.0}),
        _trial("good in both", {"a": 95.0, "b": 95.0}, {"a": 20.0, "b": 20.0}),
    ]
    assert best(trials, [{"a": high, "b": low}, {"a": high, "b": high}]) == 1


def test_what_chance_explains_is_left_to_the_sqnr() -> None:
    right = np.arange(400) < 380
    other = right.copy()
    other[:6], other[390:400] = False, True  # 10 gained, 6 lost
    trials = [
        _trial("rough", {"a": 96.0}, {"a": 20.0}),
        _trial("fine", {"a": 95.0}, {"a": 35.0}),
        _trial("fine too", {"a": 95.0}, {"a": 35.0}),
    ]
    assert best(trials, [{"a": other}, {"a": right}, {"a": right}]) == 1
    much = np.arange(400) < 395
    assert best(trials[:2], [{"a": much}, {"a": right}]) == 0


def test_one_sample_more_is_never_enough() -> None:
    one, two, five = (np.arange(50) < n for n in (40, 41, 45))
    assert not beaten(one, two)
    assert beaten(one, five)
    assert not beaten(five, one)


def test_few_samples_keep_the_share_of_each_class(dataset: Dataset) -> None:
    feeds = images(dataset, "validation")
    some = few(feeds, 100)
    assert len(some) == 100
    assert some.labels is not None and feeds.labels is not None
    share = np.bincount(feeds.labels) / len(feeds)
    assert np.abs(np.bincount(some.labels) - 100 * share).max() <= 1
    x, y = some.take(slice(0, 100))["image"], feeds.take(slice(0, len(feeds)))["image"]
    places = [int(np.flatnonzero((y == each).all((1, 2, 3)))[0]) for each in x]
    assert (feeds.labels[places] == some.labels).all()
    assert few(feeds, 1000) is feeds
    assert len(few(unlabelled(feeds), 7)) == 7
