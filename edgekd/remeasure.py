"""A bundle's engines measured again, on the machine that is here."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd import bundle as bundles
from edgekd import targets as profiles
from edgekd.advice import advise
from edgekd.artifacts import EngineFile, OnnxModel
from edgekd.backends.base import build_engine, find
from edgekd.bench.measure import measure
from edgekd.bundle import Bundle
from edgekd.errors import BackendUnavailable, BundleError, EngineIncompatible, near_matches
from edgekd.progress import Watcher
from edgekd.recipe import BenchSettings, BudgetSettings
from edgekd.verdict import prefer, row

_ACCURACY = ("top1", "agreement", "to_teacher", "to_student")
"""What the report knows of an engine from the full test split, which a bundle does not hold;
what was emulated is no figure to judge by."""


def bench_bundle(
    path: Path,
    *,
    targets: Sequence[str],
    budget: BudgetSettings,
    teacher: bool,
    settings: BenchSettings,
    folder: Path,
    watcher: Watcher,
) -> dict[str, Any]:
    """Times the engines that can run here and judges them; the bundle is not changed.

    Args:
        path: the bundle.
        targets: only these; all of the bundle's if empty.
        budget: what it lacks is taken from the bundle's own; accuracy from the bundle's report.
        teacher: also build and time the teacher's ONNX for each target.
        settings: samples, threads and so on.
        folder: for what is built and measured on the way.

    Returns:
        ``engines``, ``preferred``, ``verdict``, ``host`` and ``bench`` as in ``report.json``, and
        ``advice``, see there.

    Raises:
        BundleError: a target is not in the bundle, or the teacher is not.
        BackendUnavailable, EngineIncompatible: no engine can run here; why not the first.
    """
    bundle = bundles.read(path)
    held = {each["target"] for each in bundle.engines}
    for name in targets:
        if name not in held:
            raise BundleError(f"{path} has no engine for target '{name}'", near_matches(name, held))
    engines: list[EngineFile] = []
    refusals: list[BackendUnavailable | EngineIncompatible] = []
    for record in bundle.engines:
        if targets and record["target"] not in targets:
            continue
        engine = bundle.engine(record)
        try:
            with find(engine.backend).open(engine):
                engines.append(engine)
        except (BackendUnavailable, EngineIncompatible) as error:
            refusals.append(error)
    if not engines:
        raise refusals[0]
    runnable = sorted({each.target for each in engines})
    if teacher:
        model = _teacher(bundle)
        for name in runnable:
            place = folder / name
            place.mkdir()
            engines.append(build_engine(model, "teacher", profiles.load(name), place))
    begin = time.monotonic()
    found_here = measure(
        engines,
        bundle.golden_images(),
        bundle.preprocessing,
        settings,
        folder,
        watcher.begin("bench"),
    )
    watcher.end("bench", False, time.monotonic() - begin)
    own = bundle.manifest["budget"]
    budget = BudgetSettings(
        fps=own["fps"] if budget.fps is None else budget.fps,
        max_drop=own["max_drop"] if budget.max_drop is None else budget.max_drop,
    )
    measured = {each.engine: each for each in found_here.items}
    report = json.loads(bundle.file("report.json").read_text())
    known = {each["name"]: each for each in report["engines"] if not each["emulated"]}
    rows = [
        row(each, measured)
        | {name: known[each.name][name] for name in _ACCURACY if each.name in known}
        for each in engines
    ]
    preferred, verdict = prefer(rows, budget)
    return {
        "bundle": str(path),
        "verdict": verdict,
        "preferred": preferred,
        "budget": budget.canonical(),
        "engines": rows,
        "advice": advise(rows),
        "bench": {
            "scenario": found_here.scenario,
            "threads": found_here.threads,
            "clock": found_here.clock,
        },
        "host": dict(found_here.host),
    }


def _teacher(bundle: Bundle) -> OnnxModel:
    if "teacher.onnx" not in bundle.hashes():
        raise BundleError(
            f"{bundle.root} does not hold the teacher",
            "build it with bundle.teacher = true; one that ONNX Runtime runs is never in it",
        )
    student = bundle.engine(bundle.engines[0])
    return OnnxModel(
        path=bundle.file("teacher.onnx"),
        opset=0,
        model_inputs=student.model_inputs,
        model_outputs=student.model_outputs,
        parity=0.0,
    )
