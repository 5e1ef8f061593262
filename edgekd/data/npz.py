"""``npz:PATH``: arrays in a file as ``np.savez`` writes it, read piece by piece.

``np.load`` would read each array whole. Nothing is unpickled: an array of objects is refused
where it is needed.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgekd.data import Source
from edgekd.data.arrays import Array, Arrays, Stack, Unlabelled, rows_at_a_time
from edgekd.errors import DataError, RecipeError
from edgekd.store import hash_file


def open_npz(path: str, field: str, labelled: bool) -> Source:
    """The arrays of a file.

    Raises:
        RecipeError: there is no such file.
    """
    file = Path(path)
    if not file.is_file():
        raise RecipeError(
            f"there is no file '{path}'",
            "a path in a recipe starts at the recipe's own folder, one on the command line here",
            field=field,
        )
    kind = Arrays if labelled else Unlabelled
    return kind(f"npz:{file.name}", lambda: members(file), lambda: hash_file(file).sha256)


def members(path: Path) -> dict[str, Stack]:
    """The arrays of a .npz file, of which only the headers are read."""
    found = {}
    with _readable(path, ""), zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            name = entry.removesuffix(".npy")
            if name == entry:
                continue
            with _readable(path, name), archive.open(entry) as file:
                shape, _, dtype = _header(file)
            found[name] = Stack(f"{path.name}: {name}", shape, dtype, _Reader(path, entry))
    return found


@dataclass(frozen=True)
class _Reader:
    """Reads one member of a .npz file, a few rows at a time."""

    path: Path
    entry: str

    def __call__(self) -> Iterator[Array]:
        with (
            _readable(self.path, self.entry.removesuffix(".npy")),
            zipfile.ZipFile(self.path) as archive,
            archive.open(self.entry) as file,
        ):
            shape, fortran, dtype = _header(file)
            if fortran:  # whole columns lie together, so that rows come only with all of it
                flat = np.frombuffer(_exactly(file, int(np.prod(shape)) * dtype.itemsize), dtype)
                yield flat.reshape(shape, order="F")
            else:
                rows = rows_at_a_time(shape, dtype)
                row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
                for start in range(0, shape[0], rows):
                    n = min(rows, shape[0] - start)
                    yield np.frombuffer(_exactly(file, n * row_bytes), dtype).reshape(n, *shape[1:])
            if file.read(1):  # at the end of the member zipfile compares its checksum
                raise ValueError("it is longer than its header says")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran's order, and dtype; a lone number counts as one row."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of the format is not read here")
    shape, fortran, dtype = readers[version](file)
    return shape or (1,), fortran, dtype


def _exactly(file: IO[bytes], n: int) -> bytes:
    found = file.read(n)
    if len(found) < n:
        raise ValueError("it is cut short")
    return found


@contextlib.contextmanager
def _readable(path: Path, name: str) -> Iterator[None]:
    """What zipfile and numpy say against a file becomes a DataError."""
    try:
        yield
    except (
        OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        where = f"{path}: {name}" if name else str(path)
        raise DataError(
            f"{where} cannot be read ({error})", "write it anew, with np.savez"
        ) from error
