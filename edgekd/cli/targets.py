"""``edgekd targets``"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from edgekd.cli import out

if TYPE_CHECKING:
    from edgekd.targets import Target


@click.command()
@click.argument("name", required=False)
@out.json_option
def targets(name: str | None, as_json: bool) -> int:
    """List what engines can be built for, or show one target with where its facts are from."""
    from edgekd import targets as profiles

    loaded = [profiles.load(each) for each in ([name] if name else profiles.names())]
    if as_json:
        shown = [dataclasses.asdict(each) for each in loaded]
        out.document(shown[0] if name else shown)
    elif name:
        _show(loaded[0])
    else:
        _list(loaded)
    return 0


def _list(loaded: list[Target]) -> None:
    text = ("library", "SM", "precisions", "built", "for")
    out.table(
        ("target", *text[:-1], "GiB", "for"),
        [
            (
                each.name,
                each.backend,
                _first(_capabilities(each)),
                " ".join(each.precisions),
                _where(each),
                f"{each.memory_mib / 1024:.0f}" if each.memory_mib else "-",
                each.summary,
            )
            for each in loaded
        ],
        words=text,
    )
    click.echo("built there: on the device alone; here: on the GPU here, for it; any: anywhere")
    click.echo("GiB: of the smallest one sold; `edgekd targets NAME` shows all of one")


def _show(target: Target) -> None:
    rows = [
        ("for", target.summary),
        ("library", target.backend),
        ("device", target.device),
        ("SM", ", ".join(_capabilities(target))),
        ("precisions", " ".join(target.precisions)),
        ("int8 form", target.form and f"{target.form}, over {target.base}"),
        ("built", target.built),
        ("memory", f"{target.memory_mib} MiB" if target.memory_mib else ""),
    ]
    rows += [(name, _text(value)) for name, value in sorted(target.options.items())]
    click.secho(target.name, bold=True)
    for name, value in rows:
        click.echo(f"  {name:21} {value or '-'}")
    click.echo("sources" if target.sources else "sources: none")
    for each in target.sources:
        title, _, address = each.rpartition(", ")
        click.echo(f"  {title}\n    {address}")


def _capabilities(target: Target) -> list[str]:
    """The compute capabilities of its GPUs, such as ``8.7``; none for a CPU or any GPU."""
    names = [each.removeprefix("sm_") for each in target.device.split("+") if "sm_" in each]
    return [f"{each[:-1]}.{each[-1]}" for each in names]


def _where(target: Target) -> str:
    if target.device == "cuda" and "provider" not in target.options:
        return "here"
    return "any" if target.built == "anywhere" else "there"


def _first(values: list[str]) -> str:
    """The first, and how many more there are."""
    return f"{values[0]} +{len(values) - 1}" if len(values) > 1 else "".join(values) or "-"


def _text(value: tuple[str, ...] | int | str | bool) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
