"""Profiles as ``report.json`` holds them: the layers that matter, and what the rest add up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from edgekd.measurements import Profile

_LAYERS = 80
_NODES = 4


def profiles(found: Mapping[str, Profile]) -> dict[str, Any]:
    """Profiles by engine.

    Returns:
        of each ``total_ns``; ``layers``: the 80 that took longest, in the order in which they
        ran, with ``place`` in it; ``count`` of all layers; ``by_precision`` and ``by_role``:
        nanoseconds of all of them; ``islands`` and ``roof``.
    """
    return {name: _profile(each) for name, each in found.items()}


def _profile(found: Profile) -> dict[str, Any]:
    order = sorted(range(len(found.layers)), key=lambda place: -found.layers[place].ns)
    by: dict[str, dict[str, int]] = {"precision": {}, "role": {}}
    for each in found.layers:
        for what, totals in by.items():
            value = getattr(each, what)
            totals[value] = totals.get(value, 0) + each.ns
    kept = sorted(order[:_LAYERS])
    names = {found.layers[place].name for place in kept}
    return {
        "total_ns": found.total_ns,
        "count": len(found.layers),
        "layers": [
            {
                **asdict(found.layers[place]),
                "nodes": list(found.layers[place].nodes[:_NODES]),
                "place": place,
            }
            for place in kept
        ],
        "by_precision": by["precision"],
        "by_role": by["role"],
        "islands": [each for each in found.islands if each in names],
        "roof": None if found.roof is None else asdict(found.roof),
    }
