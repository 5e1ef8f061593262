"""Reports side by side: what differs in figures, and whether the figures may be compared at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekd.report import figures, shape
from edgekd.report.charts.accuracy import front

Facts = Mapping[str, Any]

SCHEMA = "1.0"
_PERCENTILES = ("p50", "p99")
_SAME_LATENCY = (
    ("processor", lambda facts: facts["host"].get("cpu")),
    ("cores", lambda facts: facts["host"].get("cores")),
    ("instructions", lambda facts: sorted(facts["host"].get("flags") or [])),
    ("GPU", lambda facts: [each["name"] for each in facts["host"].get("gpus") or []]),
    ("system", lambda facts: facts["host"].get("system")),
    ("threads", lambda facts: facts["bench"]["threads"]),
    ("scenario", lambda facts: facts["bench"]["scenario"]),
)
"""What must be the same for latencies to be compared."""
_TOLD = (
    *_SAME_LATENCY,
    ("governor", lambda facts: facts["host"].get("governor")),
    ("memory", lambda facts: facts["host"].get("memory_bytes")),
    ("Python", lambda facts: facts["host"].get("python")),
    ("data", lambda facts: (facts["data"] or {}).get("fingerprint")),
    ("command", lambda facts: facts["command"]),
    ("teacher", lambda facts: (facts["models"].get("teacher") or {}).get("model")),
    ("student", lambda facts: (facts["models"].get("student") or {}).get("model")),
)


def compare(reports: Sequence[Facts]) -> dict[str, Any]:
    """Two or more reports, each held against the first.

    Returns:
        ``reports``: of each ``label``, ``name``, ``verdict``, ``preferred``, ``budget`` and
        ``host``; ``other_machine``: what makes latencies not comparable, as ``what`` and the
        ``values`` of all, empty where they are; ``other_data``: whether the test images differ or
        are not known; ``differences``: all else that differs, as ``what`` and ``values``;
        ``engines``: by name, of each the ``cells`` of every report, None where it has no such
        engine. A cell holds the engine's figures; ``ratio``: its p50 and p99 over the first
        report's, as (ratio, low, high) or None; and ``top1_delta``: the difference of top-1, in
        points, as (difference, low, high) or None. ``points``: every engine of every report that
        was timed and judged, with ``front``: whether nothing in any report is both faster and more
        accurate.

    A ratio's interval is made of both 95 % intervals, ends against ends, so that it holds with 90 %
    or more. The reports were not paired: the interval of a difference of top-1 is Newcombe's for
    independent samples (Statistics in Medicine 17, 1998, method 10), wider than one by image.

    Raises:
        ValueError: there are fewer than two reports.
    """
    if len(reports) < 2:
        raise ValueError("one report compares with nothing")
    found = [shape.complete(each) for each in reports]
    labels = _labels(found)
    other_machine = list(_differing(found, _SAME_LATENCY))
    apart = {each["what"] for each in other_machine}
    prints = {(each["data"] or {}).get("fingerprint") for each in found}
    other_data = len(prints) > 1 or None in prints
    return {
        "schema": SCHEMA,
        "reports": [
            {
                "label": label,
                "name": each["name"],
                "verdict": each["verdict"],
                "preferred": each["preferred"],
                "budget": each["budget"],
                "host": each["host"],
            }
            for label, each in zip(labels, found, strict=True)
        ],
        "other_machine": other_machine,
        "other_data": other_data,
        "differences": [
            *(each for each in _differing(found, _TOLD) if each["what"] not in apart),
            *_content(found),
        ],
        "engines": list(_engines(found, not other_machine, not other_data)),
        "points": _points(labels, found),
    }


def warnings(found: Facts) -> list[str]:
    """Why figures of a comparison may not be compared, as sentences."""
    told = []
    if found["other_machine"]:
        what = "; ".join(
            f"{each['what']}: {' / '.join(each['values'])}" for each in found["other_machine"]
        )
        told.append(
            f"Latencies are NOT COMPARABLE: another machine, or measured otherwise ({what})."
        )
    if found["other_data"]:
        told.append(
            "Accuracies are NOT COMPARABLE: the test images differ, or it is not known which they"
            " are."
        )
    return told


def _labels(reports: Sequence[Facts]) -> list[str]:
    """A, B, … and the name."""
    return [f"{chr(65 + place % 26)}: {each['name']}" for place, each in enumerate(reports)]


def _differing(reports: Sequence[Facts], parts: Sequence[Any]) -> Iterator[dict[str, Any]]:
    for what, read in parts:
        values = [read(each) for each in reports]
        if any(each != values[0] for each in values):
            yield {"what": what, "values": [_shown(each) for each in values]}


def _content(reports: Sequence[Facts]) -> Iterator[dict[str, Any]]:
    """What was made from other content, and by other libraries."""
    made = [each["provenance"] or {"content": {}, "libraries": {}} for each in reports]
    for kind in ("content", "libraries"):
        for name in sorted({name for each in made for name in each[kind]}):
            values = [each[kind].get(name) for each in made]
            if len({*values}) > 1:
                yield {"what": name, "values": [_shown(each) for each in values]}


def _shown(value: Any) -> str:
    if value is None or value == []:
        return figures.NONE
    if isinstance(value, list):
        return " ".join(map(str, value))
    text = str(value)
    is_hash = len(text) == 64 and not set(text) - set("0123456789abcdef")
    return text[:12] if is_hash else text


def _engines(reports: Sequence[Facts], timed: bool, judged: bool) -> Iterator[dict[str, Any]]:
    rows = [{each["name"]: each for each in report["engines"]} for report in reports]
    for name in dict.fromkeys(name for each in rows for name in each):
        first = rows[0].get(name)
        yield {
            "name": name,
            "cells": [
                None
                if name not in each
                else _cell(each[name], first if place else None, timed, judged)
                for place, each in enumerate(rows)
            ],
        }


def _cell(row: Facts, first: Facts | None, timed: bool, judged: bool) -> dict[str, Any]:
    kept = ("latency_ns", "interval_ns", "top1", "ci", "emulated", "bytes", "misses", "samples",
            "untold", "throughput_per_s", "peak_memory_bytes", "batch")  # fmt: skip
    pair = None if first is None else (row, first)
    return {
        **{name: row[name] for name in kept},
        "ratio": {name: _ratio(*pair, name) if pair and timed else None for name in _PERCENTILES},
        "top1_delta": _delta(*pair) if pair and judged else None,
    }


def _ratio(row: Facts, first: Facts, name: str) -> list[float] | None:
    """One latency over the first report's; None where either cannot be told, or batches differ."""
    ours, theirs = row["interval_ns"].get(name), first["interval_ns"].get(name)
    if not row["latency_ns"] or not first["latency_ns"]:
        return None
    if not ours or not theirs or row["batch"] != first["batch"]:
        return None
    if name in row["untold"] or name in first["untold"]:
        return None
    return [
        row["latency_ns"][name] / first["latency_ns"][name],
        ours[0] / theirs[1],
        ours[1] / theirs[0],
    ]


def _delta(row: Facts, first: Facts) -> list[float] | None:
    """The difference of top-1; None where either was not judged."""
    if any(each[name] is None for each in (row, first) for name in ("top1", "ci")):
        return None
    if row["emulated"] != first["emulated"]:
        return None
    delta = row["top1"] - first["top1"]
    below = math.hypot(row["top1"] - row["ci"][0], first["ci"][1] - first["top1"])
    above = math.hypot(row["ci"][1] - row["top1"], first["top1"] - first["ci"][0])
    return [delta, delta - below, delta + above]


def _points(labels: Sequence[str], reports: Sequence[Facts]) -> list[dict[str, Any]]:
    placed = [
        {
            "name": f"{label[0]} {each['name']}",
            "engine": each["name"],
            "report": label,
            "precision": each["precision"],
            "latency_ns": each["latency_ns"],
            "top1": each["top1"],
        }
        for label, report in zip(labels, reports, strict=True)
        for each in report["engines"]
        if each["latency_ns"] and each["top1"] is not None
    ]
    best = front(placed)
    return [{**each, "front": each["name"] in best} for each in placed]
