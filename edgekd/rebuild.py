"""A bundle's plans built again on the device that is to run them, checked there and measured.

A plan is bound to a GPU and to a library's version. Where the one that was shipped does not fit,
or none could be built, the bundle holds the ONNX that it is made from.
"""

from __future__ import annotations

import json
import shutil
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
from edgekd.bench.measure import complete, single_stream
from edgekd.bundle import Bundle
from edgekd.errors import (
    BackendUnavailable,
    BuildError,
    BundleError,
    EngineIncompatible,
    HostCodeRefused,
)
from edgekd.packing import in_short
from edgekd.progress import Watcher
from edgekd.recipe import BenchSettings
from edgekd.remeasure import bench_anything, own_budget
from edgekd.runtime import Engine
from edgekd.subjects import Wanted
from edgekd.targets import Target
from edgekd.targets.options import from_text

RESULT = "rebuild.json"
"""The file of a bundle that says what was built again, and what was then measured."""


@dataclass(frozen=True)
class Rebuilt:
    """What became of one engine.

    Attributes:
        target: its target.
        precision: its precision.
        status: ``rebuilt``; ``added``, for a GPU that no target of the bundle is; ``fits`` as it
            was; ``kept``, for another device; or ``refused`` by the library, and kept.
        reason: why it was rebuilt, kept or refused.
        difference: the largest difference to the golden outputs; None where it was not run.
    """

    target: str
    precision: str
    status: str
    reason: str
    difference: float | None


def rebuild(path: Path, settings: BenchSettings, watcher: Watcher) -> dict[str, Any]:
    """Builds what does not fit, runs the golden images, measures, and writes the bundle anew.

    Engines of other devices are kept as they are. Where the GPU that is here is none of the
    bundle's, engines are added for the library's own target. Everything is done on a copy whose
    bytes were checked; it takes the bundle's place when all is right, which else stays as it is.

    Args:
        path: the bundle.
        settings: samples, threads and so on.
        watcher: told how far it is.

    Returns:
        ``engines``: a ``Rebuilt`` each; ``bench``: what ``bench_anything`` found; ``written``:
        whether the bundle was replaced.

    Raises:
        CorruptBundle: a file is not what the manifest says, or an engine answers otherwise than
            the golden outputs allow.
        BuildError: the library refuses every ONNX that it was given.
        BackendUnavailable: nothing can run here, or the library is missing for the GPU that is.
        BundleError: the bundle cannot be written.
    """
    path = path.resolve()
    bundles.read(path)
    bundles.check_place(path)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as name:
            return _rebuild(path, Path(name), settings, watcher)
    except OSError as error:
        raise BundleError(
            f"{path} cannot be built again ({error.strerror or error})",
            "make room where it lies, or copy it to where it can be written",
        ) from error


def _rebuild(path: Path, folder: Path, settings: BenchSettings, watcher: Watcher) -> dict[str, Any]:
    shutil.copytree(path, folder / "copy", symlinks=True)
    bundle = bundles.read(folder / "copy")
    bundle.check()
    here = cuda.sm_here()
    found: list[Rebuilt] = []
    records: list[dict[str, Any]] = []
    files = {each: bundle.root / each for each in bundle.hashes() if each != RESULT}
    refusals: list[Exception] = []
    for record, guest in [*((each, "") for each in bundle.engines), *_guests(bundle, here)]:
        status, fresh, error = _look(bundle, record, guest, here, folder, watcher)
        found.append(status)
        refusals += [error] if error is not None else []
        if fresh is None:
            records += [] if guest else [_plain(record)]
            continue
        if not guest:
            for old in (record["path"], *(each["path"] for each in record["parts"])):
                del files[old]
        changed, own = _record(record, fresh)
        records.append(_plain(changed))
        files |= own
    if refusals and not any(each.status in _NEW for each in found):
        raise refusals[0]
    draft = bundles.write(folder / path.name, {**_manifest(bundle), "engines": records}, files)
    by_path = {each["path"]: each for each in draft.engines}
    ran = [
        _golden(draft, by_path[each["path"]], status)
        for each, status in zip(records, [each for each in found if _has_record(each)], strict=True)
    ]
    bench, measured = bench_anything(
        str(draft.root),
        against="",
        budget=own_budget(str(draft.root), {}),
        load=single_stream(settings),
        profile=False,
        wanted=Wanted((), (), None, {}, 0, settings, _made(folder / "bench")),
        watcher=watcher,
        command=f"edgekd verify {path} --rebuild",
    )
    complete(measured)
    bench["bundle"] = str(path)
    written = any(each.status in _NEW for each in ran)
    lost = [each for each in found if not _has_record(each)]
    result = {
        "engines": [vars(each) for each in (*ran, *lost)],
        "bench": bench,
        "written": written,
    }
    if written:
        told = folder / RESULT
        told.write_text(json.dumps(result, indent=1, allow_nan=False))
        order = {row["name"]: place for place, row in enumerate(_by_merit(bench))}
        records = [
            {**each, "executed": each["executed"] or _name(each) in order}
            for each in sorted(records, key=lambda each: order.get(_name(each), len(order)))
        ]
        manifest = {**_manifest(bundle), "engines": records, "verdict": in_short(bench["verdict"])}
        bundles.write(path, manifest, {**files, RESULT: told})
    return result


