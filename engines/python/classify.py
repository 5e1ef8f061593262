"""Image files to labels: python classify.py BUNDLE IMAGE..."""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image, ImageOps

import edgekd
from edgekd.errors import EdgekdError


def pixels(path: str) -> np.ndarray:
    """uint8 (height, width, 3), turned as the file says; its size does not matter."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def main(bundle: str, *paths: str) -> None:
    """Prints each file's three likeliest labels."""
    with edgekd.load(bundle) as engine:
        for path, logits in zip(paths, engine([pixels(each) for each in paths]), strict=True):
            shares = np.exp(logits - logits.max())
            shares /= shares.sum()
            best = shares.argsort()[::-1][:3]
            print(path, *(f"{engine.classes[each]} {100 * shares[each]:.1f} %" for each in best))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (EdgekdError, OSError) as error:
        sys.exit(str(error))
