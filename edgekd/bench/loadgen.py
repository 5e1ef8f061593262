"""MLPerf LoadGen on the same session: the industry's own load generator, to hold ours against.

mlcommons.org, "MLPerf Inference: LoadGen". It knows no periodic arrivals, no misses and no drops,
so that it checks our closed loops and requests at random, and not the camera.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from edgekd.backends.base import Arrays, Session
from edgekd.bench.scenarios import Load
from edgekd.errors import BackendUnavailable, BenchError

PACKAGE = "mlcommons-loadgen"
_NAMES = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
    "server": "Server",
}
_FIGURES = {
    "p50": "result_50.00_percentile_latency_ns",
    "p90": "result_90.00_percentile_latency_ns",
    "p99": "result_99.00_percentile_latency_ns",
    "p99_9": "result_99.90_percentile_latency_ns",
    "max": "result_max_latency_ns",
}
_PROBES = 20
_SAMPLES = 1024


def check(asked: Load) -> Any:
    """LoadGen's module, where it can be asked for this.

    Raises:
        BackendUnavailable: it is not installed.
        BenchError: it has no such scenario.
    """
    if asked.scenario not in _NAMES:
        raise BenchError(
            f"LoadGen has no scenario like '{asked.scenario}'",
            "ask for it with one of " + ", ".join(_NAMES),
        )
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise BackendUnavailable("LoadGen", "loadgen", f"{PACKAGE} is missing") from error
    return mlperf_loadgen


def run(
    session: Session, feeds: Sequence[Arrays], asked: Load, per_call: int = 1
) -> dict[str, Any]:
    """Gives a session queries by LoadGen, each with the next of ``feeds``.

    Args:
        session: what answers.
        feeds: for one call each.
        asked: the scenario, and how long a run.
        per_call: LoadGen's samples that one call answers.

    Returns:
        ``scenario``, ``latency_ns`` by percentile, ``queries``, ``valid``, and ``reason``, what
        LoadGen says where it is not; ``samples_per_s`` of an offline run, else None.

    Raises:
        BackendUnavailable: the package is not installed.
        BenchError: LoadGen has no such scenario, or the session fails.
    """
    lg = check(asked)
    failures: list[Exception] = []

    def issue(queries: Sequence[Any]) -> None:
        for first in range(0, len(queries), per_call):
            if not failures:  # LoadGen waits for every answer, so that each is given
                try:
                    session.run(feeds[queries[first].index % len(feeds)])
                except Exception as error:  # noqa: BLE001  # raised below: a callback loses it
                    failures.append(error)
        lg.QuerySamplesComplete([lg.QuerySampleResponse(each.id, 0, 0) for each in queries])

    settings = _settings(lg, session, feeds, asked, per_call)
    with tempfile.TemporaryDirectory() as folder:
        log = lg.LogSettings()
        log.log_output.outdir = folder
        log.log_output.copy_summary_to_stdout = False
        log.enable_trace = False
        sut = lg.ConstructSUT(issue, lambda: None)
        library = lg.ConstructQSL(_SAMPLES, _SAMPLES, lambda _: None, lambda _: None)
        try:
            lg.StartTestWithLogSettings(sut, library, settings, log)
        finally:
            lg.DestroyQSL(library)
            lg.DestroySUT(sut)
        if failures:
            raise BenchError(f"a session failed under LoadGen: {failures[0]}") from failures[0]
        return _read(Path(folder), asked.scenario)


def _settings(
    lg: Any, session: Session, feeds: Sequence[Arrays], asked: Load, per_call: int
) -> Any:
    """As long a run as ours.

    LoadGen draws its queries before it begins, by the time that they are expected to take: where
    that is too long, a run is INVALID for want of queries.
    """
    expected = _expected_ns(session, feeds)
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, _NAMES[asked.scenario])
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_query_count = settings.max_query_count = asked.frames
    settings.min_duration_ms = 0
    settings.max_duration_ms = max(1, int(asked.seconds * 1e3))
    settings.single_stream_expected_latency_ns = expected
    settings.multi_stream_expected_latency_ns = expected * -(-asked.streams // per_call)
    settings.multi_stream_samples_per_query = asked.streams
    if asked.scenario == "server":
        settings.server_target_qps = asked.rate_per_s
        settings.server_target_latency_ns = 10**10  # its verdict is not asked for: ours is
    if asked.scenario == "offline":
        settings.offline_expected_qps = per_call * 1e9 / expected
    return settings


def _expected_ns(session: Session, feeds: Sequence[Arrays]) -> int:
    took = []
    for index in range(_PROBES):
        before = perf_counter_ns()
        session.run(feeds[index % len(feeds)])
        took.append(perf_counter_ns() - before)
    return max(1, int(np.median(took)))


def _read(folder: Path, scenario: str) -> dict[str, Any]:
    """LoadGen's own results: lines of ``:::MLLOG {json}``."""
    found: dict[str, Any] = {}
    for line in (folder / "mlperf_log_detail.txt").read_text().splitlines():
        _, mark, text = line.partition(":::MLLOG ")
        if mark:
            record = json.loads(text)
            found[record["key"]] = record["value"]
    query = "_latency"
    if scenario == "multi-stream":  # of a query, and not of one sample in it
        query = "_query_latency"
        found = {key.replace("_per_query", "_query"): value for key, value in found.items()}
    valid = found.get("result_validity") == "VALID"
    said = (found.get("result_invalid_reason", ""), found.get("early_stopping_result", ""))
    return {
        "scenario": scenario,
        "latency_ns": {
            name: int(found[key.replace("_latency", query)]) for name, key in _FIGURES.items()
        },
        "queries": int(found.get("result_query_count", 0)),
        "valid": valid,
        "reason": "" if valid else " ".join(" ".join(said).replace("*", "").split()),
        "samples_per_s": found.get("result_samples_per_second"),
    }
