"""``report.json``: what the stages found, joined, with a verdict. Pure functions of artefacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from edgekd.advice import advise
from edgekd.artifacts import (
    Checkpoint,
    Dataset,
    Difference,
    EngineFile,
    Evaluation,
    Int8,
    Int8Check,
    Mix,
    OnnxModel,
    QuantizedModel,
    Sensitivity,
)
from edgekd.backends.tensorrt import inspector
from edgekd.backends.tensorrt.inspector import Inspection
from edgekd.calibration.methods import label
from edgekd.data import splits
from edgekd.measurements import Measurement, Measurements, Profile
from edgekd.recipe import BudgetSettings
from edgekd.report import examples, layers, ranges, traces
from edgekd.verdict import BASELINE, Row, accuracy, conclude, for_each, row

SCHEMA = "1.0"


@dataclass(frozen=True)
class Findings:
    """Everything that a report is made from; mappings go by role, or by an engine's name."""

    name: str
    command: str
    dataset: Dataset
    checkpoints: Mapping[str, Checkpoint]
    exports: Mapping[str, OnnxModel]
    int8: Int8 | None
    quantized: Mapping[str, QuantizedModel]
    engines: Mapping[str, EngineFile]
    inspections: Mapping[str, Inspection]
    evaluations: Mapping[str, Evaluation]
    to_teacher: Difference
    to_student: Difference
    measurements: Measurements
    budget: BudgetSettings
    camera: Measurements | None = None
    profiles: Mapping[str, Profile] = field(default_factory=dict)


def summarise(found: Findings) -> dict[str, Any]:
    """The report as JSON holds it."""
    measured = {each.engine: each for each in found.measurements.items}
    own = for_each(found.budget, found.engines.values())
    engines = [_engine(found, each, measured, own) for each in found.engines.values()]
    camera = None if found.camera is None else traces.camera(found.camera, found.budget)
    preferred, judged = conclude(engines, own, found.budget, camera)
    return {
        "schema": SCHEMA,
        "name": found.name,
        "verdict": judged,
        "preferred": preferred,
        "budget": found.budget.canonical(),
        "models": {
            role: {
                "model": each.model,
                "params": each.params,
                "macs": each.macs,
                "top1": _top1(found, role),
                "validation_top1": each.metrics["validation_top1"],
                "parity": found.exports[role].parity if role in found.exports else None,
            }
            for role, each in found.checkpoints.items()
        },
        "waterfall": _waterfall(found),
        "engines": engines,
        "notes": list(_notes(found, engines)),
        "data": {
            "source": found.dataset.source,
            "fingerprint": found.dataset.fingerprint,
            "sizes": dict(found.dataset.sizes),
            "seed": found.dataset.seed,
            "classes": list(found.dataset.classes),
        },
        "quantisation": _quantisation(found),
        "camera": camera,
        "watch": traces.watch(found.measurements.watch),
        "profiles": layers.profiles(found.profiles),
        **_examples(found, preferred),
        "calibration": None
        if found.int8 is None
        else ranges.audit(found.int8.chosen, found.int8.table),
        "bench": {
            "scenario": found.measurements.scenario,
            "load": dict(found.measurements.load),
            "threads": found.measurements.threads,
            "clock": found.measurements.clock,
        },
        "host": dict(found.measurements.host),
        "provenance": _provenance(found),
        "command": found.command,
    }


def _engine(
    found: Findings,
    engine: EngineFile,
    measured: Mapping[str, Measurement],
    budget: BudgetSettings,
) -> Row:
    line = row(engine, measured, budget)
    line |= accuracy(found.evaluations.get(engine.name), found.to_teacher, found.to_student)
    if engine.name in found.inspections:
        inspection = found.inspections[engine.name]
        line["layers"] = {
            "by_precision": dict(inspection.by_precision),
            "int8_share": inspection.int8_share,
            "reformats": inspection.reformats,
            "opaque": inspection.opaque,
            "summary": inspector.summary(inspection, engine.precision),
        }
    if engine.name in measured:
        line["curve"] = traces.curve(np.load(measured[engine.name].trace, allow_pickle=False))
    return line


