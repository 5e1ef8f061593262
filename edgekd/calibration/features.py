"""What ``coverage`` compares samples by: pooled pixels, or what a model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekd.artifacts import Preprocessing
from edgekd.backends.ort import open_model
from edgekd.calibration.draw import Features
from edgekd.calibration.feeds import Array, Feeds
from edgekd.calibration.pool import Part, for_model
from edgekd.data.batches import slices
from edgekd.errors import CalibrationError
from edgekd.progress import Progress, silent

_SIDE = 8
_WIDEST = 1024
_BATCH = 32


def of_pixels(part: Part) -> Features:
    """Each channel averaged over at most 8×8 fields of its picture; of other arrays, the values."""
    return _together(
        [
            np.concatenate([_fields(rows[chunk]) for chunk in slices(len(part), _BATCH)])
            for rows in part.arrays.values()
        ]
    )


def of_outputs(
    part: Part, preprocessing: Preprocessing | None, model: Path, progress: Progress = silent
) -> Features:
    """A model's outputs for each sample; one longer than 1,024 is averaged over neighbours.

    Raises:
        BuildError: ONNX Runtime refuses the model.
        CalibrationError: the samples are not what it takes, or an output has no row a sample.
    """
    with open_model(model) as session:
        fixed = [each.shape[0] for each in session.inputs if each.shape]
        batch = max((each for each in fixed if isinstance(each, int)), default=_BATCH)
        found: dict[str, list[Features]] = {each.name: [] for each in session.outputs}
        for_model(_repeated(part, 0, max(2, batch), preprocessing), session.inputs)
        for chunk in slices(len(part), batch):
            size = chunk.stop - chunk.start
            # The last batch is filled up, for a model that takes no other size.
            given = _repeated(part, chunk.start, batch, preprocessing)
            given = for_model(given, session.inputs, checked=True)
            for name, values in session.run(given.take(slice(None))).items():
                if not values.shape or len(values) != batch:
                    raise CalibrationError(
                        f"output '{name}' of {model} has no row a sample, so that it tells none"
                        " apart",
                        "cover pixels, without a model",
                    )
                found[name].append(_runs(values[:size]))
            progress(chunk.stop, len(part), "looking")
    return _together([np.concatenate(each) for each in found.values()])


def _repeated(part: Part, start: int, size: int, preprocessing: Preprocessing | None) -> Feeds:
    """So many samples, the last one again and again where there are no more."""
    places = np.minimum(np.arange(start, start + size), len(part) - 1)
    return Feeds({name: rows[places] for name, rows in part.arrays.items()}, preprocessing)


def _together(columns: Sequence[Features]) -> Features:
    """Features side by side, each of which counts alike whatever its unit."""
    return np.concatenate([each / (each.std() or 1) for each in columns], axis=1)


def _fields(values: Array) -> Features:
    if values.ndim < 4:
        return _runs(values)
    out = values.astype(np.float32)
    for axis in (-2, -1):
        if out.shape[axis] > _SIDE:
            out = _averaged(out, axis, _SIDE)
    return _runs(out)


def _runs(values: Array) -> Features:
    flat = values.reshape(len(values), -1).astype(np.float32)
    return _averaged(flat, 1, _WIDEST) if flat.shape[1] > _WIDEST else flat


def _averaged(values: Features, axis: int, parts: int) -> Features:
    """The mean over each of ``parts`` runs of an axis, as equal as can be."""
    size = values.shape[axis]
    edges = np.arange(parts) * size // parts
    sums = np.add.reduceat(values, edges, axis=axis)
    shape = [1] * values.ndim
    shape[axis] = parts
    lengths = np.diff([*edges, size]).reshape(shape)
    return (sums / lengths).astype(np.float32)
