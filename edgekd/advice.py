"""Which precision to ship on each target, and why. Pure functions of report rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekd.verdict import BASELINE

if TYPE_CHECKING:
    from edgekd.backends.tensorrt.inspector import Inspection

_PRECISIONS = ("fp32", "fp16", "int8", "fp8")
"""From the highest to the lowest, which costs accuracy: it is shipped for its speed alone."""

Line = Mapping[str, Any]


def advise(lines: Sequence[Line], inspections: Mapping[str, Inspection] | None = None) -> list[str]:
    """Sentences on the student's engines, target by target in the order of the lines.

    A lower precision counts as faster where its median latency is lower and the intervals of
    both medians lie apart; each is held against the fastest of the higher ones.

    Args:
        lines: as ``verdict.row`` makes them.
        inspections: of engines by their names, where there are any: why int8 did not help.
    """
    targets: dict[str, dict[str, Line]] = {}
    for line in lines:
        if line["role"] == "student" and line["target"] != BASELINE:
            targets.setdefault(line["target"], {})[line["precision"]] = line
    said = []
    for target, engines in targets.items():
        ordered = [engines[each] for each in _PRECISIONS if each in engines]
        said += _on(target, ordered, inspections or {}) if ordered else []
    return said


def _on(target: str, lines: Sequence[Line], inspections: Mapping[str, Inspection]) -> list[str]:
    """Sentences on one target's engines, which come from the highest precision to the lowest."""
    if not any(each["executed"] for each in lines):
        return [f"nothing is known of speed on {target}: no engine could be run here"]
    said = [
        f"nothing is known of the speed of {each['precision']} on {target}: its engine could not"
        " be run here"
        for each in lines
        if not each["executed"]
    ]
    timed = [each for each in lines if each["latency_ns"]]  # one target's, so of one batch
    for place, lower in enumerate(timed[1:], 1):
        best = _fastest(timed[:place])
        said.append(_compared(lower, best, target, inspections.get(lower["name"])))
        if place == len(timed) - 1 and _told(lower, best) and not _faster(lower, best):
            said[-1] += f": ship {best['precision']}"
    return said


def _fastest(lines: Sequence[Line]) -> Line:
    """The highest precision that no lower one was told to be faster than."""
    best = lines[0]
    for each in lines[1:]:
        best = each if _faster(each, best) else best
    return best


def _told(one: Line, other: Line) -> bool:
    """Whether both have samples enough for an interval of the median."""
    return bool(one["interval_ns"]["p50"] and other["interval_ns"]["p50"])


def _faster(one: Line, other: Line) -> bool:
    """Whether one engine's median was told to be lower than the other's."""
    return _told(one, other) and one["interval_ns"]["p50"][1] < other["interval_ns"]["p50"][0]


def _compared(lower: Line, best: Line, target: str, inspection: Inspection | None) -> str:
    precision, other = lower["precision"], best["precision"]
    if not _told(lower, best):
        return f"too few samples to tell whether {precision} is faster than {other} on {target}"
    ratio = lower["latency_ns"]["p50"] / best["latency_ns"]["p50"]
    accuracy = _accuracy(lower)
    if _faster(lower, best):
        return f"{precision} is {1 / ratio:.2f}× as fast as {other} on {target}{accuracy}"
    facts = [f"{ratio:.2f}× its latency" + (", intervals overlap" if ratio < 1 else "")]
    facts += _inside(precision, inspection)
    return f"{precision} is not faster than {other} on {target} ({'; '.join(facts)}){accuracy}"


def _inside(precision: str, inspection: Inspection | None) -> list[str]:
    """What the engine's layers say about it, where anything."""
    if inspection is None:
        return []
    facts = []
    layers = sum(inspection.by_precision.values())
    runs = inspection.by_precision.get(precision, 0)
    if "unknown" not in inspection.by_precision and runs < layers:
        facts.append(f"{runs} of its {layers} compute layers run in {precision}")
    if inspection.reformats:
        facts.append(f"{inspection.reformats} reformats")
    return facts


def _accuracy(lower: Line) -> str:
    """What the lower precision costs, where its loss to the fp32 student can be told from none.

    That difference is paired by image; two losses to the teacher, one told from none and one not,
    would say nothing of the difference between them.
    """
    if lower["to_student"] is None:
        return ""
    delta, low, high = lower["to_student"]
    if high >= 0:
        return ""
    return f", and loses {-delta:.2f} points [{-high:.2f}, {-low:.2f}] to the fp32 student"
