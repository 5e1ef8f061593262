"""Batches of a split, and augmented views of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekd.data import Images


def slices(n: int, batch: int) -> Iterator[slice]:
    """Consecutive slices of at most ``batch`` that cover ``n``."""
    for start in range(0, n, batch):
        yield slice(start, min(start + batch, n))


@dataclass(frozen=True)
class View:
    """One augmentation drawn for every image of a split: which are mirrored, moved where.

    Because it is drawn for the whole split from a seed, the teacher and the student see the
    same view whatever the order of the batches, and a view can be seen again.
    """

    mirrored: npt.NDArray[np.bool_]
    down: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    shift: int

    def apply(self, images: Images, ids: npt.NDArray[np.int64]) -> Images:
        """Augments a batch: ``images[i]`` is the image whose place in the split is ``ids[i]``.

        Pixels that move in from outside are zero.
        """
        flip = self.mirrored[ids]
        out = np.where(flip[:, None, None, None], images[..., ::-1], images)
        if not self.shift:
            return out
        height, width = images.shape[2:]
        margin = ((0, 0), (0, 0), (self.shift, self.shift), (self.shift, self.shift))
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(out, margin), (height, width), axis=(2, 3)
        )
        rows, columns = self.shift - self.down[ids], self.shift - self.right[ids]
        return windows[np.arange(len(ids)), :, rows, columns]


def draw_view(n: int, *, flip: bool, shift: int, seed: int, index: int) -> View:
    """The ``index``-th view of a split of ``n`` images: the same for the same arguments."""
    rng = np.random.default_rng([seed, index])
    mirrored = rng.random(n) < 0.5 if flip else np.zeros(n, bool)
    down, right = rng.integers(-shift, shift + 1, (2, n))
    return View(mirrored, down, right, shift)
