"""A comparison as a page and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.report import figures, markdown, shape
from edgekd.report.charts import accuracy
from edgekd.report.compare import warnings
from edgekd.report.figures import NONE
from edgekd.report.render import embedded, environment
from edgekd.report.tables.base import Cell, Column, Table, bounds, delta, table
from edgekd.report.tables.engines import missed

Facts = Mapping[str, Any]


def render_comparison(found: Facts) -> str:
    """The page for what ``compare`` found.

    Raises:
        BackendUnavailable: the packages that draw it are not installed.
    """
    page = environment().get_template("comparison.html.j2")
    raw, left_out = embedded(found)
    comparable = bool(found["points"]) and not (found["other_machine"] or found["other_data"])
    return page.render(
        r=found,
        warnings=warnings(found),
        reports=verdicts(found),
        latency=_by_report("Latency of each engine", found, _latency),
        accuracy=_by_report("Accuracy and size of each engine", found, _accuracy),
        differences=differences(found),
        pareto=accuracy.pareto(found["points"], "accuracy against latency, joint")
        if comparable
        else None,
        raw=raw,
        left_out=left_out,
    )


def comparison_markdown(found: Facts) -> str:
    """What ``compare`` found, for a pull request; below 65,536 characters."""
    told = [
        _by_report("Latency of each engine", found, _latency),
        _by_report("Accuracy and size of each engine", found, _accuracy),
    ]
    names = " against ".join(markdown.code(each["label"]) for each in found["reports"])
    lines = [
        f"### {names}",
        "",
        *(f"> **{markdown.text(each)}**\n" for each in warnings(found)),
        *markdown.table(verdicts(found)),
        *(line for each in told if each.lines for line in ("", *markdown.table(each))),
    ]
    if any(map(markdown.has_intervals, told)):
        lines += ["", "In brackets 95 % intervals; that of a ratio holds with 90 % or more."]
    if found["differences"]:
        lines += ["", *markdown.table(differences(found))]
    return markdown.bounded(lines)


def verdicts(found: Facts) -> Table:
    """Each report's verdict."""
    return table(
        "The reports",
        (
            ("report", lambda r: r["label"]),
            ("verdict", lambda r: r["verdict"]["status"]),
            ("in one line", lambda r: shape.headline(r["verdict"])),
            ("preferred engine", lambda r: r["preferred"]),
            ("processor", lambda r: str(r["host"].get("cpu") or NONE)),
        ),
        found["reports"],
    )


def differences(found: Facts) -> Table:
    """What differs in provenance, host and settings."""
    labels = [each["label"] for each in found["reports"]]
    return table(
        "What differs between the reports",
        (
            ("what", lambda d: d["what"]),
            *(
                (label, lambda d, place=place: d["values"][place])
                for place, label in enumerate(labels)
            ),
        ),
        [*found["other_machine"], *found["differences"]],
    )


def _by_report(caption: str, found: Facts, columns: Any) -> Table:
    """A line an engine, with columns for every report."""
    made: list[Column] = [("engine", lambda e: e["name"])]
    for place, report in enumerate(found["reports"]):
        letter = report["label"][0]
        made += [(f"{letter}: {heading}", _of(place, cell)) for heading, cell in columns]
    return table(caption, made, found["engines"])


def _of(place: int, cell: Any) -> Any:
    """A cell of one of the reports."""

    def made(engine: Facts) -> Any:
        mine = engine["cells"][place]
        return Cell(NONE) if mine is None else cell(mine)

    return made


def _timed(name: str) -> Any:
    def cell(row: Facts) -> Cell:
        if not row["latency_ns"]:
            return Cell(NONE)
        return Cell(
            figures.milliseconds(row["latency_ns"][name]),
            figures.interval(row["interval_ns"].get(name)),
        )

    return cell


def _ratio(name: str) -> Any:
    def cell(row: Facts) -> Cell:
        ratio = row["ratio"][name]
        if ratio is None:
            return Cell(NONE)
        return Cell(figures.ratio(ratio[0]), f"[{ratio[1]:.3g}, {ratio[2]:.3g}]")

    return cell


_latency = (
    ("p50, ms", _timed("p50")),
    ("p50 to A", _ratio("p50")),
    ("p99, ms", _timed("p99")),
    ("p99 to A", _ratio("p99")),
    ("misses", missed),
)
_accuracy = (
    (
        "top-1, %",
        lambda row: Cell("~" * row["emulated"] + figures.accuracy(row["top1"]), bounds(row["ci"])),
    ),
    ("to A, points", lambda row: delta(row["top1_delta"])),
    ("size", lambda row: figures.size(row["bytes"])),
)
