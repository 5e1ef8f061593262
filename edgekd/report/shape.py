"""The parts of ``report.json`` that may be absent, filled in: what nobody measured is None.

``edgekd bench`` gives the same facts without models, data and accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

_FACTS: Mapping[str, Any] = {
    "name": "",
    "bundle": "",
    "command": "",
    "preferred": "",
    "models": {},
    "waterfall": [],
    "engines": [],
    "notes": [],
    "advice": [],
    "comparisons": [],
    "data": None,
    "quantisation": None,
    "camera": None,
    "watch": None,
    "profiles": {},
    "confusion": None,
    "disagreements": [],
    "calibration": None,
    "host": {},
    "provenance": None,
}
_VERDICT = {"headline": "", "reasons": [], "criteria": []}
_BUDGET = dict.fromkeys(
    ("fps", "deadline_ms", "miss_rate", "confidence", "max_drop", "max_memory_mb", "max_size_mb")
)
_BENCH = {"scenario": "single-stream", "load": {}, "threads": 1, "clock": ""}
_ENGINE: Mapping[str, Any] = {
    **dict.fromkeys(
        (
            "top1", "ci", "agreement", "to_teacher", "to_student", "batch", "samples",
            "latency_ns", "throughput_per_s", "peak_memory_bytes", "misses", "start",
            "speedup_vs_teacher", "speedup_vs_baseline",
        )
    ),
    **{name: {} for name in ("interval_ns", "early_ns", "lateness_ns", "starts_ns", "split_ns")},
    "loadgen": {},
    **{name: [] for name in ("untold", "curve", "series", "warnings")},
    **dict.fromkeys(("role", "target", "backend", "backend_version", "device", "precision"), ""),
    "built": True,
    "executed": True,
    "emulated": False,
    "partial": "",
}  # fmt: skip
_CAMERA: Mapping[str, Any] = {
    **{name: _ENGINE[name] for name in ("misses", "interval_ns", "lateness_ns", "starts_ns")},
    **{name: [] for name in ("untold", "curve", "series", "miss_rate_by_fps", "warnings")},
    "load": {},
    "latency_ns": None,
    "samples": None,
    "watch": None,
    "partial": "",
}
_PROFILE = {"total_ns": 0, "layers": [], "islands": [], "roof": None}
_WATCH: Mapping[str, Any] = {"samples": [], "disturbances": [], "energy": None}

STATUSES = ("pass", "fail", "insufficient")
_MISSES = ("deadline_ns", "frames", "missed", "dropped", "longest_burst", "rate_low", "rate_high",
           "confidence")  # fmt: skip
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "": ("schema",),
    "verdict": ("status",),
    "verdict.criteria.*": ("name", "status", "reason"),
    "models.*": ("model", "params", "macs", "validation_top1", "top1", "parity"),
    "waterfall.*": ("stage", "top1", "ci", "agreement"),
    "engines.*": ("name", "bytes"),
    "engines.*.latency_ns": ("p50", "p99"),
    "engines.*.misses": _MISSES,
    "engines.*.start": ("import_ns", "open_ns", "first_ns", "second_ns"),
    "camera": ("engine",),
    "camera.load": ("period_ns", "policy", "background"),
    "camera.latency_ns": ("max",),
    "camera.misses": _MISSES,
    "comparisons.*": ("engine", "against"),
    "data": ("source", "sizes", "seed", "fingerprint"),
    "data.sizes": ("test",),
    "provenance": ("content", "libraries"),
    "watch.samples.*": ("t_ns",),
    "watch.disturbances.*": ("t_ns", "what"),
    "camera.watch.samples.*": ("t_ns",),
    "camera.watch.disturbances.*": ("t_ns", "what"),
    "profiles.*.layers.*": ("name", "kind", "precision", "role", "ns"),
    "profiles.*.roof": ("macs_per_s", "bytes_per_s", "threads"),
    "quantisation": ("method", "samples", "set_sha256", "tensors", "tried", "forms", "sensitivity",
                     "proof"),
    "quantisation.forms.*": ("kept_float",),
    "quantisation.proof": ("to_fp32", "between", "samples"),
    "quantisation.tried.*": ("method", "metric", "values", "sqnr"),
    "quantisation.sensitivity.*": ("layers", "layer_samples", "mixes", "mix_samples", "fp32_ns"),
    "quantisation.sensitivity.*.layers.*": ("name", "lost", "sqnr", "macs_share"),
    "quantisation.sensitivity.*.mixes.*": ("kept", "lost", "sqnr", "latency_ns"),
    "calibration": ("method", "samples", "tensors", "source", "draw", "seed", "licence",
                    "per_class", "classes", "clipped", "moved", "moving", "still", "tried"),
    "calibration.clipped.*": ("name", "share", "range", "extremes"),
    "calibration.moved.*": ("name", "share", "range", "extremes"),
    "confusion": ("engine", "classes", "counts", "pairs"),
    "confusion.pairs.*": ("label", "named", "count", "of"),
    "disagreements.*": ("between", "count", "n", "images"),
    "disagreements.*.images.*": ("id", "label", "a", "b", "png"),
}  # fmt: skip
"""What no default stands for, where that which it is part of is there; * is each of a list."""


def complete(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts with everything that a page looks at; what is None is as good as absent."""
    found = _filled(_FACTS, facts)
    found["verdict"] = _filled(_VERDICT, facts.get("verdict"))
    found["budget"] = _filled(_BUDGET, facts.get("budget"))
    found["bench"] = _filled(_BENCH, facts.get("bench"))
    found["engines"] = [_filled(_ENGINE, each) for each in found["engines"]]
    for name, parts in (("camera", _CAMERA), ("watch", _WATCH)):
        found[name] = _filled(parts, found[name]) if found[name] else None
    found["profiles"] = {name: _filled(_PROFILE, each) for name, each in found["profiles"].items()}
    found["name"] = found["name"] or PurePosixPath(found["bundle"]).stem or "measurement"
    found["notes"] = [*found["notes"], *found["advice"]]
    return found


