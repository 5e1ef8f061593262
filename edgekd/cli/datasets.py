"""``edgekd datasets``"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli import out

if TYPE_CHECKING:
    from edgekd.artifacts import Dataset


@click.command()
@click.argument("source", required=False)
@click.option(
    "--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Any data.* key of a recipe."
)
@out.json_option
def datasets(source: str | None, assignments: tuple[str, ...], as_json: bool) -> int:
    """List the built-in data sources; or prepare SOURCE as a build would, and tell what is in it.

    SOURCE is a built-in name, folder:PATH, npz:PATH or module:function. It is prepared in a
    temporary folder, of which nothing is kept.
    """
    if source is None and assignments:
        raise click.UsageError("--set needs a SOURCE")
    if source is None:
        return _list(as_json)
    prepared = _prepare(source, assignments)
    if as_json:
        out.document(
            {
                "source": prepared.source,
                "licence": prepared.licence,
                "shape": prepared.shape,
                "classes": prepared.classes,
                "sizes": dict(prepared.sizes),
                "preprocessing": asdict(prepared.preprocessing),
                "fingerprint": prepared.fingerprint,
                "audit": dict(prepared.audit),
            }
        )
    else:
        _tell(prepared)
    return 0


def _prepare(source: str, assignments: tuple[str, ...]) -> Dataset:
    from edgekd import data, recipe_file
    from edgekd.cli.watch import watcher
    from edgekd.data.splits import prepare

    settings = recipe_file.load(None, {"data.source": source}, assignments).data
    opened = data.open_source(settings.source)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, watcher() as watching:
        prepared = prepare(settings, opened, Path(folder), watching.begin("data"))
        watching.end("data", False, time.monotonic() - begin)
    return prepared


def _tell(prepared: Dataset) -> None:
    from edgekd.data.audit import SPLITS, lines

    counts = prepared.audit["counts"]
    out.table(
        ("class", *SPLITS),
        [(name, *(f"{counts[split][name]:,}" for split in SPLITS)) for name in prepared.classes],
    )
    click.echo(f"{prepared.source}: {'×'.join(map(str, prepared.shape))}")
    for line in lines(prepared.audit):
        click.echo(line)


def _list(as_json: bool) -> int:
    from edgekd import data

    sources = [data.open_built_in(name) for name in data.SOURCES]
    rows: list[dict[str, Any]] = [
        {
            "name": each.name,
            "shape": each.shape,
            "classes": each.classes,
            "licence": each.licence,
        }
        for each in sources
    ]
    if as_json:
        out.document(rows)
        return 0
    out.table(
        ("name", "image", "classes", "licence"),
        [
            (each.name, "×".join(map(str, each.shape)), str(len(each.classes)), each.licence)
            for each in sources
        ],
    )
    return 0
