"""A bundle's engines measured again, on the machine that is here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd import bundle as bundles
from edgekd import targets as profiles
from edgekd.artifacts import EngineFile, OnnxModel
from edgekd.backends.base import build_engine, find, refusal
from edgekd.bench.measure import measure
from edgekd.bundle import Bundle
from edgekd.errors import BundleError, near_matches
from edgekd.progress import Watcher
from edgekd.recipe import BenchSettings, BudgetSettings
from edgekd.verdict import prefer, row


def bench_bundle(
    path: Path,
    *,
    targets: Sequence[str],
    fps: float | None,
    teacher: bool,
    settings: BenchSettings,
    folder: Path,
    watcher: Watcher,
) -> dict[str, Any]:
    """Times the engines that can run here and judges them; the bundle is not changed.

    Args:
        path: the bundle.
        targets: only these; all of the bundle's if empty.
        fps: the budget; the bundle's own if None.
        teacher: also build and time the teacher's ONNX for each target.
        settings: samples, threads and so on.
        folder: for what is built and measured on the way.

    Returns:
        ``engines``, ``preferred``, ``verdict``, ``host``, ``bench``, as in ``report.json``.

    Raises:
        BundleError: a target is not in the bundle, or the teacher is not.
        BackendUnavailable: no engine can run here.
    """
    bundle = bundles.read(path)
    held = {each["target"] for each in bundle.engines}
    for name in targets:
        if name not in held:
            raise BundleError(f"{path} has no engine for target '{name}'", near_matches(name, held))
    engines: list[EngineFile] = []
    refusals = []
    for record in bundle.engines:
        if targets and record["target"] not in targets:
            continue
        backend = find(record["backend"])
        found = backend.probe()
        if found.devices:
            engines.append(bundle.engine(record))
        else:
            refusals.append(refusal(backend, found))
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
    budget = BudgetSettings(fps=fps if fps is not None else bundle.manifest["budget"]["fps"])
    measured = {each.engine: each for each in found_here.items}
    rows = [row(each, measured) for each in engines]
    preferred, verdict = prefer(rows, budget)
    return {
        "bundle": str(path),
        "verdict": verdict,
        "preferred": preferred,
        "budget": budget.canonical(),
        "engines": rows,
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
            f"{bundle.root} does not hold the teacher", "build it with bundle.teacher = true"
        )
    student = bundle.engine(bundle.engines[0])
    return OnnxModel(
        path=bundle.file("teacher.onnx"),
        opset=0,
        model_inputs=student.model_inputs,
        model_outputs=student.model_outputs,
        parity=0.0,
    )
