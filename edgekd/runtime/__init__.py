"""Engines for applications: numpy, one backend and a bundle; no torch, no recipe.

>>> engine = load("model.edgekd")                                # doctest: +SKIP
>>> logits = engine(images)                                      # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path

from edgekd import bundle as bundles
from edgekd.backends.base import GpuOptions
from edgekd.errors import (
    BackendUnavailable,
    BundleError,
    EngineIncompatible,
    RecipeError,
    near_matches,
)
from edgekd.runtime.arguments import instance, shown
from edgekd.runtime.binding import Binding
from edgekd.runtime.engine import Engine
from edgekd.runtime.queue import POLICIES, Stream
from edgekd.runtime.tally import Stats

__all__ = ["POLICIES", "Binding", "Engine", "Stats", "Stream", "load"]


def load(
    path: str | Path,
    target: str | None = None,
    precision: str | None = None,
    threads: int = 1,
    device: str | None = None,
    streams: int = 1,
    deadline_ms: float | None = None,
    gpu: GpuOptions | None = None,
) -> Engine:
    """Opens a bundle's best measured engine that can run here; its hashes are checked first.

    Args:
        path: a ``.edgekd`` folder.
        target: only this target's engines.
        precision: only engines of this precision.
        threads: of a CPU, for one inference; 1024 at most.
        device: where to run, as the runtime calls it: ``cpu``, ``cuda:0``, or a name of OpenVINO's
            such as ``GPU`` or ``NPU``; None for what the engine was built for.
        streams: how many inferences are to run at once, each in a thread of yours; further ones
            may, but may wait for each other; 1024 at most. OpenVINO takes ``threads`` processors
            for each.
        deadline_ms: an answer that takes longer counts as a miss; 0 or infinity for none, and
            None for the bundle's budget.
        gpu: how it is run on a GPU, see ``edgekd.backends.base.GpuOptions``; None for what the
            engine was built with.

    Raises:
        BundleError: no bundle, or none of its engines is as asked for.
        CorruptBundle: a file is missing or was changed.
        BackendUnavailable, EngineIncompatible: none of them can run here; why not the first, or
            why none has the device that was asked for.
        RecipeError: an argument is of another type, or a number none that makes sense.
    """
    for what, name in (("target", target), ("precision", precision)):
        instance(what, name, str, "name")
    try:
        place = Path(path)
    except TypeError as error:
        raise RecipeError(f"{shown(path)} is no path", path="path") from error
    bundle = bundles.read(place)
    records = [
        each
        for each in bundle.engines
        if target in (None, each["target"]) and precision in (None, each["precision"])
    ]
    if not records:
        held = sorted({each["target"] for each in bundle.engines})
        raise BundleError(
            f"{path} holds no engine for target {target or 'any'}, precision {precision or 'any'}",
            near_matches(target or "", held),
        )
    refusals: dict[str, BackendUnavailable | EngineIncompatible] = {}
    for record in records:
        try:
            return Engine(
                bundle,
                record,
                threads,
                gpu,
                device=device,
                streams=streams,
                deadline_ms=deadline_ms,
            )
        except (BackendUnavailable, EngineIncompatible) as error:
            refusals.setdefault(record["backend"], error)
    first = next(iter(refusals.values()))
    if device is None or len(refusals) == 1:
        raise first
    told = "; ".join(each.message for each in refusals.values())
    raise BackendUnavailable(f"device '{device}'", "", told) from first
