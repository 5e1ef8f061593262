"""From uint8 images to a model's input: the one formula that training and applications share."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import Preprocessing
from edgekd.store import sha256_of


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
