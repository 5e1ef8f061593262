"""The part ``layers``: what the tests hold a GPU of host memory to, on the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import device_checks
import session_checks
from device_checks import CheckFailed
from job import Job, Row, failed, skipped
from session_checks import Subject, copying

from edgekd.artifacts import EngineFile
from edgekd.backends import cuda
from edgekd.backends.base import GpuOptions, batches, find
from edgekd.backends.cuda import Device
from edgekd.backends.tensorrt import BACKENDS
from edgekd.backends.tensorrt.session import TensorRtSession
from edgekd.errors import BackendUnavailable, DeviceError, EdgekdError

LAYERS = ("cuda-python", "pycuda")
QUICK_RUNS, RUNS = 500, 10_000
PRECISION = "fp16"


def rows(job: Job) -> Iterator[Row]:
    """Every layer that is here: by itself, under a copying network, and under each TensorRT."""
    engines: dict[str, EngineFile] = {}
    for layer in LAYERS:
        try:
            device = cuda.open_device(layer, "")
        except BackendUnavailable as error:
            yield skipped(layer, error.reason)
            continue
        runs = QUICK_RUNS if job.quick else RUNS
        yield from checked(layer, device_checks.CHECKS, device, job)
        subject = copying(device, runs)
        yield from checked(f"{layer}, {subject.name}", session_checks.CHECKS, subject, job)
        for name in BACKENDS:
            found = find(name).probe()
            if not found.devices:
                yield skipped(f"{layer}, {name}", found.reason)
                continue
            try:
                if name not in engines:
                    engines[name] = _engine(name, found.devices[0], job)
            except EdgekdError as error:
                yield failed(f"{layer}, {name}", str(error))
                continue
            subject = of(engines[name], layer, device, runs)
            yield from checked(f"{layer}, {name}", session_checks.CHECKS, subject, job)


def checked(
    who: str, checks: Mapping[str, Callable[[Any], str]], subject: Any, job: Job
) -> Iterator[Row]:
    """A row for each check; after the GPU was lost there is nothing more to check."""
    lost = ""
    for name, check in checks.items():
        what = f"{who}: {name}"
        if lost:
            yield skipped(what, f"the GPU was lost: {lost}")
        elif job.over():
            yield job.too_late(what)
        else:
            try:
                yield Row(what, {"": check(subject)})
            except CheckFailed as error:
                yield failed(what, str(error))
            except EdgekdError as error:
                yield failed(what, str(error))
                lost = error.message if isinstance(error, DeviceError) and error.lost else ""


def of(engine: EngineFile, layer: str, device: Device, runs: int) -> Subject:
    """An engine of TensorRT's, opened by that layer."""

    def open_session(cuda_graph: bool) -> TensorRtSession:
        chosen = GpuOptions(device_layer=layer, cuda_graph=cuda_graph)
        session = find(engine.backend).open(engine, gpu=chosen)
        assert isinstance(session, TensorRtSession)
        return session

    return Subject(engine.name, open_session, device, batches(engine)[1] or 1, runs=runs)


def _engine(name: str, sm: str, job: Job) -> EngineFile:
    """The student's; ``plans`` may have built it already."""
    from networks import Networks
    from plans import aimed

    network = Networks(job).network("student")
    (rung,) = network.rungs(aimed(name, sm), [PRECISION])
    return network.engine(rung)
