"""The stage ``calibrate``, and tables of ranges as files: ours, and TensorRT's old cache."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekd.artifacts import CalibrationSet, CalibrationTable, OnnxModel, Trial
from edgekd.calibration import methods
from edgekd.calibration.collect import Collected, collect
from edgekd.calibration.feeds import Feeds
from edgekd.errors import CalibrationError
from edgekd.progress import Progress, silent
from edgekd.recipe import CalibrationSettings

SCHEMA = 1
_LARGEST = 3.4028234663852886e38  # that float32 can hold
_STEPS = 127  # of TensorRT's int8 to either side
_SHA256 = re.compile(r"([0-9a-f]{64})?")
_CACHE_LINE = re.compile(r"(?P<name>.+): (?P<bits>[0-9a-fA-F]{1,8})")


def calibrate(
    model: OnnxModel,
    feeds: Feeds,
    settings: CalibrationSettings,
    chosen: CalibrationSet,
    out_dir: Path,
    progress: Progress = silent,
) -> CalibrationTable:
    """One pass over the samples of a set, and the ranges by the method of the settings.

    Raises:
        CalibrationError: the samples do not fit the model; a tensor is NaN or infinite.
    """
    collected = collect(model.path, feeds, out_dir, progress)
    return tabulate(collected, settings.method, settings.percentile, chosen.sha256)


def tabulate(
    collected: Collected,
    method: str,
    percentile: float,
    set_sha256: str = "",
    tried: tuple[Trial, ...] = (),
) -> CalibrationTable:
    """The ranges that a method finds in what one pass collected.

    Raises:
        CalibrationError: there is no such method.
    """
    ranges, extremes, clipped, moved = {}, {}, {}, {}
    for name, each in collected.statistics.items():
        low, high = methods.range_of(each, method, percentile)
        ranges[name] = low, high
        extremes[name] = each.low, each.high
        clipped[name] = each.clipped(low, high)
        before = methods.range_of(collected.half[name], method, percentile)
        shift = max(abs(before[0] - low), abs(before[1] - high))
        widest = max(before[1], high) - min(before[0], low)
        moved[name] = shift / widest if widest else 0.0
    return CalibrationTable(
        method=method,
        percentile=percentile if method == "percentile" else 100.0,
        ranges=ranges,
        set_sha256=set_sha256,
        samples=collected.samples,
        model_sha256=collected.model_sha256,
        preprocessing_sha256=collected.preprocessing_sha256,
        extremes=extremes,
        clipped=clipped,
        moved=moved,
        tried=tried,
    )


def save(table: CalibrationTable, path: Path) -> None:
    """Writes a table as JSON, one tensor a line; ``calibration/table.schema.json`` is its form."""
    tensors = []
    for name, (low, high) in table.ranges.items():
        facts = {"low": low, "high": high}
        if name in table.extremes:
            facts |= dict(zip(("min", "max"), table.extremes[name], strict=True))
        facts |= {
            key: known[name]
            for key, known in (("clipped", table.clipped), ("moved", table.moved))
            if name in known
        }
        tensors.append(f"  {json.dumps(name)}: {json.dumps(facts, allow_nan=False)}")
    head = {
        "schema": SCHEMA,
        "model_sha256": table.model_sha256,
        "set_sha256": table.set_sha256,
        "preprocessing_sha256": table.preprocessing_sha256,
        "samples": table.samples,
        "method": table.method,
        "percentile": table.percentile,
        "tried": [asdict(each) for each in table.tried],
    }
    lines = [
        f" {json.dumps(key)}: {json.dumps(each, allow_nan=False)}" for key, each in head.items()
    ]
    lines.append(' "tensors": {\n' + ",\n".join(tensors) + "\n }")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def load(path: Path) -> CalibrationTable:
    """Reads a table that ``save`` wrote, or a calibration cache of TensorRT up to 10.

    A cache names a scale for each tensor, whose range is then 127 scales to either side; it
    does not tell the model or the samples.

    Raises:
        CalibrationError: the file cannot be read, or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise _malformed(path, "it is not text") from error
    if text.startswith("TRT-"):
        return _from_cache(text, path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, f"it is not JSON, or is cut short ({error})") from error
    if not isinstance(found, dict) or "tensors" not in found:
        raise _malformed(path, "it has no 'tensors'")
    if found.get("schema") != SCHEMA:
        raise CalibrationError(
            f"{path} has schema {found.get('schema')!r:.40}, and this version reads {SCHEMA}",
            "calibrate anew",
        )
    return _from_json(found, path)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and bool(_SHA256.fullmatch(value))


