"""Sessions timed side by side, and how near their outputs come to others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from job import Job

from edgekd.artifacts import EngineFile
from edgekd.backends.base import Arrays, Session, batches
from edgekd.bench import load
from edgekd.bench.load import Timings
from edgekd.quantize.proof import sqnr
from edgekd.stats import percentiles as stats
from edgekd.verdict import row

SAMPLES = 64
"""Images that outputs are compared on, and that latencies take in turn."""
WITHIN = {"fp32": 0.01, "fp16": 0.05, "int8": 0.05, "fp8": 0.05}
"""Of the largest output: how far an engine may lie from its graph's plain semantics. `edgekd
verify` holds an engine to as much that was built elsewhere; fp32 is multiplied in TF32."""

Array = npt.NDArray[Any]


def timed(sessions: Sequence[Session], x: Array, job: Job) -> list[Timings]:
    """Latencies of single images, the sessions in turn."""
    name = sessions[0].inputs[0].name
    return load.interleaved(
        sessions,
        [[{name: each[None]} for each in x]] * len(sessions),
        calls=60 if job.quick else 2000,
        blocks=3 if job.quick else 10,
        limit_ns=10**8 if job.quick else 10**9,
        seed=0,
    )


def figures(timings: Timings) -> dict[str, float]:
    """Median and p99; the latter where there are samples enough to tell it."""
    latencies = np.concatenate(timings.latencies_ns)
    found = stats.summary(latencies)
    told = ["p50"] + ["p99"] * (len(latencies) >= stats.fewest(stats.PERCENTILES["p99"]))
    return {f"{name}_us": found[name] / 1e3 for name in told}


def rate(session: Session, engine: EngineFile, x: Array, job: Job) -> dict[str, float]:
    """Images a second in the largest batch that the engine takes, of at most 32."""
    size = min(32, batches(engine)[1] or 32)
    feed: Arrays = {session.inputs[0].name: x[np.arange(size) % len(x)]}
    found = load.throughput(session, feed, size, 10**8 if job.quick else 3 * 10**8)
    return {f"images_per_s_at_{size}": found}


def line(engine: EngineFile, timings: Timings) -> dict[str, Any]:
    """An engine's line as in a report, for ``advise``."""
    latencies = np.concatenate(timings.latencies_ns)
    return row(engine, {}) | {
        "latency_ns": stats.summary(latencies),
        "interval_ns": {
            name: stats.interval(latencies, share) for name, share in stats.PERCENTILES.items()
        },
    }


def closeness(found: Arrays, plain: Arrays, exact: Arrays) -> dict[str, float]:
    """How near outputs come to the plain semantics of the same graph, and to fp32's."""
    largest = max(float(np.abs(each).max()) for each in plain.values())
    apart = max(float(np.abs(found[name] - each).max()) for name, each in plain.items())
    return {
        "sqnr_db": sqnr(plain, found),
        "sqnr_to_fp32_db": sqnr(exact, found),
        "largest_difference": apart / largest,
    }
