"""The part ``providers``: ONNX Runtime's GPU providers, by the targets that name them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from job import Job, Row, failed, skipped
from networks import Network, Networks
from timing import WITHIN, closeness, figures, line, rate, timed

from edgekd import advice, targets
from edgekd.artifacts import EngineFile
from edgekd.backends import ort, ort_providers
from edgekd.backends.base import find
from edgekd.backends.ort import OrtSession
from edgekd.errors import BackendUnavailable, EdgekdError
from edgekd.ladder import Rung
from edgekd.targets import Target

TARGETS = ("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-rtx")
PRECISIONS = ("fp32", "fp16", "int8")
ROLES = ("student", "teacher")


def rows(job: Job) -> Iterator[Row]:
    """Every target that can be used here, and why the others cannot."""
    ort.import_runtime()
    networks: list[Network] = []
    for name in TARGETS:
        target = targets.load(name)
        try:
            ort_providers.require(str(target.options["provider"]))
        except BackendUnavailable as error:
            yield skipped(name, error.reason)
            continue
        if not networks:
            made = Networks(job)
            networks = [made.network(role) for role in ROLES[: 1 if job.quick else None]]
        yield from on(target, networks, job)


def on(target: Target, networks: list[Network], job: Job) -> Iterator[Row]:
    """One target: each precision of each network, timed in turn."""
    opened: list[tuple[Network, EngineFile, OrtSession, dict[str, Any]]] = []
    with ExitStack() as stack:
        for network in networks:
            for precision in PRECISIONS:
                what = f"{target.name}, {network.role}, {precision}"
                if precision not in target.precisions:
                    yield skipped(what, f"the target has no {precision}")
                    continue
                if job.over():
                    yield job.too_late(what)
                    continue
                (rung,) = network.rungs(target, [precision])
                try:
                    engine = network.engine(rung)
                    session = stack.enter_context(find(target.backend).open(engine))
                    assert isinstance(session, OrtSession)
                    found = _figures(network, rung, engine, session)
                except BackendUnavailable as error:
                    yield skipped(what, error.reason)
                except EdgekdError as error:
                    yield failed(what, str(error))
                else:
                    opened.append((network, engine, session, found))
        lines = []
        for network in networks:  # whose inputs may differ in shape
            own = [each for each in opened if each[0] is network]
            if not own:
                continue
            sessions = [session for _, _, session, _ in own]
            for (_, engine, session, found), times in zip(
                own, timed(sessions, network.x, job), strict=True
            ):
                precision = engine.precision
                found |= figures(times) | rate(session, engine, network.x, job)
                lines.append(line(engine, times))
                what = f"{target.name}, {network.role}, {precision}"
                far = found["largest_difference"] > WITHIN[precision]
                why = f"it is further than {WITHIN[precision]} from its graph" if far else ""
                yield Row(what, found, "failed" if far else "ran", why)
    for sentence in advice.advise(lines):
        yield Row(f"{target.name}, advice", {"": sentence})


def _figures(
    network: Network, rung: Rung, engine: EngineFile, session: OrtSession
) -> dict[str, float | str]:
    placed = ", ".join(f"{count} by {name}" for name, count in session.placed.items())
    found = closeness(network.outputs(session, engine), network.plain(rung), network.exact)
    return {"nodes": placed, **found}
