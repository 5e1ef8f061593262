"""Device profiles: one TOML file a target."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files

from edgekd.errors import RecipeError, near_matches

if sys.version_info >= (3, 11):
    import tomllib
else:  # JetPack 6 has Python 3.10
    import tomli as tomllib


@dataclass(frozen=True)
class Target:
    """Where an engine is to run.

    Attributes:
        name: how a recipe names it.
        summary: which devices, in the few words that fit a table.
        backend: the runtime that builds and opens its engines.
        device: what its engines are built for, such as ``cpu`` or ``sm_80+sm_86``; ``cuda`` is
            whichever NVIDIA GPU is here.
        precisions: what it can be built in.
        form: the form of int8 that it takes, by its name in ``quantize.forms``; empty for none.
        base: what an int8 or fp8 network computes in outside of its quantised layers.
        built: where engines can be built: ``anywhere``, or ``on the device``.
        memory_mib: what a small one of its kind has; 0 where that says nothing.
        sources: where these facts are from.
        options: what only its backend knows.
    """

    name: str
    summary: str
    backend: str
    device: str
    precisions: tuple[str, ...]
    form: str = ""
    base: str = "fp32"
    built: str = "anywhere"
    memory_mib: int = 0
    sources: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, ...] | int | str | bool] = field(default_factory=dict)


def names() -> list[str]:
    """Every target, sorted."""
    return sorted(
        each.name.removesuffix(".toml")
        for each in files(__name__).iterdir()
        if each.name.endswith(".toml")
    )


def load(name: str) -> Target:
    """The target of that name.

    Raises:
        RecipeError: there is none; the near matches are named.
    """
    if name not in names():
        raise RecipeError(
            f"no target is called '{name}'", near_matches(name, names()), field="engines.targets"
        )
    table = tomllib.loads((files(__name__) / f"{name}.toml").read_text("utf-8"))
    options = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in table.pop("options", {}).items()
    }
    return Target(
        name=name,
        precisions=tuple(table.pop("precisions")),
        sources=tuple(table.pop("sources", ())),
        options=options,
        **table,
    )
