"""``edgekd report``"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from edgekd.cli import out

RECORD = "report.json"


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the page anew into this file.",
)
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), help="For a review.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="JUnit XML for CI.")
@out.json_option
def report(
    paths: tuple[str, ...],
    output: Path | None,
    markdown: Path | None,
    junit: Path | None,
    as_json: bool,
) -> int:
    """Print a report's verdict and engines, draw it again, or compare several.

    PATH is a bundle, or a folder that `edgekd bench` kept. Several are held against the first.
    """
    from edgekd.report import shape

    found = [read(Path(each)) for each in paths]
    if len(found) > 1:
        return _compare(found, output, markdown, junit, as_json)
    facts, whole = found[0], shape.complete(found[0])
    if output is not None:
        from edgekd.report.render import render

        out.file(output, render(facts))
    out.further(facts, junit, markdown)
    if as_json:
        out.document(facts)
        return 0
    out.engines(whole["engines"], whole["preferred"])
    click.echo("")
    for reason in whole["verdict"]["reasons"]:
        click.echo(f"  {reason}")
    page = Path(paths[0]) / "report.html"
    drawn = output or (page if page.exists() else Path(paths[0]) / RECORD)
    click.echo(f"{whole['verdict']['headline']}  {drawn}")
    return 0


def read(path: Path) -> Mapping[str, Any]:
    """A bundle's report, its hash checked, or one that `edgekd bench` kept.

    Raises:
        BundleError, CorruptBundle: it is neither, or lacks what a report tells.
    """
    from edgekd import bundle as bundles
    from edgekd.errors import CorruptBundle
    from edgekd.report import shape

    if (path / bundles.MANIFEST).exists() or not (path / RECORD).is_file():
        path = bundles.read(path).file(RECORD)
    else:
        path = path / RECORD
    try:
        facts = json.loads(path.read_text("utf-8"))
        fault = shape.fault(shape.complete(facts))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CorruptBundle(f"{path} is no report ({error})", "measure again") from error
    if fault:
        raise CorruptBundle(f"{path} is no report ({fault})", "measure again")
    return dict(facts)


def _compare(
    found: Sequence[Mapping[str, Any]],
    output: Path | None,
    markdown: Path | None,
    junit: Path | None,
    as_json: bool,
) -> int:
    from edgekd.report.compare import compare
    from edgekd.report.comparison import comparison_markdown, render_comparison

    if junit is not None:
        raise click.UsageError("--junit is of one report: a comparison passes or fails nothing")
    compared = compare(found)
    if output is not None:
        out.file(output, render_comparison(compared))
    text = comparison_markdown(compared)
    if markdown is not None:
        out.file(markdown, text)
    if as_json:
        out.document(compared)
    else:
        click.echo(text)
    return 0
