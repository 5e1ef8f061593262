"""Tables: what nobody measured has no column, and figures carry what qualifies them."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.report import shape
from edgekd.report.tables import engines, networks
from edgekd.report.tables.base import Cell, table
from tests.report.facts import misses


def test_a_column_without_a_figure_is_left_out_but_for_the_names() -> None:
    found = table(
        "t",
        (("name", lambda r: ""), ("none", lambda r: "—"), ("some", lambda r: r)),
        ["—", "1"],
        lambda r: r == "1",
    )
    assert found.headings == ("name", "some")
    assert found.column("some") == ["—", "1"]
    assert [line.best for line in found.lines] == [False, True]


def test_the_first_table_decides(facts: dict[str, Any]) -> None:
    found = engines.engines(shape.complete(facts))
    assert found.headings == (
        "engine", "top-1, %", "to the teacher, points", "p50, ms", "p99, ms", "misses", "images/s",
        "size", "MACs", "peak memory", "cold start, ms",
    )  # fmt: skip
    assert len(found.lines) == len(facts["engines"])
    best = next(line for line in found.lines if line.best)
    assert best.cells[0].text == facts["preferred"]
    assert best.cells[1].under.startswith("[")
    assert "0/36,000" in found.column("misses")


def test_misses_tell_their_bound() -> None:
    assert engines.missed({"misses": misses(3)}) == Cell("3/36,000", "≤ 0.013 % at 99 %")
    assert engines.missed({"misses": None}) == Cell("—")


def test_percentiles_that_cannot_be_told_have_a_star(facts: dict[str, Any]) -> None:
    complete = shape.complete(facts)
    timed = [each for each in complete["engines"] if each["latency_ns"]]
    column = engines.percentiles(complete, timed).column("p99.9")
    assert all(
        text.endswith("*") == ("p99_9" in row["untold"])
        for text, row in zip(column, timed, strict=True)
    )


def test_what_loadgen_measured_stands_beside_our_own(facts: dict[str, Any]) -> None:
    complete = shape.complete(facts)
    timed = [each for each in complete["engines"] if each["latency_ns"]]
    found = engines.percentiles(complete, timed)
    theirs = [float(each) for each in found.column("LoadGen: p50")]
    assert theirs == pytest.approx([float(each) * 1.01 for each in found.column("p50")], rel=0.01)
    plain = [{**each, "loadgen": {}} for each in timed]
    assert "LoadGen: p50" not in engines.percentiles(complete, plain).headings


def test_a_camera_is_told_in_figures(facts: dict[str, Any]) -> None:
    found = engines.camera(shape.complete(facts))
    told = dict(zip(found.column("figure"), found.column("value"), strict=True))
    assert told["longest burst of misses"] == "34"
    assert told["service after half a second, p50, ms"] == "9.8"
    assert told["the generator's own lateness, p99, ms"] == "0.007"


def test_the_waterfall_has_paired_differences_to_both() -> None:
    stage = {"stage": "int8", "top1": 90.0, "ci": [88.0, 92.0], "agreement": 95.0,
             "to_teacher": [-2.0, -3.0, -1.0], "to_student": [-0.5, -0.9, 0.1]}  # fmt: skip
    found = networks.waterfall({"waterfall": [stage]})
    assert found.lines[0].cells[2:4] == (
        Cell("−2.00", "[−3.00, −1.00]"),
        Cell("−0.50", "[−0.90, +0.10]"),
    )
