"""Digits as files: what the tests of folders and of splits share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.data.digits import Digits

N_TRAIN, N_TEST = 12, 4


def some_digits(classes: int, each: int, part: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """The first few images of the first few classes, (n, 8, 8), sorted by class."""
    images, labels = Digits().read(part)
    ids = np.concatenate([np.flatnonzero(labels == label)[:each] for label in range(classes)])
    return images[ids, 0], labels[ids]


def save_digits(folder: Path, each: int, part: str, classes: int = 3) -> None:
    """PNG files ``folder/zero/00.png`` and so on."""
    for place, (image, label) in enumerate(zip(*some_digits(classes, each, part), strict=True)):
        path = folder / ("zero", "one", "two")[label] / f"{place:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """``train`` and ``test`` with the classes one, two and zero, 12 and 4 images each."""
    for part, each in (("train", N_TRAIN), ("test", N_TEST)):
        save_digits(tmp_path / "photos" / part, each, part)
    return tmp_path / "photos"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """The classes one, two and zero with 20 images each, and no test part."""
    save_digits(tmp_path / "flat", 20, "train")
    return tmp_path / "flat"
