"""What an application gives to an engine, as a batch that the engine takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import Preprocessing, TensorSpec
from edgekd.errors import EngineError
from edgekd.preprocessing import ORDERS, normalise, prepare

Shape = tuple[int, int, int]


def image_shape(spec: TensorSpec, layout: str) -> Shape:
    """Channels, height and width of a model's images.

    Raises:
        EngineError: the input is no image of a fixed size.
    """
    sizes = [each for each in spec.shape[1:] if isinstance(each, int)]
    if len(sizes) != 3 or len(spec.shape) != 4:
        shape = ", ".join(map(str, spec.shape))
        raise EngineError(
            f"input '{spec.name}' of shape ({shape}) is no image of a fixed size",
            "give the engine's `run` arrays of that shape",
        )
    if layout == "NHWC":
        sizes = [sizes[2], sizes[0], sizes[1]]
    return sizes[0], sizes[1], sizes[2]


def to_input(
    images: Any, order: str, spec: TensorSpec, preprocessing: Preprocessing
) -> npt.NDArray[Any]:
    """A batch of the input's type and shape.

    Args:
        images: see ``Engine.__call__``.
        order: of the channels of uint8 images.
        spec: of the input.
        preprocessing: what uint8 images need.

    Raises:
        EngineError: they are neither images nor inputs, or there are none.
    """
    if order not in ORDERS:
        raise EngineError(f"the order of the channels is '{order}'", "give RGB or BGR")
    shape = image_shape(spec, preprocessing.layout)
    if isinstance(images, (list, tuple)):
        _check_takes_pixels(spec)
        arrays = [as_array(f"image {number}", each) for number, each in enumerate(images)]
        pixels = [_pixels(each, order, shape, preprocessing) for each in arrays]
        if not pixels:
            raise EngineError("a list of no images was given")
        return normalise(np.concatenate(pixels), preprocessing)
    images = as_array("what was given", images)
    if images.dtype == np.uint8 and spec.dtype != "uint8":
        _check_takes_pixels(spec)
        return normalise(_pixels(images, order, shape, preprocessing), preprocessing)
    if str(images.dtype) != spec.dtype:
        raise EngineError(
            f"images are {images.dtype}", f"give uint8 pixels, or {spec.dtype} inputs"
        )
    tail = tuple(spec.shape[1:])
    batch = _planar(images, tail)
    if batch is None and tail[0] == 1 and images.shape[-2:] == tail[1:] and images.ndim in (2, 3):
        batch = images.reshape(-1, *images.shape[-2:])[:, None]
    if batch is None:
        told = "×".join(map(str, tail))
        raise EngineError(f"inputs have shape {images.shape}: expected (n, {told}) or ({told})")
    return batch


def as_array(name: str, value: Any) -> npt.NDArray[Any]:
    """A value as numpy sees it.

    Raises:
        EngineError: it is no array, or another library's that does not lie on the host.
    """
    try:
        return np.asarray(value)
    except Exception as error:  # whatever the value's own library raises
        raise EngineError(f"{name} is no array ({' '.join(str(error).split())})") from error


def _pixels(
    images: npt.NDArray[Any], order: str, shape: Shape, preprocessing: Preprocessing
) -> npt.NDArray[np.uint8]:
    """uint8 (n, channels, height, width)."""
    if images.dtype != np.uint8:
        raise EngineError(f"images are {images.dtype}", "give uint8 pixels")
    planar = _planar(images, shape)
    if planar is not None and len(planar):
        return planar[:, ::-1] if order == "BGR" and shape[0] == 3 else planar
    grey = shape[0] == 1 and images.ndim == 3 and images.shape[1:] == shape[1:]
    batch = list(images) if grey or images.ndim == 4 else [images]
    if not batch:
        raise EngineError("a batch of no images was given", "give one at least")
    try:
        return np.stack([prepare(each, preprocessing, shape, order) for each in batch])
    except ValueError as error:
        told = "×".join(map(str, shape))
        raise EngineError(f"{error}; or uint8 ({told}), as the model takes it") from error


def _planar(images: npt.NDArray[Any], shape: tuple[int | str, ...]) -> npt.NDArray[Any] | None:
    """A batch of what has that shape, or of that shape with n in front."""
    if images.shape[1:] == shape:
        return images
    if images.shape == shape:
        return images[None]
    return None


def _check_takes_pixels(spec: TensorSpec) -> None:
    if spec.dtype != "float32":
        raise EngineError(f"input '{spec.name}' is {spec.dtype}", "give it tensors")
