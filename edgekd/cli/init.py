"""``edgekd init``"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click


@click.command()
@click.argument(
    "path", type=click.Path(path_type=Path, dir_okay=False), default=Path("recipe.toml")
)
def init(path: Path) -> int:
    """Write a recipe to start from, with every key at its default, to PATH (recipe.toml)."""
    from edgekd.errors import RecipeError

    text = (files("edgekd.cli") / "recipe.toml").read_text("utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RecipeError("exists already", "name another file", path=str(path)) from None
    except OSError as error:
        raise RecipeError(f"cannot be written: {error.strerror}", path=str(path)) from error
    click.echo(f"{path}: edit it, then run `edgekd build {path}`")
    return 0
