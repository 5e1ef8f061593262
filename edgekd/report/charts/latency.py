"""Charts of time: percentiles, the tail, over time, and misses against frames a second."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from edgekd.report import figures
from edgekd.report.charts import style
from edgekd.report.charts.style import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]

_LINES = 12
"""So many engines are drawn in one chart; tables have all."""
_SMALLEST = 1e-4  # the least miss rate that a chart tells from none
_STRIPS = (
    ("mhz", "MHz", 1),
    ("celsius", "°C", 1),
    ("gpu_mhz", "GPU: MHz", 1),
    ("gpu_celsius", "GPU: °C", 1),
    ("load", "processes that want to run", 1),
    ("steal", "stolen by the hypervisor, %", 100),
    ("others", "cores that others keep busy", 1),
)
_GAP = 8
"""Times the usual distance of two stretches: an engine's turn was over."""


@style.drawn
def percentiles(engines: Sequence[Row], deadline_ns: float | None) -> Drawing:
    """A dot at p50 and a line to p99, one row an engine, on a log axis."""
    told = [
        f"{figures.milliseconds(each['latency_ns']['p50'])} /"
        f" {figures.milliseconds(each['latency_ns']['p99'])} ms"
        for each in engines
    ]
    figure, axes = style.rows([each["name"] for each in engines], told)
    ends = [each["latency_ns"][p] / 1e6 for each in engines for p in ("p50", "p99")]
    ends += [] if deadline_ns is None else [deadline_ns / 1e6]
    style.logarithmic(axes.xaxis, min(ends) / 1.25, max(ends) * 1.25)
    for place, each in enumerate(reversed(engines)):
        tint = style.colour({"teacher": 5, "control": 6}.get(each["role"], 0))
        p50, p99 = each["latency_ns"]["p50"] / 1e6, each["latency_ns"]["p99"] / 1e6
        axes.plot([p50, p99], [place, place], color=tint, linewidth=3, solid_capstyle="butt")
        axes.plot([p50], [place], "o", color=tint, markersize=7)
        axes.plot([p99], [place], "|", color=style.INK, markersize=10, markeredgewidth=1.6)
    if deadline_ns is not None:
        style.mark_limit(axes, deadline_ns / 1e6, "deadline")
    axes.set_xlabel("milliseconds: dot at p50, line to p99")
    words = "; ".join(f"{e['name']}: {each}" for e, each in zip(engines, told, strict=True))
    return Drawing(figure, "latency", f"p50 / p99: {words}.{_limit(deadline_ns)}")


@style.drawn
def tail(engines: Sequence[Row], camera: Row | None, deadline_ns: float | None) -> Drawing:
    """The share of frames at least this slow, log by log: the tail as it was."""
    lines = [
        (each["name"], *style.stroke(place), each["curve"])
        for place, each in enumerate(engines)
        if each["curve"]
    ][:_LINES]
    if camera and camera["curve"]:
        lines.append(
            (f"camera: response of {camera['engine']}", style.INK, "solid", camera["curve"])
        )
    figure, axes = style.canvas(3.0, "share of frames at least this slow")
    times = [point[0] / 1e6 for *_, curve in lines for point in curve]
    times += [] if deadline_ns is None else [deadline_ns / 1e6]
    least = min(point[1] for *_, curve in lines for point in curve)
    style.logarithmic(axes.xaxis, min(times) / 1.1, max(times) * 1.15)
    style.logarithmic(axes.yaxis, min(least, 0.5) / 1.4, 1.1)
    keys, words = [], []
    for name, tint, dash, curve in lines:
        axes.step(
            [point[0] / 1e6 for point in curve],
            [point[1] for point in curve],
            where="post",
            color=tint,
            linewidth=1.6,
            linestyle=dash,
        )
        keys.append(style.key(name, tint, dash))
        slowest = curve[-1]
        words.append(
            f"{name}: {figures.percent(slowest[1])} took"
            f" {figures.milliseconds(slowest[0])} ms or more"
        )
    if deadline_ns is not None:
        style.mark_limit(axes, deadline_ns / 1e6, "deadline")
    axes.set_xlabel("milliseconds")
    return Drawing(
        figure, "latency tail", "; ".join(words) + f".{_limit(deadline_ns)}", tuple(keys)
    )


