"""Resizing in numpy alone, bit for bit as Pillow does it to images of 8 bits.

Training and calibration resize with Pillow, applications have numpy; both must see one image. The
filter is Pillow's BILINEAR (src/libImaging/Resample.c): a triangle that grows with the scale where
the image gets smaller, along the rows first, then along the columns, with weights of 22 bits after
the point and a result of 8 bits in between.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

_UNIT = float(1 << 22)
"""One, in fixed point."""
_BLOCK = 4
"""Outputs that are made at once; more would multiply by more zeros, fewer call too often."""

Pixels = npt.NDArray[np.uint8]
Weights = npt.NDArray[np.float64]


def bilinear(image: Pixels, height: int, width: int) -> Pixels:
    """An image (h, w, channels) as (channels, height, width)."""
    h, w, channels = image.shape
    columns_first: Pixels = image.transpose(1, 0, 2)
    if w != width:
        columns_first = _along(columns_first.reshape(w, -1), width).reshape(width, h, channels)
    rows_first: Pixels = columns_first.transpose(1, 2, 0)
    if h != height:
        rows_first = _along(rows_first.reshape(h, -1), height).reshape(height, channels, width)
    return np.ascontiguousarray(rows_first.transpose(1, 0, 2))


def _along(rows: Pixels, size: int) -> Pixels:
    """The first axis brought to a size.

    In float64, where nothing is rounded: a sum is a multiple of 2**-22 and below 2**9, in whatever
    order a library adds.
    """
    made: Pixels = np.empty((size, rows.shape[1]), np.uint8)
    for place, (start, weights) in enumerate(blocks(len(rows), size)):
        sums = weights @ rows[start : start + weights.shape[1]].astype(np.float64)
        sums += 0.5
        made[place * _BLOCK : (place + 1) * _BLOCK] = np.minimum(sums, 255.0, out=sums)
    return made


@lru_cache(maxsize=64)
def blocks(before: int, after: int) -> tuple[tuple[int, Weights], ...]:
    """For every few outputs: the first input that they need, and weights (outputs, inputs)."""
    start, stop, weights = coefficients(before, after)
    made = []
    for first in range(0, after, _BLOCK):
        places = range(first, min(first + _BLOCK, after))
        base, end = int(start[places[0]]), int(stop[places[-1]])
        block = np.zeros((len(places), end - base))
        for row, place in zip(block, places, strict=True):
            row[start[place] - base : stop[place] - base] = weights[
                place, : stop[place] - start[place]
            ]
        made.append((base, block))
    return tuple(made)


def coefficients(
    before: int, after: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Weights]:
    """The first input of each output, the one after its last, and the weights between.

    Each step is one that Pillow takes, in doubles and in its order.
    """
    scale = before / after
    support = max(scale, 1.0)
    centre = (np.arange(after) + 0.5) * scale
    start = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    stop = np.minimum((centre + support + 0.5).astype(np.int64), before)
    place = start[:, None] + np.arange((stop - start).max())
    weights = np.maximum(1.0 - np.abs((place - centre[:, None] + 0.5) * (1.0 / support)), 0.0)
    weights[place >= stop[:, None]] = 0.0
    weights /= weights.cumsum(1)[:, -1:]  # sum() would add in another order
    return start, stop, np.floor(0.5 + weights * _UNIT) / _UNIT
