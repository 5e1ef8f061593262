"""MLPerf LoadGen, the real one, on a planted session."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from edgekd.bench import loadgen
from edgekd.bench.scenarios import Load
from edgekd.errors import BackendUnavailable, BenchError
from tests.bench.planted import Planted, constant, feeds

FRAMES = 150


def run(scenario: str, session: Any, per_call: int = 1, **load: Any) -> dict[str, Any]:
    asked = Load(scenario=scenario, frames=FRAMES, seconds=5, **load)
    return loadgen.run(session, feeds(3), asked, per_call)


def test_a_single_stream_is_timed_query_by_query() -> None:
    session = Planted(constant(500))
    found = run("single-stream", session)
    assert found["valid"]
    assert found["queries"] == FRAMES
    assert list(found["latency_ns"]) == ["p50", "p90", "p99", "p99_9", "max"]
    assert list(found["latency_ns"].values()) == sorted(found["latency_ns"].values())
    assert found["latency_ns"]["p50"] >= 500_000
    assert len(session.fed) >= FRAMES
    assert {int(each["x"][0]) for each in session.fed} == {0, 1, 2}


def test_streams_are_answered_one_by_one_or_in_one_call() -> None:
    one_by_one = run("multi-stream", Planted(constant(300)), streams=4)
    assert one_by_one["latency_ns"]["p50"] >= 1_200_000
    session = Planted(constant(300))
    found = run("multi-stream", session, per_call=4, streams=4)
    assert found["latency_ns"]["p50"] >= 300_000
    assert FRAMES <= len(session.fed) < 2 * FRAMES
    assert "662 queries" in found["reason"]  # what MLPerf asks for to tell p99
    assert not found["valid"]


def test_requests_come_at_their_rate() -> None:
    session = Planted(constant(100))
    found = run("server", session, rate_per_s=300.0)
    assert found["queries"] == FRAMES
    assert found["latency_ns"]["p50"] >= 100_000


def test_offline_tells_a_rate() -> None:
    found = run("offline", Planted(constant(200)), per_call=8)
    assert 0 < found["samples_per_s"] <= 8 / 200e-6


def test_a_session_that_fails_is_told_of() -> None:
    session = Planted(iter([1.0] * 40))
    with pytest.raises(BenchError, match="a session failed under LoadGen"):
        run("single-stream", session)


def test_what_loadgen_has_not_and_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match="no scenario like 'camera'"):
        loadgen.check(Load(scenario="camera"))
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(
        BackendUnavailable, match=r"mlcommons-loadgen is missing.*edgekd\[loadgen\]"
    ):
        loadgen.check(Load())
