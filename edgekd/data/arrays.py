"""Sources that are arrays: ``npz:PATH`` (see ``npz.py``) and ``module:function``.

The arrays are ``train_images, train_labels, test_images, test_labels``, or ``images, labels``
of which a test part is drawn; ``classes`` names the classes and may be left out. Images
without labels are ``images`` alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd import plugins
from edgekd.data import UNLABELLED, Images, Labels, Look, Part, Shape, Source, pixels
from edgekd.errors import DataError, near_matches
from edgekd.progress import Progress, silent

Array = npt.NDArray[Any]

_PAIRS = {
    "train": ("train_images", "train_labels"),
    "test": ("test_images", "test_labels"),
    "whole": ("images", "labels"),
}
_CHUNK = 1 << 22
"""Bytes that are read at a time."""


@dataclass(frozen=True)
class Stack:
    """An array that is read some rows at a time.

    Attributes:
        name: as messages have it, such as ``digits.npz: train_images``.
        chunks: gives its rows in order, a few at a time.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: Callable[[], Iterator[Array]]

    def whole(self) -> Array:
        """All of it.

        Raises:
            DataError: it cannot be read, or holds objects.
        """
        if self.dtype.hasobject:
            raise DataError(
                f"{self.name} holds pickled objects, which are not read",
                "save plain numbers, or text as np.array(names, dtype=str)",
            )
        empty = np.zeros((0, *self.shape[1:]), self.dtype)
        return np.concatenate([empty, *self.chunks()])


def stack(name: str, values: Array) -> Stack:
    """An array in memory; a lone value counts as one row."""
    values = np.atleast_1d(values)
    rows = rows_at_a_time(values.shape, values.dtype)

    def chunks() -> Iterator[Array]:
        for start in range(0, len(values), rows):
            yield values[start : start + rows]

    return Stack(name, values.shape, values.dtype, chunks)


def in_memory(name: str, images: Images, labels: Labels) -> StackPart:
    """Images in memory, with their labels."""
    return StackPart(stack(name, images), labels)


def channel_axis(shape: tuple[int, ...], name: str) -> int | None:
    """Which axis of an array of images holds the channels; None where they are grey (n, h, w).

    With four axes there are 1 or 3 channels, either on the second axis, (n, c, h, w), or on
    the last, (n, h, w, c).

    Raises:
        DataError: it is neither, or could be both, such as (n, 3, 64, 3).
    """
    if len(shape) == 3:
        return None
    axes = [axis for axis in (1, 3) if len(shape) == 4 and shape[axis] in (1, 3)]
    if len(axes) == 2:
        raise DataError(
            f"{name} of shape {shape} may have its channels first or last",
            "pad them to more than 3 pixels a side",
        )
    if not axes:
        raise DataError(
            f"{name} has shape {shape}",
            "images are (n, h, w), or (n, c, h, w) or (n, h, w, c) with 1 or 3 channels",
        )
    return axes[0]


@dataclass(frozen=True)
class StackPart:
    """Images in an array; see ``Part``."""

    images: Stack
    labels: Labels

    def name(self, place: int) -> str:
        """See ``Part``."""
        return f"{self.images.name}[{place}]"

    def look(self, sized: bool, progress: Progress = silent) -> Look:
        """See ``Part``. Whether images with three channels are grey is not looked into."""
        shape = self.images.shape
        axis = channel_axis(shape, self.images.name)
        if self.images.dtype != np.uint8:
            raise DataError(
                f"{self.images.name} holds {self.images.dtype}, not uint8",
                "give pixels from 0 to 255 as uint8",
            )
        if 0 in shape:
            raise DataError(f"{self.images.name} of shape {shape} holds no image")
        size = tuple(each for place, each in enumerate(shape) if place not in (0, axis))
        channels = 1 if axis is None else shape[axis]
        return Look(size if sized else (), channels, self.name(0), {})

    def fill(
        self,
        target: Path,
        start: int,
        shape: Shape,
        crop: float,
        places: Sequence[int],
        processes: int,
    ) -> Iterator[tuple[int, str]]:
        """See ``Part``. Arrays are read in this process."""
        axis = channel_axis(self.images.shape, self.images.name)
        rows = np.load(target, mmap_mode="r+")
        done = 0
        for chunk in self.images.chunks():
            images: Images = chunk[:, None] if axis is None else np.moveaxis(chunk, axis, 1)
            for image in images:
                rows[start + done] = pixels.fit(image, shape, crop)
                yield done, ""
                done += 1
        rows.flush()


