"""What a report tells of a trace: its tail, and what would be missed at other frame rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgekd import trace as traces
from edgekd.measurements import Measurements
from edgekd.recipe import BudgetSettings
from edgekd.trace import Trace
from edgekd.verdict import timed

_POINTS = 100
_SAMPLES = 200
_RATES = 40
_READINGS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mhz": min,
    "celsius": max,
    "load": max,
    "steal": max,
    "others": max,
    "gpu_mhz": min,
    "gpu_celsius": max,
}
_SLOWEST, _FASTEST = 0.25, 2.0  # of the rate that the median service could keep up


def curve(trace: Trace) -> list[list[float]]:
    """The share of frames at least this slow, as (nanoseconds, share), for a log-log plot.

    Frames that were dropped are slower than any: the share does not fall below theirs.
    """
    known = traces.decided(trace)
    ordered = np.sort(traces.response(known))
    n, frames = len(ordered), len(known)
    if not n:
        return []
    beyond = np.unique(np.geomspace(1, n, _POINTS).astype(int))
    return [
        [int(ordered[n - each]), (each + frames - n) / frames] for each in beyond[::-1].tolist()
    ]


def replay(services: Sequence[int], period: int, policy: str, deadline: float) -> float:
    """The share of frames that miss a deadline, were these service times a camera's.

    Frame i is due at i times the period, and the n-th frame that is served takes the n-th time.
    It ends with the last of them.

    Args:
        services: nanoseconds, in the order in which they were measured.
        period: nanoseconds between frames.
        policy: what becomes of a frame that comes while another is served: ``queue`` (it waits
            its turn), ``drop-oldest`` (it waits, and the one that waited is dropped) or ``skip``
            (it is dropped).
        deadline: nanoseconds from when a frame was due.
    """
    if not len(services) or max(services) <= min(period, deadline):
        return 0.0
    following = _FOLLOWING[policy]
    free, frame, missed = 0, -1, 0
    for service in services:
        before, frame = frame, following(frame, free, period)
        due = frame * period
        free = max(free, due) + service
        missed += frame - before - 1 + (free - due > deadline)
    return missed / (frame + 1)


_FOLLOWING: Mapping[str, Callable[[int, int, int], int]] = {
    "queue": lambda before, free, period: before + 1,
    "drop-oldest": lambda before, free, period: max(before + 1, free // period),
    "skip": lambda before, free, period: max(before + 1, -(-free // period)),
}
"""Which frame is served after ``before`` by a session that is free from then on."""


def miss_rate_by_fps(
    trace: Trace, policy: str, deadline_ms: float | None, fps: float | None
) -> list[list[float]]:
    """What share of frames would miss at other frame rates, replayed from a trace's services.

    Args:
        trace: of a camera.
        policy: see ``replay``.
        deadline_ms: from when a frame is due; None for until the next one is.
        fps: a rate that is to be among them.

    Returns:
        (frames a second, share) in ascending order.
    """
    services = traces.service(trace).tolist()
    if not services:
        return []
    most = 1e9 / max(1.0, float(np.median(services)))
    ends = [_SLOWEST * most, _FASTEST * most, *([fps] if fps else [])]
    rates = {float(f"{each:.3g}") for each in np.geomspace(min(ends), max(ends), _RATES)}
    rates |= {float(fps)} if fps else set()
    found = []
    for rate in sorted(rates):
        period = max(1, round(1e9 / rate))
        allowed = period if deadline_ms is None else deadline_ms * 1e6
        found.append([rate, replay(services, period, policy, allowed)])
    return found


def camera(found: Measurements, budget: BudgetSettings) -> dict[str, Any] | None:
    """A camera's run as ``report.json`` holds it; None where nothing was measured.

    It is what ``verdict.timed`` tells, with ``engine``, ``load``, ``curve``, ``watch`` and
    ``miss_rate_by_fps``.
    """
    if not found.items:
        return None
    timing = found.items[0]
    record: Trace = np.load(timing.trace, allow_pickle=False)
    policy = str(found.load["policy"])
    return {
        "engine": timing.engine,
        "load": dict(found.load),
        **timed(timing, budget),
        "curve": curve(record),
        "miss_rate_by_fps": miss_rate_by_fps(record, policy, budget.deadline_ms, budget.fps),
        "watch": watch(found.watch),
    }


def watch(found: Mapping[str, Any]) -> dict[str, Any]:
    """What else went on meanwhile: the readings that are drawn, at most 200 of each.

    Of samples that are thinned out the worst is kept; of several GPUs the worst.
    """
    samples = list(found.get("samples", ()))
    step = max(1, -(-len(samples) // _SAMPLES))
    return {
        **found,
        "samples": [
            _worst(samples[start : start + step]) for start in range(0, len(samples), step)
        ],
    }


def _worst(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kept = {"t_ns": samples[0]["t_ns"]}
    for name, worst in _READINGS.items():
        known = [value for each in samples for value in _readings(each, name) if value is not None]
        kept[name] = worst(known) if known else None
    return kept


def _readings(sample: Mapping[str, Any], name: str) -> Sequence[Any]:
    if name.startswith("gpu_"):
        return [each.get(name.removeprefix("gpu_")) for each in sample.get("gpus") or ()]
    return [sample.get(name)]
