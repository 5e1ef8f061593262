"""Manifests of sets: read as they were written, and any other file told in one line."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from edgekd.artifacts import Preprocessing
from edgekd.calibration.manifest import Manifest, document, read, relative, settings, write
from edgekd.data.splits import lasting
from edgekd.errors import CalibrationError, RecipeError
from edgekd.recipe import DataSettings

MADE = Manifest(
    kind="images",
    source="folder:../photos",
    licence="not stated",
    fingerprint="0" * 64,
    data={**lasting(DataSettings(size=(8, 8), validation=0.2)), "unlabelled": ""},
    draw="coverage",
    features="pixels",
    seed=7,
    ids=(5, 2, 9),
    per_class={"dög": 2, "cat": 1},
    sha256="a" * 64,
    preprocessing=Preprocessing((0.5,), (0.25,), "NHWC"),
)
GREY = json.loads(json.dumps(asdict(MADE)["preprocessing"]))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    write(MADE, path)
    assert read(path) == MADE
    assert [each.name for each in tmp_path.iterdir()] == ["set.json"]
    text = path.read_text()
    assert ' "ids": [5, 2, 9],\n' in text
    assert "dög" in text


def test_a_set_on_a_source_that_moves_with_it(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    source = relative(f"folder:{tmp_path / 'photos'}", tmp_path / "sets")
    assert source == "folder:../photos"
    assert relative("fashion-mnist", tmp_path) == "fashion-mnist"
    found = settings(MADE, tmp_path / "sets")
    assert found.source == f"folder:{tmp_path / 'sets' / '../photos'}"
    assert (found.size, found.validation) == ((8, 8), 0.2)
    assert settings(MADE, tmp_path, "folder:here").source == "folder:here"


def _spoilt(tmp_path: Path, **changes: Any) -> Path:
    record = {**document(MADE), **changes}
    path = tmp_path / "set.json"
    path.write_text(json.dumps({name: each for name, each in record.items() if each != "gone"}))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": []}, "'ids' are not places"),
        ({"ids": [1, -1]}, "'ids' are not places"),
        ({"ids": [1, True]}, "'ids' are not places"),
        ({"ids": [3, 1, 3]}, "names a sample twice"),
        ({"ids": "1, 2"}, "'ids' is \"1, 2\""),
        ({"seed": "gone"}, "it has no 'seed'"),
        ({"seed": True}, "'seed' is true"),
        ({"split": "test"}, "samples are of test"),
        ({"sha256": "abc"}, "'sha256' is no sha256"),
        ({"schema": 1}, "has schema 1, and this version reads 2"),
        ({"kind": "video"}, "'kind' is video"),
        ({"kind": "tensors"}, "tensors have none"),
        ({"draw": "best"}, "'draw' is best"),
        ({"per_class": {"a": 1.5}}, "'per_class' are not counts"),
        ({"data": {"size": []}}, "'data' holds"),
        ({"data": {**MADE.data, "validation": 2}}, "what a recipe holds (validation)"),
        ({"data": {**MADE.data, "unlabelled": "os:abort"}}, "it would run os:abort"),
        ({"preprocessing": None}, "images need a preprocessing"),
        ({"preprocessing": {**GREY, "std": [0]}}, "'preprocessing' is"),
        ({"preprocessing": {**GREY, "mean": [10**400]}}, "'preprocessing' is"),
        ({"preprocessing": {**GREY, "color": "RGB"}}, "'preprocessing' is"),
        ({"preprocessing": {**GREY, "crop": 2}}, "'preprocessing' is"),
        ({"preprocessing": {"mean": [0.5], "std": [0.25], "layout": "NHWC"}}, "'preprocessing' is"),
        ({"preprocessing": {**GREY, "mean": [0.1]}}, "is not the one"),
        ({"preprocessing": {**GREY, "crop": 0.5}}, "is not the one"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = _spoilt(tmp_path, **changes)
    with pytest.raises(CalibrationError) as caught:
        read(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "edgekd calibration create" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON, or is cut short"),
        (b'{"schema": 2, "ids": [1, 2', "is not JSON, or is cut short"),
        (b"\xff\xfe", "is not JSON, or is cut short"),
        (b"[" * 100_000, "is not JSON, or is cut short"),
        (b"[1, 2]", "lacks schema, ids or sha256"),
        (b'{"schema_version": 1, "engines": []}', "lacks schema, ids or sha256"),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=words):
        read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="none.json: cannot be read: No such file"):
        read(tmp_path / "none.json")
    with pytest.raises(RecipeError, match="Is a directory"):
        read(tmp_path)


def test_no_file_says_which_code_is_run(tmp_path: Path) -> None:
    path = _spoilt(tmp_path, source="os:abort")
    with pytest.raises(CalibrationError, match="function os:abort.*--data os:abort"):
        settings(read(path), tmp_path)
    assert settings(read(path), tmp_path, "mine:load").source == "mine:load"
