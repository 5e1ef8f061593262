"""The report: one offline file, the same bytes for the same facts, whatever is in them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.advice import advise
from edgekd.report import figures, shape
from edgekd.report.charts import latency
from edgekd.report.render import render
from tests.report.facts import measured, png, profile

EVIL = "</script><script>alert(1)</script><!-- $x^2$ \"onload='x' & 漢字"


class Parsed(HTMLParser):
    """What a browser would fetch by itself, ids, headings, and charts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.charts: list[str] = []
        self.tables = self.captions = 0
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            value = given.get(name, "#")
            if not value.startswith(("#", "data:")):
                self.outside.append(f"{tag} {name}={value}")
        if tag == "a":
            self.links.append(given["href"])
        if "id" in given:
            self.ids.append(given["id"])
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "svg":
            assert given["role"] == "img"
            self.charts.append(given["aria-label"])
        self.tables += tag == "table"
        self.captions += tag == "caption"


def test_the_same_facts_give_the_same_bytes_as_in_the_bundle(
    raw: dict[str, Any], built_page: str, built: dict[str, Path]
) -> None:
    assert built_page == render(raw)
    assert built_page == (built["bundle"] / "report.html").read_text(encoding="utf-8")


def test_the_json_has_what_the_architecture_names(raw: dict[str, Any]) -> None:
    assert raw["verdict"]["status"] == "pass"
    assert set(raw["models"]) == {"teacher", "student", "control"}
    for each in raw["models"].values():
        assert {"params", "macs", "top1"} <= set(each)
    assert [each["stage"] for each in raw["waterfall"]] == [
        "teacher",
        "student without teacher",
        "student with teacher",
        "int8 on onnxruntime-cpu",
        "int8 on openvino-cpu",
        "fp16 on tensorrt-rtx, emulated",
        "int8 on tensorrt-rtx, emulated",
    ]
    for each in raw["waterfall"]:
        assert each["ci"][0] < each["top1"] < each["ci"][1]
    engines = {each["name"]: each for each in raw["engines"]}
    assert set(engines) == {
        "teacher/torch/fp32", "student/torch/fp32", "control/torch/fp32",
        "teacher/onnxruntime-cpu/fp32", "teacher/openvino-cpu/fp32",
        "student/onnxruntime-cpu/fp32", "student/onnxruntime-cpu/int8",
        "student/openvino-cpu/fp32", "student/openvino-cpu/int8",
        "student/tensorrt-rtx/fp32", "student/tensorrt-rtx/fp16", "student/tensorrt-rtx/int8",
    }  # fmt: skip
    for name, each in engines.items():
        assert each["bytes"] > 0
        assert each["executed"] is ("tensorrt" not in name)
        rounded = name in ("student/tensorrt-rtx/fp16", "student/tensorrt-rtx/int8")
        assert each["emulated"] is rounded
        assert (each["top1"] is not None) is (each["executed"] or each["emulated"])
        timed = each["executed"] and each["role"] != "control"
        assert (each["latency_ns"] is not None) is timed
    student = engines["student/onnxruntime-cpu/fp32"]
    teacher = engines["teacher/onnxruntime-cpu/fp32"]
    assert student["speedup_vs_teacher"] == pytest.approx(
        teacher["latency_ns"]["p50"] / student["latency_ns"]["p50"]
    )
    assert teacher["speedup_vs_teacher"] == 1.0
    assert raw["command"].startswith("edgekd build ")
    assert raw["host"]["cpu"]
    assert raw["provenance"]["content"]["student weights"]


def test_the_json_tells_which_images_and_classes_are_mistaken(raw: dict[str, Any]) -> None:
    counts = np.array(raw["confusion"]["counts"])
    best = next(each for each in raw["engines"] if each["name"] == raw["confusion"]["engine"])
    assert counts.sum() == raw["data"]["sizes"]["test"]
    assert 100 * counts.trace() / counts.sum() == pytest.approx(best["top1"])
    rounded, distilled = raw["disagreements"]
    assert rounded["between"][1] == distilled["between"][0] == "student/torch/fp32"
    assert distilled["between"][1] == "teacher/torch/fp32"
    agreement = next(
        each["agreement"] for each in raw["engines"] if each["name"] == "student/torch/fp32"
    )
    assert 100 - 100 * distilled["count"] / distilled["n"] == pytest.approx(agreement)
    assert len(distilled["images"]) == 12
    assert raw["calibration"]["samples"] == raw["quantisation"]["samples"]
    assert sum(raw["calibration"]["per_class"].values()) == raw["calibration"]["samples"]


