"""The parts of ``report.json`` that may be absent, filled in: what nobody measured is None.

``edgekd bench`` gives the same facts without models, data and accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
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
_VERDICT = {"status": "pass", "headline": "", "reasons": [], "criteria": []}
_BUDGET = dict.fromkeys(
    ("fps", "deadline_ms", "miss_rate", "confidence", "max_drop", "max_memory_mb", "max_size_mb")
)
_BENCH = {"scenario": "single-stream", "load": {}, "threads": 1, "clock": ""}
_ENGINE: Mapping[str, Any] = {
    **dict.fromkeys(
        (
            "top1", "ci", "agreement", "to_teacher", "to_student", "batch", "samples",
            "latency_ns", "throughput_per_s", "peak_memory_bytes", "misses", "start",
            "speedup_vs_teacher", "speedup_vs_baseline", "bytes",
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


def deadline_ns(facts: Mapping[str, Any]) -> float | None:
    """What the budget of complete facts allows a frame; None where it names no time."""
    budget = facts["budget"]
    if budget["deadline_ms"] is not None:
        return float(budget["deadline_ms"]) * 1e6
    return 1e9 / budget["fps"] if budget["fps"] else None


def _filled(parts: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    known = {name: value for name, value in (given or {}).items() if value is not None}
    return {**parts, **known}
