"""What a calibration set can be drawn from: a source, opened and cut, its samples on disk.

Images go the way of a build, see ``edgekd.data.splits``. Arrays that are named after a model's
inputs are kept as they are; a share of their rows validates, and copies stay together.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifacts import Dataset, Preprocessing, TensorSpec
from edgekd.calibration.feeds import Array, Feeds, check
from edgekd.calibration.manifest import IMAGES, TENSORS
from edgekd.data import UNLABELLED, Images, Labels, Source, open_source, open_unlabelled, splits
from edgekd.data.arrays import Stack
from edgekd.data.batches import slices
from edgekd.data.npz import members
from edgekd.data.rows import Rows
from edgekd.errors import CalibrationError
from edgekd.progress import Progress, silent
from edgekd.recipe import DataSettings

IMAGE = "image"
"""What images are called until the model that takes them is known."""
PARTS = ("train", "validation", "test")
_CHUNK = 64


@dataclass(frozen=True)
class Part:
    """``train``, ``validation`` or ``test``.

    Attributes:
        arrays: by input; indexed by places or slices, and no more is read than is asked for.
        labels: ``UNLABELLED`` where there is none.
        ids: of the samples, sorted.
    """

    arrays: Mapping[str, Images | Rows]
    labels: Labels
    ids: splits.Ids

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Pool:
    """A source's samples.

    Attributes:
        kind: ``images`` or ``tensors``.
        name: the source's, without its place.
        fingerprint: sha256 of all samples and labels.
        classes: their names; empty where labels are numbers, or where there are none.
        settings: see ``Dataset.settings``.
        preprocessing: measured on train; None for tensors.
        parts: by name.
    """

    kind: str
    name: str
    licence: str
    fingerprint: str
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    preprocessing: Preprocessing | None
    parts: Mapping[str, Part]


def open_pool(settings: DataSettings, work: Path, progress: Progress = silent) -> Pool:
    """A source's samples, with what must be decoded for them in ``work``.

    Raises:
        RecipeError: there is no such source.
        DataError: it is damaged, or too small to be cut.
        CalibrationError: its arrays cannot be fed to any model.
    """
    path = _tensors(settings.source)
    if path is not None:
        return _of_arrays(path, settings, work, progress)
    source = open_source(settings.source)
    if (loose := _loose(settings.source)) is not None:
        return of_dataset(splits.prepare_unlabelled(settings, loose, work, progress), progress)
    return of_dataset(splits.prepare(settings, source, work, progress), progress)


def of_dataset(dataset: Dataset, progress: Progress = silent) -> Pool:
    """What a build prepared."""
    parts = {}
    for name in PARTS:
        read = splits.read(dataset, name, progress)
        parts[name] = Part({IMAGE: read.images}, read.labels, read.ids)
    return Pool(
        kind=IMAGES,
        name=dataset.source,
        licence=dataset.licence,
        fingerprint=dataset.fingerprint,
        classes=dataset.classes,
        settings=dataset.settings,
        preprocessing=dataset.preprocessing,
        parts=parts,
    )


def feeds(part: Part, places: splits.Ids, preprocessing: Preprocessing | None, work: Path) -> Feeds:
    """Some of a part's samples, in an order, copied into ``work`` a few at a time.

    They are mapped into memory, and stay so when ``work`` is removed.
    """
    arrays = {}
    for number, (name, rows) in enumerate(part.arrays.items()):
        path = work / f"{number}.npy"
        kept = _allocated(path, (len(places), *rows.shape[1:]), rows.dtype)
        for chunk in slices(len(places), _CHUNK):
            kept[chunk] = rows[places[chunk]]
        arrays[name] = np.load(path, mmap_mode="r")
    labels = part.labels[places]
    known = labels if (labels != UNLABELLED).any() else None
    return Feeds(arrays, preprocessing, known)


def for_model(found: Feeds, inputs: Sequence[TensorSpec], *, checked: bool = False) -> Feeds:
    """Samples under the names of a model's inputs: images are called after the one input.

    Args:
        checked: they are known to be what the model takes.

    Raises:
        CalibrationError: they are not; see ``feeds.check``.
    """
    if found.preprocessing is not None:
        if len(inputs) != 1:
            names = ", ".join(f"'{each.name}'" for each in inputs)
            raise CalibrationError(
                f"the set is of images, for one input, and the model takes {names}",
                "put an array for each input into a .npz and make a set of that",
            )
        (images,) = found.arrays.values()
        found = replace(found, arrays={inputs[0].name: images})
    if not checked:
        check(found, inputs)
    return found


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for a while; a disk that it fills becomes an error of one line.

    Raises:
        CalibrationError: the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        try:
            yield Path(folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise CalibrationError(
                f"the disk that holds {Path(folder).parent} is full",
                "free some space, or set TMPDIR to a folder on another disk",
            ) from error


def per_class(pool: Pool, labels: Labels) -> dict[str, int]:
    """How many of the labels are of each class; empty where there are none."""
    known = labels[labels != UNLABELLED]
    if pool.classes:
        counts = np.bincount(known, minlength=len(pool.classes)).tolist()
        return dict(zip(pool.classes, counts, strict=True))
    names, counted = np.unique(known, return_counts=True)
    return dict(zip(map(str, names.tolist()), counted.tolist(), strict=True))


def _loose(source: str) -> Source | None:
    """Images without labels: a folder without folders in it, or an array without labels."""
    kind, _, place = source.partition(":")
    path = Path(place)
    flat = kind == "folder" and not any(
        each.is_dir() and not each.name.startswith(".") for each in path.iterdir()
    )
    bare = kind == "npz" and not {"labels", "train_labels"} & members(path).keys()
    return open_unlabelled(source) if flat or bare else None


def _tensors(source: str) -> Path | None:
    """The file, where it holds arrays for a model's inputs, and not images."""
    kind, _, place = source.partition(":")
    path = Path(place)
    if kind != "npz" or not path.is_file():
        return None
    found = members(path)
    images = "train_images" in found or ("images" in found and found["images"].dtype == np.uint8)
    return None if images else path


