"""``edgekd report``"""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgekd.cli import out


@click.command()
@out.bundle_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the page anew from report.json into this file.",
)
@out.json_option
def report(bundle: str, output: Path | None, as_json: bool) -> int:
    """Print a bundle's verdict and engines, or draw its report again."""
    from edgekd import bundle as bundles
    from edgekd.errors import RecipeError

    opened = bundles.read(Path(bundle))
    facts = json.loads(opened.file("report.json").read_text())
    if output is not None:
        from edgekd.report.render import render

        try:
            output.write_text(render(facts), encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"cannot be written: {error.strerror}", path=str(output)) from error
    if as_json:
        out.document(facts)
        return 0
    out.engines(facts["engines"], facts["preferred"])
    click.echo("")
    for reason in facts["verdict"]["reasons"]:
        click.echo(f"  {reason}")
    page = output or opened.root / "report.html"
    click.echo(f"{facts['verdict']['status'].upper()}  {page}")
    return 0
