"""Samples for a model that comes without any: from a file, or drawn."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekd.artifacts import TensorSpec
from edgekd.bench.scenarios import Feeds
from edgekd.errors import RecipeError, near_matches

_SAMPLES = 64
_SAMPLE_BYTES = 256_000_000


def shaped(spec: TensorSpec, shapes: Mapping[str, tuple[int, ...]]) -> TensorSpec:
    """An input whose every dimension but the first is known.

    Args:
        spec: as the model has it.
        shapes: of one sample, by input, where the user says so.

    Raises:
        RecipeError: one is not, or is another than the model says; or it takes no numbers.
    """
    try:
        np.dtype(spec.dtype)
    except TypeError as error:
        raise RecipeError(
            f"input '{spec.name}' takes {spec.dtype}, of which no samples can be made",
            "measure the network from the first tensor of numbers on",
        ) from error
    given = shapes.get(spec.name)
    if given is not None:
        if spec.shape and not _fits(given, spec.shape[1:]):
            raise RecipeError(
                f"input '{spec.name}' has shape {spec.shape}, and {given} does not go into it",
                "say what one sample is, without the batch",
                path="--shape",
            )
        return replace(spec, shape=("batch", *given))
    free = [each for each in spec.shape[1:] if isinstance(each, str)]
    if free or not spec.shape:
        raise RecipeError(
            f"input '{spec.name}' has shape {spec.shape}",
            f"say what its samples are, as in --shape {spec.name}=3,224,224",
            path="--shape",
        )
    return replace(spec, shape=("batch", *spec.shape[1:]))


def batch(specs: Sequence[TensorSpec]) -> int | None:
    """The batch that a model's inputs have fixed; None where it is free.

    Raises:
        RecipeError: they do not agree, so that what is given cannot be cut into samples.
    """
    firsts = {each.name: each.shape[0] for each in specs if each.shape}
    fixed = {each for each in firsts.values() if isinstance(each, int)}
    free = any(isinstance(each, str) for each in firsts.values())
    if len(fixed) > 1 or (free and fixed - {1}):
        shapes = ", ".join(f"'{each.name}' {each.shape}" for each in specs)
        raise RecipeError(
            f"the inputs are not of one batch: {shapes}",
            "make those that belong to no sample constants of the model",
        )
    return min(fixed, default=None)


def drawn(specs: Sequence[TensorSpec]) -> Feeds:
    """Samples that mean nothing, the same in every run: times seldom depend on them."""
    rng = np.random.default_rng(0)
    feeds = {}
    shapes = [tuple(each for each in spec.shape[1:] if isinstance(each, int)) for spec in specs]
    largest = 8 * max(max(1, math.prod(each)) for each in shapes)
    count = max(1, min(_SAMPLES, _SAMPLE_BYTES // largest))
    for spec, shape in zip(specs, shapes, strict=True):
        kind = np.dtype(spec.dtype).kind
        if kind == "f":
            feeds[spec.name] = rng.standard_normal((count, *shape)).astype(spec.dtype)
        elif spec.dtype == "uint8":
            feeds[spec.name] = rng.integers(0, 256, (count, *shape), np.uint8)
        else:  # places in a table, or flags: nought is always one
            feeds[spec.name] = np.zeros((count, *shape), spec.dtype)
    return feeds


def read(path: Path, specs: Sequence[TensorSpec]) -> Feeds:
    """Samples from a file.

    Raises:
        RecipeError: it is not one, lacks an input, has another type or shape, or holds none.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            named = {specs[0].name: loaded} if isinstance(loaded, np.ndarray) else loaded
            arrays = {k: v for k, v in named.items() if isinstance(v, np.ndarray)}
    except OSError as error:
        why = error.strerror or str(error)
        raise RecipeError(f"cannot be read: {why}", path=str(path)) from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RecipeError("holds no arrays", "give .npy or .npz", path=str(path)) from error
    for spec in specs:
        found = arrays.get(spec.name)
        if found is None:
            raise RecipeError(
                f"there is no array '{spec.name}'", near_matches(spec.name, arrays), path=str(path)
            )
        if (
            found.dtype != spec.dtype
            or not found.ndim
            or not _fits(found.shape[1:], spec.shape[1:])
        ):
            raise RecipeError(
                f"'{spec.name}' is {found.dtype} {found.shape}",
                f"the model takes {spec.dtype} {spec.shape}",
                path=str(path),
            )
    counts = {spec.name: len(arrays[spec.name]) for spec in specs}
    if len(set(counts.values())) > 1 or not min(counts.values()):
        raise RecipeError(
            f"it holds {', '.join(f'{count} of {name!r}' for name, count in counts.items())}",
            "give one and the same number of samples for every input",
            path=str(path),
        )
    return {spec.name: arrays[spec.name] for spec in specs}


def _fits(shape: Sequence[int], declared: Sequence[int | str]) -> bool:
    return len(shape) == len(declared) and all(
        isinstance(said, str) or said == size for size, said in zip(shape, declared, strict=True)
    )