def test_the_json_tells_of_the_tail_and_of_the_machine(raw: dict[str, Any]) -> None:
    for each in raw["engines"]:
        if each["latency_ns"]:
            assert each["curve"][0][1] == 1.0
            assert each["curve"][-1][0] == each["latency_ns"]["max"]
    looks = [each["t_ns"] for each in raw["watch"]["samples"]]
    assert looks == sorted(looks)  # the first of them before the run began
    assert latency.watched(raw["watch"], [each.get("series", []) for each in raw["engines"]])


def test_what_was_not_run_is_said_not_to_be(raw: dict[str, Any]) -> None:
    text = " ".join(raw["notes"])
    assert "tensorrt-rtx were built and not executed" in text
    assert "over the same student trained alone" in text


def test_whether_int8_helped_is_advised_on(raw: dict[str, Any]) -> None:
    executed = [each for each in raw["engines"] if each["executed"]]
    advice = advise(executed)
    assert len(advice) == 2
    for told in advice:
        assert told.startswith("int8 is ")
        assert f"{told} (p50, one run)." in raw["notes"]


def test_engines_that_wait_for_their_device_are_not_said_to_be_built(raw: dict[str, Any]) -> None:
    from edgekd.cli import out

    rows = [{**each, "built": each["executed"]} for each in raw["engines"]]
    assert not [each for each in rows if out.is_unrun(each)]
    assert [each for each in raw["engines"] if out.is_unrun(each)]


def test_everything_that_was_measured_has_its_chart(facts: dict[str, Any], page: str) -> None:
    profiled = [
        f"{what} of {name}" for name in facts["profiles"] for what in ("layers", "roofline")
    ]
    assert Parsed(page).charts == [
        "accuracy against latency",
        "latency",
        "miss rate against frames a second",
        "camera over time",
        "accuracy waterfall",
        "latency tail",
        "latency over time",
        "the machine meanwhile",
        *profiled,
        *(f"sensitivity of {form}" for form in facts["quantisation"]["forms"]),
    ]


def test_every_chart_has_its_figures_in_words(facts: dict[str, Any], page: str) -> None:
    said = re.findall(r"in words</summary><p>(.*?)</p>", page)
    assert len(said) == len(Parsed(page).charts)
    for each in facts["waterfall"]:
        assert f"{each['stage']}: {each['top1']:.2f} %" in page
    for rate, share in facts["camera"]["miss_rate_by_fps"][::4]:
        assert f"{figures.plain(rate)} frames a second: {100 * share:.3g} %" in page
    assert "2 disturbances (shaded): another process had 62 % at 12.0 s" in page


def test_the_headline_stands_beside_its_word_once(page: str) -> None:
    title = re.search(r'<h2 id="verdict-title">(.*?)</h2>', page)
    assert title is not None
    assert title[1] == (
        "<strong>PASS</strong> 60 FPS (16.67 ms); p99.9 9.8 ms [9.5, 10.4]; misses 0/36,000,"
        " &lt;= 0.013 % at 99 % confidence"
    )
    assert '<li class="fail"><b>fail</b> memory: peak memory is 612 MB</li>' in page


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("server at 50/s (20 ms): PASS; p99 3 ms", "server at 50/s (20 ms); p99 3 ms"),
        ("single-stream (5 ms): PASS; misses 0/9", "single-stream (5 ms); misses 0/9"),
        ("student: PASSIVE/x/int8: PASS", "student: PASSIVE/x/int8"),
        ("PASS; p99 3 ms", "p99 3 ms"),
        ("PASS", ""),
        ("", ""),
    ],
)
def test_the_line_of_a_verdict_loses_its_word_and_nothing_else(line: str, shown: str) -> None:
    assert shape.headline({"status": "pass", "headline": line}) == shown
    other = line.replace("PASS;", "INSUFFICIENT;")
    if other != line:
        assert shape.headline({"status": "insufficient", "headline": other}) == shown


def test_the_frames_of_a_cameras_bench_are_drawn_in_one_tail(facts: dict[str, Any]) -> None:
    found = measured(facts)
    assert "camera: response of" in render(found)
    found["bench"]["scenario"] = "camera"
    page = render(found)
    assert "latency tail" in Parsed(page).charts
    assert "camera: response of" not in page


