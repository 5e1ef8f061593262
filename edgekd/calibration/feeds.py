"""Samples as a model takes them: by input name, batch by batch, checked before they are used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd import preprocessing as pre
from edgekd.artifacts import Preprocessing, TensorSpec
from edgekd.data import Images, Labels
from edgekd.data.batches import slices
from edgekd.errors import CalibrationError

Array = npt.NDArray[Any]

_CHUNK = 64
_DARK = 16.0  # normalised pixels lie well within ±16; pixels of a picture exceed it


@dataclass(frozen=True)
class Feeds:
    """Samples of a model with any number of inputs.

    Attributes:
        arrays: by input name; the first axis is the sample.
        preprocessing: applied to the uint8 arrays, which are (n, channels, height, width);
            None where the arrays are what the model takes, as they are.
        labels: (n,), ``UNLABELLED`` where there is none; None where there are none at all.
    """

    arrays: Mapping[str, Array]
    preprocessing: Preprocessing | None = None
    labels: Labels | None = None

    def __len__(self) -> int:
        return min((len(each) for each in self.arrays.values()), default=0)

    def take(self, part: slice) -> dict[str, Array]:
        """A batch: normalised, in the model's layout."""
        return {name: self._made(each[part]) for name, each in self.arrays.items()}

    def _made(self, values: Array) -> Array:
        if self.preprocessing is None or values.dtype != np.uint8:
            return values
        return pre.normalise(values, self.preprocessing)


def of_images(
    name: str, images: Images, preprocessing: Preprocessing, labels: Labels | None = None
) -> Feeds:
    """Images (n, channels, height, width) for the one input of a model."""
    return Feeds({name: images}, preprocessing, labels)


def sha256(feeds: Feeds) -> str:
    """Of the samples' bytes, in order, as they are kept; with the names where there are several."""
    digest = hashlib.sha256()
    for name, each in sorted(feeds.arrays.items()):
        if len(feeds.arrays) > 1:
            digest.update(f"{name} {each.dtype} {each.shape} ".encode())
        for part in slices(len(each), _CHUNK):
            digest.update(each[part].tobytes())
    return digest.hexdigest()


def check(feeds: Feeds, model_inputs: Sequence[TensorSpec]) -> None:
    """Whether samples can be fed to a model.

    Raises:
        CalibrationError: there are too few; names, types, shapes or layout are not those of
            the model's inputs; values are NaN or infinite, or pixels that were not normalised.
    """
    wanted = {each.name: each for each in model_inputs}
    if feeds.arrays.keys() != wanted.keys():
        raise CalibrationError(
            f"the samples are of {_listed(feeds.arrays)}, and the model takes {_listed(wanted)}",
            "name each array after the input that it is for",
        )
    _check_number(feeds, model_inputs)
    if feeds.preprocessing and all(each.dtype != np.uint8 for each in feeds.arrays.values()):
        kinds = _listed({str(each.dtype): each for each in feeds.arrays.values()})
        raise CalibrationError(
            f"preprocessing is given, which is for uint8 images, and the samples are {kinds}",
            "give the uint8 images, or samples that are normalised already and no preprocessing",
        )
    for name, values in feeds.arrays.items():
        _check_form(name, values, feeds.preprocessing, wanted[name])
        if np.issubdtype(values.dtype, np.floating):
            _check_values(name, values)


def _check_number(feeds: Feeds, model_inputs: Sequence[TensorSpec]) -> None:
    sizes = {name: len(each) for name, each in feeds.arrays.items()}
    if len(set(sizes.values())) > 1:
        numbers = ", ".join(f"'{name}' has {size}" for name, size in sizes.items())
        raise CalibrationError(
            f"the inputs' samples differ in number: {numbers}",
            "the first axis of every array is the sample",
        )
    batch = max((each.shape[0] for each in model_inputs if _fixed(each.shape[:1])), default=1)
    least = max(2, int(batch))
    if len(feeds) < least:
        found = "is no sample" if not len(feeds) else f"are {len(feeds)} samples"
        found = "is one sample" if len(feeds) == 1 else found
        reason = f", and the model takes {batch} at a time" if least > 2 else ""
        raise CalibrationError(
            f"there {found} to calibrate on{reason}",
            "give a few hundred that are like those the model will see",
        )


