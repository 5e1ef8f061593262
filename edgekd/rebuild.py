"""A bundle's plans built again on the device that is to run them, checked there and measured.

A plan is bound to a GPU and to a library's version. Where the one that was shipped does not fit,
or none could be built, the bundle holds the ONNX that it is made from.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd import bundle as bundles
from edgekd import targets as profiles
from edgekd.artifacts import EngineFile, OnnxModel
from edgekd.backends import cuda
from edgekd.backends.base import build_engine, find
from edgekd.backends.tensorrt import BACKENDS as TENSORRT
from edgekd.bundle import Bundle
from edgekd.errors import BackendUnavailable, EngineIncompatible
from edgekd.progress import Watcher
from edgekd.recipe import BenchSettings, BudgetSettings
from edgekd.remeasure import bench_bundle
from edgekd.runtime import Engine
from edgekd.targets import Target

RESULT = "rebuild.json"
"""The file of a bundle that says what was built again, and what was then measured."""


@dataclass(frozen=True)
class Rebuilt:
    """What became of one engine.

    Attributes:
        target: its target.
        precision: its precision.
        status: ``rebuilt``, ``fits`` as it was, or ``kept`` though it cannot run here.
        reason: why it was rebuilt or cannot run.
        difference: the largest difference to the golden outputs; None where it was not run.
    """

    target: str
    precision: str
    status: str
    reason: str
    difference: float | None


def rebuild(path: Path, settings: BenchSettings, watcher: Watcher) -> dict[str, Any]:
    """Builds what does not fit, runs the golden images, measures, and writes the bundle anew.

    The bundle is replaced when everything is done and right, and else stays as it is.

    Args:
        path: the bundle.
        settings: samples, threads and so on.
        watcher: told how far it is.

    Returns:
        ``engines``: a ``Rebuilt`` each; ``bench``: what ``bench_bundle`` found, None where nothing
        can run here; ``written``: whether the bundle was replaced.

    Raises:
        CorruptBundle: a file is not what the manifest says, or an engine answers otherwise than
            the golden outputs allow.
        BuildError: the library refuses the ONNX.
        BundleError: the bundle cannot be written.
    """
    bundle = bundles.read(path)
    bundle.check()
    bundles.check_place(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as name:
        folder = Path(name)
        records, files, found = [], _files(bundle), []
        for number, record in enumerate(bundle.engines):
            status, fresh = _look(bundle, record, folder / str(number), watcher)
            if fresh is not None:
                for old in (record["path"], *(each["path"] for each in record["parts"])):
                    del files[old]
                record, own = _record(record, fresh)
                files |= own
            found.append(status)
            records.append(_plain(record))
        draft = bundles.write(folder / path.name, {**_manifest(bundle), "engines": records}, files)
        found = [_golden(draft, record, each) for record, each in zip(records, found, strict=True)]
        bench = None
        if any(each.difference is not None for each in found):
            bench = bench_bundle(
                draft.root,
                targets=(),
                budget=BudgetSettings(),
                teacher=False,
                settings=settings,
                folder=_made(folder / "bench"),
                watcher=watcher,
            )
        written = bench is not None and any(each.status == "rebuilt" for each in found)
        result = {"engines": [vars(each) for each in found], "bench": bench, "written": written}
        if bench is not None and written:
            bench["bundle"] = str(path)
            told = folder / RESULT
            told.write_text(json.dumps(result, indent=1, allow_nan=False))
            order = {row["name"]: place for place, row in enumerate(_by_merit(bench))}
            records = [
                {**each, "executed": each["executed"] or _name(each) in order}
                for each in sorted(records, key=lambda each: order.get(_name(each), len(order)))
            ]
            manifest = {**_manifest(bundle), "engines": records, "verdict": bench["verdict"]}
            bundles.write(path, manifest, {**files, RESULT: told})
    return result


def _look(
    bundle: Bundle, record: Mapping[str, Any], folder: Path, watcher: Watcher
) -> tuple[Rebuilt, EngineFile | None]:
    """Whether an engine fits here; where it does not, and a device may build its own, a new one."""
    engine = bundle.engine(record)
    name = engine.target, engine.precision
    try:
        with find(engine.backend).open(engine):
            return Rebuilt(*name, "fits", "", None), None
    except BackendUnavailable as error:
        return Rebuilt(*name, "kept", str(error), None), None
    except EngineIncompatible as error:
        here = cuda.sm_here()
        if engine.backend not in TENSORRT or not record["source"] or not here:
            return Rebuilt(*name, "kept", str(error), None), None
        reason = error.message
    begin = time.monotonic()
    label = f"build {engine.target} {engine.precision}"
    model = OnnxModel(
        path=bundle.file(record["source"]),
        opset=0,
        model_inputs=engine.model_inputs,
        model_outputs=engine.model_outputs,
        parity=0.0,
        precision=engine.precision,
    )
    target = _aimed(profiles.load(engine.target), here, engine.options)
    fresh = build_engine(model, "student", target, _made(folder), watcher.begin(label))
    watcher.end(label, False, time.monotonic() - begin)
    return Rebuilt(*name, "rebuilt", reason, None), fresh


def _aimed(target: Target, sm: str, options: Mapping[str, str]) -> Target:
    """A target for the GPU that is here, with the options that its engine was built with."""
    own: dict[str, Any] = {**target.options, **options}
    for each in ("min_batch", "opt_batch", "max_batch", "workspace_mib", "optimization_level"):
        if each in options:
            own[each] = int(options[each])
    if "compute_capabilities" in own:
        number = sm.removeprefix("sm_")
        own["compute_capabilities"] = (f"{number[:-1]}.{number[-1]}",)
    for each in ("hardware_compatible", "version_compatible", "dla_core"):
        own.pop(each, None)  # it is for this device and this version
    if "dla_core" in options:
        own["dla_core"] = int(options["dla_core"])
    return replace(target, device=sm, options=own)


def _record(
    record: Mapping[str, Any], engine: EngineFile
) -> tuple[dict[str, Any], dict[str, Path]]:
    """A record with a new engine in it, and its files by their names in the bundle."""
    stem = f"engines/{engine.target}/{engine.precision}"
    files = {stem + each.suffix: each for each in (engine.path, *engine.parts)}
    names = list(files)
    return {
        **record,
        "version": engine.backend_version,
        "device": engine.device,
        "executed": engine.executed,
        "path": names[0],
        "parts": names[1:],
        "options": dict(engine.options),
    }, files


def _golden(bundle: Bundle, record: Mapping[str, Any], found: Rebuilt) -> Rebuilt:
    """The golden images on an engine, if it can run here."""
    if found.status == "kept":
        return found
    whole = next(each for each in bundle.engines if each["path"] == record["path"])
    with Engine(bundle, whole, threads=1) as engine:
        return replace(found, difference=engine.check_golden())


def _files(bundle: Bundle) -> dict[str, Path]:
    return {name: bundle.root / name for name in bundle.hashes() if name != RESULT}


def _manifest(bundle: Bundle) -> dict[str, Any]:
    """What the writer does not fill in itself."""
    filled = ("schema", "files", "content")
    return {name: each for name, each in bundle.manifest.items() if name not in filled}


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as the writer takes it: parts by name."""
    parts = [each if isinstance(each, str) else each["path"] for each in record["parts"]]
    return {**record, "parts": parts}


def _by_merit(bench: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(
        bench["engines"],
        key=lambda row: (row["name"] != bench["preferred"], row["latency_ns"]["p50"]),
    )


def _name(record: Mapping[str, Any]) -> str:
    return f"student/{record['target']}/{record['precision']}"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
