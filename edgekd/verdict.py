"""An engine's figures, held against a budget. Pure functions of artefacts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from edgekd import trace
from edgekd.artifacts import Difference, EngineFile, Evaluation
from edgekd.measurements import Measurement, Misses
from edgekd.recipe import BudgetSettings
from edgekd.stats import misses as miss_stats
from edgekd.stats import percentiles

BASELINE = "torch"
"""The target on which the teacher is taken to run today; measured always, shipped never."""
STATUSES = ("pass", "insufficient", "fail")
"""From the best to the worst."""
NO_BUDGET = "no budget was given: nothing to miss"
_SERIES_POINTS = 200

Row = dict[str, Any]


def row(
    engine: EngineFile, measured: Mapping[str, Measurement], budget: BudgetSettings | None = None
) -> Row:
    """One engine's line in a report; figures that nobody measured are None.

    Where ``built`` is false, it is yet to be built on the device; where ``emulated`` becomes true,
    its accuracy is that of a graph that rounds as it does, run on a CPU.

    Args:
        engine: the engine.
        measured: measurements by engine name, the teacher's among them.
        budget: against whose deadline misses are counted.
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
        "misses": None,
        "speedup_vs_teacher": None,
        "speedup_vs_baseline": None,
    }
    if timing is not None:
        line |= timed(timing, budget) | {
            "speedup_vs_teacher": _speedup(measured, f"teacher/{engine.target}/fp32", timing),
            "speedup_vs_baseline": _speedup(measured, f"teacher/{BASELINE}/fp32", timing),
        }
    return line


def accuracy(evaluation: Evaluation | None, to_teacher: Difference, to_student: Difference) -> Row:
    """What a report holds of one engine on the test split; nothing where it was not evaluated."""
    if evaluation is None:
        return {}
    return {
        "top1": evaluation.value,
        "ci": [evaluation.low, evaluation.high],
        "agreement": evaluation.agreement,
        "emulated": evaluation.emulated,
        "to_teacher": to_teacher.deltas.get(evaluation.engine),
        "to_student": to_student.deltas.get(evaluation.engine),
        "tests": {
            reference: {
                "bootstrap": each.bootstrap.get(evaluation.engine),
                "mcnemar_p": each.p.get(evaluation.engine),
            }
            for reference, each in (("to_teacher", to_teacher), ("to_student", to_student))
        },
    }


def timed(timing: Measurement, budget: BudgetSettings | None = None) -> Row:
    """What a report holds of one measurement.

    ``series`` is latency over time, in buckets: (nanoseconds from the run's beginning, p50, max,
    misses). See ``Measurement`` for the rest.
    """
    record = np.load(timing.trace, allow_pickle=False)
    deadline = None if budget is None else budget.deadline_ns
    counted = None if budget is None or deadline is None else misses(record, deadline, budget)
    return {
        "batch": timing.batch,
        "latency_ns": dict(timing.latency_ns) or None,
        "interval_ns": dict(timing.interval_ns),
        "early_ns": dict(timing.early_ns),
        "untold": list(timing.untold),
        "samples": timing.samples,
        "throughput_per_s": dict(timing.throughput_per_s),
        "peak_memory_bytes": timing.start and timing.start.peak_memory_bytes,
        "start": timing.start and asdict(timing.start),
        "misses": counted and asdict(counted),
        "lateness_ns": dict(timing.lateness_ns),
        "starts_ns": dict(timing.starts_ns),
        "split_ns": {name: dict(each) for name, each in timing.split_ns.items()},
        "loadgen": dict(timing.loadgen),
        "series": _series(record, deadline),
        "warnings": list(timing.warnings),
        "partial": timing.partial,
    }


def misses(record: trace.Trace, deadline_ns: int, budget: BudgetSettings) -> Misses:
    """Frames of a trace that were late or dropped, and what that says of their rate."""
    missed = trace.missed(record, deadline_ns)
    count, frames = int(missed.sum()), len(missed)
    return Misses(
        deadline_ns=deadline_ns,
        frames=frames,
        missed=count,
        dropped=int((~trace.answered(trace.decided(record))).sum()),
        longest_burst=miss_stats.longest_burst(missed),
        rate_low=miss_stats.lower(count, frames, budget.confidence),
        rate_high=miss_stats.upper(count, frames, budget.confidence),
        confidence=budget.confidence,
    )


def _series(record: trace.Trace, deadline_ns: int | None) -> list[list[int]]:
    done = trace.decided(record)
    late = np.zeros(len(done), bool) if deadline_ns is None else trace.missed(record, deadline_ns)
    if not len(done):
        return []
    points = []
    for part in np.array_split(np.arange(len(done)), min(_SERIES_POINTS, len(done))):
        took = trace.response(done[part])
        p50, most = (int(np.median(took)), int(took.max())) if len(took) else (0, 0)
        points.append([int(done[part[0], trace.DUE]), p50, most, int(late[part].sum())])
    return points


