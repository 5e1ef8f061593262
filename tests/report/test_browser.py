"""The page in a real browser: at phone and desktop width, light and dark, and on paper."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekd.report.compare import compare
from edgekd.report.comparison import render_comparison
from edgekd.report.render import render
from tests.report.facts import measured

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs chromium"
)

_LOOK = """
const box = e => e.getBoundingClientRect();
const shown = e => box(e).width > 0 && box(e).height > 0;
const charts = [...document.querySelectorAll("svg")];
const scrolls = [...document.querySelectorAll(".scroll")];
const outside = e => box(e).right > innerWidth + 1 || box(e).left < -1;
const texts = svg => [...svg.querySelectorAll("text")].filter(shown);
const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
return {
    charts: charts.map(e => [e.getAttribute("aria-label"), box(e).width, box(e).height]),
    wide: [...document.querySelectorAll("body *")]
        .filter(e => shown(e) && outside(e) && !e.closest(".scroll, svg, .skip"))
        .map(e => e.tagName + ": " + e.textContent.slice(0, 40)),
    spilt: charts.flatMap(svg => texts(svg)
        .filter(t => box(t).left < box(svg).left - 1 || box(t).right > box(svg).right + 1
            || box(t).top < box(svg).top - 1 || box(t).bottom > box(svg).bottom + 1)
        .map(t => svg.getAttribute("aria-label") + ": " + t.textContent)),
    overlaid: charts.flatMap(svg => texts(svg).flatMap((t, n, all) => all.slice(n + 1)
        .filter(other => meet(box(t), box(other)))
        .map(other => svg.getAttribute("aria-label") + ": " + t.textContent + " | "
            + other.textContent))),
    letters: Math.min(...charts.flatMap(texts).map(
        t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a)),
    cut: scrolls.filter(e => shown(e) && e.scrollWidth > e.clientWidth + 1)
        .map(e => e.getAttribute("aria-label")),
    unreachable: scrolls.filter(e => e.tabIndex !== 0 || !e.getAttribute("aria-label")).length,
    scroll: document.documentElement.scrollWidth,
    colours: ["--paper", "--panel", "--ink", "--quiet", "--pass", "--fail", "--insufficient",
              "--link", ...Array(8).keys().map(n => "--c" + n)]
        .map(n => [n, getComputedStyle(document.documentElement).getPropertyValue(n).trim()]),
    used: getComputedStyle(document.body).color,
    fetched: performance.getEntriesByType("resource").map(e => e.name)
        .filter(e => !e.startsWith("data:")),
    images: [...document.images].filter(e => !e.complete || !e.naturalWidth).length,
};
"""


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
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(
    facts: dict[str, Any],
    page: str,
    built_page: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """What there is to look at, as files."""
    folder = tmp_path_factory.mktemp("pages")
    made = {
        "whole": page,
        "build": built_page,
        "bench": render(measured(facts)),
        "comparison": render_comparison(compare([facts, {**facts, "name": "other"}])),
    }
    for name, text in made.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


def _open(browser: Any, page: Path, width: int, scheme: str = "light", media: str = "") -> Any:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    browser.get_log("performance")
    browser.get(page.as_uri())
    return browser.execute_script(_LOOK)


def _assert_whole(browser: Any, seen: Any, width: int) -> None:
    """Nothing spills, nothing is fetched, nothing is too small to read."""
    assert seen["wide"] == []
    assert seen["spilt"] == []
    assert seen["overlaid"] == []
    assert seen["scroll"] <= width
    assert seen["unreachable"] == seen["images"] == 0
    assert seen["letters"] > 8
    assert seen["fetched"] == []
    asked = [json.loads(each["message"])["message"] for each in browser.get_log("performance")]
    urls = [
        each["params"]["request"]["url"]
        for each in asked
        if each["method"] == "Network.requestWillBeSent"
    ]
    assert urls  # the page itself, so that the log is known to work
    assert all(each.startswith(("file:", "data:")) for each in urls)
    assert len({each for each in urls if each.startswith("file:")}) == 1
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_drawn_and_nothing_overflows(
    browser: Any, pages: dict[str, Path], width: int, scheme: str
) -> None:
    seen = _open(browser, pages["whole"], width, scheme)
    _assert_whole(browser, seen, width)
    labels = [each[0] for each in seen["charts"]]
    assert len(labels) == len(set(labels)) == 14
    for label, wide, high in seen["charts"]:
        assert wide > (300 if width == 360 else 330), label
        assert high > 60, label
    # On a phone a table scrolls in its own box.
    assert seen["cut"] == [] or width == 360
    found = dict(seen["colours"])
    assert found["--paper"] == ("#fff" if scheme == "light" else "#14181d")
    for ground in (found["--paper"], found["--panel"]):
        for name, colour in found.items():
            if name in ("--ink", "--quiet", "--pass", "--fail", "--insufficient", "--link"):
                assert contrast(colour, ground) >= 4.5, name
            elif name.startswith("--c"):
                assert contrast(colour, ground) >= 3, name


@pytest.mark.parametrize("name", ["build", "bench", "comparison"])
def test_other_pages_hold_too(browser: Any, pages: dict[str, Path], name: str) -> None:
    for width, scheme in ((360, "dark"), (1280, "light")):
        seen = _open(browser, pages[name], width, scheme)
        _assert_whole(browser, seen, width)
        assert seen["charts"]


@pytest.mark.parametrize("name", ["whole", "comparison"])
def test_on_paper_everything_is_open_light_and_within_the_page(
    browser: Any, pages: dict[str, Path], name: str
) -> None:
    seen = _open(browser, pages[name], 718, "dark", media="print")  # A4 less its margins
    assert seen["wide"] == []
    assert seen["cut"] == []
    assert seen["scroll"] <= 718
    assert dict(seen["colours"])["--paper"] == "#fff"
    hidden = browser.execute_script(
        "return [...document.querySelectorAll('details > :not(summary)')]"
        ".filter(e => !e.getBoundingClientRect().height).map(e => e.textContent.slice(0, 40))"
    )
    assert hidden == []
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    paper = {"paperWidth": 8.27, "paperHeight": 11.69}
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", paper)["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= (8 if name == "whole" else 1)


def test_the_keyboard_reaches_the_report_first_and_tables_after(
    browser: Any, pages: dict[str, Path]
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    _open(browser, pages["whole"], 360)
    ActionChains(browser).send_keys(Keys.TAB).perform()
    focused = browser.switch_to.active_element
    assert focused.get_attribute("class") == "skip"
    assert focused.rect["x"] >= 0
    landmarks = "return ['header', 'nav', 'main', 'footer'].map(e => document.querySelectorAll("
    assert browser.execute_script(f"{landmarks}'body > ' + e + ', header > ' + e).length)") == [
        1, 1, 1, 1,
    ]  # fmt: skip


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two CSS colours."""

    def luminance(colour: str) -> float:
        digits = colour.removeprefix("#")
        digits = "".join(each * 2 for each in digits) if len(digits) == 3 else digits
        channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)