def test_what_a_measured_rate_of_misses_and_a_replayed_one_are(page: str) -> None:
    caption = re.search(r"<figcaption>(What would be missed.*?)</figcaption>", page)
    assert caption is not None
    assert "from the services as measured at 60 frames a second" in caption[1]
    assert "at 99 % confidence" in caption[1]


def test_a_run_that_was_not_watched_says_so(facts: dict[str, Any]) -> None:
    assert "not watched" not in render(facts)
    unwatched = {"samples": facts["watch"]["samples"][:1], "disturbances": []}
    camera = {**facts["camera"], "watch": unwatched}
    page = render({**facts, "watch": unwatched, "camera": camera})
    assert "The machine was not watched during this run." in page
    assert page.count("the machine was not watched.</figcaption>") == 2
    assert "Nothing was seen to disturb" not in page


def test_beside_intervals_of_accuracy_stands_their_level(page: str) -> None:
    """After each table with a difference in points, before the next table."""
    _, *tables = page.split("<table")
    judged = [each for each in tables if "points</th>" in each and "<small>[" in each]
    assert len(judged) == 3  # the engines, how they were built, the waterfall
    for each in judged:
        assert "95 %" in each.split("</table>")[1]


def test_the_methods_that_were_tried_are_shown_and_which_won(
    raw: dict[str, Any], built_page: str
) -> None:
    found, page = raw["quantisation"], built_page
    assert [each["method"] for each in found["tried"]].count(found["method"]) == 1
    for each in found["tried"]:
        bold = ' class="best"' if each["method"] == found["method"] else ""
        assert f'<tr{bold}><th scope="row">{each["method"]}</th>' in page
    for form, decibels in found["proof"]["to_fp32"].items():
        assert f"{form} {decibels:.1f} dB" in page


def test_sensitive_layers_and_what_it_costs_to_keep_them_are_shown(page: str) -> None:
    assert "4.5 dB, −7.25 points, 33.3 % of MACs" in page
    assert "41.5 dB, 66.7 % of MACs" in page
    row = '<th scope="row">1</th><td>−0.12</td><td>37.8</td><td>1.23 / 2.34</td></tr>'
    assert f'<tr class="best">{row}' in page


def test_what_is_emulated_is_marked(raw: dict[str, Any], built_page: str) -> None:
    engines = {each["name"]: each for each in raw["engines"]}
    preview = engines["student/tensorrt-rtx/int8"]
    assert f"<td>~{preview['top1']:.2f}<small>" in built_page
    assert raw["preferred"] != preview["name"]
    assert not any("tensorrt-rtx" in each for each in raw["verdict"]["reasons"])


def test_warnings_and_what_ended_early_stand_before_the_figures(page: str) -> None:
    assert page.index("the latencies of neighbouring calls") < page.index('id="engines"')
    assert "teacher/onnxruntime-cpu/fp32 ended early: stopped by Ctrl-C" in page
    assert "camera: the generator was late" in page


def test_the_page_fetches_nothing_and_names_nothing_twice(page: str) -> None:
    parsed = Parsed(page)
    assert parsed.outside == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {each.removeprefix("#") for each in parsed.links} <= set(parsed.ids)
    assert not re.search(r"@import|url\((?!#)", page)
    assert page.count("<script") == 1  # the facts, which do not run
    assert len(page.encode()) < 1_000_000


def test_headings_go_down_by_one_and_tables_have_captions(page: str) -> None:
    parsed = Parsed(page)
    assert parsed.headings[0] == 1
    assert parsed.headings.count(1) == 1
    assert all(
        after <= before + 1
        for before, after in zip(parsed.headings, parsed.headings[1:], strict=False)
    )
    assert parsed.tables == parsed.captions > 10


def test_the_raw_json_can_be_taken_from_the_page_but_for_the_images(
    facts: dict[str, Any], page: str
) -> None:
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page)
    assert found is not None
    taken = json.loads(found[1])
    for pair in taken["disagreements"]:
        assert all(each.pop("png") is None for each in pair["images"])
    for pair in (mine := json.loads(json.dumps(facts)))["disagreements"]:
        for each in pair["images"]:
            del each["png"]
    assert taken == mine


