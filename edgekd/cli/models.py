"""``edgekd students`` and ``edgekd teachers``"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from edgekd.cli import out

_SHAPE, _CLASSES = (1, 28, 28), 10


@click.command()
@out.json_option
def students(as_json: bool) -> int:
    """List the built-in students with their cost at 1×28×28 and ten classes."""
    from edgekd import models

    return _show(models.STUDENTS, as_json)


@click.command()
@out.json_option
def teachers(as_json: bool) -> int:
    """List the built-in teachers with their cost at 1×28×28 and ten classes."""
    from edgekd import models

    return _show(models.TEACHERS, as_json)


def _show(names: Iterable[str], as_json: bool) -> int:
    from edgekd import models
    from edgekd.backends.base import find, require

    require(find("torch"))
    rows: list[dict[str, Any]] = []
    for name in names:
        params, macs = models.cost(models.create(name, _CLASSES, _SHAPE[0]), _SHAPE)
        rows.append({"name": name, "params": params, "macs": macs})
    if as_json:
        out.document(rows)
        return 0
    out.table(
        ("name", "parameters", "MACs"),
        [(each["name"], f"{each['params']:,}", f"{each['macs']:,}") for each in rows],
    )
    return 0
