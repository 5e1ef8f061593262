"""A source's images, decoded once into one .npy file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekd.data import Images, Labels, Look, Part, Shape, pixels
from edgekd.errors import DataError
from edgekd.progress import Progress, silent
from edgekd.recipe import DataSettings

IMAGES = "images.npy"


@dataclass(frozen=True)
class Pool:
    """All images of a data set in one row of ids: of its parts, one after the other.

    Attributes:
        blocks: the arrays that hold them, one after the other.
        labels: one for each image; ``UNLABELLED`` where there is none.
        parts: the images of each part, by name; ids follow the order of the parts.
        usable: False where an image could not be decoded; its row is black.
        skipped: those images by name, and why.
    """

    blocks: tuple[Images, ...]
    labels: Labels
    parts: dict[str, Part]
    usable: npt.NDArray[np.bool_]
    skipped: list[str] = field(default_factory=list)

    def ids(self, part: str) -> npt.NDArray[np.int64]:
        """The ids of a part's images that could be decoded; none where there is no such part."""
        start = 0
        for name, each in self.parts.items():
            if name == part:
                return start + np.flatnonzero(self.usable[start : start + len(each.labels)])
            start += len(each.labels)
        return np.zeros(0, np.int64)

    def name(self, image: int) -> str:
        """What an image is called in a message."""
        for each in self.parts.values():
            if image < len(each.labels):
                return each.name(image)
            image -= len(each.labels)
        raise IndexError(image)


def decode(
    settings: DataSettings, parts: dict[str, Part], out_dir: Path, progress: Progress = silent
) -> Pool:
    """Decodes every part into ``images.npy``, uint8 (n, channels, height, width).

    The shape is that of ``data.size`` and ``data.channels``, or else that of the images with
    labels, which must then all have one size.

    Raises:
        DataError: an image cannot be decoded and ``data.corrupt`` is not ``skip``, or sizes
            differ and ``data.size`` is not set.
        BackendUnavailable: Pillow is not installed.
    """
    pixels.require()
    skipped: list[str] = []

    def refuse(part: Part, place: int, reason: str) -> None:
        if settings.corrupt == "stop":
            raise DataError(
                f"{part.name(place)} cannot be decoded ({reason})",
                'mend or delete it, or pass over such images with data.corrupt = "skip"',
            )
        skipped.append(f"{part.name(place)} ({reason})")

    looks = {}
    for name, part in parts.items():
        looks[name] = part.look(not settings.size, progress)
        for place, reason in looks[name].broken.items():
            refuse(part, place, reason)
    shape = common_shape(settings, looks)
    labels = np.concatenate([each.labels for each in parts.values()])
    usable = np.ones(len(labels), np.bool_)
    path = out_dir / IMAGES
    _allocate(path, (len(labels), *shape))
    start = done = 0
    for name, part in parts.items():
        places = np.setdiff1d(np.arange(len(part.labels)), [*looks[name].broken])
        usable[start + np.array([*looks[name].broken], np.int64)] = False
        todo = places.tolist()
        for place, reason in part.fill(path, start, shape, settings.crop, todo, settings.workers):
            done += 1
            progress(done, len(labels), "decoding")
            if reason:
                refuse(part, place, reason)
                usable[start + place] = False
        start += len(part.labels)
    return Pool((np.load(path, mmap_mode="r"),), labels, parts, usable, sorted(skipped))


def common_shape(settings: DataSettings, looks: dict[str, Look]) -> Shape:
    """What every image is brought to.

    Raises:
        DataError: parts differ and the settings do not say.
    """
    seen = {part: each for part, each in looks.items() if each.first}
    if "train" not in seen:
        raise DataError("no training image can be decoded", "look at the files")
    like = seen["train"]
    for each in seen.values():
        if each.size != like.size:
            raise DataError(
                f"{each.first} is {_by(each.size)} and {like.first} is {_by(like.size)}"
                " (height×width)",
                f"set data.size, such as data.size = {list(like.size)}",
            )
    coloured = [part for part, each in seen.items() if each.channels == 3]
    if coloured == ["unlabelled"] and not settings.channels:
        raise DataError(
            "the images with labels are grey, and some of those without are not",
            "set data.channels to 1 or 3",
        )
    height, width = settings.size or like.size
    return settings.channels or (3 if coloured else 1), height, width


def _by(size: Sequence[int]) -> str:
    return "×".join(map(str, size))


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    """A black .npy file whose blocks on the disk are taken.

    A full disk is an error here, and would be a bus error when the mapped file is written to.
    """
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
