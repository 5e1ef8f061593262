"""The bundle: a folder with a manifest, engines as their vendors made them, and a report.

Every file's size and sha256 stand in ``manifest.json``, and its own in ``content``; a path
there is relative, stays inside the bundle and is no link (``edgekd.manifest`` has the rules). A
file is handed to a runtime only after its bytes have been checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import EngineFile, FileHash, Preprocessing, TensorSpec
from edgekd.errors import BundleError, CorruptBundle
from edgekd.manifest import LARGEST, REBUILD, SCHEMA, inside, parse, preprocessing_of, sealed
from edgekd.store import hash_file

MANIFEST = "manifest.json"
SUFFIX = ".edgekd"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Nothing but the manifest has been read.

    Attributes:
        root: the folder.
        manifest: ``manifest.json`` as it stands, checked.
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
        return preprocessing_of(self.manifest["preprocessing"])

    @property
    def engines(self) -> tuple[Mapping[str, Any], ...]:
        """The engines' records, the best measured first."""
        return tuple(self.manifest["engines"])

    def hashes(self) -> dict[str, FileHash]:
        """Every file of the bundle but the manifest."""
        return dict(self._entries())

    def _entries(self) -> Iterator[tuple[str, FileHash]]:
        """As the manifest has them; two may name one file."""
        for engine in self.engines:
            for part in (engine, *engine["parts"]):
                yield part["path"], _hash(part)
        for name, pair in self.manifest["files"].items():
            yield name, FileHash(*pair)

    def file(self, name: str) -> Path:
        """A file of the bundle, its bytes checked.

        Raises:
            CorruptBundle: it is not in the manifest, is missing, or is another file.
        """
        expected = self.hashes().get(name)
        if expected is None:
            raise CorruptBundle(f"{self.root}: '{name}' is not in the manifest", REBUILD)
        return self._checked(name, expected)

    def _checked(self, name: str, expected: FileHash) -> Path:
        self._hashed(name, expected, hash_file)
        return self.root / name

    def _hashed(self, name: str, expected: FileHash, read: Callable[[Path], FileHash]) -> None:
        path = self.root / _inside(self.root, name)
        try:
            facts = path.lstat()
            # A pipe would never end, and of a file of another size no byte is read.
            same = stat.S_ISREG(facts.st_mode) and facts.st_size == expected.bytes
            same = same and read(path) == expected
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CorruptBundle(f"{path} is missing", REBUILD) from error
        except OSError as error:
            raise CorruptBundle(f"{path} cannot be read ({error.strerror})", REBUILD) from error
        if not same:
            raise CorruptBundle(f"{path} is not the file that the manifest names", REBUILD)

    def _content(self, name: str, expected: FileHash) -> bytes:
        """As ``_checked``, and the very bytes that were hashed."""
        found = b""

        def read(path: Path) -> FileHash:
            nonlocal found
            found = path.read_bytes()
            return FileHash(len(found), hashlib.sha256(found).hexdigest())

        self._hashed(name, expected, read)
        return found

    def check(self) -> None:
        """Checks every file.

        Raises:
            CorruptBundle: one is missing or is another file.
        """
        for name, expected in self._entries():
            self._checked(name, expected)

    def engine(self, record: Mapping[str, Any], *, in_memory: bool = False) -> EngineFile:
        """An engine that can be opened, its files checked.

        Args:
            record: the engine's.
            in_memory: it holds the bytes that were checked, so that whoever writes to the bundle
                meanwhile changes nothing of what is opened.

        Raises:
            CorruptBundle: a file is missing or is another file.
        """
        files = [(each["path"], _hash(each)) for each in (record, *record["parts"])]
        contents: tuple[bytes, ...] = ()
        if in_memory:
            contents = tuple(self._content(*each) for each in files)
        else:
            for each in files:
                self._checked(*each)
        path, *parts = (self.root / name for name, _ in files)
        return EngineFile(
            role="student",
            target=record["target"],
            backend=record["backend"],
            backend_version=record["version"],
            device=record["device"],
            precision=record["precision"],
            path=path,
            parts=tuple(parts),
            model_inputs=_specs(self.manifest["inputs"]),
            model_outputs=_specs(self.manifest["outputs"]),
            executed=record["executed"],
            options=record["options"],
            contents=contents,
        )

    def golden_images(self) -> npt.NDArray[np.uint8]:
        """The images whose outputs are known, uint8 (n, channels, height, width)."""
        return self._array(self.manifest["golden"]["images"], np.uint8)

    def golden_outputs(self, record: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """What an engine must give for them, float32 (n, classes)."""
        return self._array(record["golden"], np.float32)

    def _array(self, name: str, dtype: type[Any]) -> npt.NDArray[Any]:
        path = self.file(name)
        try:
            # Mapped first, so that a header that lies about its size costs no memory.
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            if not isinstance(found, np.ndarray) or found.dtype != dtype:
                raise ValueError(f"it holds no {np.dtype(dtype)} array")
        except (OSError, ValueError, EOFError) as error:
            raise CorruptBundle(f"{path} is not the array that it should be ({error})") from error
        return np.array(found)


def read(path: Path) -> Bundle:
    """Opens a bundle; only the manifest is read.

    Raises:
        BundleError: there is no bundle, or its schema is of a later major version.
        CorruptBundle: the manifest breaks a rule, is a link, or names one.
    """
    place = path / MANIFEST
    try:
        kind = place.lstat().st_mode
        if not stat.S_ISREG(kind):
            what = "a link" if stat.S_ISLNK(kind) else "no file"
            raise CorruptBundle(f"{place} is {what}", REBUILD)
        with place.open("rb") as file:
            text = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # a path that no system takes is a ValueError
        told = error.strerror if isinstance(error, OSError) else error
        raise BundleError(
            f"{path} is not a bundle ({MANIFEST}: {told})",
            f"name a folder that `edgekd build` made, such as NAME{SUFFIX}",
        ) from error
    bundle = Bundle(path, parse(text, place))
    for name in bundle.hashes():
        _inside(path, name)
    return bundle


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
    if not inside(name):
        raise CorruptBundle(
            f"{root}: the manifest names {json.dumps(name)}, outside the bundle", REBUILD
        )
    path = PurePosixPath(name)
    place = root
    for part in path.parts:
        place = place / part
        if os.path.islink(place):  # noqa: PTH114 (Path.is_symlink raises where a name is too long)
            raise CorruptBundle(f"{root}: '{name}' is a link", REBUILD)
    return path


def _hash(record: Mapping[str, Any]) -> FileHash:
    return FileHash(record["bytes"], record["sha256"])


def _specs(records: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(each["name"], each["dtype"], tuple(each["shape"])) for each in records)
