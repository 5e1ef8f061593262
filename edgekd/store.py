"""The content-addressed store: an artefact is a folder that is either whole or absent.

A stage writes into a temporary folder; its hashes go into ``artifact.json``, the last file
written; one rename puts the folder in its place, ``<root>/<stage>/<key>``. A build that is
killed therefore leaves either a finished artefact or nothing, and the next build goes on
from the last finished one. Hashes are checked at every use: an entry that was damaged is
made again, and said so.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from edgekd.artifacts import Artifact, FileHash
from edgekd.errors import StageError

A = TypeVar("A", bound=Artifact)

ARTIFACT_JSON = "artifact.json"
_KEPT_BY_STORE = {field.name for field in fields(Artifact)}


@dataclass(frozen=True)
class Stage:
    """What a key is made of, besides the inputs.

    Attributes:
        name: the stage's name and its folder in the store.
        version: raised when the stage's result changes for the same inputs.
        settings: what the user chose; anything JSON can hold.
        packages: distributions whose version changes the result.
    """

    name: str
    version: int
    settings: Mapping[str, Any]
    packages: Sequence[str] = ()


def canonical_json(value: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def hash_file(path: Path) -> FileHash:
    """Size and sha256 of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
            size += len(part)
    return FileHash(size, digest.hexdigest())


