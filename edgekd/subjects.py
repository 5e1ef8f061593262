"""What can be measured, by how it is named: a bundle, an ONNX file, an IR, a plan, a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekd import bundle as bundles
from edgekd import models, samples
from edgekd import targets as profiles
from edgekd.artifacts import Checkpoint, EngineFile, OnnxModel, TensorSpec
from edgekd.backends.base import build_engine, find
from edgekd.backends.ort import OnnxRuntime, open_model
from edgekd.backends.tensorrt import COMPILED, sidecar
from edgekd.bench.measure import from_images
from edgekd.bench.scenarios import Feeds
from edgekd.bundle import SUFFIX, Bundle
from edgekd.errors import (
    BackendUnavailable,
    BundleError,
    CorruptBundle,
    EngineIncompatible,
    RecipeError,
    near_matches,
)
from edgekd.onnx_cost import beside
from edgekd.recipe import BenchSettings
from edgekd.verdict import BASELINE, Row

DEFAULT_TARGET = "onnxruntime-cpu"
_ACCURACY = ("top1", "agreement", "to_teacher", "to_student")
"""What the report knows of an engine from the full test split, which a bundle does not hold;
what was emulated is no figure to judge by."""


@dataclass(frozen=True)
class Subject:
    """One engine, and what it is to be given.

    Attributes:
        engine: ready to be opened.
        feeds: samples by input.
        model: the ONNX file that it came from, where there is one.
        known: what a report says of its accuracy.
    """

    engine: EngineFile
    feeds: Feeds
    model: Path | None = None
    known: Row = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What of a thing is to be measured, and how its samples are made.

    Attributes:
        targets: of a bundle only these; what anything else is built for.
        precisions: of a bundle only these.
        inputs: an .npz of samples by input, or a .npy for a network with one; None for a
            bundle's golden images, and random numbers for all else.
        shapes: of inputs by name, where a model leaves more free than the batch; under the empty
            name, of a network of torch and of a model with one input.
        classes: of a network of torch.
        settings: of the measurement.
        folder: for what is built on the way.
    """

    targets: tuple[str, ...]
    precisions: tuple[str, ...]
    inputs: Path | None
    shapes: Mapping[str, tuple[int, ...]]
    classes: int
    settings: BenchSettings
    folder: Path


def named(what: str, wanted: Wanted) -> list[Subject]:
    """The engines that a name stands for, those alone that can run here.

    Raises:
        RecipeError: it is nothing that can be measured, or lacks a shape.
        BundleError: a bundle without what is asked for.
        BackendUnavailable, EngineIncompatible: nothing of it can run here; why not the first.
    """
    path = Path(what)
    if path.is_dir() or path.suffix == SUFFIX:
        return of_bundle(bundles.read(path), wanted)
    if path.exists():
        opener = _FILES.get(path.suffix.lower())
        if opener is None:
            kinds = ", ".join(_FILES)
            raise RecipeError(
                f"{what} is nothing that can be measured",
                f"name a bundle, a file of {kinds}, or a network such as module:function",
            )
        return opener(path, wanted)
    if ":" in what or what in models.MODELS:
        return _of_torch(what, wanted)
    raise RecipeError(
        f"there is no {what}", "name a bundle, a file, or a network such as module:function"
    )