def test_a_page_of_far_too_much_stays_below_a_megabyte(facts: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    timed = next(each for each in facts["engines"] if each["latency_ns"])
    stretch = [[each * 10**8, 10**6 + each, 2 * 10**6 + each, 0] for each in range(200)]
    pairs = [{**each, "images": list(each["images"])} for each in facts["disagreements"]]
    for pair in pairs:
        pair["images"] = [{**each, "png": png(rng, 64)} for each in pair["images"]]
    much = profile()
    much["layers"] = [{**much["layers"][each % 15], "name": f"{'n' * 60}{each}"}
                      for each in range(80)]  # fmt: skip
    n = 40
    page = render(
        {
            **facts,
            "engines": [
                *facts["engines"],
                *({**timed, "name": f"student/target-{each}/int8", "series": stretch}
                  for each in range(24)),
            ],
            "disagreements": pairs,
            "profiles": {f"student/target-{each}/int8": much for each in range(24)},
            "confusion": {**facts["confusion"], "classes": [f"class {each}" for each in range(n)],
                          "counts": rng.integers(0, 99, (n, n)).tolist()},
            "data": {**facts["data"], "classes": [f"class {each}" for each in range(20_000)]},
        }
    )  # fmt: skip
    assert len(page.encode()) < 1_000_000
    assert "and what made it too large: series" in page
    parsed = Parsed(page)
    assert len(parsed.ids) == len(set(parsed.ids))


def test_names_that_look_like_markup_stay_text(facts: dict[str, Any]) -> None:
    """Wherever a name may come from: a recipe, a folder of classes, an ONNX file, a machine."""
    spoilt = json.loads(json.dumps(facts).replace("student/", "EVIL/").replace("digits", "EVIL"))
    spoilt = json.loads(json.dumps(spoilt).replace("EVIL", json.dumps(EVIL)[1:-1]))
    spoilt |= {"command": EVIL, "notes": [EVIL], "host": {"cpu": EVIL, "gpus": [{"name": EVIL}]}}
    spoilt["confusion"]["classes"] = [EVIL] * 10
    spoilt["confusion"]["pairs"] = [{"label": EVIL, "named": EVIL, "count": 1, "of": 2}]
    spoilt["camera"]["warnings"] = [EVIL]
    spoilt["watch"]["disturbances"][0]["what"] = EVIL
    for each in next(iter(spoilt["profiles"].values()))["layers"]:
        each |= {"name": EVIL, "kind": EVIL}
    spoilt["disagreements"][0]["images"][0] |= {"label": EVIL, "a": {"class": EVIL, "share": 1.0}}
    page = render(spoilt)
    assert EVIL not in page
    assert "<script>alert" not in page
    assert page.count("<script") == 1
    assert "onload='x'" not in re.sub(r">[^<]*<", "><", page)  # in no tag, as an attribute
    Parsed(page)


@pytest.mark.parametrize("status", ["pass", "fail", "insufficient"])
def test_each_verdict_has_its_colour(status: str) -> None:
    page = render({"engines": [], "verdict": {"status": status, "reasons": ["because"]}})
    assert f'class="verdict {status}"' in page
    assert f"<strong>{status.upper()}</strong>" in page
    assert "<li>because</li>" in page


def test_what_bench_found_is_a_page_too(facts: dict[str, Any]) -> None:
    page = render(measured(facts))
    charts = Parsed(page).charts
    assert "latency tail" in charts
    assert "accuracy waterfall" not in charts
    assert "Latency over that of another" in page
    assert "<td>0.81×<small>[0.79, 0.84]</small></td>" in page
    assert "ship int8" in page


def test_a_report_of_almost_nothing_is_a_report_still(raw: dict[str, Any]) -> None:
    bare = {"verdict": {"status": "insufficient", "reasons": ["nothing ran"]}, "engines": []}
    assert "nothing ran" in render(bare)
    unmeasured = [
        {**each, "latency_ns": None, "throughput_per_s": None, "curve": [], "series": []}
        for each in raw["engines"]
    ]
    facts = {
        **raw, "engines": unmeasured, "quantisation": None, "camera": None, "watch": None,
        "profiles": {}, "calibration": None, "disagreements": [], "confusion": None,
    }  # fmt: skip
    assert Parsed(render(facts)).charts == ["accuracy waterfall"]
