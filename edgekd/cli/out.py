"""Results on stdout: a table, or one JSON document."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead of text."
)
COLUMNS = 100
"""What a table with words fits."""
bundle_argument = click.argument("bundle", metavar="BUNDLE")


def document(value: Any) -> None:
    """Prints one JSON document."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))


def file(path: Path, text: str) -> None:
    """Writes a file that the user named.

    Raises:
        RecipeError: it cannot be written.
    """
    from edgekd.errors import RecipeError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot be written: {error.strerror}", path=str(path)) from error


def further(facts: Mapping[str, Any], junit: Path | None, markdown: Path | None) -> None:
    """Writes a report in the other forms that were asked for."""
    if junit is not None:
        from edgekd.report.junit import junit as as_junit

        file(junit, as_junit(facts))
    if markdown is not None:
        from edgekd.report.markdown import markdown as as_markdown

        file(markdown, as_markdown(facts))


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[str] = ()
) -> None:
    """Prints a table, and cuts nothing: a narrower terminal breaks the lines.

    Args:
        headings: of the columns.
        rows: their cells.
        words: the columns, by heading, that go to the left as the first one does. The last one of
            the table, if it is among them, is wrapped at 100 columns.
    """
    columns = list(zip(headings, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    before = sum(widths[:-1]) + 2 * len(widths[:-1])
    if headings[-1] in words:
        widths[-1] = min(widths[-1], max(COLUMNS - before, 20))
    for row in (headings, *rows):
        last = list(row[-1:])
        if headings[-1] in words:
            last = textwrap.wrap(row[-1], widths[-1], break_on_hyphens=False) or [""]
        cells = (*row[:-1], last[0])
        line = "  ".join(
            cell.ljust(width) if heading in (headings[0], *words) else cell.rjust(width)
            for heading, cell, width in zip(headings, cells, widths, strict=True)
        ).rstrip()
        click.echo(click.style(line, bold=True) if row is headings else line)
        for more in last[1:]:
            click.echo(" " * before + more)


def engines(rows: Sequence[Mapping[str, Any]], preferred: str = "") -> None:
    """Prints the engines of a report or a measurement, in 80 columns."""

    def ms(row: Mapping[str, Any], name: str) -> str:
        return f"{row['latency_ns'][name] / 1e6:.3g}" if row["latency_ns"] else "-"

    def shown(value: Any, text: str) -> str:
        return "-" if value is None else text.format(value)

    table(
        ("  engine", "p50 ms", "p99 ms", "img/s", "speed-up", "top-1", "kB"),
        [
            (
                f"{'*' if row['name'] == preferred else ' '} {row['name']}",
                ms(row, "p50"),
                ms(row, "p99"),
                shown(
                    next(iter((row["throughput_per_s"] or {}).values()), None),
                    "{:,.0f}",
                ),
                shown(row["speedup_vs_teacher"], "{:.2f}"),
                shown(row["top1"], "~{:.2f}" if row["emulated"] else "{:.2f}"),
                f"{row['bytes'] / 1e3:,.0f}",
            )
            for row in rows
        ],
    )
    click.echo("* preferred; speed-up: of p50, against the teacher in the same runtime")
    if any(row["emulated"] for row in rows):
        click.echo("~ emulated: a graph that rounds as the engine does was run on this CPU")
    for told, names in (
        ("built, not executed here", [row["name"] for row in rows if is_unrun(row)]),
        ("to be built on the device", [row["name"] for row in rows if not row["built"]]),
    ):
        if names:
            click.echo(f"{told}: {', '.join(names)}")


def is_unrun(row: Mapping[str, Any]) -> bool:
    """Whether an engine was built and could not be run."""
    return bool(row["built"] and not row["executed"])