_NEW = ("rebuilt", "added")
_GUEST_REFUSED = "not added"


def _has_record(found: Rebuilt) -> bool:
    return found.status != _GUEST_REFUSED


def _is_for(record: Mapping[str, Any], here: str) -> bool:
    """Whether a record's target is the GPU that is here."""
    device = profiles.load(record["target"]).device
    return bool(here) and (device == "cuda" or here in device.split("+"))


def _guests(bundle: Bundle, here: str) -> list[tuple[Mapping[str, Any], str]]:
    """Engines that a GPU gets which is no target of the bundle: of which record, as which target.

    Those of the first target that has sources, under the name of its library's own target.
    """
    mine = [each for each in bundle.engines if each["backend"] in TENSORRT and each["source"]]
    if not here or not mine or any(_is_for(each, here) for each in mine):
        return []
    first, taken = mine[0], {each["target"] for each in bundle.engines}
    if first["backend"] in taken:
        return []
    return [(each, first["backend"]) for each in mine if each["target"] == first["target"]]


def _look(
    bundle: Bundle,
    record: Mapping[str, Any],
    guest: str,
    here: str,
    folder: Path,
    watcher: Watcher,
) -> tuple[Rebuilt, EngineFile | None, Exception | None]:
    """Whether an engine fits here; where it does not and is to, a new one, or why there is none."""
    engine = bundle.engine(record)
    name = guest or engine.target, engine.precision
    may_build = bool(guest) or (engine.backend in TENSORRT and _is_for(record, here))
    reason = f"this GPU, {here}, is no target of the bundle"
    if not guest:
        try:
            with find(engine.backend).open(engine):
                return Rebuilt(*name, "fits", "", None), None, None
        except HostCodeRefused as error:
            return Rebuilt(*name, "kept", str(error), None), None, None
        except (BackendUnavailable, EngineIncompatible, BuildError) as error:
            if not may_build or not record["source"]:
                return Rebuilt(*name, "kept", str(error), None), None, None
            if isinstance(error, BackendUnavailable):
                raise  # the GPU is the engine's, and its library is what is missing
            reason = error.message
    begin = time.monotonic()
    label = f"build {name[0]} {name[1]}"
    model = OnnxModel(
        path=bundle.file(record["source"]),
        opset=0,
        model_inputs=engine.model_inputs,
        model_outputs=engine.model_outputs,
        parity=0.0,
        precision=engine.precision,
    )
    target = _aimed(profiles.load(name[0]), here, engine.options, narrow=bool(guest))
    place = _made(folder / f"{name[0]}-{name[1]}")
    try:
        fresh = build_engine(model, "student", target, place, watcher.begin(label))
    except (BuildError, BackendUnavailable) as error:
        status = _GUEST_REFUSED if guest else "refused"
        return Rebuilt(*name, status, str(error), None), None, error
    watcher.end(label, False, time.monotonic() - begin)
    return Rebuilt(*name, "added" if guest else "rebuilt", reason, None), fresh, None


def _aimed(target: Target, here: str, options: Mapping[str, str], narrow: bool) -> Target:
    """A target with the options that its engine was built with.

    Args:
        target: where it is to run.
        here: the GPU.
        options: of the engine.
        narrow: build for that GPU alone.
    """
    own: dict[str, Any] = {**target.options, **from_text(options)}
    if not narrow:
        return replace(target, options=own)
    if "compute_capabilities" in own:
        number = here.removeprefix("sm_")
        own["compute_capabilities"] = (f"{number[:-1]}.{number[-1]}",)
    own.pop("dla_core", None)  # another device's
    return replace(target, device=here, options=own)


def _record(
    record: Mapping[str, Any], engine: EngineFile
) -> tuple[dict[str, Any], dict[str, Path]]:
    """A record with a new engine in it, and its files by their names in the bundle."""
    stem = f"engines/{engine.target}/{engine.precision}"
    files = {stem + each.suffix: each for each in (engine.path, *engine.parts)}
    names = list(files)
    return {
        **record,
        "target": engine.target,
        "version": engine.backend_version,
        "device": engine.device,
        "executed": engine.executed,
        "path": names[0],
        "parts": names[1:],
        "options": dict(engine.options),
    }, files


def _golden(bundle: Bundle, record: Mapping[str, Any], found: Rebuilt) -> Rebuilt:
    """The golden images on an engine, if it can run here."""
    if found.status in ("kept", "refused"):
        return found
    with Engine(bundle, record, threads=1) as engine:
        return replace(found, difference=engine.check_golden())


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
