"""Sizes and shapes on the command line."""

from __future__ import annotations

import math
import re

import click

_LEAST, _MOST = 1e-6, 1e9
_UNITS = {"": 1.0, "b": 1e-6, "kb": 1e-3, "mb": 1.0, "gb": 1e3}
_IN_1024 = {"kib": 2**10 / 1e6, "mib": 2**20 / 1e6, "gib": 2**30 / 1e6}


def positive(value: str) -> float:
    """A time, or a rate: above nought, and such that a clock's nanoseconds can count it.

    Raises:
        BadParameter: it is none.
    """
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not _LEAST <= number <= _MOST:
        raise click.BadParameter(f"{value!r} is no number from {_LEAST:g} to {_MOST:g}")
    return number


def megabytes(value: str) -> float:
    """``4``, ``4MB``, ``512kB`` or ``1.5GiB`` in 10⁶ bytes.

    Raises:
        BadParameter: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-zA-Z]*)\s*", value)
    units = {**_UNITS, **_IN_1024}
    if found is None or found[2].lower() not in units or float(found[1]) == 0:
        raise click.BadParameter(f"{value!r} is no size; give one such as 4MB, 512kB or 1.5GiB")
    return float(found[1]) * units[found[2].lower()]


def shape(value: str) -> tuple[str, tuple[int, ...]]:
    """``3,224,224`` or ``INPUT=3,224,224``: a name, empty if none, and the dimensions.

    Raises:
        BadParameter: it is no shape.
    """
    name, equals, numbers = value.rpartition("=")
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", numbers) or (equals and not name):
        raise click.BadParameter(f"{value!r} is no shape; give one such as image=3,224,224")
    return name, tuple(int(each) for each in numbers.split(","))
