"""Images that stay on disk until they are asked for."""

from __future__ import annotations

from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from edgekd.data import Images

Places = SupportsIndex | slice | npt.NDArray[np.int64]


class Rows:
    """Some rows of an array on disk, in an order of their own.

    It is indexed as the array of those rows would be, by a place, a slice or an array of
    places, and copies no more than what is asked for.

    Args:
        base: the memory-mapped array.
        ids: the rows of ``base``.
    """

    def __init__(self, base: Images, ids: npt.NDArray[np.int64]) -> None:
        self.base = base
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def shape(self) -> tuple[int, ...]:
        """As the array of these rows has it."""
        return (len(self._ids), *self.base.shape[1:])

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """That of the pixels."""
        return self.base.dtype

    def __getitem__(self, places: Places) -> Images:
        taken: Images = np.asarray(self.base.take(self._ids[places], axis=0))
        return taken

    def only(self, places: npt.NDArray[np.int64]) -> Rows:
        """Some of these rows, still on disk."""
        return Rows(self.base, self._ids[places])
