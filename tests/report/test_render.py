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
    ]
    for each in facts["waterfall"]:
        assert each["ci"][0] < each["top1"] < each["ci"][1]
    engines = {each["name"]: each for each in facts["engines"]}
    assert set(engines) == {
        "teacher/torch/fp32", "student/torch/fp32", "control/torch/fp32",
        "teacher/onnxruntime-cpu/fp32", "teacher/openvino-cpu/fp32",
        "student/onnxruntime-cpu/fp32", "student/onnxruntime-cpu/int8",
        "student/openvino-cpu/fp32", "student/openvino-cpu/int8",
        "student/tensorrt-rtx/fp32", "student/tensorrt-rtx/int8",
    }  # fmt: skip
    for name, each in engines.items():
        assert each["bytes"] > 0
        assert each["executed"] is ("tensorrt" not in name)
        assert (each["top1"] is not None) is each["executed"]
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
    for target in ("onnxruntime-cpu", "openvino-cpu"):
        engines = {each["name"]: each for each in facts["engines"]}
        ratio = (
            engines[f"student/{target}/fp32"]["latency_ns"]["p50"]
            / engines[f"student/{target}/int8"]["latency_ns"]["p50"]
        )
        note = next(each for each in facts["notes"] if each.startswith(f"On {target} "))
        assert f"{ratio:.2f}" in note
        assert ("does not help" in note) is (ratio < 1)


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
