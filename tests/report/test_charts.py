"""Charts: the front, names as they are, the same bytes, and labels that hold."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from edgekd.report.charts import accuracy, latency, layers, style
from tests.report.facts import misses, profile


def engine(name: str, p50: int, top1: float | None, precision: str = "fp32") -> dict[str, Any]:
    times = {"p50": p50, "p99": 2 * p50}
    return {"name": name, "role": "student", "latency_ns": times, "top1": top1,
            "precision": precision, "curve": [[p50, 1.0], [2 * p50, 0.01]],
            "series": [[0, p50, 2 * p50, 0], [10**9, p50, 3 * p50, 1]]}  # fmt: skip


def test_on_the_front_nothing_is_both_faster_and_more_accurate() -> None:
    found = [
        engine("fast", 10, 80.0), engine("good", 100, 95.0), engine("worse", 100, 94.0),
        engine("slow", 200, 95.0), engine("twin", 10, 80.0), engine("unjudged", 1, None),
    ]  # fmt: skip
    assert accuracy.front(found) == {"fast", "twin", "good"}
    chart = accuracy.pareto([each for each in found if each["top1"]])
    assert [each.text for each in chart.keys] == [
        "fast (front)", "good (front)", "worse", "slow", "twin (front)",
    ]  # fmt: skip
    assert "good: 95.00 % at 0.0001 ms, on the front" in chart.told


def test_of_several_reports_shape_tells_the_report_and_colour_the_engine() -> None:
    found = [
        {**engine(f"{letter} {name}", 10 + place, 80.0), "report": letter, "engine": name}
        for place, (letter, name) in enumerate([("A", "x"), ("A", "y"), ("B", "x")])
    ]
    keys = accuracy.pareto(found, "joint").keys
    assert keys[0].colour == keys[2].colour != keys[1].colour
    assert keys[0].glyph == keys[1].glyph != keys[2].glyph


def test_seventeen_engines_can_be_told_apart() -> None:
    keys = accuracy.pareto([engine(f"e{each}", 1 + each, 50.0) for each in range(16)]).keys
    assert len({(each.colour, each.glyph) for each in keys}) == 16
    assert len({style.stroke(each) for each in range(32)}) == 32


@pytest.mark.parametrize("name", ["a$b$c_{x}", "漢字/模型", "<b>&\"'", "x" * 300, "-->"])
def test_any_name_is_drawn_as_it_is(name: str) -> None:
    found = [engine(name, 1000, 90.0), engine("other", 2000, 91.0)]
    parts = profile()
    parts["layers"][0]["name"] = name
    for chart in (
        accuracy.pareto(found),
        latency.percentiles(found, 16e6),
        latency.tail(found, None, None),
        latency.over_time(found, None, None),
        layers.times(name, parts),
        accuracy.sensitivity(name, [{"name": name, "sqnr": 3.0, "lost": None, "macs_share": None}]),
    ):
        root = ET.fromstring(chart.svg)  # which is well-formed
        assert root.attrib["aria-label"] == chart.label
        assert name in chart.told
    texts = "".join(ET.fromstring(latency.percentiles(found, None).svg).itertext())
    assert style.short(name, 34) in texts or style.short(name, 30) in texts or name[-9:] in texts


def test_the_same_figures_give_the_same_bytes_in_the_pages_colours_alone() -> None:
    found = [engine("a", 1000, 90.0)]
    svg = latency.percentiles(found, 16e6).svg
    assert svg == latency.percentiles(found, 16e6).svg
    assert "var(--c0)" in svg
    assert "currentColor" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert "font-family" not in svg


def test_ids_are_the_charts_own() -> None:
    one, other = (latency.over_time([engine(each, 9, 1.0)], None, None).svg for each in "ab")
    tail = latency.tail([engine("a", 9, 1.0)], None, None).svg
    ids = [set(re.findall(r' id="([^"]+)"', each)) for each in (one, tail)]
    assert ids[0] and not ids[0] & ids[1]
    for used in re.findall(r"(?:href=\"|url\()#([^)\"]+)", one):
        assert used in ids[0]
    assert one.count("<path") == other.count("<path")


def test_a_line_is_broken_where_another_engine_had_its_turn() -> None:
    turn = [[each * 1000, 100, 200, 0] for each in range(20)]
    later = [[10**9 + each * 1000, 100, 200, 0] for each in range(20)]
    row = {**engine("a", 100, 1.0), "series": turn + later}
    assert [len(each) for each in latency._turns(row["series"])] == [20, 20]


def test_disturbances_are_shaded_where_the_run_was_and_told_in_words() -> None:
    watch = {"disturbances": [
        {"t_ns": 2 * 10**8, "until_ns": 3 * 10**8, "what": "stolen"},
        {"t_ns": 10**12, "until_ns": None, "what": "long after"},
    ]}  # fmt: skip
    row = [engine("a", 100, 1.0)]
    plain, marked = (latency.over_time(row, each, None) for each in (None, watch))
    assert marked.svg.count("<path") == plain.svg.count("<path") + 1
    assert "2 disturbances (shaded): stolen at 0.2 s; long after at 1000.0 s." in marked.told


@pytest.mark.parametrize(
    ("looks", "is_watched"),
    [((0, 10**9), True), ((), False), ((5 * 10**8,), False), ((2 * 10**9, 3 * 10**9), False)],
)
def test_that_nothing_disturbed_is_said_of_what_was_watched_alone(
    looks: tuple[int, ...], is_watched: bool
) -> None:
    """The run lasts from 0 to 1 s."""
    watch = {"samples": [{"t_ns": each} for each in looks], "disturbances": []}
    told = latency.over_time([engine("a", 100, 1.0)], watch, None).told
    assert ("Nothing was seen to disturb the run." in told) is is_watched
    assert ("The machine was not watched." in told) is not is_watched


@pytest.mark.parametrize("samples", [[], [{"t_ns": 0, "mhz": 1}], [{"t_ns": 0}, {"t_ns": 1}]])
def test_a_machine_that_tells_nothing_has_no_chart(samples: list[dict[str, int]]) -> None:
    assert not latency.has_strips({"samples": samples})
    assert not latency.has_strips(None)


def test_a_miss_rate_of_none_and_of_all_is_drawn() -> None:
    camera = {"miss_rate_by_fps": [[30.0, 0.0], [60.0, 0.5], [90.0, 1.0]],
              "load": {"period_ns": 1e9 / 60}, "misses": None}  # fmt: skip
    budget = {"fps": 60.0, "miss_rate": 0.01}
    chart = latency.miss_rate(camera, budget)
    assert "1 % allowed" in chart.svg
    assert "30 frames a second: 0 %" in chart.told


def test_the_rate_that_was_measured_stands_beside_what_is_replayed() -> None:
    """The replay sees no miss at 60 frames a second, and 360 of 36,000 frames were missed."""
    camera = {"miss_rate_by_fps": [[30.0, 0.0], [60.0, 0.0]], "load": {"period_ns": 1e9 / 120},
              "misses": {**misses(360), "rate_low": 0.0088, "rate_high": 0.0113}}  # fmt: skip
    chart = latency.miss_rate(camera, {"fps": 120.0, "miss_rate": 0.01})
    assert chart.told.startswith(
        "Measured at 120 frames a second: 1 %, at least 0.88 % and at most 1.13 %, each at 99 %"
        " confidence. Replayed from"
    )
    assert [each.text for each in chart.keys] == ["replayed", "measured, with its bounds"]
    without = latency.miss_rate({**camera, "misses": None}, {"fps": 120.0, "miss_rate": 0.01})
    assert [each.text for each in without.keys] == ["replayed"]
    assert chart.svg.count("<path") > without.svg.count("<path")
