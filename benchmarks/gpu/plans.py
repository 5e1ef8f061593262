"""The part ``plans``: TensorRT's flavours, each precision built, run, compared and looked into.

Without a GPU TensorRT for RTX still builds, for every capability that EdgeKD's targets name.
What a library refuses is held against the targets' profiles: it may refuse what none of them has.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from job import Job, Row, failed, skipped
from networks import PRECISIONS, Network, Networks
from timing import WITHIN, closeness, figures, line, rate, timed

from edgekd import targets
from edgekd.advice import advise
from edgekd.artifacts import EngineFile
from edgekd.backends.base import GpuOptions, find
from edgekd.backends.tensorrt import BACKENDS, library
from edgekd.backends.tensorrt.inspector import Inspection, inspect, summary
from edgekd.backends.tensorrt.session import TensorRtSession
from edgekd.errors import BackendUnavailable, EdgekdError, StageError
from edgekd.ladder import Rung
from edgekd.targets import Target

AHEAD = ("sm_80", "sm_86", "sm_89", "sm_120", "sm_75")
"""What is built for where there is no GPU."""
LAYERS = ("cuda-python", "pycuda")
PARTS = ("h2d", "gpu", "d2h")


def rows(job: Job) -> Iterator[Row]:
    """Every flavour that is installed."""
    networks = Networks(job)
    for name in BACKENDS:
        found = find(name).probe()
        if not found.installed:
            yield skipped(name, found.reason)
        elif found.devices:
            yield from here(name, found.devices[0], networks.network("student"), job)
        elif name == "tensorrt-rtx":
            yield from ahead(name, networks.network("student"), job)
        else:
            yield skipped(name, found.reason)


def aimed(name: str, sm: str) -> Target:
    """A target of that backend for that GPU alone, with every precision."""
    target = targets.load(name)
    options = dict(target.options)
    if "compute_capabilities" in options:
        options["compute_capabilities"] = (f"{sm[3:-1]}.{sm[-1]}",)
    device = target.device if target.device == "cuda" else sm
    return replace(target, device=device, precisions=PRECISIONS, options=options)


def expected(name: str, sm: str) -> set[str]:
    """The precisions that EdgeKD's targets have on a GPU by that backend."""
    found = map(targets.load, targets.names())
    return {
        precision
        for each in found
        if each.backend == name and {sm, "cuda"} & set(each.device.split("+"))
        for precision in each.precisions
    }


def ahead(name: str, network: Network, job: Job) -> Iterator[Row]:
    """Engines for GPUs that are not here."""
    for sm in AHEAD[2:3] if job.quick else AHEAD:
        for rung in network.rungs(aimed(name, sm), PRECISIONS):
            what = f"{name}, {sm}, {rung.precision}"
            if job.over():
                yield job.too_late(what)
                continue
            made = _built(what, network, rung, sm)
            if isinstance(made, Row):
                yield made
            else:
                engine, seconds = made
                yield Row(what, _of_engine(engine, seconds), "built", "not run: no GPU")


def here(name: str, sm: str, network: Network, job: Job) -> Iterator[Row]:
    """Engines for the GPU that is here."""
    lines, inspections = [], {}
    for rung in network.rungs(aimed(name, sm), PRECISIONS):
        what = f"{name}, {rung.precision}"
        if job.over():
            yield job.too_late(what)
            continue
        made = _built(what, network, rung, sm)
        if isinstance(made, Row):
            yield made
            continue
        try:
            yield from _run(what, network, rung, *made, lines, inspections, job)
        except EdgekdError as error:
            yield failed(what, str(error))
    for sentence in advise(lines, inspections):
        yield Row(f"{name}, advice", {"": sentence})


def _built(what: str, network: Network, rung: Rung, sm: str) -> Row | tuple[EngineFile, float]:
    """The engine and the seconds that it took; or why there is none, and whether that is right."""
    begin = time.monotonic()
    try:
        return network.engine(rung), time.monotonic() - begin
    except EdgekdError as error:
        if rung.precision in expected(rung.target.backend, sm):
            return failed(what, str(error))
        return Row(
            what, outcome="refused", reason=f"no target has it: {error.hint or error.message}"
        )


def _run(
    what: str,
    network: Network,
    rung: Rung,
    engine: EngineFile,
    seconds: float,
    lines: list[dict[str, Any]],
    inspections: dict[str, Inspection],
    job: Job,
) -> Iterator[Row]:
    """One engine: what it gives, how fast by each layer, with and without graphs, what is in it."""
    with ExitStack() as stack:
        sessions: dict[str, TensorRtSession] = {}
        for layer in LAYERS:
            for graphs in (True, False):
                way = f"{what}, {layer}, {'CUDA graph' if graphs else 'no graph'}"
                chosen = GpuOptions(device_layer=layer, cuda_graph=graphs)
                try:
                    opened = find(engine.backend).open(engine, gpu=chosen)
                except BackendUnavailable as error:
                    yield skipped(f"{what}, {layer}", error.reason)
                    break
                assert isinstance(opened, TensorRtSession)
                sessions[way] = stack.enter_context(opened)
        if not sessions:
            return
        first = next(iter(sessions.values()))
        near = closeness(network.outputs(first, engine), network.plain(rung), network.exact)
        far = near["largest_difference"] > WITHIN[rung.precision]
        why = f"it is further than {WITHIN[rung.precision]} from its graph" if far else ""
        yield Row(what, _of_engine(engine, seconds) | near, "failed" if far else "ran", why)
        timings = timed(list(sessions.values()), network.x, job)
        lines.append(line(engine, timings[0]))
        for (way, session), times in zip(sessions.items(), timings, strict=True):
            found = figures(times) | rate(session, engine, network.x, job)
            yield Row(way, found | _split(session, network, job) | {"graph": _graph(session)})
        inspections[engine.name] = found_inside = _inside(engine, first)
        for index, sentence in enumerate(summary(found_inside, rung.precision)):
            yield Row(f"{what}, inside {index + 1}", {"": sentence})


def _of_engine(engine: EngineFile, seconds: float) -> dict[str, float | str]:
    return {"build_s": seconds, "kib": engine.path.stat().st_size / 1024}


def _split(session: TensorRtSession, network: Network, job: Job) -> dict[str, float]:
    """Medians of where the GPU's time went, for single images."""
    name = session.inputs[0].name
    count = 10 if job.quick else 200
    splits = [session.timed({name: network.x[:1]})[1] for _ in range(count)]
    return {
        f"{part}_us": statistics.median(getattr(each, f"{part}_ns") for each in splits) / 1e3
        for part in PARTS
    }


def _graph(session: TensorRtSession) -> str:
    if session.graph_launched:
        return "launched"
    return session.graph_refused or "none of ours"


def _inside(engine: EngineFile, session: TensorRtSession) -> Inspection:
    backend: Any = find(engine.backend)
    module = library.load(backend.library, backend.name, backend.extra)
    if (found := session.context.engine) is None:
        raise StageError("the execution context names no engine to inspect")
    return inspect(module, found)
