"""From ``report.json`` to one page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.artifacts import Report
from edgekd.errors import BackendUnavailable
from edgekd.progress import Progress, silent
from edgekd.report import charts
from edgekd.report.summary import Findings, summarise

_LAYERS = 12
"""How many of the most sensitive layers are drawn."""


def report(found: Findings, out_dir: Path, progress: Progress = silent) -> Report:
    """The stage ``report``."""
    facts = summarise(found)
    html, record = out_dir / "report.html", out_dir / "report.json"
    record.write_text(json.dumps(facts, indent=1, allow_nan=False))
    progress(0, 1, "drawing")
    html.write_text(render(facts), encoding="utf-8")
    progress(1, 1, "")
    return Report(
        html=html, json=record, status=facts["verdict"]["status"], preferred=facts["preferred"]
    )


def render(facts: Mapping[str, Any]) -> str:
    """The page for a ``report.json``: the same facts give the same bytes.

    Raises:
        BackendUnavailable: the packages that draw it are not installed.
    """
    try:
        import jinja2
        import matplotlib  # noqa: F401, ICN001
    except ImportError as error:
        raise BackendUnavailable("the report", "report", f"{error.name} is missing") from error

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgekd.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        ms=_milliseconds, count=_count, size=_size, signed=_signed, ratio=_ratio
    )
    fps = facts["budget"]["fps"]
    deadline = 1e9 / fps if fps else None
    measured = [each for each in facts["engines"] if each["latency_ns"]]
    drawn = {
        "waterfall": charts.waterfall(facts["waterfall"]),
        "latency": charts.latency_bars(measured, deadline) if measured else "",
        "tail": charts.exceedance(measured, deadline) if measured else "",
        "pareto": charts.pareto(measured) if measured else "",
        "layers": {
            form: charts.layers(form, each["layers"][:_LAYERS])
            for form, each in (facts["quantisation"] or {"sensitivity": {}})["sensitivity"].items()
        },
    }
    page = environment.get_template("report.html.j2")
    best = next((each for each in facts["engines"] if each["name"] == facts["preferred"]), None)
    raw = json.dumps(facts, sort_keys=True).replace("<", "\\u003c")
    rates = list(measured[0]["throughput_per_s"]) if measured else []
    return page.render(r=facts, best=best, rates=rates, charts=drawn, raw=raw)


def _milliseconds(nanoseconds: float | None) -> str:
    """Three significant figures: 0.0153, 1.24, 16.7."""
    if nanoseconds is None:
        return "—"
    value = nanoseconds / 1e6
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _count(value: float | None) -> str:
    """31.0 M, 18.3 K, 512."""
    if value is None:
        return "—"
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def _size(value: float | None) -> str:
    """1.08 MB, 85.3 kB; in powers of ten."""
    if value is None:
        return "—"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def _signed(delta: list[float] | None) -> str:
    """+0.04 [-0.11, +0.19]"""
    if delta is None:
        return "—"
    return f"{delta[0]:+.2f} [{delta[1]:+.2f}, {delta[2]:+.2f}]".replace("-", "\N{MINUS SIGN}")


def _ratio(value: float | None) -> str:
    """12.3×"""
    return "—" if value is None else f"{value:.3g}×"
