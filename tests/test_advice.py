"""Advice: a lower precision is shipped where it was measured to be faster, and not elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.advice import advise
from edgekd.backends.tensorrt.inspector import Inspection

TARGET = "jetson-orin-nano"
EXACT = (-0.02, -0.1, 0.05)
WORSE = (-0.4, -0.6, -0.2)


def line(precision: str, p50_us: float | None = None, **changes: Any) -> dict[str, Any]:
    """An engine of the student with a median that is known to 1 %; None for one not run."""
    line = {
        "name": f"student/{TARGET}/{precision}",
        "role": "student",
        "target": TARGET,
        "precision": precision,
        "executed": p50_us is not None,
        "latency_ns": None,
        "to_student": None,
        "top1": None,
        "emulated": False,
        "device": "sm_87",
    }
    if p50_us is not None:
        p50 = round(1000 * p50_us)
        line["latency_ns"] = {"p50": p50}
        line["interval_ns"] = {"p50": (round(0.995 * p50), round(1.005 * p50))}
    return {**line, **changes}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], []),
        ([line("fp32", 100)], []),
        (
            [line("fp16", 100), line("int8", 102)],
            [f"int8 is not faster than fp16 on {TARGET} (1.02× its latency): ship fp16"],
        ),
        (
            [line("fp16", 100), line("int8", 99.5)],
            [
                (
                    f"int8 is not faster than fp16 on {TARGET} (0.99× its latency, intervals"
                    " overlap): ship fp16"
                )
            ],
        ),
        (
            [line("fp32", 100), line("int8", 62.5)],
            [f"int8 is 1.60× as fast as fp32 on {TARGET}"],
        ),
        (
            [line("fp32", 100), line("fp16", 50), line("int8", 60)],
            [
                f"fp16 is 2.00× as fast as fp32 on {TARGET}",
                f"int8 is not faster than fp16 on {TARGET} (1.20× its latency): ship fp16",
            ],
        ),
        (
            [line("fp32", 100), line("fp16", 110), line("int8", 80)],
            [
                f"fp16 is not faster than fp32 on {TARGET} (1.10× its latency)",
                f"int8 is 1.25× as fast as fp32 on {TARGET}",
            ],
        ),
        (
            [line("fp8", 40), line("int8", 60), line("fp16", 50)],
            [
                f"int8 is not faster than fp16 on {TARGET} (1.20× its latency)",
                f"fp8 is 1.25× as fast as fp16 on {TARGET}",
            ],
        ),
        (
            [line("fp16"), line("int8")],
            [f"nothing is known of speed on {TARGET}: no engine could be run here"],
        ),
        (
            [line("fp32", 100), line("int8")],
            [
                (
                    f"nothing is known of the speed of int8 on {TARGET}: its engine could not"
                    " be run here"
                )
            ],
        ),
        ([line("fp32", 100), line("int8", 50, latency_ns=None)], []),
        (
            [line("fp32", 100, interval_ns={"p50": None}), line("int8", 50)],
            [f"too few samples to tell whether int8 is faster than fp32 on {TARGET}"],
        ),
        (
            [line("fp16", 100, to_student=EXACT), line("int8", 102, to_student=WORSE)],
            [
                (
                    f"int8 is not faster than fp16 on {TARGET} (1.02× its latency), and loses 0.40"
                    " points [0.20, 0.60] to the fp32 student: ship fp16"
                )
            ],
        ),
        (
            [line("fp32", 100), line("int8", 50, to_student=WORSE)],
            [
                (
                    f"int8 is 2.00× as fast as fp32 on {TARGET}, and loses 0.40 points [0.20,"
                    " 0.60] to the fp32 student"
                )
            ],
        ),
        (
            [line("fp32", 100, to_student=WORSE), line("int8", 50, to_student=EXACT)],
            [f"int8 is 2.00× as fast as fp32 on {TARGET}"],
        ),
    ],
)
def test_each_target_is_told_what_to_ship(lines: list[dict[str, Any]], said: list[str]) -> None:
    assert advise(lines) == said


def test_targets_are_told_one_by_one_and_never_the_teacher_or_the_baseline() -> None:
    lines = [
        line("fp32", 100, target="torch"),
        line("int8", 1, target="torch"),
        line("fp32", 100, role="teacher"),
        line("fp32", 10, target="onnxruntime-cpu"),
        line("fp32", 100),
        line("int8", 12, target="onnxruntime-cpu"),
        line("int8", 50),
    ]
    assert advise(lines) == [
        "int8 is not faster than fp32 on onnxruntime-cpu (1.20× its latency): ship fp32",
        f"int8 is 2.00× as fast as fp32 on {TARGET}",
    ]


@pytest.mark.parametrize(
    ("by_precision", "reformats", "inside"),
    [
        ({"int8": 3, "fp32": 19}, 12, "; 3 of its 22 compute layers run in int8; 12 reformats"),
        ({"fp32": 22}, 0, "; 0 of its 22 compute layers run in int8"),
        ({"int8": 22}, 3, "; 3 reformats"),
        ({"int8": 22}, 0, ""),
        ({"unknown": 22}, 0, ""),
    ],
)
def test_an_engine_that_was_looked_into_says_why(
    by_precision: dict[str, int], reformats: int, inside: str
) -> None:
    found = Inspection((), True, by_precision, None, reformats, 0)
    lines = [line("fp16", 100), line("int8", 102)]
    looked = {lines[1]["name"]: found}
    assert advise(lines, looked) == [
        f"int8 is not faster than fp16 on {TARGET} (1.02× its latency{inside}): ship fp16"
    ]
    faster = [line("fp16", 100), line("int8", 50)]
    assert advise(faster, looked) == advise(faster)