def _check_form(
    name: str, values: Array, preprocessing: Preprocessing | None, spec: TensorSpec
) -> None:
    """Type and shape of one input's samples, as the model would get them."""
    made = preprocessing is not None and values.dtype == np.uint8
    dtype = "float32" if made else str(values.dtype)
    if dtype != spec.dtype:
        if dtype == "uint8" and spec.dtype.startswith("float"):
            raise CalibrationError(
                f"'{name}' holds uint8 pixels, and the model takes {spec.dtype}: most likely they"
                " were not normalised",
                "give the preprocessing that the model was trained with, or normalised samples",
            )
        raise CalibrationError(
            f"'{name}' holds {dtype}, and the model takes {spec.dtype}",
            f"convert the samples with .astype('{spec.dtype}')",
        )
    kept = values.shape[1:]
    if made and preprocessing is not None and len(kept) == 3:
        channels = len(preprocessing.mean)
        if kept[0] != channels:
            slip = ": they are laid out NHWC" if kept[2] == channels else ""
            raise CalibrationError(
                f"'{name}' has images of shape {_shape(kept)}, and the preprocessing is of"
                f" {channels} channels{slip}",
                "images are kept as (n, channels, height, width)",
            )
    found = (*kept[1:], kept[0]) if made and _is_last(preprocessing) and len(kept) == 3 else kept
    if _fits(found, spec.shape[1:]):
        return
    expected = _shape(spec.shape[1:])
    # Only a layout that explains the mismatch is named.
    for layout, turned in (("NHWC", (found[-1:] + found[:-1])), ("NCHW", found[1:] + found[:1])):
        if len(found) == 3 and _fits(turned, spec.shape[1:]):
            other = "NCHW" if layout == "NHWC" else "NHWC"
            raise CalibrationError(
                f"the samples of '{name}' are laid out {layout}, and the model takes {other}:"
                f" {_shape(found)} for {expected}",
                f"set the preprocessing's layout to {other}" if made else "transpose the samples",
            )
    raise CalibrationError(
        f"the samples of '{name}' have shape {_shape(found)}, and the model takes {expected}",
        "each sample is one row of the array, without a batch of its own",
    )


def _check_values(name: str, values: Array) -> None:
    """No NaN, no infinity, and no unnormalised pictures among normalised ones."""
    raw = normalised = 0
    for start, chunk in _chunks(values):
        finite = np.isfinite(chunk).all(axis=1)
        if not finite.all():
            first = start + int(np.argmin(finite))
            raise CalibrationError(
                f"sample {first} of '{name}' holds NaN or infinity",
                "leave it out, or mend what made it",
            )
        if values.ndim == 4:
            low, high = chunk.min(axis=1), chunk.max(axis=1)
            pixels = (low >= 0) & (high <= 255) & (chunk == np.rint(chunk)).all(axis=1)
            raw += int((pixels & (high > _DARK)).sum())
            normalised += int((~pixels & (np.maximum(-low, high) <= _DARK)).sum())
    if raw and normalised:
        raise CalibrationError(
            f"{raw} samples of '{name}' hold pixels of 0 to 255, and {normalised} others look"
            " normalised: most likely some were not preprocessed",
            "treat all samples alike",
        )


def _chunks(values: Array) -> Iterator[tuple[int, Array]]:
    """Samples as rows, a few at a time, each time with the place of the first."""
    for part in slices(len(values), _CHUNK):
        rows = values[part]
        yield part.start, rows.reshape(len(rows), -1)


def _is_last(preprocessing: Preprocessing | None) -> bool:
    return preprocessing is not None and preprocessing.layout == "NHWC"


def _fixed(shape: Sequence[int | str]) -> bool:
    return all(isinstance(each, int) for each in shape) and bool(shape)


def _fits(found: Sequence[int], wanted: Sequence[int | str]) -> bool:
    """Whether a shape is one that a model takes; free dimensions fit any size."""
    return len(found) == len(wanted) and all(
        not isinstance(each, int) or each == size for size, each in zip(found, wanted, strict=True)
    )


def _shape(shape: Sequence[int | str]) -> str:
    return "×".join("?" if not isinstance(each, int) else str(each) for each in shape) or "scalar"


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(f"'{each}'" for each in sorted(names)) or "nothing"