@style.drawn
def over_time(engines: Sequence[Row], watch: Row | None, deadline_ns: float | None) -> Drawing:
    """p50 of each stretch of the run as a line, its slowest call as a dot, and disturbances."""
    lines = [
        (place, each, [point for point in each["series"] if point[1]])
        for place, each in enumerate(engines)
        if any(point[1] for point in each["series"])
    ][:_LINES]
    figure, axes = style.canvas(3.0, "milliseconds")
    slowest = [(point[2], point[0], each["name"]) for _, each, known in lines for point in known]
    least = min(point[1] for *_, known in lines for point in known) / 1e6
    most = max(slowest)[0] / 1e6
    style.logarithmic(axes.yaxis, least / 1.3, max(most, (deadline_ns or 0) / 1e6) * 1.3)
    keys = []
    for place, each, known in lines:
        tint, dash = style.stroke(place)
        turns = _turns(known)
        axes.plot(*_line(turns, 1), color=tint, linestyle=dash, linewidth=1.2)
        _dots(axes, known, tint)
        keys.append(style.key(each["name"], tint, dash))
    disturbed = _disturbances(axes, watch, [known for _, _, known in lines])
    if deadline_ns is not None:
        style.mark_limit(axes, deadline_ns / 1e6, "deadline", vertical=False)
    axes.set_xlabel("seconds of the run: lines p50, dots the slowest")
    worst, when, name = max(slowest)
    words = (
        f"The slowest call took {figures.milliseconds(worst)} ms, by {name} at {when / 1e9:.1f} s."
        f" p50 of a stretch: {'; '.join(_spread(each['name'], known) for _, each, known in lines)}."
        f" {disturbed}{_limit(deadline_ns)}"
    )
    return Drawing(figure, "latency over time", words, tuple(keys))


@style.drawn
def camera_over_time(camera: Row, deadline_ns: float | None) -> Drawing:
    """Response times of a camera's frames, and where frames were missed."""
    known = [point for point in camera["series"] if point[1]]
    missed = [(point[0] / 1e9, point[3]) for point in camera["series"] if point[3]]
    figure, axes = style.canvas(3.0, "milliseconds from when a frame was due")
    values = [each / 1e6 for point in known for each in point[1:3]]
    values += [] if deadline_ns is None else [deadline_ns / 1e6]
    style.logarithmic(axes.yaxis, min(values) / 1.3, max(values) * 1.5)
    seconds = [point[0] / 1e9 for point in known]
    tint = style.colour(0)
    axes.plot(seconds, [point[1] / 1e6 for point in known], color=tint, linewidth=1.4)
    _dots(axes, known, tint)
    keys = [style.key("p50 of a stretch", tint), style.key("its slowest", tint, glyph="•")]
    if missed:
        axes.plot(
            [each[0] for each in missed],
            [0.03] * len(missed),
            "x",
            color=style.FAIL,
            markersize=5,
            transform=axes.get_xaxis_transform(),
        )
        keys.append(style.key("frames were missed", style.FAIL, glyph="✕"))
    disturbed = _disturbances(axes, camera.get("watch"), [known])
    if deadline_ns is not None:
        style.mark_limit(axes, deadline_ns / 1e6, "deadline", vertical=False)
    axes.set_xlabel("seconds of the run")
    slowest = max((point[2], point[0]) for point in known)
    words = (
        f"The slowest frame that was answered took {figures.milliseconds(slowest[0])} ms, at"
        f" {slowest[1] / 1e9:.1f} s; {sum(each[1] for each in missed):,.0f} frames were missed, in"
        f" {len(missed)} of {len(camera['series'])} stretches. {disturbed}{_limit(deadline_ns)}"
    )
    return Drawing(figure, "camera over time", words, tuple(keys))


