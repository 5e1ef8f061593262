"""What is to be told of a calibration set: what is in it, and whether it is large enough."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import preprocessing as pre
from edgekd.calibration import collect, manifest, methods, pool, table
from edgekd.calibration.collect import Collected
from edgekd.calibration.feeds import Feeds
from edgekd.calibration.pool import Part
from edgekd.calibration.sets import Opened
from edgekd.calibration.statistics import Statistics
from edgekd.data.batches import slices
from edgekd.errors import CalibrationError
from edgekd.progress import Progress, silent

STILL = 0.05
"""A range that moves by no more of its width in the second half of the samples stands still."""
ENOUGH, MORE = "enough", "more samples"
_CHUNK = 64
_EXAMPLES = 3


def of_samples(opened: Opened) -> dict[str, Any]:
    """What a set holds, as JSON does.

    Returns:
        what its manifest says but for the ids, and ``samples``; ``lacking``: classes of train
        without a sample; ``duplicates``: samples that repeat another one; ``overlap``: samples
        that validation, or test, has as well, by their content; None where there is no such
        part.
    """
    parts = opened.pool.parts
    keys = _keys(parts["train"], opened.places)
    in_train = pool.per_class(opened.pool, parts["train"].labels)
    told = manifest.document(opened.manifest)
    del told["ids"]
    return {
        **told,
        "samples": len(keys),
        "lacking": [name for name, n in in_train.items() if n and not told["per_class"].get(name)],
        "duplicates": len(keys) - len(set(keys)),
        "overlap": {
            name: sum(each in held for each in keys) if held else None
            for name in ("validation", "test")
            for held in [{*_keys(parts[name])}]
        },
    }


def of_ranges(collected: Collected, method: str, percentile: float) -> dict[str, Any]:
    """Whether the ranges that a method finds have settled, as JSON holds it.

    Returns:
        ``method``; ``tensors``: of each the range ``low`` to ``high``, ``moved``: by how much
        of its width it moved in the second half of the samples, and ``clipped``: the share of
        the values outside it; ``moving``: those that moved by more than ``STILL``, the farthest
        first; ``verdict``: ``enough`` or ``more samples``.
    """
    found = table.tabulate(collected, method, percentile)
    tensors = {
        name: {
            "low": low,
            "high": high,
            "moved": found.moved[name],
            "clipped": found.clipped[name],
        }
        for name, (low, high) in found.ranges.items()
    }
    order = sorted(tensors, key=lambda name: (-found.moved[name], name))
    moving = [name for name in order if found.moved[name] > STILL]
    return {
        "method": methods.label(method, percentile),
        "tensors": {name: tensors[name] for name in order},
        "moving": moving,
        "verdict": MORE if moving else ENOUGH,
    }


def pass_over(
    opened: Opened, model: Path | None, work: Path, progress: Progress = silent
) -> Collected:
    """Statistics of every float tensor of a model, or without one of the samples alone.

    Raises:
        CalibrationError: the samples are not what the model takes, or are too few.
    """
    if len(opened.feeds) < 2:
        raise CalibrationError(
            f"{opened.chosen.manifest} holds one sample, which tells no range",
            "make a set of a few hundred",
        )
    if model is None:
        return _inputs(opened.feeds, progress)
    from edgekd.backends.ort import open_model

    with open_model(model) as session:
        given = pool.for_model(opened.feeds, session.inputs)
    return collect.collect(model, given, work, progress)


def lines(found: Mapping[str, Any], ranges: Mapping[str, Any] | None) -> list[str]:
    """An audit in a few lines; one that starts with ``! `` is a warning."""
    return [*_of_samples(found), *(_of_ranges(ranges) if ranges else ())]


def _of_samples(found: Mapping[str, Any]) -> Iterator[str]:
    n = found["samples"]
    by = f"{found['draw']}, by {_compared(found)}" if found["features"] else found["draw"]
    yield (
        f"{n:,} sample{'s' * (n > 1)} of train of {found['source']} ({by}, seed {found['seed']});"
        f" licence: {found['licence']}"
    )
    made = found["preprocessing"]
    if made:
        yield (
            f"preprocessing: mean {_figures(made['mean'])}, std {_figures(made['std'])},"
            f" {made['layout']} (sha256 {found['preprocessing_sha256'][:12]})"
        )
    else:
        yield "no preprocessing: the model takes these arrays as they are"
    if counts := found["per_class"].values():
        fewest, most = min(counts), max(counts)
        each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        yield f"{len(counts)} classes, {each} a class"
    yield f"{found['duplicates']:,} with the content of another one of the set"
    if n == 1:
        yield "! one sample calibrates nothing: `edgekd quantize` takes two at least"
    for name in found["lacking"][:_EXAMPLES]:
        yield f"! no sample of class '{name}'"
    if (more := len(found["lacking"]) - _EXAMPLES) > 0:
        yield f"! and none of {more:,} more classes"
    for name, shared in found["overlap"].items():
        if shared:
            yield f"! {shared:,} with the content of one of {name}, which flatters int8 there"
        elif shared is None:
            yield f"no {name} part to compare with"
        else:
            yield f"none with the content of one of {name}"


def _of_ranges(ranges: Mapping[str, Any]) -> Iterator[str]:
    n, moving = len(ranges["tensors"]), ranges["moving"]
    share = f"{100 * STILL:g} %"
    if moving:
        kind = f"tensor{'s' * (len(moving) > 1)} still move{'s' * (len(moving) == 1)}"
        yield (
            f"{MORE}: {len(moving)} {kind} by > {share} in the second half, of {n}"
            f" ({ranges['method']})"
        )
    else:
        yield (
            f"{ENOUGH}: no range of {n} tensor{'s' * (n > 1)} moves by more than {share} in the"
            f" second half ({ranges['method']})"
        )


def _compared(found: Mapping[str, Any]) -> str:
    kind = found["features"]
    return kind if kind == "pixels" else f"outputs of the model {kind[:12]}"


def _figures(values: list[float]) -> str:
    return "/".join(f"{each:g}" for each in values)


def _keys(part: Part, places: Any = None) -> list[bytes]:
    """A hash of each sample's content."""
    places = np.arange(len(part)) if places is None else places
    keys = [hashlib.blake2b(digest_size=16) for _ in places]
    for rows in part.arrays.values():
        for chunk in slices(len(places), _CHUNK):
            for key, row in zip(keys[chunk], rows[places[chunk]], strict=True):
                key.update(row.tobytes())
    return [each.digest() for each in keys]


def _inputs(feeds: Feeds, progress: Progress) -> Collected:
    """Statistics of the samples themselves, as a model would get them."""
    made = feeds.preprocessing
    half: dict[str, Statistics] = {}
    rest: dict[str, Statistics] = {}
    middle = len(feeds) // 2
    for found, first, last in ((half, 0, middle), (rest, middle, len(feeds))):
        for chunk in slices(last - first, _CHUNK):
            taken = feeds.take(slice(first + chunk.start, first + chunk.stop))
            for name, values in taken.items():
                if np.issubdtype(values.dtype, np.floating):
                    found.setdefault(name, Statistics()).see(values)
            progress(first + chunk.stop, len(feeds), "")
    for name, each in rest.items():
        each.merge(half[name])
    return Collected(
        statistics=rest,
        half=half,
        samples=len(feeds),
        model_sha256="",
        preprocessing_sha256=pre.sha256(made) if made else "",
    )
