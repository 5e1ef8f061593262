"""A calibration set as a file: ids into a source, and a hash of what they must be.

``calibration/set.schema.json`` is its form.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgekd import preprocessing as pre
from edgekd.artifacts import Preprocessing
from edgekd.calibration.draw import DRAWS
from edgekd.errors import CalibrationError, RecipeError
from edgekd.manifest import odd_preprocessing, preprocessing_of
from edgekd.recipe import DATA_FILES, DataSettings

SCHEMA = 2
IMAGES, TENSORS = "images", "tensors"

_ANEW = "make one with `edgekd calibration create`"
_LARGEST = 1e9
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("kind", "source", "licence", "fingerprint", "split", "draw"), str),
    **dict.fromkeys(("features", "sha256", "preprocessing_sha256"), str),
    **dict.fromkeys(("data", "per_class", "preprocessing"), dict),
    "ids": list,
    "seed": int,
}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Which samples, from where, and what was done to them.

    Attributes:
        kind: ``images``: uint8 (n, channels, height, width), to be normalised; or ``tensors``:
            arrays by the name of a model's input, taken as they are.
        source: as a recipe's ``data.source``; a path in it starts at the file's own folder.
        fingerprint: sha256 of all that the source holds.
        data: the settings that the splits depend on, see ``Dataset.settings``; ``unlabelled``
            is a source as ``source`` is.
        draw: ``stratified``, ``coverage`` or ``random``.
        features: what ``coverage`` compared: ``pixels``, or the sha256 of the model whose
            outputs it were; empty for the other draws.
        ids: in the order of the draw.
        per_class: how many samples by class; empty where there are no labels.
        sha256: of the samples, in order, see ``feeds.sha256``.
        preprocessing: None for tensors.
    """

    kind: str
    source: str
    licence: str
    fingerprint: str
    data: Mapping[str, Any]
    draw: str
    features: str
    seed: int
    ids: tuple[int, ...]
    per_class: Mapping[str, int]
    sha256: str
    preprocessing: Preprocessing | None


def document(manifest: Manifest) -> dict[str, Any]:
    """A manifest as JSON holds it."""
    made = manifest.preprocessing
    return {
        "schema": SCHEMA,
        **asdict(manifest),
        "split": "train",
        "preprocessing_sha256": pre.sha256(made) if made else "",
    }


def write(manifest: Manifest, path: Path) -> None:
    """Writes a manifest, one key a line; the file is whole or not there.

    Raises:
        RecipeError: it cannot be written.
    """
    lines = ",\n".join(
        f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for key, value in document(manifest).items()
    )
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            part = Path(file.name)
            try:
                file.write(f"{{\n{lines}\n}}\n")
                file.flush()
                os.fsync(file.fileno())
                part.chmod(0o644)
                part.rename(path)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise RecipeError(f"cannot be written: {error.strerror}", path=str(path)) from error


def check_place(path: Path) -> None:
    """Refuses a place where a manifest cannot be written, before any work is done.

    Raises:
        RecipeError: there is a file already, or no such folder.
    """
    if path.exists():
        raise RecipeError("exists already", "name another file", path=str(path))
    if not path.parent.is_dir():
        raise RecipeError(f"there is no folder '{path.parent}'", "make it", path=str(path))


