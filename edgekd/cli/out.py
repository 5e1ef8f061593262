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
    """Prints a table; the first column to the left, the others to the right."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for place, heading in enumerate(headings):
        drawn.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False, markup=False).print(drawn)


def engines(rows: Sequence[Mapping[str, Any]], preferred: str = "") -> None:
    """Prints the engines of a report or a measurement."""

    def ms(value: float) -> str:
        return f"{value / 1e6:.3g}"

    def shown(value: Any, text: str) -> str:
        return "-" if value is None else text.format(value)

    table(
        ("engine", "p50 ms", "p99 ms", "images/s", "× teacher", "top-1 %", "size kB", ""),
        [
            (
                row["name"],
                ms(row["latency_ns"]["p50"]) if row["latency_ns"] else "-",
                ms(row["latency_ns"]["p99"]) if row["latency_ns"] else "-",
                shown(row["throughput_per_s"] and row["throughput_per_s"]["1"], "{:,.0f}"),
                shown(row["speedup_vs_teacher"], "{:.2f}"),
                shown(row["top1"], "{:.2f}"),
                f"{row['bytes'] / 1e3:,.1f}",
                "preferred"
                if row["name"] == preferred
                else ""
                if row["executed"]
                else "built, not executed",
            )
            for row in rows
        ],
    )
