"""Tables of engines and of what was measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.report import figures
from edgekd.report.figures import NONE
from edgekd.report.tables.base import Cell, Table, bounds, delta, table

Row = Mapping[str, Any]

_PERCENTILES = {"p50": "p50", "p90": "p90", "p99": "p99", "p99_9": "p99.9"}


def engines(facts: Mapping[str, Any]) -> Table:
    """What decides: accuracy, latency, misses, throughput, size, work, memory, cold start."""
    models = facts["models"]

    return table(
        "Every engine: accuracy, speed and cost",
        (
            ("engine", lambda e: e["name"]),
            ("top-1, %", _top1),
            ("to the teacher, points", lambda e: delta(e["to_teacher"])),
            ("p50, ms", lambda e: _percentile(e, "p50")),
            ("p99, ms", lambda e: _percentile(e, "p99")),
            ("misses", missed),
            ("images/s", _throughput),
            ("size", lambda e: figures.size(e["bytes"])),
            ("MACs", lambda e: figures.count(models.get(e["role"], {}).get("macs"))),
            ("peak memory", lambda e: figures.size(_memory(e))),
            ("cold start, ms", _start),
        ),
        facts["engines"],
        lambda e: e["name"] == facts["preferred"],
    )


def percentiles(facts: Mapping[str, Any], rows: Sequence[Row]) -> Table:
    """Every percentile, with its interval."""
    return table(
        "Latency of each engine, milliseconds",
        (
            ("engine", lambda e: e["name"]),
            *(
                (shown, lambda e, name=name: _percentile(e, name))
                for name, shown in _PERCENTILES.items()
            ),
            ("max", lambda e: figures.milliseconds(e["latency_ns"].get("max"))),
            ("calls", lambda e: figures.whole(e["samples"])),
            ("p99 at most", lambda e: figures.milliseconds(e["early_ns"].get("p99"))),
            ("p99.9 at most", lambda e: figures.milliseconds(e["early_ns"].get("p99_9"))),
            *(
                (
                    f"LoadGen: {name}",
                    lambda e, name=name: figures.milliseconds(
                        e["loadgen"].get("latency_ns", {}).get(name)
                    ),
                )
                for name in ("p50", "p99")
            ),
            ("to the teacher, same runtime", lambda e: figures.ratio(e["speedup_vs_teacher"])),
            ("to the teacher, PyTorch", lambda e: figures.ratio(e["speedup_vs_baseline"])),
        ),
        rows,
        lambda e: e["name"] == facts["preferred"],
    )


def costs(facts: Mapping[str, Any], rows: Sequence[Row]) -> Table:
    """Throughput by batch, the parts of a cold start, the parts of a call on a GPU."""
    batches = sorted({each for row in rows for each in row["throughput_per_s"] or {}}, key=_numeric)
    parts = ("import_ns", "open_ns", "first_ns", "second_ns")
    return table(
        "Throughput, cold start and transfers of each engine",
        (
            ("engine", lambda e: e["name"]),
            *(
                (
                    f"images/s, batch {batch}",
                    lambda e, batch=batch: figures.count((e["throughput_per_s"] or {}).get(batch)),
                )
                for batch in batches
            ),
            *(
                (
                    f"{part.removesuffix('_ns')}, ms",
                    lambda e, part=part: figures.milliseconds((e["start"] or {}).get(part)),
                )
                for part in parts
            ),
            *(
                (
                    f"{part}, ms",
                    lambda e, part=part: figures.milliseconds(
                        e["split_ns"].get(part, {}).get("p50")
                    ),
                )
                for part in ("h2d", "gpu", "d2h")
            ),
        ),
        rows,
        lambda e: e["name"] == facts["preferred"],
    )


def builds(facts: Mapping[str, Any]) -> Table:
    """How each engine was built, and how near it comes to both references."""
    return table(
        "How each engine was built",
        (
            ("engine", lambda e: e["name"]),
            ("built by", lambda e: f"{e['backend']} {e['backend_version']}".strip()),
            ("for", lambda e: e["device"].replace("+", " ")),
            ("executed here", lambda e: "yes" if e["executed"] else "no"),
            ("agrees with the teacher, %", lambda e: figures.accuracy(e["agreement"])),
            ("to the teacher, points", lambda e: delta(e["to_teacher"])),
            ("to the fp32 student, points", lambda e: delta(e["to_student"])),
        ),
        facts["engines"],
        lambda e: e["name"] == facts["preferred"],
    )


def comparisons(facts: Mapping[str, Any]) -> Table:
    """Latency ratios of engines that took turns in one run."""

    def ratio(row: Row, name: str) -> Cell:
        found = row.get(name)
        if not found:
            return Cell(NONE)
        return Cell(figures.ratio(found[0]), f"[{found[1]:.3g}, {found[2]:.3g}]")

    return table(
        "Latency over that of another, in one run: below 1 is faster",
        (
            ("engine", lambda c: c["engine"]),
            ("against", lambda c: c["against"]),
            ("p50", lambda c: ratio(c, "p50")),
            ("p99", lambda c: ratio(c, "p99")),
        ),
        facts["comparisons"],
    )


def criteria(facts: Mapping[str, Any]) -> Table:
    """Each limit of the budget, and whether it is kept."""
    return table(
        "The budget, limit by limit",
        (
            ("limit", lambda c: c["name"]),
            ("verdict", lambda c: c["status"]),
            ("because", lambda c: c["reason"]),
        ),
        facts["verdict"]["criteria"],
    )


def camera(facts: Mapping[str, Any]) -> Table:
    """A camera's run in figures."""
    found = facts["camera"]
    misses, late, starts = found["misses"], found["lateness_ns"], found["starts_ns"]
    rows = []
    if found["latency_ns"]:
        rows += [
            (f"response, {shown}, ms", _percentile(found, name))
            for name, shown in _PERCENTILES.items()
            if name in found["latency_ns"]
        ]
        rows.append(("response, max, ms", Cell(figures.milliseconds(found["latency_ns"]["max"]))))
    if misses:
        rows += [
            ("frames due", Cell(figures.whole(misses["frames"]))),
            ("missed", Cell(figures.whole(misses["missed"]), rate(misses))),
            ("of them never answered", Cell(figures.whole(misses["dropped"]))),
            ("longest burst of misses", Cell(figures.whole(misses["longest_burst"]))),
        ]
    rows += [
        (f"service after {what}, p50, ms", Cell(figures.milliseconds(starts[name])))
        for name, what in (
            ("warm", "another frame"), ("idle", "waiting for one"), ("pause", "half a second"),
        )
        if starts.get(name) is not None
    ]  # fmt: skip
    rows += [
        (f"the generator's own lateness, {name}, ms", Cell(figures.milliseconds(late[name])))
        for name in ("p50", "p99", "max")
        if late.get(name) is not None
    ]
    return table(
        f"{found['engine']} behind a camera",
        (("figure", lambda row: row[0]), ("value", lambda row: row[1])),
        rows,
    )


