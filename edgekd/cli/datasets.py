"""``edgekd datasets``"""

from __future__ import annotations

import click

from edgekd.cli import out


@click.command()
@out.json_option
def datasets(as_json: bool) -> int:
    """List the built-in data sources."""
    from edgekd import data

    sources = [data.open_source(name) for name in data.SOURCES]
    if as_json:
        out.document(
            [
                {
                    "name": each.name,
                    "shape": each.shape,
                    "classes": each.classes,
                    "licence": each.licence,
                }
                for each in sources
            ]
        )
        return 0
    out.table(
        ("name", "image", "classes", "licence"),
        [
            (each.name, "×".join(map(str, each.shape)), str(len(each.classes)), each.licence)
            for each in sources
        ],
    )
    return 0
