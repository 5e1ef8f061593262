"""The report: one offline file, the same bytes for the same facts, legible in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgekd.advice import advise
from edgekd.report.render import render

needs_chromium = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs chromium"
)


@pytest.fixture(scope="module")
def facts(built: dict[str, Path]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((built["bundle"] / "report.json").read_text())
    return found


def test_the_same_facts_give_the_same_bytes_as_in_the_bundle(
    facts: dict[str, Any], built: dict[str, Path]
) -> None:
    page = render(facts)
    assert page == render(facts)
    assert page == (built["bundle"] / "report.html").read_text(encoding="utf-8")


def test_the_json_has_what_the_architecture_names(facts: dict[str, Any]) -> None:
    assert facts["verdict"]["status"] == "pass"
    assert len(facts["verdict"]["reasons"]) == 2
    assert set(facts["models"]) == {"teacher", "student", "control"}
    for each in facts["models"].values():
        assert {"params", "macs", "top1"} <= set(each)
    assert [each["stage"] for each in facts["waterfall"]] == [
        "teacher",
        "student without teacher",
        "student with teacher",
        "int8 on onnxruntime-cpu",
        "int8 on openvino-cpu",
        "fp16 on tensorrt-rtx, emulated",
        "int8 on tensorrt-rtx, emulated",
    ]
    for each in facts["waterfall"]:
        assert each["ci"][0] < each["top1"] < each["ci"][1]
    engines = {each["name"]: each for each in facts["engines"]}
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
    assert facts["command"].startswith("edgekd build ")
    assert facts["host"]["cpu"]
    assert facts["provenance"]["content"]["student weights"]


def test_what_was_not_run_is_said_not_to_be(facts: dict[str, Any]) -> None:
    text = " ".join(facts["notes"])
    assert "tensorrt-rtx were built and not executed" in text
    assert "over the same student trained alone" in text


def test_whether_int8_helped_is_advised_on(facts: dict[str, Any]) -> None:
    executed = [each for each in facts["engines"] if each["executed"]]
    advice = advise(executed)
    assert len(advice) == 2
    for told in advice:
        assert told.startswith("int8 is ")
        assert f"{told} (p50, one run)." in facts["notes"]


def test_engines_that_wait_for_their_device_are_not_said_to_be_built(
    facts: dict[str, Any],
) -> None:
    from edgekd.cli import out

    rows = [{**each, "built": each["executed"]} for each in facts["engines"]]
    assert not [each for each in rows if out.is_unrun(each)]
    assert [each for each in facts["engines"] if out.is_unrun(each)]


def _with_sensitivity(facts: dict[str, Any]) -> dict[str, Any]:
    """As if layers had been looked into: two of them, in every form."""
    layers = [
        {"name": f"{'long' * 9}/conv{n}", "op": "Conv", "macs": n, "macs_share": n / 3,
         "lost": lost, "sqnr": sqnr}
        for n, lost, sqnr in ((1, 7.25, 4.5), (2, None, 41.5))
    ]  # fmt: skip
    times = {"onnxruntime-cpu": {"p50": 1_230_000, "p99": 2_340_000}}
    mixes = [
        {"kept": kept, "lost": lost, "sqnr": sqnr, "latency_ns": times, "chosen": bool(kept)}
        for kept, lost, sqnr in (([], 7.5, 4.25), ([layers[0]["name"]], 0.125, 37.75))
    ]
    found = {
        "layers": layers, "layer_samples": 512, "mixes": mixes, "mix_samples": 3000,
        "fp32_ns": times,
    }  # fmt: skip
    forms = dict.fromkeys(facts["quantisation"]["forms"], found)
    return {**facts, "quantisation": {**facts["quantisation"], "sensitivity": forms}}


def test_the_methods_that_were_tried_are_shown_and_which_won(facts: dict[str, Any]) -> None:
    found, page = facts["quantisation"], render(facts)
    assert [each["method"] for each in found["tried"]].count(found["method"]) == 1
    for each in found["tried"]:
        bold = ' class="best"' if each["method"] == found["method"] else ""
        assert f"<tr{bold}><td>{each['method']}</td>" in page
    for form, decibels in found["proof"]["to_fp32"].items():
        assert f"{form} {decibels:.1f} dB" in page


def test_sensitive_layers_and_what_it_costs_to_keep_them_are_shown(facts: dict[str, Any]) -> None:
    page = render(_with_sensitivity(facts))
    for form in facts["quantisation"]["forms"]:
        assert f'aria-label="layers of {form}"' in page
    assert "4.5 dB, -7.25 points, 33.3 % of MACs" in page
    assert "41.5 dB, 66.7 % of MACs" in page
    assert "<td>0</td><td>-7.50</td><td>4.2</td><td>1.23 / 2.34</td>" in page
    assert '<tr class="best"><td>1</td><td>-0.12</td><td>37.8</td><td>1.23 / 2.34</td></tr>' in page
    parser = _Addresses()
    parser.feed(page)
    assert len(parser.ids) == len(set(parser.ids))


def test_what_is_emulated_is_marked(facts: dict[str, Any]) -> None:
    engines = {each["name"]: each for each in facts["engines"]}
    preview = engines["student/tensorrt-rtx/int8"]
    assert f"<td>~{preview['top1']:.2f}</td>" in render(facts)
    assert facts["preferred"] != preview["name"]
    assert not any("tensorrt-rtx" in each for each in facts["verdict"]["reasons"])


class _Addresses(HTMLParser):
    """Every address that a browser would fetch by itself, or ids that are given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "srcset", "data") and not (
                value or ""
            ).startswith("#"):
                self.outside.append(f"{tag} {name}={value}")
            if name == "id":
                self.ids.append(value or "")