def missed(row: Row) -> Cell:
    """Misses of frames, and what that says of their rate."""
    misses = row["misses"]
    if not misses:
        return Cell(NONE)
    return Cell(f"{misses['missed']:,}/{misses['frames']:,}", rate(misses))


def rate(misses: Row) -> str:
    """≤ 0.013 % at 99 %"""
    return f"≤ {figures.percent(misses['rate_high'])} at {figures.percent(misses['confidence'])}"


def _top1(row: Row) -> Cell:
    mark = "~" if row["emulated"] and row["top1"] is not None else ""
    return Cell(mark + figures.accuracy(row["top1"]), bounds(row["ci"]))


def _percentile(row: Row, name: str) -> Cell:
    if not row["latency_ns"] or name not in row["latency_ns"]:
        return Cell(NONE)
    star = "*" if name in row["untold"] else ""
    return Cell(
        figures.milliseconds(row["latency_ns"][name]) + star,
        figures.interval(row["interval_ns"].get(name)),
    )


def _throughput(row: Row) -> Cell:
    rates = row["throughput_per_s"]
    if not rates:
        return Cell(NONE)
    batch = max(rates, key=lambda each: rates[each])
    return Cell(figures.count(rates[batch]), f"batch {batch}")


def _memory(row: Row) -> int | None:
    found = row["peak_memory_bytes"]
    return (row["start"] or {}).get("peak_memory_bytes") if found is None else found


def _start(row: Row) -> Cell:
    start = row["start"]
    if not start:
        return Cell(NONE)
    total = start["import_ns"] + start["open_ns"] + start["first_ns"]
    return Cell(figures.milliseconds(total), f"2nd call {figures.milliseconds(start['second_ns'])}")


def _numeric(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdigit() else (0, text)