def _of_arrays(path: Path, settings: DataSettings, work: Path, progress: Progress) -> Pool:
    arrays, labels, keys = read_arrays(path, work, progress)
    ids = np.arange(len(labels))
    seen: dict[bytes, int] = {}
    together = np.array([seen.setdefault(key, place) for place, key in enumerate(keys)])
    validation = splits.hold_out(ids, labels, together, settings.validation, settings.seed)
    held = {"train": np.setdiff1d(ids, validation), "validation": validation, "test": ids[:0]}
    if not len(held["train"]):
        raise CalibrationError(
            f"{path} has too few samples that differ: all of them validate",
            "give more, a few hundred if there are",
        )
    return Pool(
        kind=TENSORS,
        name=f"npz:{path.name}",
        licence="not stated",
        fingerprint=hashlib.sha256(b"".join(keys) + labels.tobytes()).hexdigest(),
        classes=(),
        settings={**splits.lasting(settings), "unlabelled": ""},
        preprocessing=None,
        parts={
            name: Part(
                {each: Rows(rows, part) for each, rows in arrays.items()}, labels[part], part
            )
            for name, part in held.items()
        },
    )


def read_arrays(
    path: Path, work: Path, progress: Progress = silent
) -> tuple[dict[str, Array], Labels, list[bytes]]:
    """Arrays named after a model's inputs, one row a sample; and ``labels``, if there are.

    Returns:
        the arrays, mapped from ``work``; the labels; and a hash of each sample.

    Raises:
        CalibrationError: there is none, or no sample; numbers of samples differ; a value is no
            number, NaN or infinite.
    """
    found = members(path)
    given = found.pop("labels") if _are_labels(found.get("labels")) else None
    if not found:
        raise CalibrationError(f"{path} holds no array", "name one after each input of the model")
    rows = {name: each.shape[0] for name, each in found.items()}
    rows |= {"labels": given.shape[0]} if given else {}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{n} in '{name}'" for name, n in rows.items())
        raise CalibrationError(f"the arrays of {path} differ in samples: {counts}", "one row each")
    n = next(iter(rows.values()))
    if not n or any(0 in each.shape for each in found.values()):
        raise CalibrationError(f"{path} holds no sample", "give a few hundred")
    digests = [hashlib.sha256() for _ in range(n)]
    arrays: dict[str, Array] = {}
    for name, stack in sorted(found.items()):
        arrays[name] = _copied(stack, work / f"{len(arrays)}-all.npy", digests)
        progress(len(arrays), len(found), "reading")
    labels = np.full(n, UNLABELLED) if given is None else given.whole().astype(np.int64)
    return arrays, labels, [each.digest() for each in digests]


def _are_labels(stack: Stack | None) -> bool:
    return stack is not None and len(stack.shape) == 1 and stack.dtype.kind in "iu"


def _copied(stack: Stack, path: Path, digests: list[Any]) -> Array:
    """An array's rows in a .npy file, each row added to its hash."""
    if stack.dtype.kind not in "fiub":
        raise CalibrationError(
            f"{stack.name} holds {stack.dtype}, which no input takes", "give numbers"
        )
    kept = _allocated(path, stack.shape, stack.dtype)
    start = 0
    for chunk in stack.chunks():
        finite = np.isfinite(chunk).reshape(len(chunk), -1).all(axis=1)
        if not finite.all():
            raise CalibrationError(
                f"sample {start + int(np.argmin(finite))} of {stack.name} holds NaN or infinity",
                "leave it out, or mend what made it",
            )
        kept[start : start + len(chunk)] = chunk
        for row, digest in zip(chunk, digests[start : start + len(chunk)], strict=True):
            digest.update(f"{stack.name} {row.dtype}{row.shape}".encode() + row.tobytes())
        start += len(chunk)
    found: Array = np.load(path, mmap_mode="r")
    return found


def _allocated(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A .npy file to write to, whose blocks on the disk are taken.

    A full disk is an error here, and would be a bus error when the mapped file is written to.
    """
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    kept: Array = np.load(path, mmap_mode="r+")
    return kept