def test_the_page_fetches_nothing_and_names_nothing_twice(facts: dict[str, Any]) -> None:
    page = render(facts)
    parser = _Addresses()
    parser.feed(page)
    assert parser.outside == []
    assert len(parser.ids) == len(set(parser.ids))
    assert not re.search(r"@import|url\((?!#)", page)
    assert len(page) < 1_000_000


def test_the_raw_json_can_be_taken_from_the_page(facts: dict[str, Any]) -> None:
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', render(facts))
    assert found is not None
    assert json.loads(found[1]) == facts


def test_names_that_look_like_markup_stay_text(facts: dict[str, Any]) -> None:
    evil = "</script><script>alert(1)</script><!--"
    page = render({**facts, "name": evil, "command": evil})
    assert evil not in page
    assert "<script>alert" not in page


@pytest.mark.parametrize("status", ["pass", "fail", "insufficient"])
def test_each_verdict_has_its_colour(facts: dict[str, Any], status: str) -> None:
    page = render({**facts, "verdict": {"status": status, "reasons": ["because"]}})
    assert f'class="verdict {status}"' in page
    assert f"<strong>{status.upper()}</strong>" in page


def test_a_report_without_any_measurement_is_a_report_still(facts: dict[str, Any]) -> None:
    unmeasured = [
        {**each, "latency_ns": None, "throughput_per_s": None} for each in facts["engines"]
    ]
    page = render({**facts, "engines": unmeasured, "quantisation": None})
    assert "<h2>Accuracy</h2>" in page


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for each in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


@needs_chromium
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_charts_are_drawn_and_nothing_overflows(
    browser: Any, built: dict[str, Path], width: int, scheme: str
) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.get((built["bundle"] / "report.html").as_uri())
    page = browser.execute_script(
        """
        const box = e => e.getBoundingClientRect();
        const shown = [...document.querySelectorAll("svg")].map(e => [box(e).width, box(e).height]);
        const wide = [...document.querySelectorAll("body *")]
            .filter(e => !e.closest(".scroll, svg") && box(e).right > innerWidth + 1)
            .map(e => e.tagName + ": " + e.textContent.slice(0, 40));
        const charts = [...document.querySelectorAll("svg")];
        const spilt = charts.flatMap(svg => [...svg.querySelectorAll("text")]
            .filter(t => box(t).left < box(svg).left - 1 || box(t).right > box(svg).right + 1)
            .map(t => t.textContent));
        const style = getComputedStyle(document.body);
        const cut = [...document.querySelectorAll(".scroll")]
            .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 40));
        return {shown, wide, spilt, cut, ink: style.color, paper: style.backgroundColor,
                labels: charts.map(e => e.getAttribute("aria-label")),
                scroll: document.documentElement.scrollWidth};
        """
    )
    assert page["labels"] == [
        "accuracy waterfall",
        "latency",
        "latency tail",
        "accuracy against latency",
    ]
    for shown_width, height in page["shown"]:
        assert shown_width > 0.8 * min(width, 1056) - 40
        assert height > 60
    assert page["wide"] == []
    assert page["spilt"] == []
    assert page["cut"] == [] or width < 1200  # on a phone a table scrolls in its own box
    assert page["scroll"] <= width
    assert _contrast(page["ink"], page["paper"]) > 7
    assert browser.get_log("browser") == []


def _contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two CSS colours."""

    def luminance(colour: str) -> float:
        channels = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)
