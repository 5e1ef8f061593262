"""What every result starts with: claim, command, machine, versions."""

from __future__ import annotations

import datetime as dt
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekd.bench import host
from edgekd.store import installed

RESULTS = Path(__file__).parent / "results"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(
    name: str, claim: str, packages: Sequence[str], body: str, folder: Path = RESULTS
) -> Path:
    """Writes and prints ``NAME.md``."""
    facts = host.facts()
    versions = ", ".join(f"{each} {version}" for each, version in installed(packages).items())
    today = dt.datetime.now(tz=dt.timezone.utc).date()
    script = Path(sys.argv[0]).resolve().relative_to(RESULTS.parent.parent.resolve())
    command = shlex.join(["python", script.as_posix(), *sys.argv[1:]])
    machine = (
        f"{today}; {facts['cpu']}, {facts['cores']} cores, {' '.join(facts['flags'])};"
        f" {facts['system']}, Python {facts['python']}; {versions}."
    )
    text = "\n".join([f"# {claim}", "", f"    {command}", "", machine, "", body.strip(), ""])
    path = folder / f"{name}.md"
    path.write_text(text)
    print(text)
    return path
