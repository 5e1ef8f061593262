"""Figures as people read them, the same in the page, in Markdown and in JUnit."""

from __future__ import annotations

from collections.abc import Sequence

NONE = "—"
_MINUS = "\N{MINUS SIGN}"


def milliseconds(nanoseconds: float | None) -> str:
    """Three significant figures: 0.0153, 1.24, 16.7."""
    if nanoseconds is None:
        return NONE
    return plain(nanoseconds / 1e6)


def interval(bounds: Sequence[float] | None) -> str:
    """[1.20, 1.27], of nanoseconds in milliseconds; empty where there is none."""
    return f"[{milliseconds(bounds[0])}, {milliseconds(bounds[1])}]" if bounds else ""


def count(value: float | None) -> str:
    """31.0 M, 18.3 K, 512."""
    if value is None:
        return NONE
    for unit, size_ in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= size_:
            return f"{value / size_:.3g} {unit}"
    return f"{value:.0f}"


def size(value: float | None) -> str:
    """1.08 MB, 85.3 kB; in powers of ten."""
    if value is None:
        return NONE
    for unit, size_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size_:
            return f"{value / size_:.3g} {unit}"
    return f"{value:.0f} B"


def points(value: float | None, digits: int = 2) -> str:
    """+0.04, −1.20."""
    return NONE if value is None else f"{value:+.{digits}f}".replace("-", _MINUS)


def signed(delta: Sequence[float] | None) -> str:
    """+0.04 [−0.11, +0.19]"""
    return NONE if delta is None else f"{points(delta[0])} {spread(delta)}"


def spread(delta: Sequence[float]) -> str:
    """[−0.11, +0.19], of a difference with its interval."""
    return f"[{points(delta[1])}, {points(delta[2])}]"


def ratio(value: float | None) -> str:
    """12.3×"""
    return NONE if value is None else f"{value:.3g}×"


def plain(value: float) -> str:
    """0.123, 61.5, 1,010."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """0.013 %, 12.5 %, of a share."""
    return NONE if share is None else f"{100 * share:.3g} %"


def accuracy(value: float | None) -> str:
    """98.23, of percent."""
    return NONE if value is None else f"{value:.2f}"


def chance(p: float | None) -> str:
    """0.03, < 0.001"""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def whole(value: float | None) -> str:
    """36,000"""
    return NONE if value is None else f"{value:,.0f}"
