"""EdgeKD: a teacher, data and a latency budget go in; an int8 engine that fits comes out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.bundle import Bundle as Bundle
    from edgekd.pipeline import build as build
    from edgekd.recipe import Recipe as Recipe
    from edgekd.runtime import Engine as Engine
    from edgekd.runtime import load as load

__version__ = "0.1.0"
__all__ = ["Bundle", "Engine", "Recipe", "__version__", "build", "load"]

_HOMES = {
    "Bundle": "edgekd.bundle",
    "Engine": "edgekd.runtime",
    "Recipe": "edgekd.recipe",
    "build": "edgekd.pipeline",
    "load": "edgekd.runtime",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that importing this costs nothing."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edgekd' has no attribute '{name}'")
