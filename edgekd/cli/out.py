"""Results on stdout: a table, or one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead of text."
)
bundle_argument = click.argument("bundle", metavar="BUNDLE")


def document(value: Any) -> None:
    """Prints one JSON document."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; the first column to the left, the others to the right and never cut."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    widths = [max(len(row[place]) for row in (headings, *rows)) for place in range(len(headings))]
    for place, heading in enumerate(headings):
        drawn.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    # A narrower terminal breaks the lines; cut, they would show figures that are others.
    needed = sum(widths) + 2 * (len(widths) - 1)
    shown = Console().width if sys.stdout.isatty() else needed
    Console(width=max(shown, needed), highlight=False, markup=False).print(drawn)


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
                shown(row["throughput_per_s"] and row["throughput_per_s"]["1"], "{:,.0f}"),
                shown(row["speedup_vs_teacher"], "{:.2f}"),
                shown(row["top1"], "~{:.2f}" if row["emulated"] else "{:.2f}"),
                f"{row['bytes'] / 1e3:,.0f}",
            )
            for row in rows
        ],
    )
    click.echo("* preferred; speed-up: of p50, against the teacher in the same runtime")
    if any(row["emulated"] for row in rows):
        click.echo("~ emulated: the engine's Q/DQ graph was run on this CPU")
    if unrun := [row["name"] for row in rows if not row["executed"]]:
        click.echo(f"built, not executed here: {', '.join(unrun)}")
