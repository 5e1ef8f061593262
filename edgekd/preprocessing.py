"""From uint8 images to a model's input: the one formula that training and applications share.

An image as a camera gives it takes two steps: ``prepare`` makes of it what ``edgekd.data.pixels``
makes of a file with Pillow, bit for bit; ``normalise`` is what training does to that.
"""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import Preprocessing
from edgekd.resample import bilinear
from edgekd.store import sha256_of

ORDERS = ("RGB", "BGR")
_GREY = np.array([19595, 38470, 7471], np.uint32)
"""Red's, green's and blue's share in grey by ITU-R BT.601, in 65536ths, as Pillow has them."""


def prepare(
    image: npt.NDArray[np.uint8],
    preprocessing: Preprocessing,
    shape: tuple[int, int, int],
    order: str = "RGB",
) -> npt.NDArray[np.uint8]:
    """An image as the model was trained on: its colours, cut out, and resized.

    Args:
        image: (height, width), or (height, width, channels) with 1 or 3 channels and any strides.
        preprocessing: the model's.
        shape: channels, height and width that the model takes.
        order: of three channels, ``RGB`` or ``BGR``.

    Returns:
        (channels, height, width).

    Raises:
        ValueError: it is no such image, or the model takes others.
    """
    channels, height, width = shape
    if image.dtype != np.uint8:
        raise ValueError(f"the image is {image.dtype}: give uint8 pixels")
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(
            f"the image has shape {image.shape}: give (height, width), or"
            " (height, width, channels), and at least a pixel"
        )
    if order not in ORDERS:
        raise ValueError(f"the order of the channels is '{order}': give RGB or BGR")
    pixels = image if image.ndim == 3 else image[:, :, None]
    taken = (1, 3) if preprocessing.color else (channels,)
    if pixels.shape[2] not in taken:
        raise ValueError(
            f"the image has {pixels.shape[2]} channels: give {' or '.join(map(str, taken))}"
            + (", without alpha" if pixels.shape[2] == 4 else "")
        )
    if preprocessing.crop is not None:
        tall, wide, _ = pixels.shape
        top, left, tall, wide = box(tall, wide, height, width, preprocessing.crop)
        pixels = pixels[top : top + tall, left : left + wide]
    if preprocessing.color and pixels.shape[2] == 3 and order == "BGR":
        pixels = pixels[:, :, ::-1]
    if preprocessing.color == "L" and pixels.shape[2] == 3:
        pixels = ((pixels @ _GREY + 0x8000) >> 16).astype(np.uint8)[:, :, None]
    made = bilinear(pixels, height, width)
    return made if len(made) == channels else made.repeat(channels, 0)


def box(
    height: int, width: int, to_height: int, to_width: int, fraction: float
) -> tuple[int, int, int, int]:
    """What is cut out of an image before it is resized: top, left, height, width.

    It lies in the middle and has the proportions of what it is resized to; a fraction of 1 is the
    largest such box.
    """
    if width * to_height > height * to_width:
        tall, wide = height, (2 * height * to_width + to_height) // (2 * to_height)
    else:
        tall, wide = (2 * width * to_height + to_width) // (2 * to_width), width
    tall, wide = (max(1, math.floor(each * fraction + 0.5)) for each in (tall, wide))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def normalise(
    images: npt.NDArray[np.uint8], preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    """``(pixel / 255 - mean) / std`` as float32, in the layout that the model takes.

    The images' channels are the last axis but two.
    """
    mean = np.asarray(preprocessing.mean, np.float32)[:, None, None]
    std = np.asarray(preprocessing.std, np.float32)[:, None, None]
    scaled: npt.NDArray[np.float32] = images.astype(np.float32) * (np.float32(1 / 255) / std)
    scaled -= mean / std
    if preprocessing.layout == "NHWC":
        return np.ascontiguousarray(np.moveaxis(scaled, -3, -1))
    return scaled


def sha256(preprocessing: Preprocessing) -> str:
    """What tells one preprocessing from another."""
    return sha256_of(asdict(preprocessing))
