"""Charts as inline SVG: small, the same bytes for the same figures, legible in light and dark.

They are drawn as wide as a phone, so that their letters can be read there; a page sets them side
by side. Colours are the page's own variables, which are others in the dark and on paper.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from html import escape
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

INK, QUIET, FAIL, PAPER = "#010203", "#040506", "#070809", "#0c0d0e"
_SERIES = tuple(f"#0a0b{each:02x}" for each in range(8))
_VARIABLES = {
    INK: "currentColor",
    QUIET: "var(--quiet)",
    FAIL: "var(--fail)",
    PAPER: "var(--paper)",
    **{colour: f"var(--c{place})" for place, colour in enumerate(_SERIES)},
}
"""What stands for the page's colours while it is drawn, and what is put in its place."""

PALETTE = {
    "light": (
        "#1f6fc4", "#b8500f", "#1b7a50", "#a33d80", "#77681a", "#5a55c4", "#4b5563", "#147985",
    ),
    "dark": (
        "#6aaef5", "#f0945a", "#4cc38a", "#e083bb", "#cdbb5a", "#a6a2f2", "#aab4c0", "#5cc5cf",
    ),
}  # fmt: skip
"""--c0 to --c7: 3 to 1 and more to the paper, in each scheme."""

DASHES = ("solid", "dashed", "dotted", "dashdot")
MARKS = {
    "fp32": ("o", "●", "○"),
    "int8": ("s", "■", "□"),
    "fp16": ("D", "◆", "◇"),
    "fp8": ("^", "▲", "△"),
}
OTHER_MARK = ("v", "▼", "▽")
"""For matplotlib, and for a legend: full, and hollow."""
WIDTH = 4.0  # inches; 288 units
FONT = 9.0  # units, which a phone makes 10 pixels
_ROW = 0.44
_ROOM = 52  # letters of a row's name and figures together
_NUMBER = re.compile(r"(-?\d+\.\d\d)\d+")
_DRAWN = re.compile(r'\b(d|x|y|transform|points)="[^"]*"')
_BEHIND = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.2}
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "text.parse_math": False,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Key:
    """One line of a legend: a stroke, or a mark where ``glyph`` is given."""

    text: str
    colour: str
    dash: str = "solid"
    glyph: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure that is yet to become SVG; see ``Chart``."""

    figure: Figure
    label: str
    told: str
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A chart on a page.

    Attributes:
        label: what it is called; of one page no two are the same.
        svg: the element.
        told: its figures in words.
        keys: its legend.
    """

    label: str
    svg: str
    told: str
    keys: tuple[Key, ...]


def drawn(draw: Callable[P, Drawing]) -> Callable[P, Chart]:
    """Makes a function that draws with matplotlib one that gives a chart."""

    @wraps(draw)
    def chart(*args: P.args, **kwargs: P.kwargs) -> Chart:
        import matplotlib as mpl

        with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
            # The browser's own fonts have the letters that matplotlib's lacks.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            found = draw(*args, **kwargs)
            return Chart(found.label, _svg(found.figure, found.label), found.told, found.keys)

    return chart


def colour(place: int) -> str:
    """One of eight, for drawing."""
    return _SERIES[place % len(_SERIES)]


def variable(drawn_with: str) -> str:
    """The page's colour for one that was drawn with."""
    return _VARIABLES[drawn_with]


