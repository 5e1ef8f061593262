"""The calibration audit: what is in the set, which ranges cut, which still move."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.artifacts import CalibrationSet, CalibrationTable, Trial
from edgekd.calibration import manifest
from edgekd.recipe import DataSettings
from edgekd.report import ranges


@pytest.fixture
def chosen(tmp_path: Path) -> CalibrationSet:
    data = DataSettings().model_dump(exclude={"source", "workers"})
    told = manifest.Manifest(
        kind="tensors", source="digits", licence="CC BY 4.0", fingerprint="f", data=data,
        draw="stratified", features="", seed=3, ids=tuple(range(130)),
        per_class={f"class {each}": 1 + each % 3 for each in range(65)}, sha256="0" * 64,
        preprocessing=None,
    )  # fmt: skip
    path = tmp_path / "set.json"
    manifest.write(told, path)
    return CalibrationSet(manifest=path, sha256="0" * 64, samples=130)


def test_the_worst_tensors_come_first_and_those_without_fault_not_at_all(
    chosen: CalibrationSet,
) -> None:
    names = [f"t{each}" for each in range(20)]
    table = CalibrationTable(
        method="percentile", percentile=99.9, set_sha256="", samples=130,
        ranges=dict.fromkeys(names, (-1.0, 2.0)), extremes={"t5": (-3.0, 4.0)},
        clipped={name: place / 100 for place, name in enumerate(names)},
        moved={"t0": 0.2, "t1": 0.05, "t2": 0.0, "t3": 0.06},
        tried=(Trial("minmax", "sqnr", {}, {}),),
    )  # fmt: skip
    found = ranges.audit(chosen, table)
    assert found["method"] == "percentile 99.9"
    assert [each["name"] for each in found["clipped"]] == [f"t{19 - each}" for each in range(12)]
    assert found["moved"] == [
        {"name": "t0", "share": 0.2, "range": [-1.0, 2.0], "extremes": None},
        {"name": "t3", "share": 0.06, "range": [-1.0, 2.0], "extremes": None},
        {"name": "t1", "share": 0.05, "range": [-1.0, 2.0], "extremes": None},
    ]
    assert (found["moving"], found["still"]) == (2, 0.05)
    assert found["tried"] == ["minmax"]


def test_of_many_classes_those_with_the_fewest_samples_are_told(chosen: CalibrationSet) -> None:
    table = CalibrationTable(method="minmax", ranges={"t": (0.0, 1.0)}, set_sha256="", samples=130)
    found = ranges.audit(chosen, table)
    assert (len(found["per_class"]), found["classes"]) == (40, 65)
    assert list(found["per_class"].values()) == [1] * 22 + [2] * 18
    assert (found["source"], found["draw"], found["seed"]) == ("digits", "stratified", 3)
    assert found["clipped"] == found["moved"] == []
