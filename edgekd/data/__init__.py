"""Sources of images, their splits, and batches of them. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from edgekd.errors import RecipeError, near_matches
from edgekd.progress import Progress, silent

Images = npt.NDArray[np.uint8]
"""Shape (n, channels, height, width)."""
Labels = npt.NDArray[np.int64]
"""Shape (n,); ``UNLABELLED`` where there is none."""
UNLABELLED = -1
Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True)
class Look:
    """What can be told of images without decoding them all.

    Attributes:
        size: height and width that all of them have; empty where that was not asked, or where
            there is none.
        channels: 1 if every image is grey, else 3.
        first: the name of the image that ``size`` was read from.
        broken: the places of those that cannot be opened, and why.
    """

    size: tuple[int, ...]
    channels: int
    first: str
    broken: Mapping[int, str]


class Part(Protocol):
    """Images of one kind that are yet to be decoded."""

    @property
    def labels(self) -> Labels:
        """One for each image; ``UNLABELLED`` where there is none."""

    def name(self, place: int) -> str:
        """What an image is called in a message."""

    def look(self, sized: bool, progress: Progress = silent) -> Look:
        """Looks at the headers.

        Args:
            sized: also see to it that all have one size.
            progress: told how far it is.

        Raises:
            DataError: they do not have one size.
        """

    def fill(
        self,
        target: Path,
        start: int,
        shape: Shape,
        crop: float,
        places: Sequence[int],
        processes: int,
    ) -> Iterator[tuple[int, str]]:
        """Decodes images into the rows of a .npy file, from ``start`` on.

        Args:
            target: uint8 (n, channels, height, width).
            start: the row of the part's first image.
            shape: what every image is brought to.
            crop: as ``data.crop``.
            places: which of the part's images.
            processes: how many decode; 0: this one does.

        Yields:
            the place of each image when it is done, and why it cannot be decoded, or nothing.

        Raises:
            DataError: nothing can be read at all.
        """


class Source(Protocol):
    """Images that a recipe names.

    Attributes:
        name: a short name that does not say where on the machine they lie.
        licence: the terms under which the images may be used.
    """

    name: str
    licence: str

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; a label is an index into them; empty where there are no labels."""

    @property
    def ignored(self) -> tuple[str, ...]:
        """What lies in the source and is not used."""

    def stamp(self) -> str:
        """Changes whenever the images or the labels do, and is told without decoding them.

        Raises:
            DataError: the source is not usable.
        """

    def parts(self, progress: Progress = silent) -> dict[str, Part]:
        """``train`` and ``test``, or ``train`` alone; or ``unlabelled``.

        Where there is no ``test``, a share of ``train`` is to become it.

        Raises:
            DataError: the source is not usable.
        """


class BuiltIn(Source, Protocol):
    """A source that comes with EdgeKD; its arrays are read anew wherever they are needed."""

    shape: Shape

    def fingerprint(self) -> str:
        """sha256 of the decoded images and labels."""

    def read(self, part: str, progress: Progress = silent) -> tuple[Images, Labels]:
        """The part ``train`` or ``test``, decoded and checked against the fingerprint.

        Raises:
            DataError: the files are missing or damaged.
        """


SOURCES = {
    "fashion-mnist": "edgekd.data.fashion_mnist:FashionMnist",
    "digits": "edgekd.data.digits:Digits",
}
KINDS = {
    "folder": "edgekd.data.folder:open_folder",
    "npz": "edgekd.data.npz:open_npz",
}
_FORMS = "a built-in name, folder:PATH, npz:PATH or module:function"


def is_built_in(source: Source) -> TypeGuard[BuiltIn]:
    """Whether a source comes with EdgeKD."""
    return source.name in SOURCES


def open_built_in(name: str) -> BuiltIn:
    """One of ``SOURCES``; no file is touched yet.

    Raises:
        RecipeError: there is no such source.
    """
    if name not in SOURCES:
        raise RecipeError(
            f"no data source is called '{name}'",
            f"{near_matches(name, SOURCES)} (or give folder:PATH, npz:PATH or module:function)",
            field="data.source",
        )
    module, attribute = SOURCES[name].split(":")
    source: BuiltIn = getattr(import_module(module), attribute)()
    return source


def open_source(name: str) -> Source:
    """The source that ``data.source`` names; no image is read yet.

    Raises:
        RecipeError: there is no such source, folder, file or function.
    """
    return _open(name, "data.source", labelled=True) if ":" in name else open_built_in(name)


def open_unlabelled(name: str) -> Source:
    """The images that ``data.unlabelled`` names; none is read yet.

    Raises:
        RecipeError: there is no such folder, file or function.
    """
    if ":" not in name:
        raise RecipeError(
            f"'{name}' does not name images without labels",
            "give folder:PATH, npz:PATH or module:function",
            field="data.unlabelled",
        )
    return _open(name, "data.unlabelled", labelled=False)


def _open(name: str, field: str, *, labelled: bool) -> Source:
    kind, _, rest = name.partition(":")
    if kind in KINDS:
        module, attribute = KINDS[kind].split(":")
        source: Source = getattr(import_module(module), attribute)(rest, field, labelled)
        return source
    if not rest.isidentifier():  # so it is no function: a mistyped kind, or a URL
        raise RecipeError(
            f"no kind of data source is called '{kind}:'",
            f"{near_matches(kind, KINDS)} (give {_FORMS})",
            field=field,
        )
    from edgekd.data.arrays import open_function

    return open_function(name, field, labelled)