def _speedup(
    measured: Mapping[str, Measurement], reference: str, timing: Measurement
) -> float | None:
    """The ratio of p50 latencies of one run; None where they are of other batches."""
    if reference not in measured or measured[reference].batch != timing.batch:
        return None
    if not measured[reference].samples or not timing.samples:
        return None
    return measured[reference].latency_ns["p50"] / timing.latency_ns["p50"]


def judge(line: Mapping[str, Any], budget: BudgetSettings) -> Row:
    """One measured engine against the budget.

    A limit is met where the figure's interval lies within it, missed where it lies beyond, and
    cannot be told where it straddles.

    Returns:
        ``status``; ``headline``; ``criteria``, each with ``name``, ``status`` and ``reason``; and
        the ``reasons`` alone.
    """
    criteria = [each for check in _CHECKS for each in check(line, budget)]
    reasons = [each["reason"] for each in criteria]
    status = max((each["status"] for each in criteria), key=STATUSES.index, default="pass")
    return {
        "status": status,
        "headline": _headline(line, budget, status),
        "criteria": criteria,
        "reasons": reasons or [NO_BUDGET],
    }


def _deadline(line: Mapping[str, Any], budget: BudgetSettings) -> list[Row]:
    counted = line["misses"]
    if counted is None or not counted["frames"]:
        return []
    name = line["name"].removeprefix("student/")
    deadline = counted["deadline_ns"] / 1e6
    each = "frames" if line["batch"] == 1 else f"batches of {line['batch']}"
    burst = f", {counted['longest_burst']} in a row at most" if counted["missed"] else ""
    if counted["rate_high"] <= budget.miss_rate:
        status = "pass"
    else:
        status = "fail" if counted["rate_low"] > budget.miss_rate else "insufficient"
    bound = (
        f"at least {_share(counted['rate_low'])}"
        if status == "fail"
        else f"at most {_share(counted['rate_high'])}"
    )
    reason = (
        f"{name} missed {counted['missed']:,} of {counted['frames']:,} {each} due within"
        f" {deadline:.4g} ms{burst}: {bound} at {_share(budget.confidence)} confidence;"
        f" {_share(budget.miss_rate)} may be missed"
    )
    if status == "insufficient":
        needed = miss_stats.frames_needed(budget.miss_rate, budget.confidence, counted["missed"])
        reason += f"; too few frames to tell: it takes {needed:,} with no miss more"
    return [{"name": "deadline", "status": status, "reason": reason}]


def _accuracy(line: Mapping[str, Any], budget: BudgetSettings) -> list[Row]:
    if budget.max_drop is None:
        return []
    if line["to_teacher"] is None:
        reason = (
            f"how far {line['name'].removeprefix('student/')} is from its teacher is not known"
            f" here; a drop of {budget.max_drop:g} points is allowed"
        )
        return [{"name": "accuracy", "status": "insufficient", "reason": reason}]
    delta, low, high = line["to_teacher"]
    if low >= -budget.max_drop:
        status = "pass"
    else:
        status = "fail" if high < -budget.max_drop else "insufficient"
    reason = (
        f"top-1 of {line['name'].removeprefix('student/')} is {line['top1']:.2f} %,"
        f" {delta:+.2f} points [{low:+.2f}, {high:+.2f}] to the teacher (95 %); a drop"
        f" of {budget.max_drop:g} is allowed"
    )
    if status == "insufficient":
        reason += "; too few test images to tell"
    return [{"name": "accuracy", "status": status, "reason": reason}]


def _memory(line: Mapping[str, Any], budget: BudgetSettings) -> list[Row]:
    return _at_most(
        "memory", line, line["peak_memory_bytes"], budget.max_memory_mb, "peak memory of a process"
    )


def _size(line: Mapping[str, Any], budget: BudgetSettings) -> list[Row]:
    return _at_most("size", line, line["bytes"], budget.max_size_mb, "size")


def _at_most(
    name: str, line: Mapping[str, Any], found: int | None, most_mb: float | None, what: str
) -> list[Row]:
    if most_mb is None:
        return []
    engine = line["name"].removeprefix("student/")
    if found is None:
        reason = f"the {what} of {engine} could not be told here; {most_mb:g} MB are allowed"
        return [{"name": name, "status": "insufficient", "reason": reason}]
    return [
        {
            "name": name,
            "status": "pass" if found <= most_mb * 1e6 else "fail",
            "reason": f"{what} of {engine} is {found / 1e6:.4g} MB; {most_mb:g} MB are allowed",
        }
    ]