class Arrays:
    """Arrays by name, with labels; see ``Source``.

    Args:
        name: what the source is called.
        load: gives the arrays.
        digest: gives the stamp.
    """

    licence = "not stated"

    def __init__(
        self, name: str, load: Callable[[], Mapping[str, Stack]], digest: Callable[[], str]
    ) -> None:
        self.name = name
        self._load = load
        self._digest = digest

    @cached_property
    def _arrays(self) -> Mapping[str, Stack]:
        return self._load()

    def _array(self, name: str) -> Stack:
        if name not in self._arrays:
            raise DataError(
                f"{self.name} has no array '{name}'",
                near_matches(name, self._arrays) if self._arrays else "it holds no array at all",
            )
        return self._arrays[name]

    @cached_property
    def _pairs(self) -> dict[str, tuple[str, str]]:
        """The names of the images' and of the labels' array of each part."""
        if any(each in self._arrays for each in _PAIRS["whole"]):
            pairs = {"train": _PAIRS["whole"]}
        else:
            pairs = {part: _PAIRS[part] for part in ("train", "test")}
        return pairs

    @cached_property
    def _labels(self) -> dict[str, Labels]:
        return {part: self._read_labels(*names) for part, names in self._pairs.items()}

    def _read_labels(self, images: str, labels: str) -> Labels:
        shape = self._array(images).shape
        found = self._array(labels)
        if found.shape not in (shape[:1], (*shape[:1], 1)):
            raise DataError(
                f"{found.name} has shape {found.shape} and {images} {shape}",
                "there must be one label for each image",
            )
        values = found.whole()
        if values.dtype.kind not in "iu":
            raise DataError(
                f"{found.name} holds {values.dtype}, not integers",
                "a label is a class's number, from 0 on",
            )
        if len(values) and values.min() < 0:
            raise DataError(
                f"{found.name} holds {values.min()}, and a label is 0 or more",
                "put images without labels into data.unlabelled",
            )
        return values.reshape(-1).astype(np.int64)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """See ``Source``; numbers where the arrays name none."""
        highest = max((int(each.max()) for each in self._labels.values() if len(each)), default=0)
        if "classes" not in self._arrays:
            names: tuple[str, ...] = tuple(map(str, range(highest + 1)))
        else:
            given = self._arrays["classes"]
            values = given.whole()
            text = (
                np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values
            )
            names = tuple(map(str, text.reshape(-1).tolist()))
            if len(set(names)) < len(names) or not all(names):
                raise DataError(f"{given.name} names a class twice, or by nothing")
            if highest >= len(names):
                raise DataError(
                    f"{given.name} names {len(names)} classes, and there is a label {highest}"
                )
        return names

    @property
    def ignored(self) -> tuple[str, ...]:
        """See ``Source``."""
        used = {"classes", *(name for pair in self._pairs.values() for name in pair)}
        return tuple(sorted({*self._arrays} - used))

    def stamp(self) -> str:
        """See ``Source``."""
        return self._digest()

    def parts(self, progress: Progress = silent) -> dict[str, Part]:
        """See ``Source``."""
        if len(self.classes) < 2:
            raise DataError(f"{self.name} has one class only", "to tell images apart takes two")
        return {
            part: StackPart(self._array(images), self._labels[part])
            for part, (images, _) in self._pairs.items()
        }


class Unlabelled(Arrays):
    """The array ``images`` alone, without labels; see ``Source``."""

    classes: tuple[str, ...] = ()

    @property
    def ignored(self) -> tuple[str, ...]:
        """See ``Source``."""
        return tuple(sorted({*self._arrays} - {"images"}))

    def parts(self, progress: Progress = silent) -> dict[str, Part]:
        """See ``Source``."""
        images = self._array("images")
        return {"unlabelled": StackPart(images, np.full(images.shape[0], UNLABELLED))}


def open_function(spec: str, field: str, labelled: bool) -> Source:
    """A user's function that takes no argument and returns the arrays by name.

    Raises:
        RecipeError: there is no such function.
    """
    called = plugins.function(spec, field)
    load = cache(lambda: _returned(spec, called))
    kind = Arrays if labelled else Unlabelled
    return kind(spec, load, lambda: _hash(load()))


def _returned(spec: str, called: Callable[..., Any]) -> dict[str, Stack]:
    try:
        arrays = called()
    except Exception as error:
        raise DataError(f"{spec} failed: {plugins.blame(error, spec)}", "mend it") from error
    if not isinstance(arrays, Mapping):
        raise DataError(
            f"{spec} returned a {type(arrays).__name__}, not a mapping of arrays by name",
            "return {'images': ..., 'labels': ...}",
        )
    try:
        return {
            str(name): stack(f"{spec}: {name}", np.asarray(each)) for name, each in arrays.items()
        }
    except ValueError as error:
        raise DataError(f"{spec} returned what is no array: {error}") from error


def _hash(arrays: Mapping[str, Stack]) -> str:
    digest = hashlib.sha256()
    for name, each in sorted(arrays.items()):
        digest.update(f"{name}\0{each.dtype.str}{each.shape}\0".encode())
        if not each.dtype.hasobject:  # objects are refused where they are needed
            for chunk in each.chunks():
                digest.update(chunk.tobytes())
    return digest.hexdigest()


def rows_at_a_time(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """How many rows make some megabytes."""
    return max(1, _CHUNK // max(1, dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))))
