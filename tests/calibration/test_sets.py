"""Calibration sets: named samples, disjoint from validation and test, held to their hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd.artifacts import Dataset
from edgekd.calibration.sets import choose, images
from edgekd.data import UNLABELLED, open_source, splits
from edgekd.errors import CalibrationError, DataError
from edgekd.recipe import CalibrationSettings, DataSettings

SETTINGS = CalibrationSettings(samples=100)


def test_the_manifest_names_the_samples(dataset: Dataset, tmp_path: Path) -> None:
    chosen = choose(dataset, SETTINGS, tmp_path)
    record = json.loads(chosen.manifest.read_text())
    assert record["source"] == "digits"
    assert record["licence"] == "CC BY 4.0"
    assert record["split"] == "train"
    assert len(record["ids"]) == chosen.samples == 100
    assert all(9 <= count <= 11 for count in record["per_class"].values())
    assert record["preprocessing"]["mean"] == list(dataset.preprocessing.mean)
    pixels = images(chosen, dataset)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == record["sha256"] == chosen.sha256


def test_it_shares_no_image_with_validation_or_test(dataset: Dataset, tmp_path: Path) -> None:
    chosen = choose(dataset, SETTINGS, tmp_path)
    ids = json.loads(chosen.manifest.read_text())["ids"]
    assert not set(ids) & set(splits.read(dataset, "validation").ids)
    test = {each.tobytes() for each in splits.read(dataset, "test").images}
    assert not test & {each.tobytes() for each in images(chosen, dataset)}


def test_more_samples_than_train_has(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="9999 .* lower calibration.samples"):
        choose(dataset, CalibrationSettings(samples=9999), tmp_path)


def test_other_pixels_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    chosen = choose(dataset, SETTINGS, tmp_path)
    with pytest.raises(CalibrationError, match="not those that the calibration set names"):
        images(replace(chosen, sha256="0" * 64), dataset)


@pytest.fixture
def few_labels(tmp_path: Path) -> Dataset:
    """Digits, decoded, with 57 labels in train and 70 images that never had one."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "more.npz", images=rng.integers(0, 256, (70, 8, 8), np.uint8))
    settings = DataSettings(
        source="digits", unlabelled=f"npz:{tmp_path / 'more.npz'}", labelled=0.05, validation=0.15
    )
    return splits.prepare(settings, open_source("digits"), tmp_path)


@pytest.mark.parametrize("samples", [30, 57, 100])
def test_labelled_images_come_first(few_labels: Dataset, tmp_path: Path, samples: int) -> None:
    chosen = choose(few_labels, CalibrationSettings(samples=samples), tmp_path)
    record = json.loads(chosen.manifest.read_text())
    train = splits.read(few_labels, "train")
    labels = train.labels[np.isin(train.ids, record["ids"])]
    assert len(labels) == chosen.samples == samples
    assert (labels != UNLABELLED).sum() == min(samples, 57)
    counts = [(labels == label).sum() for label in range(10)]
    assert list(record["per_class"].values()) == counts
    assert max(counts) - min(counts) <= 2
    pixels = images(chosen, few_labels)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == record["sha256"]
    assert np.array_equal(pixels, train.images[np.flatnonzero(np.isin(train.ids, record["ids"]))])


def test_decoded_images_that_are_gone_are_an_error(few_labels: Dataset, tmp_path: Path) -> None:
    chosen = choose(few_labels, SETTINGS, tmp_path)
    assert few_labels.pixels is not None
    few_labels.pixels.unlink()
    with pytest.raises(DataError, match="missing or damaged"):
        images(chosen, few_labels)