def _whole(line: Mapping[str, Any], budget: BudgetSettings) -> list[Row]:
    if not line.get("partial"):
        return []
    reason = f"{line['name'].removeprefix('student/')} ended early: {line['partial']}"
    return [{"name": "run", "status": "insufficient", "reason": reason}]


_CHECKS = (_deadline, _accuracy, _memory, _size, _whole)


def _headline(line: Mapping[str, Any], budget: BudgetSettings, status: str) -> str:
    """The verdict in one line."""
    word = status.upper()
    counted = line["misses"]
    if counted is None:
        return word if budget.is_empty else f"{line['name']}: {word}"
    asked = _asked(line, budget)
    deadline = f"{counted['deadline_ns'] / 1e6:.4g} ms"
    told = [each for each in percentiles.PERCENTILES if each not in line["untold"]]
    tail = ""
    if told:
        p = told[-1]
        bounds = line["interval_ns"][p]
        spread = f" [{bounds[0] / 1e6:.3g}, {bounds[1] / 1e6:.3g}]" if bounds else ""
        tail = f"; {p.replace('_', '.')} {line['latency_ns'][p] / 1e6:.3g} ms{spread}"
    return (
        f"{asked} ({deadline}): {word}{tail}; misses {counted['missed']:,}/{counted['frames']:,},"
        f" <= {_share(counted['rate_high'])} at {_share(counted['confidence'])} confidence"
    )


def _asked(line: Mapping[str, Any], budget: BudgetSettings) -> str:
    """What an engine was asked, in short."""
    scenario = line.get("scenario") or "single-stream"
    if scenario == "camera":
        return f"{budget.fps:g} FPS"
    rate = line.get("rate_per_s")
    return f"{scenario} at {rate:g}/s" if rate else str(scenario)


def _share(value: float) -> str:
    """1 %, 0.013 %, 99.9 %"""
    return f"{100 * value:.3g} %" if value < 0.99 else f"{100 * value:.6g} %"


def for_each(budget: BudgetSettings, engines: Iterable[EngineFile]) -> BudgetSettings:
    """The budget that each of several engines is held against, where the best of them is to ship.

    Were each judged at the budget's own confidence, one of several that just miss it would pass
    more often than that. By Bonferroni, so that the best holds what was asked for.
    """
    count = sum(each.executed and _may_ship(vars(each)) for each in engines)
    confidence = 1 - (1 - budget.confidence) / max(1, count)
    return budget.model_copy(update={"confidence": confidence})


def conclude(
    lines: Sequence[Mapping[str, Any]],
    each: BudgetSettings,
    budget: BudgetSettings,
    camera: Row | None = None,
) -> tuple[str, Row]:
    """As ``prefer``; where the preferred engine was given a camera's frames, they decide.

    Args:
        lines: as ``row`` makes them.
        each: see ``for_each``.
        budget: which the camera's frames of one engine are held against.
        camera: what ``timed`` makes of them.
    """
    best, judged = prefer(lines, each)
    if camera is not None:
        line = next(row for row in lines if row["name"] == best)
        judged = judge(
            {
                **line,
                **camera,
                "scenario": "camera",
                "peak_memory_bytes": line["peak_memory_bytes"],
            },
            budget,
        )
    return best, judged


def _may_ship(line: Mapping[str, Any]) -> bool:
    """Whether an engine is no reference: a teacher, a control, or the student in PyTorch."""
    if line["role"] in ("teacher", "control"):
        return False
    return bool(line["role"] != "student" or line["target"] != BASELINE)


def prefer(lines: Sequence[Mapping[str, Any]], budget: BudgetSettings) -> tuple[str, Row]:
    """The engine to ship, by name, and its verdict.

    Of the student's engines that were run and measured, those that ran to the end come first, of
    those the ones that meet the budget, then those of which it cannot be told,
    and the lowest p50 latency wins, whatever its precision; one that takes larger batches alone
    comes after those. Where none was run, the first
    engine is named and nothing is claimed of it.
    """
    ours = [each for each in lines if _may_ship(each)]
    candidates = [each for each in ours if each["latency_ns"]]
    if candidates:
        judged = {each["name"]: judge(each, budget) for each in candidates}
        best = min(
            candidates,
            key=lambda each: (
                bool(each.get("partial")),
                STATUSES.index(judged[each["name"]]["status"]),
                each["batch"] != 1,
                each["latency_ns"]["p50"],
            ),
        )
        return best["name"], judged[best["name"]]
    first = ours[0]
    status = "pass" if budget.is_empty else "insufficient"
    reason = (
        NO_BUDGET
        if budget.is_empty
        else "no engine that ships could be run here, so none was held against the budget"
    )
    criteria = [{"name": "budget", "status": status, "reason": reason}]
    return first["name"], {
        "status": status,
        "headline": status.upper(),
        "criteria": [] if budget.is_empty else criteria,
        "reasons": [reason],
    }
