"""Sources of images, their splits, and batches of them. Nothing here needs torch."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgekd.errors import RecipeError, near_matches
from edgekd.progress import Progress, silent

Images = npt.NDArray[np.uint8]
"""Shape (n, channels, height, width)."""
Labels = npt.NDArray[np.int64]
"""Shape (n,)."""


class Source(Protocol):
    """A labelled set of images with a training and a test part.

    Attributes:
        name: how a recipe names it.
        classes: the class names; a label is an index into them.
        shape: channels, height, width.
        licence: the terms under which the images may be used.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    licence: str

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


def open_source(name: str) -> Source:
    """The source that a recipe names; no file is touched yet.

    Raises:
        RecipeError: there is no such source.
    """
    if name not in SOURCES:
        raise RecipeError(
            f"no data source is called '{name}'",
            near_matches(name, SOURCES),
            field="data.source",
        )
    module, attribute = SOURCES[name].split(":")
    source: Source = getattr(import_module(module), attribute)()
    return source
