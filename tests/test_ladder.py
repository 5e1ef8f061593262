"""The ladder of precisions: which model each target's engines are built from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekd import ladder, targets
from edgekd.artifacts import OnnxModel, QuantizedModel

ALL = ("fp32", "fp16", "int8", "fp8")
STUDENT = OnnxModel(path=Path("student"), opset=18, model_inputs=(), model_outputs=(), parity=0.0)


def _form(name: str) -> QuantizedModel:
    return QuantizedModel(
        path=Path(name), form=name, model_inputs=(), model_outputs=(), kept_float=()
    )


FORMS = {name: _form(name) for name in ("s8s8", "u8s8", "a8s8", "f8")}


def _steps(name: str, precisions: tuple[str, ...] = ALL) -> list[tuple[str, str, bool, str]]:
    rungs = ladder.rungs([targets.load(name)], precisions, STUDENT, FORMS)
    return [(r.precision, r.source.path.name, r.half, ladder.source_name(r)) for r in rungs]


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("onnxruntime-cpu", [("fp32", "student", False, ""), ("int8", "u8s8", False, "")]),
        ("onnxruntime-arm", [("fp32", "student", False, ""), ("int8", "a8s8", False, "")]),
        (
            "turing",
            [
                ("fp16", "student", True, "student.fp16.onnx"),
                ("int8", "s8s8", True, "student.int8.fp16.onnx"),
            ],
        ),
        (
            "rtx-40",
            [
                ("fp32", "student", False, "student.onnx"),
                ("fp16", "student", True, "student.fp16.onnx"),
                ("int8", "s8s8", True, "student.int8.fp16.onnx"),
                ("fp8", "f8", True, "student.fp8.fp16.onnx"),
            ],
        ),
    ],
)
def test_a_target_climbs_as_far_as_it_goes(
    name: str, steps: list[tuple[str, str, bool, str]]
) -> None:
    assert _steps(name) == steps


def test_what_is_not_asked_for_is_left_out_and_nothing_is_built_twice() -> None:
    assert [each[0] for each in _steps("rtx-40", ("int8", "fp32", "int8"))] == ["int8", "fp32"]


def test_int8_over_float32_where_a_target_has_it_so() -> None:
    target = replace(targets.load("rtx-30"), base="fp32")
    rungs = ladder.rungs([target], ("int8",), STUDENT, FORMS)
    assert [(r.half, ladder.source_name(r)) for r in rungs] == [(False, "student.int8.onnx")]


@pytest.mark.parametrize(
    ("names", "precisions", "wanted"),
    [
        (["rtx-30"], ALL, False),
        (["rtx-30", "rtx-40"], ALL, True),
        (["rtx-40"], ("fp32", "int8"), False),
    ],
)
def test_fp8_is_made_for_those_who_take_it(
    names: list[str], precisions: tuple[str, ...], wanted: bool
) -> None:
    assert ladder.wants_fp8([targets.load(each) for each in names], precisions) is wanted