def of_bundle(bundle: Bundle, wanted: Wanted) -> list[Subject]:
    """A bundle's engines, the best first, with its golden images."""
    held = {each["target"] for each in bundle.engines}
    for name in wanted.targets:
        if name not in held:
            raise BundleError(
                f"{bundle.root} has no engine for target '{name}'", near_matches(name, held)
            )
    engines: list[EngineFile] = []
    refusals: list[BackendUnavailable | EngineIncompatible] = []
    for record in bundle.engines:
        if wanted.targets and record["target"] not in wanted.targets:
            continue
        if wanted.precisions and record["precision"] not in wanted.precisions:
            continue
        engine = bundle.engine(record)
        try:
            with find(engine.backend).open(engine):
                engines.append(engine)
        except (BackendUnavailable, EngineIncompatible) as error:
            refusals.append(error)
    if not engines:
        if refusals:
            raise refusals[0]
        raise BundleError(
            f"{bundle.root} has no engine of {' or '.join(wanted.precisions)}",
            f"it holds {', '.join(sorted({each['precision'] for each in bundle.engines}))}",
        )
    report = json.loads(bundle.file("report.json").read_text())
    known = {each["name"]: each for each in report["engines"] if not each["emulated"]}
    return [
        Subject(
            engine,
            feeds,
            model=_onnx_of(bundle, engine),
            known={name: known[engine.name][name] for name in _ACCURACY if engine.name in known},
        )
        for engine, feeds in zip(engines, _of_bundle(bundle, engines, wanted), strict=True)
    ]


def teacher_of(bundle: Bundle, targets: Sequence[str], wanted: Wanted) -> list[Subject]:
    """A bundle's teacher, built for each of some targets.

    Raises:
        BundleError: the bundle does not hold it.
    """
    if "teacher.onnx" not in bundle.hashes():
        raise BundleError(
            f"{bundle.root} does not hold the teacher",
            "build it with bundle.teacher = true; one that ONNX Runtime runs is never in it",
        )
    student = bundle.engine(bundle.engines[0])
    model = OnnxModel(
        path=bundle.file("teacher.onnx"),
        opset=0,
        model_inputs=student.model_inputs,
        model_outputs=student.model_outputs,
        parity=0.0,
    )
    engines = [
        build_engine(model, "teacher", profiles.load(name), _made(wanted.folder, name))
        for name in targets
    ]
    return [
        Subject(engine, feeds, model=model.path)
        for engine, feeds in zip(engines, _of_bundle(bundle, engines, wanted), strict=True)
    ]


def _of_bundle(bundle: Bundle, engines: Sequence[EngineFile], wanted: Wanted) -> list[Feeds]:
    if wanted.inputs is not None:
        return [samples.read(wanted.inputs, each.model_inputs) for each in engines]
    images = bundle.golden_images()
    return from_images(engines, images, bundle.preprocessing, wanted.settings)


def _onnx_of(bundle: Bundle, engine: EngineFile) -> Path | None:
    """What an engine's layers are named after."""
    if engine.path.suffix == ".onnx":
        return engine.path
    name = {"fp32": "student.onnx", "int8": "student.int8.onnx"}.get(engine.precision, "")
    return bundle.file(name) if name in bundle.hashes() else None


def _of_onnx(path: Path, wanted: Wanted) -> list[Subject]:
    subjects = []
    model = _model(path)
    for name in dict.fromkeys(wanted.targets or (DEFAULT_TARGET,)):
        target = profiles.load(name)
        if target.backend == "onnxruntime":
            engine = replace(OnnxRuntime().in_place(path, model, target), role=_role(path))
            engine = replace(engine, parts=beside(path) if find_spec("onnx") else ())
        else:
            folder = _made(wanted.folder, f"{path.stem}.{name}")
            engine = build_engine(model, _role(path), target, folder)
        if not engine.executed:
            raise EngineIncompatible(target.device, "a machine without one", "choose a --target")
        subjects.append(_with_samples(replace(engine, precision="onnx"), path, wanted))
    return subjects


def _role(path: Path) -> str:
    """What a file is called; none is a bundle's teacher because it is named so."""
    return path.name if path.stem in ("teacher", "control", "student") else path.stem


def _model(path: Path) -> OnnxModel:
    with open_model(path, optimise=False) as session:
        return OnnxModel(
            path=path,
            opset=0,
            model_inputs=session.inputs,
            model_outputs=session.outputs,
            parity=0.0,
        )


