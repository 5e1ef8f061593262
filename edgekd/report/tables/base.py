"""The report's tables, for a page and for Markdown alike; a column that is empty is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.report import figures
from edgekd.report.figures import NONE


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and smaller beneath it what qualifies that."""

    text: str
    under: str = ""


@dataclass(frozen=True)
class Line:
    """A row; the best one is set apart."""

    cells: tuple[Cell, ...]
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Cells under headings; the first of each row names it."""

    caption: str
    headings: tuple[str, ...]
    lines: tuple[Line, ...]

    def column(self, heading: str) -> list[str]:
        """What stands under a heading."""
        place = self.headings.index(heading)
        return [each.cells[place].text for each in self.lines]


Column = tuple[str, Callable[[Any], Cell | str]]


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Any],
    best: Callable[[Any], bool] = lambda row: False,
) -> Table:
    """A table of rows, without the columns in which there is nothing."""
    cells = [
        [each if isinstance(each, Cell) else Cell(each) for each in (make(row) for row in rows)]
        for _, make in columns
    ]
    told = [
        place
        for place, column in enumerate(cells)
        if not place or any(each.text not in ("", NONE) for each in column)
    ]
    return Table(
        caption,
        tuple(columns[place][0] for place in told),
        tuple(
            Line(tuple(cells[place][number] for place in told), best(row))
            for number, row in enumerate(rows)
        ),
    )


def bounds(ci: Sequence[float] | None) -> str:
    """[98.1, 98.9], of an accuracy; empty where there is none."""
    return f"[{figures.accuracy(ci[0])}, {figures.accuracy(ci[1])}]" if ci else ""


def delta(found: Sequence[float] | None) -> Cell:
    """A difference in points, and its interval."""
    return Cell(NONE) if found is None else Cell(figures.points(found[0]), figures.spread(found))
