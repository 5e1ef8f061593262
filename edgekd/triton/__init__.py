"""A model repository for NVIDIA's Triton Inference Server, made of a bundle's engine.

Where what goes is in Triton's "Model Repository", what ``config.pbtxt`` says in its "Model
Configuration" and in ``model_config.proto``, and what else each backend takes in the README of its
repository (github.com/triton-inference-server). The engine is a copy, byte by byte. What turns
images into its input is not part of it: clients do that, as ``parameters`` tells them.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd.bundle import Bundle
from edgekd.errors import BundleError, CorruptBundle, EngineIncompatible, RecipeError, near_matches
from edgekd.store import hash_file
from edgekd.triton.config import (
    GOLDEN,
    LABELS,
    ORIGIN,
    SERVERS,
    SHAPED,
    Record,
    config_of,
    dtype_of,
    golden_input,
    has_labels,
    number,
)
from edgekd.triton.text import Message, lines

CONFIG = "config.pbtxt"
_OF_A_VERSION = re.compile(rf'(key: "{re.escape(ORIGIN)}"\n +value {{\n +string_value: )".*"')
_LATEST = 2**31 - 1
_ROOM = 8
"""The largest batch where the engine leaves it open: twice what Triton fills in by itself."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        model: its folder in the repository.
        version: which version of the model it is.
        target: of the engine.
        precision: of the engine.
        backend: Triton's.
        max_batch: the largest batch that Triton makes; 0 where the engine's batch is fixed.
        notes: what a server or its clients must know, in a sentence each.
    """

    model: Path
    version: int
    target: str
    precision: str
    backend: str
    max_batch: int
    notes: tuple[str, ...]


def export(
    bundle: Bundle,
    repository: Path,
    *,
    target: str | None = None,
    precision: str | None = None,
    name: str | None = None,
    version: int = 1,
    max_batch: int | None = None,
) -> Exported:
    """Adds a model to a repository, whole or not at all.

    A further version is added to a model whose ``config.pbtxt`` and labels would stay as they are
    but for the comments and ``edgekd.engine``; these tell of the latest version.

    Args:
        bundle: where the engine is from.
        repository: Triton's folder; made where there is none.
        target: only this target's engines.
        precision: only engines of this precision.
        name: of the model; the bundle's, if not given.
        version: of the model, from 1.
        max_batch: the largest batch that Triton may make of requests; the engine's, if not given.

    Raises:
        BundleError: no engine is as asked for, or it lacks a file that Triton needs.
        CorruptBundle: a file is missing or was changed.
        EngineIncompatible: the engine is yet to be built.
        RecipeError: Triton cannot serve it, an argument is wrong, there is such a version or
            another model of that name already, or nothing can be written there.
    """
    record = _choose(bundle, target, precision)
    chosen = _named(bundle, name)
    if not 1 <= version <= _LATEST:
        raise RecipeError(f"{version} is no version", "give 1 or more", path="--version")
    most = _largest(bundle, record, max_batch)
    model = repository / chosen
    files = _files(bundle, record)
    notes = tuple(_notes(bundle, record))
    config = config_of(bundle, record, chosen, most)
    try:
        there = model.exists() or model.is_symlink()
        repository.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{chosen}-", dir=repository) as folder:
            fresh = Path(folder) / chosen
            (fresh / str(version)).mkdir(parents=True)
            _copy(bundle, files, fresh / str(version))
            _write(bundle, fresh, config, notes)
            if there:
                _add(fresh, model, version)
            else:
                fresh.rename(model)
    except OSError as error:
        raise RecipeError(
            f"cannot be written: {error.strerror or error}", path=str(repository)
        ) from error
    return Exported(
        model=model,
        version=version,
        target=record["target"],
        precision=record["precision"],
        backend=SERVERS[record["backend"]].backend,
        max_batch=most,
        notes=notes,
    )


def _choose(bundle: Bundle, target: str | None, precision: str | None) -> Record:
    """The best measured engine that is as asked for and that Triton can serve."""
    records = [
        each
        for each in bundle.engines
        if target in (None, each["target"]) and precision in (None, each["precision"])
    ]
    if not records:
        held = sorted({each["target"] for each in bundle.engines})
        raise BundleError(
            f"{bundle.root} holds no engine for target {target or 'any'},"
            f" precision {precision or 'any'}",
            near_matches(target or "", held),
        )
    refusals: list[RecipeError | EngineIncompatible] = []
    for record in records:
        try:
            _check_served(record)
        except (RecipeError, EngineIncompatible) as error:
            refusals.append(error)
        else:
            return record
    raise refusals[0]


def _check_served(record: Record) -> None:
    engine = f"{record['target']} {record['precision']}"
    others = "export an engine of another target with --target"
    if record["backend"] not in SERVERS:
        raise RecipeError(f"Triton has no backend for {record['backend']} ({engine})", others)
    provider = record["options"].get("provider", "CUDAExecutionProvider")
    if provider != "CUDAExecutionProvider":
        raise RecipeError(
            f"Triton does not run ONNX Runtime's {provider} from a file alone ({engine})", others
        )
    if record["backend"] == "tensorrt" and not record["version"]:
        raise EngineIncompatible(
            record["device"],
            f"its ONNX, not built yet ({engine})",
            "run `edgekd verify BUNDLE --rebuild` on the device, and export the bundle from there",
        )


def _named(bundle: Bundle, name: str | None) -> str:
    chosen: str = bundle.manifest["name"] if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", chosen):
        raise RecipeError(
            f"'{chosen}' is no name for a model's folder",
            "give one of letters, digits, '.', '_' and '-'",
            path="--name",
        )
    return chosen


def _largest(bundle: Bundle, record: Record, asked: int | None) -> int:
    """The largest batch; 0 where the model has a fixed one, of which Triton makes none."""
    tensors = (*bundle.manifest["inputs"], *bundle.manifest["outputs"])
    if any(isinstance(each["shape"][0], int) for each in tensors):
        if asked is not None:
            raise RecipeError("the batch of this model is fixed", path="--max-batch")
        return 0
    least, built = number(record, "min_batch", 1), number(record, "max_batch", _LATEST)
    # Triton's OpenVINO computes the largest batch for every request.
    usual = 1 if record["backend"] == "openvino" else _ROOM
    most = (usual if built == _LATEST else built) if asked is None else asked
    if not least <= most <= built:
        engine = f"{record['target']} {record['precision']}"
        limit = f"{least} or more" if built == _LATEST else f"{least} to {built}"
        raise RecipeError(f"{most} is no batch of {engine}", f"give {limit}", path="--max-batch")
    return most


def _notes(bundle: Bundle, record: Record) -> Iterator[str]:
    yield (
        f"the engine takes {dtype_of(bundle)} tensors: clients resize and normalise images as the"
        f" parameter {SHAPED} says"
    )
    if record["backend"] != "tensorrt":
        return
    options = record["options"]
    version, device = record["version"], record["device"]
    yield f"the plan is for TensorRT {version} on {device}, as the server must be"
    if options.get("version_compatible") == "true":
        yield (
            "the plan brings host code: the server takes it with"
            " --backend-config=tensorrt,version-compatible=true"
        )
    if (least := number(record, "min_batch", 1)) > 1:
        yield f"the plan takes batches of {least} and more: so must every request"


def _files(bundle: Bundle, record: Record) -> dict[str, str]:
    """The engine's own files by what Triton calls them; a plan's side-car stays behind."""
    first, *others = SERVERS[record["backend"]].files
    found = {first: record["path"]}
    for to in others:
        fitting = [
            each["path"] for each in record["parts"] if each["path"].endswith(Path(to).suffix)
        ]
        if len(fitting) != 1:
            raise BundleError(
                f"{bundle.root}: {record['target']} {record['precision']} has {len(fitting)} files"
                f" that could be Triton's {to}",
                "build the bundle again",
            )
        found[to] = fitting[0]
    return found


def _copy(bundle: Bundle, files: Mapping[str, str], folder: Path) -> None:
    for to, name in files.items():
        copy = folder / to
        shutil.copyfile(bundle.file(name), copy)
        if hash_file(copy) != bundle.hashes()[name]:
            raise CorruptBundle(f"{bundle.root / name} changed while it was copied")


def _add(fresh: Path, model: Path, version: int) -> None:
    """Adds the version of a new model to one that is there, if it is the same but for that."""
    told = str(model)
    place = model / str(version)
    if place.exists() or place.is_symlink():
        raise RecipeError(
            f"there is such a model already, with a version {version}",
            "give another with --version, choose another name with --name, or remove it",
            path=told,
        )
    if model.is_symlink() or _lasting(fresh) != _lasting(model):
        raise RecipeError(
            f"there is such a model already, and its {CONFIG} or {LABELS} is another",
            "choose another name with --name, or remove it",
            path=told,
        )
    earlier = [int(each.name) for each in model.iterdir() if re.fullmatch("[0-9]+", each.name)]
    (fresh / str(version)).rename(place)
    if version > max(earlier, default=0):
        (fresh / CONFIG).replace(model / CONFIG)


def _lasting(model: Path) -> tuple[list[str], str] | None:
    """What of a model's description holds for all its versions; None where there is none."""
    try:
        config = (model / CONFIG).read_text(encoding="utf-8")
        labels = model / LABELS
        told = labels.read_text(encoding="utf-8") if labels.exists() else ""
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None
    kept = _OF_A_VERSION.sub(r"\1", config).splitlines()
    return [each for each in kept if not each.startswith("#")], told


def _write(bundle: Bundle, folder: Path, config: Message, notes: tuple[str, ...]) -> None:
    comments = [f"# {each}." for each in ("Written by `edgekd export-triton`", *notes)]
    text = "\n".join([*comments, *lines(config), ""])
    (folder / CONFIG).write_text(text, encoding="utf-8")
    if has_labels(bundle):
        labels = [" ".join(each.split()) for each in bundle.classes]  # a line is a label
        (folder / LABELS).write_text("\n".join([*labels, ""]), encoding="utf-8")
    warmup = golden_input(bundle)
    if warmup is not None:
        (folder / "warmup").mkdir()  # where Triton looks for it
        (folder / "warmup" / GOLDEN).write_bytes(warmup)
