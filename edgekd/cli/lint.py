"""``edgekd lint``"""

from __future__ import annotations

import re
import textwrap
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekd.cli import out

if TYPE_CHECKING:
    from edgekd.quantize.lint import Finding

_WIDTH = 80
_SHOWN = 6
"""Nodes of one rule in text."""


@click.command()
@click.argument("model", metavar="MODEL.onnx", type=click.Path(path_type=Path))
@click.option("--target", "name", metavar="NAME", required=True, help="Where it is to run.")
@click.option(
    "--sm",
    "capabilities",
    metavar="X.Y",
    multiple=True,
    help="The GPU's compute capability, such as 8.9, in place of the target's; may be repeated.",
)
@click.option("--ignore", metavar="ID", multiple=True, help="A rule to leave out; may be repeated.")
@out.json_option
def lint(
    model: Path, name: str, capabilities: tuple[str, ...], ignore: tuple[str, ...], as_json: bool
) -> int:
    """Tell what TARGET would refuse, get wrong or run slowly in MODEL.onnx, and how to mend it.

    Needs no runtime and no GPU. Exit code 0: nothing of severity error was found; 1: something
    was; 2: an argument is wrong; 4: the file is not an ONNX file.
    """
    from edgekd import targets
    from edgekd.quantize import lint as linter
    from edgekd.quantize.lint.rule import SEVERITIES

    target = targets.load(name)
    _check(capabilities, target.backend)
    findings = linter.lint(model, target, capabilities, ignore)
    counts = {each: sum(found.severity == each for found in findings) for each in SEVERITIES}
    if as_json:
        out.document(
            {
                "model": str(model),
                "target": target.name,
                "sm": list(capabilities),
                "ignored": sorted(set(ignore)),
                "counts": counts,
                "findings": [asdict(each) for each in findings],
            }
        )
    else:
        for _, group in groupby(findings, key=lambda each: (each.severity, each.id)):
            _tell(list(group))
        told = ", ".join(
            f"{count} {each}{'s' if count > 1 else ''}" for each, count in counts.items() if count
        )
        click.echo(f"{model} for {target.name}: {told or 'nothing found'}")
    return 1 if counts["error"] else 0


def _check(capabilities: tuple[str, ...], backend: str) -> None:
    from edgekd.errors import RecipeError

    if capabilities and not backend.startswith("tensorrt"):
        raise RecipeError(f"{backend} does not run on an NVIDIA GPU", "leave it out", path="--sm")
    for each in capabilities:
        if not re.fullmatch(r"\d{1,2}\.\d", each):
            raise RecipeError(f"'{each}' is no compute capability", "write it as 8.9", path="--sm")


def _tell(found: list[Finding]) -> None:
    """One rule: what and why, how to mend it, and where it is so."""
    from edgekd.quantize.lint.rules import BY_ID

    first = found[0]
    heading = f"{first.severity} {first.id}: {BY_ID[first.id].what}"
    _wrapped(heading, "", "  ")
    _wrapped(first.reason, "  ", "  ")
    _wrapped(f"mend: {first.mend}", "  ", "  ")
    for each in found[:_SHOWN]:
        _wrapped(f"{each.node}: {each.detail}" if each.node else each.detail, "    ", "      ")
    if len(found) > _SHOWN:
        click.echo(f"    and {len(found) - _SHOWN} more, which --json names")
    click.echo("")


def _wrapped(text: str, first: str, others: str) -> None:
    click.echo(textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=others))
