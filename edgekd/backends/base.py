"""What a backend is, and how one is found by name.

A backend is one module with the four names of ``Backend``; a session is one opened engine.
Third parties register theirs in the entry-point group ``edgekd.backends``. Only the backend
that was asked for is imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import Checkpoint, EngineFile, OnnxModel, QuantizedModel, TensorSpec
from edgekd.errors import BackendUnavailable, EngineError, RecipeError, near_matches
from edgekd.measurements import LayerTime
from edgekd.progress import Progress, silent
from edgekd.store import installed
from edgekd.targets import Target

Arrays = Mapping[str, npt.NDArray[Any]]
Buildable = Checkpoint | OnnxModel | QuantizedModel


@dataclass(frozen=True)
class Availability:
    """What ``probe`` found.

    Attributes:
        version: the runtime's version; empty where it is not installed.
        devices: what it can execute on here; empty where it can build at most.
        reason: why it cannot build, or cannot execute; empty where it can do both.
    """

    version: str
    devices: tuple[str, ...]
    reason: str = ""

    @property
    def installed(self) -> bool:
        """Whether it can at least build."""
        return bool(self.version)


@dataclass(frozen=True)
class GpuOptions:
    """How an engine is run on a GPU; backends without one take no notice.

    Attributes:
        device_layer: what allocates and copies: ``cuda-python``, or ``pycuda`` for a program
            that holds a PyCUDA context already.
        cuda_graph: one launch for a whole network, where the device layer has graphs.
        host_code: let the engine bring code that runs on the CPU, as a version-compatible plan
            does; only for an engine whose origin you trust.
    """

    device_layer: str = "cuda-python"
    cuda_graph: bool = True
    host_code: bool = False


class Runs(Protocol):
    """What runs."""

    def run(self, feeds: Arrays) -> Arrays:
        """Outputs by name; the batch is the first dimension of every array."""


class Session(Runs, AbstractContextManager["Session"], Protocol):
    """One opened engine. ``run`` is synchronous and takes and gives host arrays."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Binding(Protocol):
    """Memory that a runtime reads and writes itself: nothing is copied between it and a caller.

    Attributes:
        inputs: arrays by name, to be written.
        outputs: arrays by name, to be read after a run, and overwritten by the next.
    """

    @property
    def inputs(self) -> Arrays:
        """See the attributes."""

    @property
    def outputs(self) -> Arrays:
        """See the attributes."""

    def run(self) -> None:
        """As ``Session.run``, from ``inputs`` to ``outputs``."""


@runtime_checkable
class Binds(Protocol):
    """A session that can be given memory of its own."""

    def bind(self, batch: int) -> Binding:
        """Memory for so many images, zeros at first; it goes when nobody holds the arrays.

        Raises:
            EngineError: the engine does not take that batch, or more than it is free in a shape.
        """


@runtime_checkable
class Shares(Protocol):
    """A session whose engine can be run in several threads, by a session for each."""

    def another(self) -> Session:
        """A session of the same loaded engine, to be closed by itself; in any thread."""


class Backend(Protocol):
    """A runtime: what it is called, whether it is here, how it builds and opens engines.

    Attributes:
        name: how targets name it.
        extra: the extra of this package that installs it.
        packages: the distributions that may bring it; any one will do.
    """

    name: str
    extra: str
    packages: tuple[str, ...]

    def probe(self) -> Availability:
        """Version and devices, or why not and what to install. Never raises."""

    def build(
        self, model: Buildable, target: Target, out_dir: Path, progress: Progress = silent
    ) -> EngineFile:
        """Writes the vendor's own file; the caller says whose engine it is.

        Raises:
            BackendUnavailable: the runtime is not installed.
            BuildError: the runtime refuses the model.
        """

    def open(
        self,
        engine: EngineFile,
        threads: int = 1,
        gpu: GpuOptions | None = None,
        *,
        device: str | None = None,
        streams: int = 1,
    ) -> Session:
        """Loads an engine that was built by this backend; the judge of whether it can run here.

        Args:
            engine: its file, whose bytes somebody has checked.
            threads: of a CPU, for one inference.
            gpu: see ``GpuOptions``; None for what the engine was built with.
            device: as the runtime calls it, such as ``cpu``, ``GPU`` or ``cuda:0``; None for
                what the engine was built for.
            streams: how many threads will run it at once, each by a session of its own.

        Raises:
            BackendUnavailable: the runtime is not installed, or the device is not here.
            EngineIncompatible: the engine is for another device or version.
        """


@runtime_checkable
class Profiles(Protocol):
    """A backend whose runtime says how long each layer takes."""

    def profile(
        self, engine: EngineFile, feeds: Arrays, threads: int = 1, runs: int = 50
    ) -> tuple[int, tuple[LayerTime, ...]]:
        """Runs an engine that is opened for it, a few times more than it counts.

        Returns:
            The median nanoseconds of whole inferences, and the layers in the order in which they
            ran; none where the runtime does not tell them for this engine.

        Raises:
            As ``Backend.open`` and ``Session.run``.
        """


