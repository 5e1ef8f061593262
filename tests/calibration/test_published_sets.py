"""The sets in ``calibration/`` are what a build draws today, and what their schema says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from edgekd import recipe_file
from edgekd.calibration.manifest import document
from edgekd.calibration.sets import choose, create
from edgekd.data import open_source, splits
from edgekd.data.fashion_mnist import DEBIAN
from edgekd.data.splits import prepare
from edgekd.recipe import CalibrationSettings, DataSettings
from tests.conftest import ROOT

FOLDER = ROOT / "calibration"
SCHEMA = json.loads((FOLDER / "set.schema.json").read_text())


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        pytest.param(
            "fashion-mnist",
            marks=pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs dataset-fashion-mnist"),
        ),
    ],
)
def test_a_set_is_drawn_the_same_again_and_is_disjoint(name: str, tmp_path: Path) -> None:
    published = (FOLDER / f"{name}.json").read_text()
    chosen = recipe_file.load(ROOT / "recipes" / f"{name}.toml")
    for each in ("data", "set"):
        (tmp_path / each).mkdir()
    dataset = prepare(chosen.data, open_source(name), tmp_path / "data")
    drawn = choose(dataset, chosen.calibration, tmp_path / "set")
    assert drawn.manifest.read_text() == published

    record = json.loads(published)
    ids = set(record["ids"])
    assert ids <= set(splits.read(dataset, "train").ids.tolist())
    assert not ids & set(splits.read(dataset, "validation").ids.tolist())
    assert sum(record["per_class"].values()) == len(ids) == chosen.calibration.samples


def test_there_is_no_other_set_and_each_fits_the_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    sets = sorted(each for each in FOLDER.glob("*.json") if ".schema" not in each.suffixes)
    assert [each.stem for each in sets] == ["digits", "fashion-mnist"]
    for each in sets:
        Draft202012Validator(SCHEMA).validate(json.loads(each.read_text()))


def test_a_set_of_arrays_fits_the_schema_as_well(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(40, dtype=np.float32)[:, None])
    data = DataSettings(source=f"npz:{tmp_path / 'x.npz'}")
    made = create(data, CalibrationSettings(samples=5, draw="coverage"), tmp_path / "set.json")
    record = json.loads((tmp_path / "set.json").read_text())
    assert record == json.loads(json.dumps(document(made)))
    Draft202012Validator(SCHEMA).validate(record)
