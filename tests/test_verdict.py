"""The verdict: a budget is met, missed, or cannot be told; the measured best is preferred."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.recipe import BudgetSettings
from edgekd.verdict import judge, prefer


def line(name: str = "student/onnxruntime-cpu/int8", **changes: Any) -> dict[str, Any]:
    """An engine with p50 1 ms, p99 2 ms and one point lost to the teacher."""
    role, target, precision = name.split("/")
    return {
        "name": name,
        "role": role,
        "target": target,
        "precision": precision,
        "top1": 90.0,
        "to_teacher": (-1.0, -1.5, -0.5),
        "batch": 1,
        "latency_ns": {"p50": 1_000_000, "p99": 2_000_000},
        "interval_ns": {"p99": (1_900_000, 2_100_000)},
        "untold": ["p99_9"],
        "samples": 700,
        **changes,
    }


@pytest.mark.parametrize(
    ("budget", "changes", "status"),
    [
        ({}, {}, "pass"),
        ({"fps": 500}, {}, "pass"),
        ({"fps": 501}, {}, "fail"),
        ({"fps": 500}, {"untold": ["p99", "p99_9"]}, "insufficient"),
        ({"max_drop": 1.0}, {}, "pass"),
        ({"max_drop": 0.99}, {}, "fail"),
        ({"fps": 500, "max_drop": 0.99}, {}, "fail"),
        ({"fps": 501, "max_drop": 1.0}, {}, "fail"),
        ({"fps": 500, "max_drop": 0.5}, {"untold": ["p99"]}, "fail"),
    ],
)
def test_the_worst_of_the_limits_decides(
    budget: dict[str, float], changes: dict[str, Any], status: str
) -> None:
    assert judge(line(**changes), BudgetSettings(**budget))["status"] == status


def test_reasons_hold_the_figure_its_interval_and_the_limit() -> None:
    latency, drop = judge(line(), BudgetSettings(fps=500, max_drop=2))["reasons"]
    assert (
        "p99 latency of onnxruntime-cpu/int8 is 2 ms [1.9, 2.1]; 500 frames a second allow 2 ms"
        in latency
    )
    assert "90.00 %, -1.00 points [-1.50, -0.50] to the teacher; a drop of 2 is allowed" in drop


def test_a_batch_is_named_and_comes_after_single_images() -> None:
    (told,) = judge(line(batch=8), BudgetSettings(fps=500))["reasons"]
    assert "is 2 ms [1.9, 2.1] for a batch of 8; 500 frames" in told
    single = line("student/openvino-cpu/fp32", latency_ns={"p50": 1_500_000, "p99": 1_600_000})
    assert prefer([line(batch=8), single], BudgetSettings())[0] == single["name"]


def test_the_fastest_is_preferred_whatever_its_precision() -> None:
    fp32 = line("student/onnxruntime-cpu/fp32", latency_ns={"p50": 900_000, "p99": 2_000_000})
    assert prefer([line(), fp32], BudgetSettings())[0] == fp32["name"]


def test_one_that_meets_the_budget_comes_before_a_faster_one_that_does_not() -> None:
    fast = line(
        "student/openvino-cpu/int8", latency_ns={"p50": 1, "p99": 2}, to_teacher=(-9, -9, -9)
    )
    name, verdict = prefer([fast, line()], BudgetSettings(max_drop=2))
    assert name == line()["name"]
    assert verdict["status"] == "pass"
    name, verdict = prefer([fast, line()], BudgetSettings(max_drop=0.5))
    assert name == fast["name"]  # none meets it: the fastest, and it fails
    assert verdict["status"] == "fail"


def test_teacher_baseline_and_what_was_not_run_are_never_preferred() -> None:
    others = [
        line("teacher/onnxruntime-cpu/fp32", latency_ns={"p50": 1, "p99": 1}),
        line("student/torch/fp32", latency_ns={"p50": 1, "p99": 1}),
        line("student/tensorrt-rtx/int8", latency_ns=None),
    ]
    assert prefer([*others, line()], BudgetSettings())[0] == line()["name"]


@pytest.mark.parametrize(
    ("budget", "status"),
    [({}, "pass"), ({"fps": 1}, "insufficient"), ({"max_drop": 50}, "insufficient")],
)
def test_where_nothing_could_be_run_nothing_is_claimed(
    budget: dict[str, float], status: str
) -> None:
    built = line("student/tensorrt-rtx/int8", latency_ns=None, emulated=True)
    name, verdict = prefer([built], BudgetSettings(**budget))
    assert name == built["name"]
    assert verdict["status"] == status
