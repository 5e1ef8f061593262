"""Charts of accuracy: from the teacher to int8, against latency, and by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgekd.report import figures
from edgekd.report.charts import style
from edgekd.report.charts.style import Drawing, Key

Row = Mapping[str, Any]

_SHOWN = 12


@style.drawn
def waterfall(stages: Sequence[Row]) -> Drawing:
    """Top-1 with its interval, from the teacher down to each int8 engine.

    What is written is the difference that is paired by image: to the fp32 student of what was
    rounded, to the teacher of the others.
    """
    told = [_step(each) for each in stages]
    figure, axes = style.rows([each["stage"] for each in stages], [each[0] for each in told])
    for place, stage in enumerate(reversed(stages)):
        low, high = stage["ci"]
        tint = style.colour(5 if stage["stage"] == "teacher" else 0)
        if "without" in stage["stage"]:
            tint = style.colour(6)
        axes.plot([low, high], [place, place], color=tint, linewidth=2.5, solid_capstyle="round")
        axes.plot([stage["top1"]], [place], "o", color=tint, markersize=7)
        axes.annotate(
            figures.accuracy(stage["top1"]),
            (high, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=style.INK,
            fontsize=style.FONT,
        )
    low = min(each["ci"][0] for each in stages)
    high = max(each["ci"][1] for each in stages)
    axes.set_xlim(low - 0.04 * (high - low), high + 0.2 * (high - low))
    axes.set_xlabel("top-1, %, with its 95 % interval; right: difference")
    words = (
        f"{each['stage']}: {figures.accuracy(each['top1'])} %"
        f" [{figures.accuracy(each['ci'][0])}, {figures.accuracy(each['ci'][1])}]{more[1]}"
        for each, more in zip(stages, told, strict=True)
    )
    return Drawing(figure, "accuracy waterfall", "; ".join(words) + ".")


def _step(stage: Row) -> tuple[str, str]:
    """What is written beside a stage, and the same in words."""
    rounded = not stage["stage"].startswith(("teacher", "student"))
    delta, of = stage.get("to_student"), "fp32 student"
    if not rounded or delta is None:
        delta, of = stage.get("to_teacher"), "teacher"
    if delta is None:
        return "", ""
    return (
        figures.signed(delta),
        f", {figures.signed(delta)} points to the {of}, paired by image",
    )


def front(engines: Sequence[Row]) -> set[str]:
    """The names of those that no other one is both faster and more accurate than."""
    placed = [
        (each["latency_ns"]["p50"], -each["top1"], each["name"])
        for each in engines
        if each["latency_ns"] and each["top1"] is not None
    ]
    return {
        name
        for p50, lost, name in placed
        if not any(a <= p50 and b <= lost and (a, b) != (p50, lost) for a, b, _ in placed)
    }


@style.drawn
def pareto(engines: Sequence[Row], label: str = "accuracy against latency") -> Drawing:
    """Accuracy against p50 latency, one mark an engine; those on the front are larger.

    Args:
        engines: those that were timed and judged. Where they are of several reports, a mark's
            shape tells the ``report`` and its colour the ``engine``, else the precision and the
            engine.
        label: of the chart.
    """
    best = front(engines)
    figure, axes = style.canvas(3.0, "top-1, %")
    times = [each["latency_ns"]["p50"] / 1e6 for each in engines]
    style.logarithmic(axes.xaxis, min(times) / 1.5, max(times) * 1.5)
    edge = sorted(
        (each["latency_ns"]["p50"] / 1e6, each["top1"]) for each in engines if each["name"] in best
    )
    axes.step(*zip(*edge, strict=True), where="post", color=style.QUIET, linewidth=1, zorder=1)
    places = _places(each.get("engine", each["name"]) for each in engines)
    reports = _places(each.get("report", "") for each in engines)
    shapes = [*style.MARKS.values(), style.OTHER_MARK]
    keys: list[Key] = []
    for each in engines:
        place = places[each.get("engine", each["name"])]
        mark, full, hollow = style.MARKS.get(each["precision"], style.OTHER_MARK)
        if len(reports) > 1:
            mark, full, hollow = shapes[reports[each["report"]] % len(shapes)]
        is_full = place % 16 < 8
        tint, leads = style.colour(place), each["name"] in best
        where = each["latency_ns"]["p50"] / 1e6, each["top1"]
        axes.plot(
            [where[0]],
            [where[1]],
            mark,
            color=tint,
            markersize=11 if leads else 6,
            markerfacecolor=tint if is_full else style.PAPER,
            markeredgecolor=style.INK if leads and is_full else tint,
        )
        glyph = full if is_full else hollow
        keys.append(style.key(each["name"] + " (front)" * leads, tint, glyph=glyph))
    axes.margins(y=0.12)
    axes.set_xlabel("p50 latency, milliseconds")
    words = (
        f"{each['name']}: {figures.accuracy(each['top1'])} % at"
        f" {figures.milliseconds(each['latency_ns']['p50'])} ms"
        + ", on the front"
        * (each["name"] in best)
        for each in engines
    )
    return Drawing(figure, label, "; ".join(words) + ".", tuple(keys))


def _places(names: Iterable[str]) -> dict[str, int]:
    """The place of each name among those that differ."""
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


@style.drawn
def sensitivity(form: str, found: Sequence[Row]) -> Drawing:
    """What int8 costs in each of the most sensitive layers, one bar a layer."""
    shown = found[:_SHOWN]
    told = [
        f"{each['sqnr']:.1f} dB"
        + ("" if each["lost"] is None else f", {figures.points(0 - each['lost'])} points")
        for each in shown
    ]
    figure, axes = style.rows([each["name"] for each in shown], told)
    for place, layer in enumerate(reversed(shown)):
        axes.barh(place, layer["sqnr"], height=0.26, color=style.colour(0))
    axes.set_xlabel("SQNR of the outputs, dB: lower is worse")
    words = (
        f"{each['name']}: {mine}"
        + (f", {figures.percent(each['macs_share'])} of MACs" if each["macs_share"] else "")
        for each, mine in zip(shown, told, strict=True)
    )
    return Drawing(figure, f"sensitivity of {form}", "; ".join(words) + ".")