@style.drawn
def miss_rate(camera: Row, budget: Row) -> Drawing:
    """Frames missed against frames a second: as measured at one rate, replayed at others."""
    found = camera["miss_rate_by_fps"]
    figure, axes = style.canvas(3.0, "share of frames missed")
    rates = [point[0] for point in found]
    own, measured = 1e9 / camera["load"]["period_ns"], camera["misses"]
    rates += [own] if measured else []
    floor = _SMALLEST
    style.logarithmic(axes.xaxis, min(rates) / 1.15, max(rates) * 1.15)
    style.logarithmic(axes.yaxis, floor / 1.6, 1.6)
    axes.set_yticks([floor, 1e-3, 1e-2, 1e-1, 1], ["0", "0.1 %", "1 %", "10 %", "100 %"])
    tint = style.colour(0)
    shares = [max(point[1], floor) for point in found]
    axes.plot(
        [point[0] for point in found], shares, color=tint, linewidth=1.8, marker="o", markersize=3.5
    )
    keys = [style.key("replayed", tint)]
    words = ""
    if measured:
        words = _measured(axes, own, measured) + " "
        keys.append(style.key("measured, with its bounds", style.INK, glyph="◆"))
    words += "Replayed from the time that each frame took: "
    words += "; ".join(
        f"{figures.plain(rate)} frames a second: {figures.percent(share)}"
        for rate, share in found[::4]
    )
    if budget.get("fps"):
        style.mark_limit(axes, budget["fps"], f"budget: {budget['fps']:g}")
    if budget.get("miss_rate"):
        allowed = budget["miss_rate"]
        style.mark_limit(
            axes, max(allowed, floor), f"{figures.percent(allowed)} allowed", vertical=False
        )
        words += f"; {figures.percent(allowed)} are allowed"
    axes.set_xlabel("frames a second")
    return Drawing(figure, "miss rate against frames a second", words + ".", tuple(keys))


def _measured(axes: Axes, rate: float, misses: Row) -> str:
    """Marks what was missed at the camera's own rate, with its bounds, and tells it."""
    share = misses["missed"] / misses["frames"] if misses["frames"] else 0.0
    low, high = misses["rate_low"], misses["rate_high"]
    ends = [max(each, _SMALLEST) for each in (low, high)]
    axes.plot([rate, rate], ends, "_-", color=style.INK, linewidth=1.6, markersize=9, zorder=3)
    axes.plot([rate], [max(share, _SMALLEST)], "D", color=style.INK, markersize=6, zorder=3)
    return (
        f"Measured at {figures.plain(rate)} frames a second: {figures.percent(share)}, at least"
        f" {figures.percent(low)} and at most {figures.percent(high)}, each at"
        f" {figures.percent(misses['confidence'])} confidence."
    )


@style.drawn
def machine(watch: Row) -> Drawing:
    """Clocks, temperature and load of the machine over the run, as far as they were readable."""
    samples = watch["samples"]
    strips = [
        (name, unit, factor)
        for name, unit, factor in _STRIPS
        if sum(each.get(name) is not None for each in samples) > 1
    ]
    height = 0.75 + 0.8 * len(strips)
    figure, first = style.canvas(height)
    first.remove()
    words = []
    for place, (name, unit, factor) in enumerate(strips):
        bottom = 0.5 + 0.8 * (len(strips) - 1 - place)
        axes = figure.add_axes(
            (0.75 / style.WIDTH, bottom / height, 1 - 0.87 / style.WIDTH, 0.5 / height)
        )
        style.dress(axes)
        known = [
            (each["t_ns"] / 1e9, factor * each[name])
            for each in samples
            if each.get(name) is not None
        ]
        values = [each[1] for each in known]
        axes.plot([each[0] for each in known], values, color=style.colour(place), linewidth=1.4)
        room = max(0.02 * max(map(abs, values)), 0.15 * (max(values) - min(values)), 0.01)
        axes.set_ylim(min(values) - room, max(values) + room)
        apart = max(values) - min(values) > 0.4 * (max(values) - min(values) + 2 * room)
        axes.set_yticks([min(values), max(values)] if apart else [max(values)])
        axes.yaxis.set_major_formatter(
            lambda value, _: f"{value:.3g}" if value < 1e3 else f"{value:.0f}"
        )
        axes.set_title(unit, loc="left", fontsize=style.FONT, color=style.INK, pad=3)
        if place < len(strips) - 1:
            axes.set_xticklabels([])
        words.append(f"{unit}: {min(values):.4g} to {max(values):.4g}")
    if strips:
        axes.set_xlabel("seconds of the run")
    return Drawing(figure, "the machine meanwhile", "; ".join(words) + ".")


