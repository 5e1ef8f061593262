"""What a caller hands over, judged at the door."""

from __future__ import annotations

import sys
from operator import index
from typing import Any

from edgekd.errors import RecipeError


def whole(what: str, given: Any, least: int = 1, most: int = sys.maxsize) -> int:
    """A whole number of a range, of whatever type counts as one.

    Args:
        what: the argument's name.

    Raises:
        RecipeError: it is none, or outside the range.
    """
    try:
        number = index(given)
    except TypeError as error:
        raise RecipeError(f"{shown(given)} is no whole number", path=what) from error
    if number < least:
        raise RecipeError(f"{shown(number)} is less than {least}", path=what)
    if number > most:
        raise RecipeError(f"{shown(number)} is more than {most}", path=what)
    return number


def instance(what: str, given: Any, kind: type[Any], told: str) -> None:
    """Refuses what is neither None nor of a type, and an empty string.

    Args:
        what: the argument's name.
        told: what it should be.

    Raises:
        RecipeError: saying so.
    """
    if given is not None and (not isinstance(given, kind) or given == ""):
        raise RecipeError(f"{shown(given)} is no {told}", path=what)


def shown(given: Any) -> str:
    """A value in a few words, whatever it is."""
    if given is None or isinstance(given, float):
        return str(given)
    if isinstance(given, int):  # Python writes out none of the largest
        return str(given) if abs(given) <= sys.maxsize else "a number of more than 63 bits"
    return ascii(given) if isinstance(given, str) else f"a {type(given).__name__}"
