"""Charts as inline SVG: small, the same bytes for the same figures, legible in light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#010203"
"""Stands for the page's text colour, which is put in its place."""
_COLOURS = ("#3b7dd8", "#e0702f", "#2e9d6b", "#b8528f", "#8a7a2e", "#6a6fd1", "#c2453d", "#4aa3a8")
_GREY = "#8b929c"
_NAME = 28
_ROLE_COLOURS = {"teacher": _COLOURS[5], "student": _COLOURS[0], "control": _GREY}


def waterfall(stages: Sequence[Mapping[str, Any]]) -> str:
    """Top-1 with its interval, from the teacher down to each int8 engine."""
    figure, axes = _figure(0.9 + 0.42 * len(stages))
    for place, stage in enumerate(reversed(stages)):
        low, high = stage["ci"]
        colour = _COLOURS[5] if stage["stage"] == "teacher" else _COLOURS[0]
        if "without" in stage["stage"]:
            colour = _GREY
        axes.plot([low, high], [place, place], color=colour, linewidth=2.5, solid_capstyle="round")
        axes.plot([stage["top1"]], [place], "o", color=colour, markersize=8)
        axes.annotate(
            f"{stage['top1']:.2f}",
            (high, place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=_INK,
            fontsize=9,
        )
    axes.set_yticks(range(len(stages)), [each["stage"] for each in reversed(stages)])
    axes.set_ylim(-0.6, len(stages) - 0.4)
    axes.margins(x=0.12)
    axes.set_xlabel("top-1 on the test split, %, with its 95 % interval")
    return _svg(figure, "accuracy waterfall")


def latency_bars(engines: Sequence[Mapping[str, Any]], deadline_ns: float | None) -> str:
    """p50 as a bar and p99 as a mark, one line an engine, on a log axis."""
    rows = [each for each in engines if each["latency_ns"]]
    figure, axes = _figure(0.9 + 0.36 * len(rows))
    for place, row in enumerate(reversed(rows)):
        colour = _ROLE_COLOURS[row["role"]]
        p50, p99 = row["latency_ns"]["p50"] / 1e6, row["latency_ns"]["p99"] / 1e6
        axes.barh(place, p50, height=0.55, color=colour)
        axes.plot([p99], [place], "|", color=_INK, markersize=11, markeredgewidth=1.6)
        axes.annotate(
            f"{p50:.3g} / {p99:.3g}",
            (max(p50, p99), place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=_INK,
            fontsize=9,
        )
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [each["name"] for each in reversed(rows)])
    _deadline(axes, deadline_ns)
    axes.margins(x=0.22)
    axes.set_xlabel("milliseconds, batch 1: bar to p50, mark at p99; in figures p50 / p99")
    return _svg(figure, "latency")


def exceedance(engines: Sequence[Mapping[str, Any]], deadline_ns: float | None) -> str:
    """The share of calls that took longer than a latency, log by log: the tail as it was."""
    figure, axes = _figure(3.6)
    for row, colour in zip(
        (each for each in engines if each["latency_ns"]), _COLOURS * 3, strict=False
    ):
        times = [point[0] / 1e6 for point in row["curve"]]
        shares = [point[1] for point in row["curve"]]
        axes.step(
            times,
            shares,
            where="post",
            color=colour,
            linewidth=1.5,
            label=row["name"],
            linestyle="--" if row["role"] == "teacher" else "-",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    _deadline(axes, deadline_ns)
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("share of calls at least this slow")
    axes.legend(
        fontsize=8, frameon=False, labelcolor=_INK, loc="upper left", bbox_to_anchor=(1.01, 1.02)
    )
    return _svg(figure, "latency tail")


def pareto(engines: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy against p50 latency, one point an engine."""
    rows = [each for each in engines if each["latency_ns"] and each["top1"] is not None]
    figure, axes = _figure(3.4)
    for row, colour in zip(rows, _COLOURS * 3, strict=False):
        marker = {"int8": "s", "fp32": "o"}.get(row["precision"], "D")
        axes.plot(
            [row["latency_ns"]["p50"] / 1e6],
            [row["top1"]],
            marker,
            color=colour,
            markersize=8,
            label=row["name"],
        )
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.15)
    axes.set_xlabel("p50 latency, milliseconds")
    axes.set_ylabel("top-1, %")
    axes.legend(
        fontsize=8, frameon=False, labelcolor=_INK, loc="upper left", bbox_to_anchor=(1.01, 1.02)
    )
    return _svg(figure, "accuracy against latency")


def layers(form: str, found: Sequence[Mapping[str, Any]]) -> str:
    """What int8 costs in each of the most sensitive layers, one bar a layer."""
    figure, axes = _figure(0.9 + 0.3 * len(found))
    for place, layer in enumerate(reversed(found)):
        share = "" if not layer["macs_share"] else f", {100 * layer['macs_share']:.1f} % of MACs"
        lost = "" if layer["lost"] is None else f", {0 - layer['lost']:+.2f} points"
        axes.barh(place, layer["sqnr"], height=0.55, color=_COLOURS[0])
        axes.annotate(
            f"{layer['sqnr']:.1f} dB{lost}{share}",
            (max(0.0, layer["sqnr"]), place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=_INK,
            fontsize=9,
        )
    axes.set_yticks(range(len(found)), [_short(each["name"]) for each in reversed(found)])
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.margins(x=0.45)
    axes.set_xlabel("SQNR of the outputs with this layer alone in int8, dB: the lower, the worse")
    return _svg(figure, f"layers of {form}")


def _short(name: str) -> str:
    """The end of a node's name, which tells more than its beginning."""
    return name if len(name) <= _NAME else f"…{name[-_NAME:]}"


def _deadline(axes: Axes, deadline_ns: float | None) -> None:
    if deadline_ns is not None:
        axes.axvline(deadline_ns / 1e6, color=_COLOURS[6], linewidth=1.2, linestyle=":")
        axes.annotate(
            "deadline",
            (deadline_ns / 1e6, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -9),
            textcoords="offset points",
            color=_COLOURS[6],
            fontsize=8,
        )


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(colors=_INK, labelsize=9)
    axes.xaxis.label.set(color=_INK, fontsize=9)
    axes.yaxis.label.set(color=_INK, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GREY)
    axes.grid(axis="x", color=_GREY, alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element that scales with the page and names itself."""
    import matplotlib as mpl

    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    settings: Any = {"svg.hashsalt": title, "svg.fonttype": "none", "font.family": "sans-serif"}
    buffer = io.StringIO()
    with mpl.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{title}" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">',
        svg,
        count=1,
        flags=re.DOTALL,
    )
    prefix = re.sub(r"\W+", "-", title)  # ids are the page's, and several charts share it
    svg = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