def _waterfall(found: Findings) -> list[dict[str, Any]]:
    """Accuracy from the teacher to each rounded engine that ran or was emulated."""
    stages = [
        ("teacher", f"teacher/{BASELINE}/fp32"),
        ("student without teacher", f"control/{BASELINE}/fp32"),
        ("student with teacher", f"student/{BASELINE}/fp32"),
    ]
    stages += [
        (f"{each.precision} on {each.target}{'' if each.executed else ', emulated'}", each.name)
        for each in found.engines.values()
        if each.role == "student" and each.precision != "fp32"
    ]
    return [
        {
            "stage": stage,
            "top1": each.value,
            "ci": [each.low, each.high],
            "agreement": each.agreement,
            "to_teacher": found.to_teacher.deltas.get(name),
            "to_student": found.to_student.deltas.get(name),
            "p_to_student": found.to_student.p.get(name),
        }
        for stage, name in stages
        if (each := found.evaluations.get(name)) is not None
    ]


def _notes(found: Findings, engines: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """What a reader should not have to find out alone."""
    notes = [
        f"{_sentence(told)} (p50, one run)."
        for told in advise([each for each in engines if each["executed"]], found.inspections)
    ]
    for name in found.inspections:
        line = next(each for each in engines if each["name"] == name)
        notes += [f"{name}: {told}." for told in line["layers"]["summary"]]
    for target in sorted({each["target"] for each in engines if not each["executed"]}):
        mine = [each for each in engines if each["target"] == target]
        notes.append(
            f"The engines for {target} "
            + (
                "were built and not executed: no device here can run them."
                if all(each["built"] for each in mine)
                else "are built on the device alone: there, `edgekd verify --rebuild` makes them of"
                " the ONNX in the bundle, checks them and measures them."
            )
            + (
                " Nothing is claimed of their speed. Their accuracy is emulated: a graph that"
                " rounds as they do was run on a CPU, nothing fused."
                if any(each["emulated"] for each in mine)
                else " Nothing is claimed of their speed or accuracy."
            )
        )
    if found.checkpoints["teacher"].onnx:
        notes.append(
            f"The teacher, {found.checkpoints['teacher'].model}, is run by ONNX Runtime wherever"
            " PyTorch is named, and is not in the bundle."
        )
    if found.int8 is not None and found.int8.before is not None:
        notes.extend(_fine_tuning(found.int8.before, found.int8.after))
        notes.extend(_kept_in_float(each) for each in found.int8.sensitivity.values())
    control = found.evaluations.get(f"control/{BASELINE}/fp32")
    if control is not None:
        delta, low, high = found.to_student.deltas[control.engine]
        gain = f"{-delta:+.2f} points [{-high:+.2f}, {-low:+.2f}]"
        notes.append(
            f"The teacher brings the student {gain} of top-1 over the same student trained"
            " alone with the same seed and epochs"
            + ("; on these images that cannot be told from nothing." if low <= 0 <= high else ".")
        )
    few = [each["name"] for each in engines if each["latency_ns"] and "p99_9" in each["untold"]]
    if few:
        notes.append(
            "Too few samples were taken to tell p99.9, whose figure is the sample's own, of"
            f" {', '.join(few)}."
        )
    return notes


def _sentence(words: str) -> str:
    """With a capital, unless it starts with the name of a precision."""
    return words if words.startswith(("fp", "int")) else words[0].upper() + words[1:]


def _fine_tuning(before: Int8Check, after: Int8Check | None) -> Iterator[str]:
    """What calibration alone lost on validation, and what training to be rounded made of it."""
    for form in before.forms:
        lost = (
            f"On validation the int8 form {form} is {0 - before.lost(form):+.2f} points from fp32"
        )
        if after is None or form not in after.forms:
            yield f"{lost} after calibration, and was not fine-tuned."
        else:
            verb = "ships" if after.forms[form] > before.forms[form] else "is no better: left out"
            yield (
                f"{lost} after calibration and {0 - after.lost(form):+.2f} after quantisation-aware"
                f" distillation, which {verb}."
            )


def _kept_in_float(found: Sensitivity) -> str:
    """What it gains to keep the worst layers in float, and whether it ships so."""
    first, chosen = found.mixes[0], found.mixes[found.chosen]
    if not chosen.kept:
        return f"Layers of {found.form} were looked into one by one; all of them ship in int8."
    number = len(chosen.kept)
    which = (
        "the layer that int8 hurts most stays"
        if number == 1
        else (f"the {number} layers that int8 hurts most stay")
    )
    return (
        f"In {found.form} {which} in float: {_change(first)} to fp32 on validation without,"
        f" {_change(chosen)} with that."
    )


def _change(mix: Mix) -> str:
    return f"{mix.sqnr:.1f} dB" if mix.lost is None else f"{0 - mix.lost:+.2f} points"


def _quantisation(found: Findings) -> dict[str, Any] | None:
    if found.int8 is None:
        return None
    int8 = found.int8
    return {
        "method": label(int8.table.method, int8.table.percentile),
        "samples": int8.table.samples,
        "set_sha256": int8.table.set_sha256,
        "tensors": len(int8.table.ranges),
        "tried": [asdict(each) for each in int8.table.tried],
        "forms": {
            form: {"kept_float": list(each.kept_float)} for form, each in found.quantized.items()
        },
        "validation": {
            name: None if each is None else {"fp32": each.fp32, **each.forms}
            for name, each in (("calibrated", int8.before), ("fine_tuned", int8.after))
        },
        "sensitivity": {form: _layers(each) for form, each in int8.sensitivity.items()},
        "proof": {
            "to_fp32": {form: dB for each in int8.proofs for form, dB in each.to_fp32.items()},
            "between": {pair: dB for each in int8.proofs for pair, dB in each.between.items()},
            "samples": int8.proofs[0].samples,
        },
    }


def _layers(found: Sensitivity) -> dict[str, Any]:
    total = sum(each.macs or 0 for each in found.layers)
    return {
        "layers": [
            {**asdict(each), "macs_share": (each.macs or 0) / total if total else None}
            for each in found.layers
        ],
        "layer_samples": found.layer_samples,
        "mixes": [
            {**asdict(each), "kept": list(each.kept), "chosen": place == found.chosen}
            for place, each in enumerate(found.mixes)
        ],
        "mix_samples": found.mix_samples,
        "fp32_ns": {target: dict(each) for target, each in found.fp32_ns.items()},
    }


def _provenance(found: Findings) -> dict[str, Any]:
    """Content hashes of what everything was made from, and the libraries that made it."""
    artifacts = {
        "data": found.dataset,
        **{f"{role} weights": each for role, each in found.checkpoints.items()},
        **{f"{role} onnx": each for role, each in found.exports.items()},
        **{f"int8 {form}": each for form, each in found.quantized.items()},
    }
    if found.int8 is not None:
        artifacts["calibration table"] = found.int8.table
    versions: dict[str, str] = {}
    for each in (*artifacts.values(), *found.engines.values()):
        versions.update(each.producer_versions)
    return {
        "content": {name: each.content for name, each in artifacts.items()},
        "libraries": dict(sorted(versions.items())),
        "preprocessing": asdict(found.dataset.preprocessing),
    }


def _examples(found: Findings, preferred: str) -> dict[str, Any]:
    """Which classes are confused, and the images on which engines disagree."""
    test, classes = splits.read(found.dataset, "test"), found.dataset.classes
    best = preferred if preferred in found.evaluations else f"student/{BASELINE}/fp32"

    def outputs(name: str) -> examples.Outputs:
        read: examples.Outputs = np.load(found.evaluations[name].outputs, allow_pickle=False)
        return read

    return {
        "confusion": examples.confusion(best, outputs(best), test.labels, classes),
        "disagreements": [
            examples.disagreement((a, b), outputs(a), outputs(b), test, classes)
            for a, b in examples.pairs(found.engines, found.evaluations, preferred)
        ],
    }


def _top1(found: Findings, role: str) -> float | None:
    evaluation = found.evaluations.get(f"{role}/{BASELINE}/fp32")
    return None if evaluation is None else evaluation.value
