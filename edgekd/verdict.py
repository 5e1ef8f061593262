"""An engine's figures, held against a budget. Pure functions of artefacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.artifacts import EngineFile, Measurement
from edgekd.recipe import BudgetSettings

BASELINE = "torch"
"""The target on which the teacher is taken to run today; measured always, shipped never."""
DEADLINE_PERCENTILE = "p99"

Row = dict[str, Any]


def row(engine: EngineFile, measured: Mapping[str, Measurement]) -> Row:
    """One engine's line in a report; figures that nobody measured are None.

    Where ``built`` is false, it is yet to be built on the device; where ``emulated`` becomes true,
    its accuracy is that of a graph that rounds as it does, run on a CPU.

    Args:
        engine: the engine.
        measured: measurements by engine name, the teacher's among them.
    """
    timing = measured.get(engine.name)
    line: Row = {
        "name": engine.name,
        "role": engine.role,
        "target": engine.target,
        "backend": engine.backend,
        "backend_version": engine.backend_version,
        "device": engine.device,
        "precision": engine.precision,
        "bytes": sum(each.stat().st_size for each in (engine.path, *engine.parts)),
        "built": bool(engine.backend_version),
        "executed": engine.executed,
        "emulated": False,
        "top1": None,
        "agreement": None,
        "to_teacher": None,
        "to_student": None,
        "batch": None,
        "latency_ns": None,
        "throughput_per_s": None,
        "peak_memory_bytes": None,
        "speedup_vs_teacher": None,
        "speedup_vs_baseline": None,
    }
    if timing is not None:
        line |= {
            "batch": timing.batch,
            "latency_ns": dict(timing.latency_ns),
            "interval_ns": dict(timing.interval_ns),
            "untold": list(timing.untold),
            "samples": timing.samples,
            "throughput_per_s": dict(timing.throughput_per_s),
            "peak_memory_bytes": timing.peak_memory_bytes,
            "speedup_vs_teacher": _speedup(measured, f"teacher/{engine.target}/fp32", timing),
            "speedup_vs_baseline": _speedup(measured, f"teacher/{BASELINE}/fp32", timing),
        }
    return line


def _speedup(
    measured: Mapping[str, Measurement], reference: str, timing: Measurement
) -> float | None:
    """The ratio of p50 latencies of one run; None where they are of other batches."""
    if reference not in measured or measured[reference].batch != timing.batch:
        return None
    return measured[reference].latency_ns["p50"] / timing.latency_ns["p50"]


def judge(line: Mapping[str, Any], budget: BudgetSettings) -> Row:
    """One measured engine against the budget: ``status`` and ``reasons``."""
    reasons, statuses = [], ["pass"]
    name = line["name"].removeprefix("student/")
    if budget.fps is not None:
        latency = line["latency_ns"][DEADLINE_PERCENTILE] / 1e6
        deadline = 1e3 / budget.fps
        bounds = line["interval_ns"][DEADLINE_PERCENTILE]
        spread = f" [{bounds[0] / 1e6:.3g}, {bounds[1] / 1e6:.3g}]" if bounds else ""
        frames = "" if line["batch"] == 1 else f" for a batch of {line['batch']}"
        text = (
            f"{DEADLINE_PERCENTILE} latency of {name} is {latency:.3g} ms{spread}{frames};"
            f" {budget.fps:g} frames a second allow {deadline:.3g} ms"
        )
        if DEADLINE_PERCENTILE in line["untold"]:
            statuses.append("insufficient")
            text += f"; {line['samples']} samples are too few to tell it"
        elif latency > deadline:
            statuses.append("fail")
        reasons.append(text)
    if budget.max_drop is not None and line["to_teacher"] is not None:
        delta, low, high = line["to_teacher"]
        statuses.append("fail" if -delta > budget.max_drop else "pass")
        reasons.append(
            f"top-1 of {name} is {line['top1']:.2f} %, {delta:+.2f} points [{low:+.2f},"
            f" {high:+.2f}] to the teacher; a drop of {budget.max_drop:g} is allowed"
        )
    if not reasons:
        reasons.append("no budget was given: nothing to miss")
    worst = next(each for each in ("fail", "insufficient", "pass") if each in statuses)
    return {"status": worst, "reasons": reasons}


def prefer(lines: Sequence[Mapping[str, Any]], budget: BudgetSettings) -> tuple[str, Row]:
    """The engine to ship, by name, and its verdict.

    Of the student's engines that were run and measured, those that meet the budget come first
    and the lowest p50 latency wins, whatever its precision; one that takes larger batches alone
    comes after those. Where none was run, the first
    engine is named and nothing is claimed of it.
    """
    candidates = [
        each
        for each in lines
        if each["role"] == "student" and each["target"] != BASELINE and each["latency_ns"]
    ]
    if candidates:
        judged = {each["name"]: judge(each, budget) for each in candidates}
        best = min(
            candidates,
            key=lambda each: (
                judged[each["name"]]["status"] != "pass",
                each["batch"] != 1,
                each["latency_ns"]["p50"],
            ),
        )
        return best["name"], judged[best["name"]]
    first = next(each for each in lines if each["role"] == "student" and each["target"] != BASELINE)
    if budget.fps is None and budget.max_drop is None:
        return first["name"], {
            "status": "pass",
            "reasons": ["no budget was given: nothing to miss"],
        }
    return first["name"], {
        "status": "insufficient",
        "reasons": ["no engine that ships could be run here, so none was held against the budget"],
    }