def has_strips(watch: Row | None) -> bool:
    """Whether anything of the machine was read twice."""
    samples = (watch or {}).get("samples") or []
    return any(sum(each.get(name) is not None for each in samples) > 1 for name, _, _ in _STRIPS)


def _spread(name: str, points: Sequence[Sequence[float]]) -> str:
    middles = [point[1] for point in points]
    low, high = figures.milliseconds(min(middles)), figures.milliseconds(max(middles))
    return f"{name} {low} to {high} ms"


def _turns(points: Sequence[Sequence[float]]) -> list[list[Sequence[float]]]:
    """Cut where another engine had its turn."""
    apart = [after[0] - before[0] for before, after in pairwise(points)]
    usual = sorted(apart)[len(apart) // 2] if apart else 0
    found: list[list[Sequence[float]]] = [[points[0]]]
    for point, distance in zip(points[1:], apart, strict=True):
        if distance > _GAP * usual:
            found.append([])
        found[-1].append(point)
    return found


def _line(turns: list[list[Sequence[float]]], column: int) -> tuple[list[float], list[float]]:
    """Seconds and milliseconds of one line that is broken between turns."""
    x, y = [], []
    for turn in turns:
        x += [*(point[0] / 1e9 for point in turn), turn[-1][0] / 1e9]
        y += [*(point[column] / 1e6 for point in turn), math.nan]
    return x, y


def _dots(axes: Axes, points: Sequence[Sequence[float]], tint: str) -> None:
    """The slowest of each stretch, as one path of short strokes: a fifth of as many marks."""
    x = [each for point in points for each in (point[0] / 1e9, point[0] / 1e9, math.nan)]
    y = [each for point in points for each in (point[2] / 1e6, point[2] / 1.01e6, math.nan)]
    axes.plot(x, y, color=tint, linewidth=2, solid_capstyle="round")


def watched(watch: Row | None, series: Sequence[Sequence[Sequence[float]]]) -> bool:
    """Whether two looks at the machine or more have part of a run between them.

    Args:
        watch: its ``samples``.
        series: of each engine, the stretches.
    """
    looks = [each["t_ns"] for each in (watch or {}).get("samples") or []]
    due = [point[0] for each in series for point in each]
    if len(looks) < 2:
        return False
    return not due or (min(looks) <= max(due) and max(looks) >= min(due))


def _disturbances(
    axes: Axes, watch: Row | None, series: Sequence[Sequence[Sequence[float]]]
) -> str:
    """Shades what disturbed a run, and tells of it."""
    found = (watch or {}).get("disturbances") or []
    if not found:
        return (
            "Nothing was seen to disturb the run."
            if watched(watch, series)
            else "The machine was not watched."
        )
    low, high = axes.get_xlim()
    least = (high - low) / 150
    axes.set_xlim(low, high)
    for each in found:
        start = each["t_ns"] / 1e9
        end = max((each.get("until_ns") or each["t_ns"]) / 1e9, start + least)
        if end < low or start > high:
            continue
        axes.axvspan(start, end, color=style.QUIET, alpha=0.3, linewidth=0)
    first = "; ".join(f"{each['what']} at {each['t_ns'] / 1e9:.1f} s" for each in found[:5])
    return f"{len(found)} disturbance{'s' * (len(found) > 1)} (shaded): {first}."


def _limit(deadline_ns: float | None) -> str:
    return (
        "" if deadline_ns is None else f" The deadline is {figures.milliseconds(deadline_ns)} ms."
    )
