"""What the documents hold, for the tests that hold them to it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click

from edgekd.cli import COMMANDS, cli
from edgekd.quantize.lint.rule import SEVERITIES, LintRule
from tests.conftest import ROOT

DOCUMENTS = sorted(
    each
    for each in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("benchmarks/*/*.md"))
    if not each.is_relative_to(ROOT / "build")
)


def blocks(document: Path, language: str) -> list[str]:
    """The blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


def commands(*documents: Path) -> list[list[str]]:
    """Every command, comments taken off."""
    return [
        words
        for document in documents
        for block in blocks(document, "sh")
        for line in block.splitlines()
        if (words := shlex.split(line, comments=True))
    ]


def parse(words: list[str]) -> dict[str, Any]:
    """The parameters of an ``edgekd`` command, which is known and takes all that it is given."""
    with click.Context(cli) as context:
        name, command, rest = cli.resolve_command(context, words)
        assert name in COMMANDS
        assert command is not None
        return command.make_context(name, rest).params


def lint_row(rule: LintRule) -> str:
    """A lint rule as a row of the table in docs/quantisation.md."""
    concerned = {
        severity: ", ".join(
            each.replace(":", " (") + ")" * (":" in each)
            for each, found in rule.severity.items()
            if found == severity
        )
        for severity in SEVERITIES
    }
    whom = "; ".join(f"{severity}: {names}" for severity, names in concerned.items() if names)
    mend = rule.mend.format(target="NAME")
    return f"| {rule.id} | {rule.what} | {whom} | {rule.why} | {mend} |"
