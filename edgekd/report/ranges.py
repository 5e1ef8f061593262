"""The calibration as a report tells it: which samples, which tensors are cut, which still move."""

from __future__ import annotations

from typing import Any

from edgekd.artifacts import CalibrationSet, CalibrationTable
from edgekd.calibration import manifest
from edgekd.calibration.audit import STILL
from edgekd.calibration.methods import label

_SHOWN = 12
_CLASSES = 40


def audit(chosen: CalibrationSet, table: CalibrationTable) -> dict[str, Any]:
    """What is to be known of a table before its ranges are trusted.

    Returns:
        ``method``, ``samples``, ``tensors``; ``source``, ``draw``, ``seed`` and ``licence`` of the
        set; ``per_class``: samples by class, the fewest first, and of more than 40 classes the 40
        with the fewest; ``classes``: how many there are; ``clipped``: the tensors of which the
        largest share of values lies outside their range, and ``moved``: those whose range moved
        most in the second half of the samples, 12 each; ``moving``: how many moved by more than
        ``still``; ``tried``: the labels of the methods that were compared.

    Raises:
        CalibrationError: the set cannot be read.
    """
    told = manifest.read(chosen.manifest)
    fewest = sorted(told.per_class.items(), key=lambda each: (each[1], each[0]))
    return {
        "method": label(table.method, table.percentile),
        "samples": table.samples,
        "tensors": len(table.ranges),
        "source": told.source,
        "draw": told.draw,
        "seed": told.seed,
        "licence": told.licence,
        "per_class": dict(fewest[:_CLASSES]),
        "classes": len(told.per_class),
        "clipped": _worst(table, "clipped"),
        "moved": _worst(table, "moved"),
        "moving": sum(each > STILL for each in table.moved.values()),
        "still": STILL,
        "tried": [each.method for each in table.tried],
    }


def _worst(table: CalibrationTable, what: str) -> list[dict[str, Any]]:
    shares = {"clipped": table.clipped, "moved": table.moved}[what]
    order = sorted(shares, key=lambda name: (-shares[name], name))[:_SHOWN]
    return [
        {
            "name": name,
            "share": shares[name],
            "range": list(table.ranges[name]),
            "extremes": list(table.extremes[name]) if name in table.extremes else None,
        }
        for name in order
        if shares[name] > 0
    ]
