"""How long an engine's layers take, as TensorRT reports it to an ``IProfiler``.

docs.nvidia.com, TensorRT Python API, "Profiler" and ``IExecutionContext.enqueue_emits_profile``:
a context with a profiler reports each layer as it enqueues, and waits for the GPU to do so. Of a
CUDA graph it would report nothing by itself, so the context must run without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekd.backends.base import WARM_UP, Arrays, run_times
from edgekd.backends.tensorrt.inspector import UNKNOWN, LayerFact
from edgekd.backends.tensorrt.session import TensorRtSession
from edgekd.errors import StageError
from edgekd.measurements import LayerTime

_PRECISIONS = {each: each for each in ("fp32", "fp16", "bf16", "int8", "fp8")} | {"uint8": "int8"}
_LINEAR = ("quantize", "dequantize")

Report = Sequence[tuple[str, float]]
"""The layers of one inference: their names and milliseconds, as they came."""


def profile(
    library: Any,
    session: TensorRtSession,
    facts: Sequence[LayerFact],
    feeds: Arrays,
    runs: int,
) -> tuple[int, tuple[LayerTime, ...]]:
    """See ``Profiles.profile``.

    Args:
        library: the module ``tensorrt`` or ``tensorrt_rtx``.
        session: opened without CUDA graphs.
        facts: what the engine's inspector says of its layers.

    Raises:
        StageError: as ``Session.run``, or TensorRT reports no layer or not the same each time.
    """
    recorder = _recorder(library)
    session.context.profiler = recorder  # which keeps no reference to it
    reports = []
    times = []
    for _ in range(WARM_UP + runs):
        recorder.report = []
        times.append(int(run_times(session, feeds, 1)[0]))
        reports.append(recorder.report)
    return int(np.median(times[WARM_UP:])), layers(reports[WARM_UP:], facts)


def layers(reports: Sequence[Report], facts: Sequence[LayerFact]) -> tuple[LayerTime, ...]:
    """The layers in the order of the reports, each with its median and what is known of it.

    Raises:
        StageError: there are none, or they differ from one inference to the next.
    """
    names = [name for name, _ in reports[0]]
    if not names:
        raise StageError("TensorRT reports the time of no layer")
    if any([name for name, _ in each] != names for each in reports):
        raise StageError("TensorRT does not report the same layers for each inference")
    medians = np.median([[ms for _, ms in each] for each in reports], axis=0)
    known = {each.name: each for each in facts}
    return tuple(
        _layer(name, int(1e6 * ms), known) for name, ms in zip(names, medians, strict=True)
    )


def _layer(name: str, ns: int, known: Mapping[str, LayerFact]) -> LayerTime:
    fact = known.get(name) or LayerFact(name, "", "other", UNKNOWN, (), (), ())
    role = fact.role if fact.role in ("compute", "reformat") else "other"
    return LayerTime(
        name=name,
        kind=fact.kind,
        precision=_PRECISIONS.get(fact.precision, UNKNOWN),
        role="convert" if fact.kind.lower() in _LINEAR else role,
        ns=ns,
        nodes=fact.nodes,
    )


def _recorder(library: Any) -> Any:
    class Recorder(library.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProfiler.__init__(self)
            self.report: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.report.append((layer_name, ms))

    return Recorder()
