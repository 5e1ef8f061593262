"""A report as Markdown for a pull request: plain text and tables, no HTML that GitHub strips."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekd.report import shape
from edgekd.report.tables import engines as measured
from edgekd.report.tables.base import Cell, Table

LIMIT = 65_536
"""Characters that GitHub takes in a comment."""
SIGNS = {"pass": "✅", "fail": "❌", "insufficient": "⚠️"}
_ROOM = 60_000  # for the lines; what follows them is short
_COMMAND = 2_000
_TEXT = 600
_MARKUP = re.compile(r"([\\`*_\[\]<>#|~@&$])")


def markdown(facts: Mapping[str, Any]) -> str:
    """The verdict, the engines in a table, and what is to be noted; below 65,536 characters."""
    found = shape.complete(facts)
    verdict, shown = found["verdict"], measured.engines(found)
    lines = [
        f"### {SIGNS[verdict['status']]} {code(found['name'])}: {verdict['status'].upper()}",
        "",
        *([text(line), ""] if (line := shape.headline(verdict)) else []),
        *_reasons(verdict),
        "",
        *table(shown),
        "",
        *(["In brackets 95 % intervals.", ""] if has_intervals(shown) else []),
        *(f"- {text(note)}" for note in found["notes"]),
        "",
        *_measured(found),
    ]
    return bounded(lines)


def bounded(lines: Sequence[str]) -> str:
    """Lines as one text that GitHub takes: what is too much is left out, and that is said."""
    kept: list[str] = []
    size = 0
    for place, line in enumerate(lines):
        size += len(line) + 1
        if size > _ROOM:
            kept += ["", f"…and {len(lines) - place:,} lines more in the report."]
            break
        kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip() + "\n"


def table(found: Table) -> list[str]:
    """A table in GitHub's Markdown, the best line in bold."""
    first, *rest = found.headings
    rows = [
        f"| {' | '.join(text(each) for each in (first, *rest))} |",
        f"|:--{'|--:' * len(rest)}|",
    ]
    for line in found.lines:
        named, *cells = line.cells
        told = [_bold(text(_joined(each)), line.best) for each in cells]
        rows.append(f"| {' | '.join((_bold(code(named.text), line.best), *told))} |")
    return rows


def has_intervals(found: Table) -> bool:
    """Whether a figure of a table has its interval beside it."""
    return any(cell.under.startswith("[") for line in found.lines for cell in line.cells)


def text(value: str) -> str:
    """Text that stays text: nothing in it is markup, a mention or a new line."""
    return _MARKUP.sub(r"\\\1", _one_line(value)).replace("\\@", "@\N{WORD JOINER}")


def code(value: str) -> str:
    """A name as code, in which nothing is markup; for a table too."""
    return f"`{_one_line(value).replace('`', chr(39)).replace('|', '¦')}`"


def fenced(value: str) -> list[str]:
    """A command as a block of code that it cannot end."""
    fence = "`" * max(3, 1 + max((len(each) for each in re.findall("`+", value)), default=0))
    return [f"{fence}sh", *value[:_COMMAND].splitlines(), fence]


def _reasons(verdict: Mapping[str, Any]) -> Iterator[str]:
    for each in verdict["criteria"]:
        yield f"- {SIGNS[each['status']]} {text(each['name'])}: {text(each['reason'])}"
    if not verdict["criteria"]:
        yield from (f"- {text(each)}" for each in verdict["reasons"])


def _measured(facts: Mapping[str, Any]) -> Iterator[str]:
    """Where and how it was measured."""
    host, bench = facts["host"], facts["bench"]
    threads = f"{bench['threads']} thread{'s' * (bench['threads'] > 1)}"
    if host.get("cpu"):
        yield text(f"Measured on {host['cpu']}, {threads}, {bench['scenario']}.")
        yield ""
    if facts["command"]:
        yield from fenced(facts["command"])


def _joined(cell: Cell) -> str:
    between = " " if cell.under.startswith("[") else ", "
    return f"{cell.text}{between}{cell.under}" if cell.under else cell.text


def _bold(value: str, is_best: bool) -> str:
    return f"**{value}**" if is_best else value


def _one_line(value: str) -> str:
    return " ".join(value.split())[:_TEXT]
