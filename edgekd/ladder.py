"""The ladder of precisions: what each target's engines are built from.

fp32 → fp16 → int8 → fp8, as far as a target goes. Where its layers compute in float16 outside of
int8 and fp8, so does what is built for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.artifacts import OnnxModel, QuantizedModel
from edgekd.backends.tensorrt import BACKENDS as TENSORRT
from edgekd.progress import Progress
from edgekd.stages import Stages
from edgekd.store import Stage
from edgekd.targets import Target

FP8_FORM = "f8"
Model = OnnxModel | QuantizedModel


@dataclass(frozen=True)
class Rung:
    """One precision on one target.

    Attributes:
        target: where it is to run.
        precision: fp32, fp16, int8 or fp8.
        source: the model in that precision, with float32 for what is not quantised.
        half: float16 takes the place of float32.
    """

    target: Target
    precision: str
    source: Model
    half: bool


def rungs(
    targets: list[Target],
    precisions: tuple[str, ...],
    student: OnnxModel,
    forms: Mapping[str, QuantizedModel],
) -> list[Rung]:
    """Every rung that the targets have among these precisions, in their order."""
    found = []
    for target in targets:
        for precision in dict.fromkeys(precisions):
            if precision not in target.precisions:
                continue
            source: Model = student
            if precision in ("int8", "fp8"):
                source = forms[form_of(target, precision)]
            half = precision == "fp16" or (precision != "fp32" and target.base == "fp16")
            found.append(Rung(target, precision, source, half))
    return found


def form_of(target: Target, precision: str) -> str:
    """The quantised form that a target takes at a precision."""
    return FP8_FORM if precision == "fp8" else target.form


def wants_fp8(targets: list[Target], precisions: tuple[str, ...]) -> bool:
    """Whether some target is to be built in fp8."""
    return "fp8" in precisions and any("fp8" in each.precisions for each in targets)


def models(stages: Stages, found: Sequence[Rung]) -> list[Model]:
    """What the engines of rungs are built from."""

    def half(source: Model) -> Model:
        def produce(folder: Path, progress: Progress) -> Model:
            from edgekd.quantize.fp16 import to_fp16

            return to_fp16(source, folder)

        stage = Stage("half", 1, {}, ("onnx", "onnxruntime", "numpy"))
        label = f"float16 {_kind(source)}"
        return stages.run(label, stage, {"model": source}, type(source), produce)

    return _each(found, half)


def emulations(stages: Stages, found: Sequence[Rung]) -> list[Model]:
    """Models that a CPU can run, whose plain semantics are those of the rungs' engines."""

    def emulation(source: Model) -> Model:
        def produce(folder: Path, progress: Progress) -> Model:
            from edgekd.quantize.fp16 import emulate

            return emulate(source, folder)

        stage = Stage("emulate", 1, {}, ("onnx", "numpy"))
        label = f"emulate float16 {_kind(source)}"
        return stages.run(label, stage, {"model": source}, type(source), produce)

    return _each(found, emulation)


def _each(found: Sequence[Rung], change: Callable[[Model], Model]) -> list[Model]:
    """The sources of rungs, those that are to be in float16 changed, and no one twice."""
    changed: dict[Path, Model] = {}
    for rung in found:
        if rung.half and rung.source.path not in changed:
            changed[rung.source.path] = change(rung.source)
    return [changed[each.source.path] if each.half else each.source for each in found]


def source_name(rung: Rung) -> str:
    """What a bundle calls the ONNX that a rung is built from; empty where nobody rebuilds it."""
    if rung.target.backend not in TENSORRT:
        return ""
    steps = [each for each in ("int8", "fp8") if each == rung.precision]
    return ".".join(["student", *steps, *(["fp16"] if rung.half else []), "onnx"])


def _kind(source: Model) -> str:
    return source.form if isinstance(source, QuantizedModel) else "student"
