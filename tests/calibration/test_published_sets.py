"""The sets in ``calibration/`` are what a build draws today, and what their schema says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from edgekd import recipe_file
from edgekd.calibration.sets import choose
from edgekd.data import open_source, splits
from edgekd.data.fashion_mnist import DEBIAN
from edgekd.data.splits import prepare
from tests.conftest import ROOT

FOLDER = ROOT / "calibration"


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
    published = json.loads((FOLDER / f"{name}.json").read_text())
    chosen = recipe_file.load(ROOT / "recipes" / f"{name}.toml")
    for each in ("data", "set"):
        (tmp_path / each).mkdir()
    dataset = prepare(chosen.data, open_source(name), tmp_path / "data")
    drawn = choose(dataset, chosen.calibration, tmp_path / "set")
    assert json.loads(drawn.manifest.read_text()) == published

    ids = set(published["ids"])
    assert ids <= set(splits.read(dataset, "train").ids.tolist())
    assert not ids & set(splits.read(dataset, "validation").ids.tolist())
    counts = published["per_class"].values()
    assert sum(counts) == len(ids) == chosen.calibration.samples


def test_there_is_no_other_set_and_each_fits_the_schema() -> None:
    schema = json.loads((FOLDER / "set.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    sets = sorted(each for each in FOLDER.glob("*.json") if each.name != "set.schema.json")
    assert [each.stem for each in sets] == ["digits", "fashion-mnist"]
    for each in sets:
        Draft202012Validator(schema).validate(json.loads(each.read_text()))