def _are_figures(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(each) for each in value.values())


def _is_trial(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"method", "metric", "values", "sqnr"}
        and isinstance(value["method"], str)
        and value["metric"] in ("top1", "sqnr")
        and _are_figures(value["values"])
        and _are_figures(value["sqnr"])
    )


def _encloses_zero(facts: Mapping[str, float], low: str, high: str) -> bool:
    return low in facts and high in facts and facts[low] <= 0 <= facts[high]


# What each key must hold.
_KEYS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "model_sha256": ("a sha256", _is_sha256),
    "set_sha256": ("a sha256", _is_sha256),
    "preprocessing_sha256": ("a sha256", _is_sha256),
    "samples": ("a number of samples", lambda each: type(each) is int and each >= 0),
    "method": ("a method's name", lambda each: isinstance(each, str)),
    "percentile": ("a percentile", lambda each: _is_number(each) and 0 < each <= 100),
    "tried": (
        "a list of trials",
        lambda all_: isinstance(all_, list) and all(map(_is_trial, all_)),
    ),
    "tensors": ("tensors by name", lambda each: isinstance(each, dict) and bool(each)),
}


def _from_json(found: Mapping[str, Any], path: Path) -> CalibrationTable:
    for key, (what, fits) in _KEYS.items():
        if key not in found or not fits(found[key]):
            raise _malformed(path, f"its '{key}' is not {what}")
    tensors = found["tensors"]
    for name, facts in tensors.items():
        if not _are_figures(facts):
            raise _malformed(path, f"tensor {name!r} is not described by finite numbers")
        for low, high in (("low", "high"), ("min", "max")):
            needed = low == "low" or {low, high} & facts.keys()
            if needed and not _encloses_zero(facts, low, high):
                raise _malformed(path, f"tensor {name!r}: zero is not from '{low}' to '{high}'")
    return CalibrationTable(
        **{key: found[key] for key in _KEYS.keys() - {"tried", "tensors"}},
        ranges={name: (float(each["low"]), float(each["high"])) for name, each in tensors.items()},
        extremes={
            name: (float(each["min"]), float(each["max"]))
            for name, each in tensors.items()
            if "min" in each
        },
        clipped={name: each["clipped"] for name, each in tensors.items() if "clipped" in each},
        moved={name: each["moved"] for name, each in tensors.items() if "moved" in each},
        tried=tuple(Trial(**each) for each in found["tried"]),
    )


def _from_cache(text: str, path: Path) -> CalibrationTable:
    head, *lines = text.split("\n")
    ranges = {}
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        parts = _CACHE_LINE.fullmatch(line.rstrip())
        if parts is None:
            raise _malformed(path, f"line {number} is not a tensor's name and eight hex digits")
        (scale,) = struct.unpack("!f", bytes.fromhex(parts["bits"].zfill(8)))
        high = _STEPS * scale
        if not 0 <= high <= _LARGEST:
            raise _malformed(path, f"line {number} holds the scale {scale:g}")
        ranges[parts["name"]] = -high, high
    if not ranges:
        raise _malformed(path, "it holds no tensor")
    return CalibrationTable(method=head.strip(), ranges=ranges, set_sha256="", samples=0)


def _malformed(path: Path, reason: str) -> CalibrationError:
    return CalibrationError(
        f"{path} is no calibration table: {reason}",
        "give a table that edgekd wrote, or TensorRT's calibration cache",
    )