def fault(facts: Mapping[str, Any]) -> str:
    """What complete facts lack or tell wrongly, the first of it; empty where they are whole."""
    for path, names in _NEEDED.items():
        for place, value in _at(facts, path.split(".") if path else []):
            where = place or "it"
            if not isinstance(value, Mapping):
                return f"{where} is no object"
            if absent := [name for name in names if name not in value]:
                return f"{where} has no '{absent[0]}'"
            if value.get("status", "pass") not in STATUSES:
                return f"{where} has the status {value['status']!r}"
    return ""


def headline(verdict: Mapping[str, Any]) -> str:
    """The verdict's line for where its status stands before it, thus without that word."""
    line: str = verdict.get("headline", "")
    found = re.fullmatch(rf"(?:(.*?): )?{verdict['status'].upper()}(?:; (.*))?", line)
    return "; ".join(filter(None, found.groups())) if found else line


def deadline_ns(facts: Mapping[str, Any]) -> float | None:
    """What the budget of complete facts allows a frame; None where it names no time."""
    budget = facts["budget"]
    if budget["deadline_ms"] is not None:
        return float(budget["deadline_ms"]) * 1e6
    return 1e9 / budget["fps"] if budget["fps"] else None


def _at(value: Any, path: list[str], place: str = "") -> Iterator[tuple[str, Any]]:
    """Whatever lies at a path and is there, and where that is."""
    if value is None:
        return
    if not path:
        yield place, value
        return
    first, *rest = path
    parts = value if isinstance(value, Mapping) else dict(enumerate(value))
    for name, each in parts.items() if first == "*" else [(first, parts.get(first))]:
        yield from _at(each, rest, f"{place}.{name}".lstrip("."))


def _filled(parts: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    known = {name: value for name, value in (given or {}).items() if value is not None}
    return {**parts, **known}