def can_profile(backend: Backend) -> TypeGuard[Profiles]:
    """Whether a backend says how long each layer takes."""
    return isinstance(backend, Profiles)


def can_bind(session: Session) -> TypeGuard[Binds]:
    """Whether a session can be given memory of its own."""
    return isinstance(session, Binds)


def can_share(session: Session) -> TypeGuard[Shares]:
    """Whether a session's engine can be run in several threads."""
    return isinstance(session, Shares)


def require_device(name: str, wanted: str | None, here: Sequence[str]) -> None:
    """Refuses a device that a backend does not have here; None asks for none.

    Raises:
        BackendUnavailable: naming those that are here.
    """
    if wanted is None or wanted.lower() in [each.lower() for each in here]:
        return
    devices = f"only {', '.join(here)}" if here else "none"
    raise BackendUnavailable(name, "", f"it has no device '{wanted}' here, {devices}")


def sized(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    """The shape of a tensor that holds so many images.

    Raises:
        EngineError: more than the batch is free, or the batch is fixed to another number.
    """
    first, *rest = spec.shape
    if not all(isinstance(each, int) for each in rest):
        shape = ", ".join(map(str, spec.shape))
        raise EngineError(f"'{spec.name}' has no fixed shape but ({shape})", "run it unbound")
    if isinstance(first, int) and first != batch:
        raise EngineError(f"a batch of {batch} was asked for, and '{spec.name}' takes {first}")
    return (batch, *map(int, rest))


WARM_UP = 3
"""Runs before those that a profile counts."""


def run_times(session: Session, feeds: Arrays, runs: int) -> npt.NDArray[np.int64]:
    """The nanoseconds of each of so many runs, one after another."""
    times = np.zeros(runs, np.int64)
    for index in range(runs):
        begin = perf_counter_ns()
        session.run(feeds)
        times[index] = perf_counter_ns() - begin
    return times


BACKENDS = {
    "torch": "edgekd.backends.torch_eager:TorchEager",
    "onnxruntime": "edgekd.backends.ort:OnnxRuntime",
    "openvino": "edgekd.backends.openvino:OpenVino",
    "tensorrt": "edgekd.backends.tensorrt:TensorRt",
    "tensorrt-rtx": "edgekd.backends.tensorrt:TensorRtRtx",
}
ENTRY_POINTS = "edgekd.backends"


def find(name: str) -> Backend:
    """The backend of that name; no other is imported.

    Raises:
        RecipeError: there is none of that name.
    """
    places = dict(BACKENDS)
    if name not in places:
        places.update({each.name: each.value for each in entry_points(group=ENTRY_POINTS)})
    if name not in places:
        raise RecipeError(f"no backend is called '{name}'", near_matches(name, places))
    module, attribute = places[name].split(":")
    backend: Backend = getattr(import_module(module), attribute)()
    return backend


def require(backend: Backend) -> None:
    """Refuses a backend that is not installed; its runtime is imported only in doubt.

    Raises:
        BackendUnavailable: naming the extra that installs it.
    """
    if set(installed(backend.packages).values()) != {"absent"}:
        return
    if not backend.probe().installed:  # a system's own packages need not be known as distributions
        raise BackendUnavailable(backend.name, backend.extra, "it is not installed")


def batches(engine: EngineFile) -> tuple[int, int | None]:
    """The smallest and the largest batch that an engine takes; None for any."""
    for spec in engine.model_inputs[:1]:
        if spec.shape and isinstance(spec.shape[0], int):
            return spec.shape[0], spec.shape[0]
    most = engine.options.get("max_batch")
    return int(engine.options.get("min_batch", 1)), None if most is None else int(most)


def run_any(session: Runs, engine: EngineFile, feeds: Arrays, most: int = 0) -> dict[str, Any]:
    """Runs a batch of any size: in parts, and a part that is too small filled up with its last.

    Args:
        session: of ``engine``.
        engine: says which batches it takes.
        feeds: inputs by name.
        most: the largest part to run at once; 0 for what the engine takes.

    Raises:
        EngineError: it is empty.
    """
    least, largest = batches(engine)
    total = len(next(iter(feeds.values())))
    if not total:
        raise EngineError("a batch of no images was given", "give one at least")
    size = max(least, min(each for each in (most, largest, total) if each))
    parts = []
    for begin in range(0, total, size):
        part = {name: each[begin : begin + size] for name, each in feeds.items()}
        count = len(next(iter(part.values())))
        if count < least:
            places = np.minimum(np.arange(least), count - 1)
            part = {name: each[places] for name, each in part.items()}
        found = session.run(part)
        parts.append({name: each[:count] for name, each in found.items()})
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}


def usable_cores() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def build_engine(
    model: Buildable, role: str, target: Target, out_dir: Path, progress: Progress = silent
) -> EngineFile:
    """The stage ``engine``: one model for one target, by the target's backend."""
    engine = find(target.backend).build(model, target, out_dir, progress)
    return replace(engine, role=role)