def stroke(place: int) -> tuple[str, str]:
    """Colour and dash of the n-th of many lines: 32 that differ."""
    return colour(place), DASHES[place // len(_SERIES) % len(DASHES)]


def key(text: str, drawn_with: str, dash: str = "solid", glyph: str = "") -> Key:
    """A legend's line for what was drawn in a colour."""
    return Key(text, variable(drawn_with), dash, glyph)


def short(name: str, most: int) -> str:
    """The end of a name, which tells more than its beginning."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def canvas(height: float, what: str = "", left: float = 0.5) -> tuple[Figure, Axes]:
    """A figure of this many inches, with axes; ``what`` goes up is written above them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    top = 0.36 if what else 0.2
    axes = figure.add_axes(
        (left / WIDTH, 0.5 / height, 1 - (left + 0.12) / WIDTH, 1 - (0.5 + top) / height)
    )
    dress(axes)
    if what:
        figure.text(0.02, 1 - 0.06 / height, what, fontsize=FONT, color=INK, va="top")
    return figure, axes


def dress(axes: Axes) -> None:
    """Ink, ticks and a faint grid."""
    axes.tick_params(colors=INK, labelsize=FONT, length=3)
    axes.tick_params(which="minor", length=0)
    axes.xaxis.label.set(color=INK, fontsize=FONT)
    axes.yaxis.label.set(color=INK, fontsize=FONT)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)
    axes.grid(color=QUIET, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def rows(names: list[str], figures: list[str]) -> tuple[Figure, Axes]:
    """A chart of rows, the first on top: a name and its figures, and room for marks below them.

    Row i has its marks at ``len(names) - 1 - i``.
    """
    n = len(names)
    figure, axes = canvas(0.75 + _ROW * n, left=0.22)
    axes.set_ylim(-0.4, n - 0.35)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    across = axes.get_yaxis_transform()
    for place, (name, told) in enumerate(zip(names, figures, strict=True)):
        height = n - 1 - place + 0.34
        text: dict[str, Any] = {"va": "center", "color": INK, "transform": across, "fontsize": FONT}
        text["bbox"] = _BEHIND
        axes.text(0, height, short(name, max(12, _ROOM - len(told))), **text)
        axes.text(1, height, told, ha="right", **text)
    return figure, axes


def logarithmic(axis: Any, low: float, high: float) -> None:
    """A log axis with plain numbers on it, a few whatever its span."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    set_scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale
    set_limits = axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim
    set_scale("log")
    set_limits(low, high)
    decades = high / low
    subs: list[float] = [1, 2, 5] if decades < 100 else [1]
    if decades < 4:
        subs = [1, 1.5, 2, 3, 4, 5, 6, 8]
    axis.set_major_locator(LogLocator(subs=subs, numticks=7 if decades > 1e6 else 30))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def mark_limit(axes: Axes, value: float, text: str, *, vertical: bool = True) -> None:
    """A line that is not to be crossed, with what it is."""
    line = axes.axvline if vertical else axes.axhline
    line(value, color=FAIL, linewidth=1.3, linestyle=(0, (4, 2)))
    if vertical:
        inside = axes.transAxes.inverted()
        right = inside.transform(axes.transData.transform((value, axes.get_ylim()[1])))[0] > 0.6
        axes.annotate(
            text,
            (value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-3 if right else 3, 3),
            textcoords="offset points",
            ha="right" if right else "left",
            color=FAIL,
            fontsize=FONT - 0.5,
            bbox=_BEHIND,
        )
    else:
        axes.annotate(
            text,
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            color=FAIL,
            fontsize=FONT - 0.5,
            bbox=_BEHIND,
        )


def _svg(figure: Figure, label: str) -> str:
    """The figure as an <svg> element that scales with the page and names itself."""
    import matplotlib as mpl

    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    buffer = io.StringIO()
    salt: Any = {"svg.hashsalt": label}
    with mpl.rc_context(salt):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    named = escape(label, quote=True)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        lambda found: (
            f'<svg viewBox="{found[1]}" role="img" aria-label="{named}"'
            ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
            f"<title>{named}</title>"
        ),
        svg,
        count=1,
        flags=re.DOTALL,
    )
    svg = re.sub("|".join(_VARIABLES), lambda found: _VARIABLES[found[0]], svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)  # before matplotlib 3.11
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = _DRAWN.sub(lambda found: _NUMBER.sub(r"\1", found[0]), svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r">\s+<", "><", svg)
    prefix = re.sub(r"\W+", "-", label)  # ids are the page's, and several charts share it
    svg = re.sub(r' id="([^"]+)"', rf' id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
