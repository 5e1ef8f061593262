"""From uint8 images to a model's input: the one formula that training and applications share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import Preprocessing


def normalise(
    images: npt.NDArray[np.uint8], preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    """``(pixel / 255 - mean) / std`` as float32; the channels are the last axis but two."""
    mean = np.asarray(preprocessing.mean, np.float32)[:, None, None]
    std = np.asarray(preprocessing.std, np.float32)[:, None, None]
    scaled: npt.NDArray[np.float32] = images.astype(np.float32) * (np.float32(1 / 255) / std)
    return scaled - mean / std
