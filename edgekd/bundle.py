"""The bundle: a folder with a manifest, engines as their vendors made them, and a report.

Every file's size and sha256 stand in ``manifest.json``, and its own in ``content``; a path
there is relative, stays inside the bundle and is no link. A file is handed to a runtime only
after its bytes have been checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import EngineFile, FileHash, Preprocessing, TensorSpec
from edgekd.errors import BundleError, CorruptBundle
from edgekd.store import hash_file

MANIFEST = "manifest.json"
SCHEMA = "1.0"
SUFFIX = ".edgekd"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Nothing but the manifest has been read.

    Attributes:
        root: the folder.
        manifest: ``manifest.json`` as it stands.
    """

    root: Path
    manifest: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; an output's index is an index into them."""
        return tuple(self.manifest["labels"])

    @property
    def preprocessing(self) -> Preprocessing:
        """What turns uint8 images into the engines' input."""
        record = self.manifest["preprocessing"]
        return Preprocessing(tuple(record["mean"]), tuple(record["std"]), record["layout"])

    @property
    def engines(self) -> tuple[Mapping[str, Any], ...]:
        """The engines' records, the best measured first."""
        return tuple(self.manifest["engines"])

    def hashes(self) -> dict[str, FileHash]:
        """Every file of the bundle but the manifest."""
        found = {name: FileHash(*pair) for name, pair in self.manifest["files"].items()}
        for engine in self.engines:
            for part in (engine, *engine["parts"]):
                found[part["path"]] = FileHash(part["bytes"], part["sha256"])
        return found

    def file(self, name: str) -> Path:
        """A file of the bundle, its bytes checked.

        Raises:
            CorruptBundle: it is not in the manifest, is missing, or is another file.
        """
        expected = self.hashes().get(name)
        if expected is None:
            raise CorruptBundle(f"{self.root}: '{name}' is not in the manifest", _REBUILD)
        path = self.root / _inside(self.root, name)
        if not path.is_file():
            raise CorruptBundle(f"{path} is missing", _REBUILD)
        if hash_file(path) != expected:
            raise CorruptBundle(f"{path} is not the file that the manifest names", _REBUILD)
        return path

    def check(self) -> None:
        """Checks every file.

        Raises:
            CorruptBundle: one is missing or is another file.
        """
        for name in self.hashes():
            self.file(name)

    def engine(self, record: Mapping[str, Any]) -> EngineFile:
        """An engine that can be opened, its files checked.

        Raises:
            CorruptBundle: a file is missing or is another file.
        """
        return EngineFile(
            role="student",
            target=record["target"],
            backend=record["backend"],
            backend_version=record["version"],
            device=record["device"],
            precision=record["precision"],
            path=self.file(record["path"]),
            parts=tuple(self.file(each["path"]) for each in record["parts"]),
            model_inputs=_specs(self.manifest["inputs"]),
            model_outputs=_specs(self.manifest["outputs"]),
            executed=record["executed"],
            options=record["options"],
        )

    def golden_images(self) -> npt.NDArray[np.uint8]:
        """The images whose outputs are known, uint8 (n, channels, height, width)."""
        images: npt.NDArray[np.uint8] = np.load(
            self.file(self.manifest["golden"]["images"]), allow_pickle=False
        )
        return images

    def golden_outputs(self, record: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """What an engine must give for them, float32 (n, classes)."""
        outputs: npt.NDArray[np.float32] = np.load(self.file(record["golden"]), allow_pickle=False)
        return outputs


_REBUILD = "copy the bundle again, or build it again"


def read(path: Path) -> Bundle:
    """Opens a bundle; only the manifest is read.

    Raises:
        BundleError: there is no bundle, or its schema is of a later major version.
        CorruptBundle: the manifest is not one.
    """
    try:
        text = (path / MANIFEST).read_text("utf-8")
    except OSError as error:
        raise BundleError(
            f"{path} is not a bundle ({MANIFEST}: {error.strerror})",
            f"name a folder that `edgekd build` made, such as NAME{SUFFIX}",
        ) from error
    except UnicodeDecodeError as error:
        raise CorruptBundle(f"{path / MANIFEST} is not text", _REBUILD) from error
    try:
        manifest = json.loads(text)
        major = int(str(manifest["schema"]).split(".")[0])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptBundle(f"{path / MANIFEST} is not a manifest ({error})", _REBUILD) from error
    if major > int(SCHEMA.split(".")[0]):
        raise BundleError(
            f"{path} has schema {manifest['schema']}, and this version reads up to {SCHEMA}",
            "update edgekd",
        )
    bundle = Bundle(path, manifest)
    try:
        intact = _seal(text.replace(manifest["content"], _UNSEALED)) == text
        for name in bundle.hashes():
            _inside(path, name)
        for owner, needed in (
            (manifest, ("name", "budget", "verdict", "golden")),
            (manifest["budget"], ("fps", "max_drop")),
            (manifest["golden"], ("images",)),
            *((each, _ENGINE) for each in bundle.engines),
        ):
            for name in needed:
                owner[name]
        _specs(manifest["inputs"]), _specs(manifest["outputs"])
        bundle.classes, bundle.preprocessing  # noqa: B018
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptBundle(f"{path / MANIFEST} lacks or misstates {error}", _REBUILD) from error
    if not intact:
        raise CorruptBundle(f"{path / MANIFEST} was changed", _REBUILD)
    return bundle


_ENGINE = (
    "target", "backend", "version", "precision", "device", "executed", "path", "bytes", "sha256",
    "parts", "options", "source", "golden", "tolerance",
)  # fmt: skip
_UNSEALED = "0" * 64


def sealed(manifest: Mapping[str, Any]) -> str:
    """``manifest.json``: the last entry is the sha256 of the text with zeros in its place."""
    record = {**manifest, "content": _UNSEALED}
    return _seal(json.dumps(record, indent=1, allow_nan=False))


def _seal(text: str) -> str:
    return text.replace(_UNSEALED, hashlib.sha256(text.encode()).hexdigest())


def write(path: Path, manifest: Mapping[str, Any], files: Mapping[str, Path]) -> Bundle:
    """Writes a bundle beside its place; it replaces an older one only when it is whole.

    Args:
        path: the bundle's folder.
        manifest: all but ``schema`` and ``files``; engines name their files by ``path`` and
            ``parts`` and get sizes and hashes here.
        files: where each file of the bundle, by its path in it, is to be copied from.

    Raises:
        BundleError: ``path`` exists and is not a bundle, or cannot be written.
    """
    check_place(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as name:
            fresh, aside = Path(name) / "new", Path(name) / "old"
            fresh.mkdir()
            _fill(fresh, manifest, files)
            if path.exists():  # whoever looks sees a whole bundle or, for a moment, none
                path.rename(aside)
            try:
                fresh.rename(path)
            except BaseException:
                if aside.exists() and not path.exists():
                    aside.rename(path)
                raise
    except OSError as error:
        raise BundleError(
            f"{path} cannot be written ({error.strerror or error})",
            "choose another --out, and run the same command again: finished stages are kept",
        ) from error
    return read(path)


def check_place(path: Path) -> None:
    """Refuses a place where a bundle could not be written.

    Raises:
        BundleError: something else is there, or its folder cannot be written.
    """
    if path.exists() and not (path / MANIFEST).is_file():
        raise BundleError(f"{path} exists and is not a bundle", "choose another --out")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise BundleError(f"{folder} is no folder that can be written", "choose another --out")


def _fill(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Copies the files, and writes the manifest with their hashes."""
    hashes = {}
    for name, source in files.items():
        copy = folder / _inside(folder, name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        hashes[name] = hash_file(copy)
    engines = [
        {
            **engine,
            **vars(hashes.pop(engine["path"])),
            "parts": [{"path": each, **vars(hashes.pop(each))} for each in engine["parts"]],
        }
        for engine in manifest["engines"]
    ]
    whole = {
        "schema": SCHEMA,
        **manifest,
        "engines": engines,
        "files": {name: [each.bytes, each.sha256] for name, each in hashes.items()},
    }
    (folder / MANIFEST).write_text(sealed(whole))


def _inside(root: Path, name: str) -> PurePosixPath:
    """A path of the manifest, if it names a file in the bundle itself."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise CorruptBundle(f"{root}: the manifest names '{name}', outside the bundle", _REBUILD)
    place = root
    for part in path.parts:
        place = place / part
        if place.is_symlink():
            raise CorruptBundle(f"{root}: '{name}' is a link", _REBUILD)
    return path


def _specs(records: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(each["name"], each["dtype"], tuple(each["shape"])) for each in records)
