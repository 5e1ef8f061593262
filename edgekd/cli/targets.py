"""``edgekd targets``"""

from __future__ import annotations

import dataclasses

import click

from edgekd.cli import out


@click.command()
@out.json_option
def targets(as_json: bool) -> int:
    """List what engines can be built for."""
    from edgekd import targets as profiles

    loaded = [profiles.load(name) for name in profiles.names()]
    if as_json:
        out.document([dataclasses.asdict(each) for each in loaded])
        return 0
    for each in loaded:
        click.echo(f"{each.name:18} {'+'.join(each.precisions):10} {each.summary}")
    return 0