def _of_ir(path: Path, wanted: Wanted) -> list[Subject]:
    weights = path.with_suffix(".bin")
    engine = EngineFile(
        role=_role(path),
        target="openvino-cpu",
        backend="openvino",
        backend_version=find("openvino").probe().version,
        device="cpu",
        precision="ir",
        path=path,
        parts=(weights,) if weights.exists() else (),
        model_inputs=(),
        model_outputs=(),
        executed=True,
    )
    with find("openvino").open(engine) as session:
        engine = replace(engine, model_inputs=session.inputs, model_outputs=session.outputs)
    return [_with_samples(engine, None, wanted)]


def _of_plan(path: Path, wanted: Wanted) -> list[Subject]:
    place = sidecar.path_of(path)
    facts = sidecar.read(place)
    backend = facts.library.replace("_", "-")
    compiled = path.with_suffix(COMPILED)
    engine = EngineFile(
        role=_role(path),
        target=backend,
        backend=backend,
        backend_version=facts.version,
        device=facts.device,
        precision=facts.precision,
        path=path,
        parts=(place, *([compiled] if facts.compiled_sha256 and compiled.exists() else [])),
        model_inputs=_specs(facts.inputs, place),
        model_outputs=_specs(facts.outputs, place),
        executed=True,
        options=facts.flags,
    )
    with find(backend).open(engine):
        return [_with_samples(engine, None, wanted)]


def _of_torch(name: str, wanted: Wanted) -> list[Subject]:
    from edgekd.models import weights

    shape = wanted.shapes.get("", ())
    if len(shape) != 3:
        raise RecipeError(
            f"{name} does not say what it takes",
            "give channels, height and width, as in --shape 3,224,224",
            path="--shape",
        )
    channels, height, width = shape
    network = models.create(name, wanted.classes, channels).eval()
    models.try_on(network, name, (channels, height, width))
    folder = _made(wanted.folder, name.replace(":", "."))
    weights.save(network, folder / "drawn.safetensors")
    params, macs = models.cost(network, (channels, height, width))
    checkpoint = Checkpoint(
        weights=folder / "drawn.safetensors",
        model=name,
        classes=wanted.classes,
        shape=(channels, height, width),
        params=params,
        macs=macs,
        metrics={},
    )
    engine = build_engine(checkpoint, name.replace(":", "."), profiles.load(BASELINE), folder)
    return [_with_samples(engine, None, wanted)]


_FILES: dict[str, Callable[[Path, Wanted], list[Subject]]] = {
    ".onnx": _of_onnx,
    ".xml": _of_ir,
    ".engine": _of_plan,
    ".plan": _of_plan,
    ".trt": _of_plan,
}


def _with_samples(engine: EngineFile, model: Path | None, wanted: Wanted) -> Subject:
    """With the samples that were given, or random ones; a fixed batch is kept."""
    if not engine.model_inputs:
        raise RecipeError(f"{engine.role} takes no input", "there is nothing to measure it on")
    shapes = wanted.shapes
    first, *others = engine.model_inputs
    if "" in shapes and not others and any(isinstance(each, str) for each in first.shape[1:]):
        shapes = {first.name: shapes[""], **shapes}
    specs = tuple(samples.shaped(each, shapes) for each in engine.model_inputs)
    size = samples.batch(engine.model_inputs)
    fixed = {} if size is None else {f"{word}_batch": str(size) for word in ("min", "max")}
    feeds = samples.drawn(specs) if wanted.inputs is None else samples.read(wanted.inputs, specs)
    return Subject(replace(engine, options={**engine.options, **fixed}), feeds, model)


def _specs(records: Sequence[Mapping[str, Any]], place: Path) -> tuple[TensorSpec, ...]:
    """What a side-car says of tensors."""
    try:
        return tuple(
            TensorSpec(str(each["name"]), str(each["dtype"]), tuple(each["shape"]))
            for each in records
        )
    except (KeyError, TypeError) as error:
        raise CorruptBundle(
            f"{place} misstates the plan's inputs or outputs ({error})", "build the engine again"
        ) from error


def _made(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir(parents=True)
    return place
