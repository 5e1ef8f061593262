"""PNG and JPEG files to arrays, and arrays to other sizes, by Pillow.

``edgekd.preprocessing.prepare`` does the same in applications, without Pillow.
"""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekd.data import Images, Shape
from edgekd.errors import BackendUnavailable, DataError
from edgekd.preprocessing import box
from edgekd.store import installed

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = {".png", ".jpg", ".jpeg"}
_GREY = {"1", "L", "LA"}
_COLOUR = {"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
_TURNED = {5, 6, 7, 8}
"""The EXIF orientations in which height and width change places."""
_FAULTS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    struct.error, zlib.error,
)  # fmt: skip
"""What Pillow raises on files that are damaged, one way or another."""


def require() -> None:
    """Refuses to go on without Pillow.

    Raises:
        BackendUnavailable: it is not installed.
    """
    if installed(["pillow"])["pillow"] == "absent":
        raise BackendUnavailable("pillow", "train", "it is not installed")


def look(path: Path, sized: bool) -> Shape:
    """An image file's channels (1 or 3), height and width, turned as its EXIF says.

    Args:
        path: the file.
        sized: False where the size is of no interest, which spares reading a whole PNG: its
            EXIF may lie at the end.

    Raises:
        DataError: why it cannot be opened, without the file's name.
    """
    with _opened(path) as image:
        width, height = image.size
        if sized and image.getexif().get(0x0112) in _TURNED:
            height, width = width, height
        return 1 if image.mode in _GREY else 3, height, width


def read(path: Path, shape: Shape, crop: float = 0.0) -> Images:
    """An image file, turned as its EXIF says and brought to a shape.

    Args:
        path: the file.
        shape: channels, height, width.
        crop: as ``data.crop``.

    Raises:
        DataError: why it cannot be decoded, without the file's name.
    """
    from PIL import ImageOps

    with _opened(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return _to_shape(image, shape, crop)


def decode(path: Path, channels: int) -> Images:
    """An image file as it is, turned as its EXIF says, in grey or colour.

    Returns:
        (height, width, 1 or 3), grey where one channel is asked for.

    Raises:
        DataError: why it cannot be decoded, without the file's name.
    """
    from PIL import ImageOps

    with _opened(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[:, :, None] if channels == 1 else pixels


def fit(image: Images, shape: Shape, crop: float = 0.0) -> Images:
    """One decoded image (channels, height, width) brought to a shape; see ``read``."""
    if image.shape == shape and not crop:
        return image
    from PIL import Image

    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    return _to_shape(Image.fromarray(pixels), shape, crop)


def _to_shape(image: Image, shape: Shape, crop: float) -> Images:
    """Grey or colour, the box, then the size: bilinear, with antialias where it gets smaller."""
    from PIL.Image import Resampling

    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if crop:
        top, left, tall, wide = box(image.height, image.width, height, width, crop)
        image = image.crop((left, top, left + wide, top + tall))
    # Rows, then columns: left to itself, Pillow from 13 on takes some images the other way round,
    # which rounds differently (src/libImaging/Resample.c, horizontal_first).
    for size in ((width, image.height), (width, height)):
        if image.size != size:
            image = image.resize(size, Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image]:
    """An image file; whatever Pillow says against it becomes a DataError."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                if image.mode not in _GREY | _COLOUR:
                    raise DataError("it has 16 bits a pixel, which would be clipped to 8")
                yield image
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise DataError(
                f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels: a decompression bomb?"
            ) from error
        except UnidentifiedImageError as error:
            raise DataError("it is neither PNG nor JPEG") from error
        except _FAULTS as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise DataError(reason or type(error).__name__) from error
