"""Tables of networks, of accuracy, of quantisation and of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.report import figures
from edgekd.report.charts.layers import ceiling, longest
from edgekd.report.figures import NONE
from edgekd.report.tables.base import Cell, Table, bounds, delta, table

Row = Mapping[str, Any]


def waterfall(facts: Mapping[str, Any]) -> Table:
    """The steps from the teacher to int8."""
    return table(
        "Accuracy from the teacher to int8, on the test split",
        (
            ("stage", lambda s: s["stage"]),
            ("top-1, %", lambda s: Cell(figures.accuracy(s["top1"]), bounds(s["ci"]))),
            ("to the teacher, points", lambda s: delta(s.get("to_teacher"))),
            ("to the fp32 student, points", lambda s: delta(s.get("to_student"))),
            ("McNemar's p", lambda s: figures.chance(s.get("p_to_student"))),
            ("agrees with the teacher, %", lambda s: figures.accuracy(s["agreement"])),
        ),
        facts["waterfall"],
    )


def models(facts: Mapping[str, Any]) -> Table:
    """The networks."""
    return table(
        "The networks",
        (
            ("role", lambda m: m[0]),
            ("architecture", lambda m: m[1]["model"]),
            ("parameters", lambda m: figures.count(m[1]["params"])),
            ("MACs", lambda m: figures.count(m[1]["macs"])),
            ("validation top-1, %", lambda m: figures.accuracy(m[1]["validation_top1"])),
            ("test top-1, %", lambda m: figures.accuracy(m[1]["top1"])),
            (
                "ONNX against torch",
                lambda m: NONE if m[1]["parity"] is None else f"{m[1]['parity']:.1e}",
            ),
        ),
        list(facts["models"].items()),
    )


def layers(engine: str, profile: Row) -> Table:
    """The layers that took longest."""
    total = profile["total_ns"] or 1
    roof, islands = profile["roof"], set(profile["islands"])

    def reached(layer: Row) -> str:
        if not roof or not layer.get("macs") or not layer.get("bytes") or not layer["ns"]:
            return NONE
        top = ceiling(roof, layer["precision"], layer["macs"] / layer["bytes"])
        return figures.percent(layer["macs"] / layer["ns"] * 1e9 / top) if top else NONE

    return table(
        f"The longest layers of {engine}",
        (
            ("layer", lambda each: Cell(each["name"], each["kind"])),
            ("role", lambda each: "island" if each["name"] in islands else each["role"]),
            ("precision", lambda each: each["precision"]),
            ("ms", lambda each: figures.milliseconds(each["ns"])),
            ("share", lambda each: figures.percent(each["ns"] / total)),
            ("MACs", lambda each: figures.count(each.get("macs"))),
            ("bytes", lambda each: figures.size(each.get("bytes"))),
            ("of its roof", reached),
        ),
        longest(profile),
    )


def tried(quantisation: Row) -> Table:
    """The methods of calibration that were compared on validation."""
    trials = quantisation["tried"]
    return table(
        "Ways to calibrate, compared on validation",
        (
            ("calibration", lambda t: t["method"]),
            *(
                column
                for form in trials[0]["sqnr"]
                for column in (
                    (
                        f"{form}: top-1, %",
                        lambda t, form=form: figures.accuracy(
                            t["values"][form] if t["metric"] == "top1" else None
                        ),
                    ),
                    (f"{form}: SQNR, dB", lambda t, form=form: f"{t['sqnr'][form]:.1f}"),
                )
            ),
        ),
        trials,
        lambda t: t["method"] == quantisation["method"],
    )


def mixes(form: str, found: Row) -> Table:
    """What it gains to keep the most sensitive layers in float."""
    fp32 = {"kept": None, "lost": 0.0, "sqnr": None, "latency_ns": found["fp32_ns"]}
    return table(
        f"{form}: layers kept in float",
        (
            ("kept", lambda m: "all: fp32" if m["kept"] is None else str(len(m["kept"]))),
            (
                "to fp32, points",
                lambda m: figures.points(None if m["lost"] is None else 0 - m["lost"]),
            ),
            ("SQNR, dB", lambda m: NONE if m["sqnr"] is None else f"{m['sqnr']:.1f}"),
            *(
                (
                    f"{target}: p50 / p99, ms",
                    lambda m, target=target: " / ".join(
                        figures.milliseconds(m["latency_ns"].get(target, {}).get(p))
                        for p in ("p50", "p99")
                    ),
                )
                for target in found["fp32_ns"]
            ),
        ),
        [*found["mixes"], fp32],
        lambda m: bool(m.get("chosen")),
    )


def tensors(found: Row, what: str) -> Table:
    """The tensors of a calibration that are ``clipped`` or ``moved`` most."""
    caption, heading = {
        "clipped": ("Values outside the calibrated range", "outside"),
        "moved": ("Ranges that moved in the second half of the samples", "of its width"),
    }[what]
    return table(
        caption,
        (
            ("tensor", lambda t: t["name"]),
            (heading, lambda t: figures.percent(t["share"])),
            ("range", lambda t: _range(t["range"])),
            ("smallest and largest", lambda t: _range(t["extremes"])),
        ),
        found[what],
    )


def pairs(confusion: Row) -> Table:
    """The classes that are confused most."""
    return table(
        "The classes that are confused most",
        (
            ("is", lambda p: p["label"]),
            ("was named", lambda p: p["named"]),
            ("images", lambda p: f"{p['count']:,} of {p['of']:,}"),
            ("share", lambda p: figures.percent(p["count"] / p["of"] if p["of"] else None)),
        ),
        confusion["pairs"],
    )


def _range(bounds: Sequence[float] | None) -> str:
    return NONE if bounds is None else f"{bounds[0]:.4g} … {bounds[1]:.4g}"