def installed(packages: Sequence[str]) -> dict[str, str]:
    """The version of each distribution, or ``absent``."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def default_root() -> Path:
    """``EDGEKD_STORE``, or the user's cache folder."""
    import platformdirs

    chosen = os.environ.get("EDGEKD_STORE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("edgekd")) / "store"


class Store:
    """Artefacts by key under one folder.

    Args:
        root: the folder; made when first needed.
        warn: called with one line when an entry is found damaged or a lock is waited for.
    """

    def __init__(self, root: Path, warn: Callable[[str], None] = lambda line: None) -> None:
        self.root = root
        self._warn = warn

    def key(self, stage: Stage, inputs: Mapping[str, Artifact]) -> str:
        """sha256 of everything that the stage's result depends on."""
        return sha256_of(
            {
                "stage": stage.name,
                "version": stage.version,
                "settings": stage.settings,
                "inputs": {name: artifact.content for name, artifact in inputs.items()},
                "libraries": installed(stage.packages),
            }
        )

    def find(self, stage: Stage, inputs: Mapping[str, Artifact], kind: type[A]) -> A | None:
        """The finished artefact, its hashes checked; None where there is none that is whole."""
        entry = self._entry(stage, self.key(stage, inputs))
        if not entry.exists():
            return None
        try:
            return _read(entry, kind)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._warn(f"the stored {stage.name} {entry} is damaged ({error}); making it again")
            return None

    def unfinished(self, stage: Stage, inputs: Mapping[str, Artifact]) -> Path:
        """A folder where a stage may keep what it needs to go on after it was stopped.

        It is the stage's until the artefact is finished, and is then removed.
        """
        return self.root / "unfinished" / stage.name / self.key(stage, inputs)[:32]

    def make(
        self,
        stage: Stage,
        inputs: Mapping[str, Artifact],
        kind: type[A],
        produce: Callable[[Path], A],
    ) -> A:
        """The artefact, from the store or from ``produce``, which fills the folder it gets.

        Raises:
            StageError: the disk is full, or the store cannot be written.
        """
        with _disk_errors(stage.name, self.root):
            found = self.find(stage, inputs, kind)
        if found is not None:
            return found
        key = self.key(stage, inputs)
        entry = self._entry(stage, key)
        with _disk_errors(stage.name, self.root), self._lock(stage, key):
            found = self.find(stage, inputs, kind)  # another process may have made it meanwhile
            if found is not None:
                return found
            parent = self.root / "tmp"
            parent.mkdir(parents=True, exist_ok=True)
            for left_behind in parent.glob(f"{stage.name}-{key[:16]}-*"):
                shutil.rmtree(left_behind)  # whoever held this lock before was killed
            folder = Path(tempfile.mkdtemp(prefix=f"{stage.name}-{key[:16]}-", dir=parent))
            try:
                with _disk_errors(stage.name, self.root):  # look before what filled it is gone
                    artifact = produce(folder)
                    _write(artifact, folder, stage, key, inputs)
                if entry.exists():
                    shutil.rmtree(entry)  # damaged: find() said so
                entry.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(entry)
                if (left := self.unfinished(stage, inputs)).exists():
                    shutil.rmtree(left)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return _read(entry, kind)

    def _entry(self, stage: Stage, key: str) -> Path:
        return self.root / stage.name / key[:32]

    @contextlib.contextmanager
    def _lock(self, stage: Stage, key: str) -> Iterator[None]:
        import filelock

        path = self.root / "locks" / f"{stage.name}-{key[:16]}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            self._warn(f"another edgekd is making this {stage.name}; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


@contextlib.contextmanager
def _disk_errors(stage: str, root: Path) -> Iterator[None]:
    """Turns a disk that cannot be written into one line; other errors pass."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        # A vendor's own writer reports a full disk in its own words, so look at the disk too.
        if number in (errno.ENOSPC, errno.EDQUOT) or _is_full(root):
            raise StageError(
                f"{stage}: the disk that holds {root} is full",
                "free some space, or set EDGEKD_STORE to a folder on another disk, and run"
                " the same command again: finished stages are kept",
            ) from error
        if number in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
            raise StageError(
                f"{stage}: {root} cannot be written ({os.strerror(number)})",
                "set EDGEKD_STORE to a folder that can be",
            ) from error
        raise


def _is_full(folder: Path) -> bool:
    """Whether not one more block fits on the disk that holds a folder."""
    try:
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free < 4096
    except OSError:
        return False


def _write(
    artifact: Artifact, folder: Path, stage: Stage, key: str, inputs: Mapping[str, Artifact]
) -> None:
    files = {
        str(path.relative_to(folder)): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    value = {
        field.name: _encode(getattr(artifact, field.name), folder)
        for field in fields(artifact)
        if field.name not in _KEPT_BY_STORE
    }
    record = {
        "stage": stage.name,
        "stage_version": stage.version,
        "key": key,
        "type": type(artifact).__name__,
        "settings": stage.settings,
        "inputs": {name: each.content for name, each in inputs.items()},
        "producer_versions": installed(stage.packages),
        "files": {name: [each.bytes, each.sha256] for name, each in files.items()},
        "value": value,
    }
    record["content"] = _content(record)
    temporary = folder / (ARTIFACT_JSON + ".part")
    with temporary.open("w") as file:
        json.dump(record, file, indent=1, sort_keys=True, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / ARTIFACT_JSON)


def _content(record: Mapping[str, Any]) -> str:
    return sha256_of({name: record[name] for name in ("type", "files", "value")})


def _read(entry: Path, kind: type[A]) -> A:
    """An entry with its hashes checked. Raises OSError or ValueError where it is not whole."""
    record = json.loads((entry / ARTIFACT_JSON).read_text())
    if record["type"] != kind.__name__:
        raise ValueError(f"it holds a {record['type']}, not a {kind.__name__}")
    if record["content"] != _content(record):
        raise ValueError(f"{ARTIFACT_JSON} was changed")
    files = {name: FileHash(*pair) for name, pair in record["files"].items()}
    for name, expected in files.items():
        if hash_file(entry / name) != expected:
            raise ValueError(f"{name} was changed")
    hints = get_type_hints(kind)
    value = {name: _decode(each, hints[name], entry) for name, each in record["value"].items()}
    return replace(
        kind(**value),
        key=record["key"],
        content=record["content"],
        files=files,
        inputs=record["inputs"],
        producer_versions=record["producer_versions"],
    )


def _encode(value: Any, folder: Path) -> Any:
    if isinstance(value, Path):
        return str(value.relative_to(folder))
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _encode(getattr(value, each.name), folder) for each in fields(value)}
    if isinstance(value, tuple | list):
        return [_encode(each, folder) for each in value]
    if isinstance(value, Mapping):
        return {name: _encode(each, folder) for name, each in value.items()}
    return value


def _decode(value: Any, hint: Any, folder: Path) -> Any:
    """The inverse of ``_encode``, guided by the field's type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Path:
        return folder / value
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{name: _decode(each, hints[name], folder) for name, each in value.items()})
    if origin in (Union, UnionType):
        if value is None:
            return None
        known = [each for each in arguments if each is not NoneType]
        return _decode(value, known[0], folder) if len(known) == 1 else value
    if origin is tuple:
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_decode(each, kind, folder) for each, kind in zip(value, kinds, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        return {name: _decode(each, arguments[1], folder) for name, each in value.items()}
    return value