def read(path: Path) -> Manifest:
    """Reads a manifest, which may come from anywhere.

    Raises:
        RecipeError: there is no such file.
        CalibrationError: it is cut short, or is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", _ANEW, path=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise CalibrationError(
            f"{path} is no calibration set: it is not JSON, or is cut short ({error})", _ANEW
        ) from error
    if not isinstance(found, dict) or not {"schema", "ids", "sha256"} <= found.keys():
        raise CalibrationError(
            f"{path} is no calibration set: it lacks schema, ids or sha256", _ANEW
        )
    if found["schema"] != SCHEMA:
        raise CalibrationError(
            f"{path} has schema {found['schema']}, and this version reads {SCHEMA}", _ANEW
        )
    if odd := _odd(found):
        raise CalibrationError(f"{path} is no calibration set: {odd}", _ANEW)
    made = found["preprocessing"]
    return Manifest(
        **{
            each.name: found[each.name]
            for each in fields(Manifest)
            if each.name not in ("ids", "preprocessing")
        },
        ids=tuple(found["ids"]),
        preprocessing=None if made is None else preprocessing_of(made),
    )


def settings(manifest: Manifest, folder: Path, source: str | None = None) -> DataSettings:
    """The recipe's settings that give the manifest's splits.

    Args:
        folder: the manifest's own, where its paths start.
        source: in place of the manifest's; its path starts here.

    Raises:
        CalibrationError: the source is a function, which runs only where it is asked for here.
    """
    if source is None and is_function(manifest.source):
        raise CalibrationError(
            f"the set's source is the function {manifest.source}, and no file gets to say what"
            " is run",
            f"say it yourself, with --data {manifest.source}",
        )
    source = source or _from(manifest.source, folder)
    more = {**manifest.data, "unlabelled": _from(manifest.data["unlabelled"], folder)}
    return DataSettings(source=source, **more)


def is_function(source: str) -> bool:
    """Whether a source is code."""
    kind, colon, _ = source.partition(":")
    return bool(colon) and kind not in DATA_FILES


def relative(source: str, folder: Path) -> str:
    """A source whose path starts at a folder, and so may move with it."""
    kind, colon, place = source.partition(":")
    if not colon or kind not in DATA_FILES:
        return source
    return f"{kind}:{os.path.relpath(Path(place).resolve(), folder.resolve())}"


def _from(source: str, folder: Path) -> str:
    kind, colon, place = source.partition(":")
    return f"{kind}:{folder / place}" if colon and kind in DATA_FILES else source


def _odd(found: Mapping[str, Any]) -> str:
    """What is wrong with a manifest, or nothing."""
    for name, kind in _KINDS.items():
        if name not in found:
            return f"it has no '{name}'"
        if type(found[name]) is not kind and not (name == "preprocessing" and not found[name]):
            return f"'{name}' is {json.dumps(found[name])[:60]}"
    ids = found["ids"]
    if not ids or not all(type(each) is int and 0 <= each < 2**63 for each in ids):
        return "'ids' are not places in a source"
    if len(set(ids)) < len(ids):
        return "it names a sample twice"
    if found["split"] != "train":
        return f"its samples are of {found['split']}, and only train calibrates"
    if not _SHA256.fullmatch(found["sha256"]):
        return "'sha256' is no sha256"
    if not all(type(each) is int for each in found["per_class"].values()):
        return "'per_class' are not counts"
    if found["draw"] not in DRAWS:
        return f"'draw' is {found['draw']}"
    return _odd_data(found) or _odd_preprocessing(found)


def _odd_data(found: Mapping[str, Any]) -> str:
    known = {*DataSettings.model_fields} - {"source", "workers"}
    if {*found["data"]} != known:
        return f"'data' holds {sorted(found['data'])}, not {sorted(known)}"
    try:
        DataSettings(**found["data"])
    except ValueError as error:
        return f"'data' is not what a recipe holds ({str(error).splitlines()[1]})"
    if is_function(found["data"]["unlabelled"]):
        return f"it would run {found['data']['unlabelled']}"
    return ""


def _odd_preprocessing(found: Mapping[str, Any]) -> str:
    made, kind = found["preprocessing"], found["kind"]
    if kind not in (IMAGES, TENSORS):
        return f"'kind' is {kind}"
    if (made is None) != (kind == TENSORS):
        return "images need a preprocessing, and tensors have none"
    if made is None:
        return ""
    mean, std = made.get("mean"), made.get("std")
    if (
        {*made} != {each.name for each in fields(Preprocessing)}
        or not (_figures(mean) and _figures(std))
        or odd_preprocessing(made)
    ):
        return f"'preprocessing' is {json.dumps(made)[:80]}"
    if pre.sha256(preprocessing_of(made)) != found["preprocessing_sha256"]:
        return "'preprocessing' is not the one that 'preprocessing_sha256' is of"
    return ""


def _figures(values: Any) -> bool:
    return (
        isinstance(values, list)
        and bool(values)
        and all(type(each) in (int, float) and abs(each) < _LARGEST for each in values)
    )
