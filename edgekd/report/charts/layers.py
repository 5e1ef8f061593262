"""Charts of one engine's layers: where its time goes, and how near it comes to the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.report import figures
from edgekd.report.charts import style
from edgekd.report.charts.style import Drawing

Row = Mapping[str, Any]

_SHOWN = 12
_POINTS = 40
_MOVES = ("reformat", "convert")
_TINTS = {"int8": 0, "fp32": 1, "fp16": 2, "bf16": 7, "fp8": 3, "unknown": 6}


@style.drawn
def times(engine: str, profile: Row) -> Drawing:
    """The longest layers, one bar a layer: its colour the precision, hatched what only moves."""
    layers = longest(profile)
    total = profile["total_ns"] or sum(each["ns"] for each in profile["layers"]) or 1
    told = [
        f"{figures.milliseconds(each['ns'])} ms, {100 * each['ns'] / total:.0f} %"
        for each in layers
    ]
    islands = set(profile.get("islands") or ())
    names = [_tag(each, islands) + style.short(each["name"], 20) for each in layers]
    figure, axes = style.rows(names, told)
    for place, each in enumerate(reversed(layers)):
        axes.barh(
            place,
            each["ns"] / 1e6,
            height=0.26,
            color="none" if each["role"] in _MOVES else _tint(each),
            edgecolor=_tint(each),
            hatch="////" if each["role"] in _MOVES else None,
            linewidth=1.2,
        )
        if each["name"] in islands:
            axes.plot([each["ns"] / 1e6], [place], "d", color=style.FAIL, markersize=6)
    axes.set_xlim(0, max(each["ns"] for each in layers) / 1e6 * 1.05 or 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.set_xlabel("milliseconds of one inference")
    used = sorted({each["precision"] for each in layers})
    keys = [style.key(each, _tint({"precision": each}), glyph="■") for each in used]
    if any(each["role"] in _MOVES for each in layers):
        keys.append(style.key("converts or copies", style.INK, glyph="▨"))
    if any(each["name"] in islands for each in layers):
        keys.append(style.key("float island", style.FAIL, glyph="◆"))
    words = "; ".join(
        f"{_tag(each, islands)}{each['name']} ({each['precision']}): {mine}"
        for each, mine in zip(layers, told, strict=True)
    )
    return Drawing(figure, f"layers of {engine}", words + ".", tuple(keys))


def longest(profile: Row) -> list[Row]:
    """The layers that took longest, the longest first."""
    return sorted(profile["layers"], key=lambda each: (-each["ns"], each["name"]))[:_SHOWN]


def placed(profile: Row) -> list[tuple[float, float, Row]]:
    """Layers whose work is known: MACs by byte, MACs by second, and the layer, the longest 40."""
    known = [
        each for each in profile["layers"] if each.get("macs") and each.get("bytes") and each["ns"]
    ]
    return [
        (each["macs"] / each["bytes"], each["macs"] / (each["ns"] / 1e9), each)
        for each in sorted(known, key=lambda each: -each["ns"])[:_POINTS]
    ]


def ceiling(roof: Row, precision: str, intensity: float) -> float | None:
    """The MACs a second that the machine allows a layer; None for an unmeasured precision."""
    peak = (roof.get("macs_per_s") or {}).get(precision)
    reach = roof.get("bytes_per_s")
    return None if not peak or not reach else min(float(peak), intensity * float(reach))


@style.drawn
def roofline(engine: str, profile: Row) -> Drawing:
    """Each layer's speed against its work by byte, beneath what the machine reached at best."""
    points, roof = placed(profile), profile["roof"]
    peaks: Mapping[str, float] = roof["macs_per_s"]
    reach = roof["bytes_per_s"]
    figure, axes = style.canvas(3.0, "GMAC/s")
    left = min(x for x, _, _ in points) / 2
    right = max(*(x for x, _, _ in points), *(peak / reach for peak in peaks.values())) * 3
    lowest = min(y for _, y, _ in points) / 1e9 / 2
    style.logarithmic(axes.xaxis, left, right)
    highest = max(*(y for _, y, _ in points), *peaks.values()) / 1e9 * 2
    style.logarithmic(axes.yaxis, lowest, highest)
    keys = []
    for place, (precision, peak) in enumerate(sorted(peaks.items())):
        knee = peak / reach
        axes.plot(
            [left, knee, right] if knee > left else [left, right],
            [each / 1e9 for each in ([left * reach, peak, peak] if knee > left else [peak, peak])],
            color=_tint({"precision": precision}),
            linestyle=style.DASHES[place % len(style.DASHES)],
            linewidth=1.5,
        )
        keys.append(
            style.key(
                f"{precision}: {figures.count(peak)} MAC/s",
                _tint({"precision": precision}),
                style.DASHES[place % len(style.DASHES)],
            )
        )
    longest_ns = max(each["ns"] for _, _, each in points)
    for x, y, each in points:
        axes.plot(
            [x],
            [y / 1e9],
            style.MARKS.get(each["precision"], style.OTHER_MARK)[0],
            color=_tint(each),
            markersize=3 + 6 * (each["ns"] / longest_ns) ** 0.5,
            alpha=0.85,
        )
    for precision in sorted({each["precision"] for _, _, each in points}):
        glyph = style.MARKS.get(precision, style.OTHER_MARK)[1]
        keys.append(
            style.key(f"layers in {precision}", _tint({"precision": precision}), glyph=glyph)
        )
    axes.set_xlabel("MACs by byte; larger marks take longer")
    words = _of_the_roof(points, roof)
    return Drawing(figure, f"roofline of {engine}", words, tuple(keys))


def _of_the_roof(points: Sequence[tuple[float, float, Row]], roof: Row) -> str:
    told = [
        f"{each['name']}: {figures.count(y)} MAC/s at {x:.3g} MACs by byte"
        + (
            f", {figures.percent(y / top)} of its roof"
            if (top := ceiling(roof, each["precision"], x))
            else ""
        )
        for x, y, each in sorted(points, key=lambda each: -each[2]["ns"])[:_SHOWN]
    ]
    peaks = ", ".join(
        f"{figures.count(peak)} MAC/s in {name}"
        for name, peak in sorted(roof["macs_per_s"].items())
    )
    return (
        f"With {roof['threads']} thread{'s' * (roof['threads'] > 1)} this machine reached {peaks}"
        f" and {figures.size(roof['bytes_per_s'])}/s. " + "; ".join(told) + "."
    )


def _tag(layer: Row, islands: set[str]) -> str:
    if layer["name"] in islands:
        return "island: "
    return f"{layer['role']}: " if layer["role"] in _MOVES else ""


def _tint(layer: Row) -> str:
    return style.colour(_TINTS.get(layer["precision"], 6))
