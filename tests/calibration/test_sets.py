"""Calibration sets: named samples, disjoint from validation and test, held to their hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd.artifacts import Dataset
from edgekd.calibration.sets import choose, images
from edgekd.data import splits
from edgekd.errors import CalibrationError
from edgekd.recipe import CalibrationSettings

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
