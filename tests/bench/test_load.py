"""The load generator on sessions whose behaviour was planted."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edgekd.backends.base import Arrays
from edgekd.bench import load
from edgekd.bench.load import REACQUAINT, closed_loop, interleaved, quiet_collector, throughput


class Planted:
    """Spins for a time that the call's number decides; writes down what it was fed."""

    inputs = ()
    outputs = ()

    def __init__(
        self, times_us: Iterator[float], log: list[str] | None = None, name: str = ""
    ) -> None:
        self.times, self.fed, self.log, self.name = times_us, [], log, name  # type: ignore[var-annotated]

    def run(self, feeds: Arrays) -> Arrays:
        self.fed.append(feeds)
        if self.log is not None:
            self.log.append(self.name)
        end = time.perf_counter_ns() + int(next(self.times) * 1e3)
        while time.perf_counter_ns() < end:
            pass
        return {}

    def __enter__(self):  # type: ignore[no-untyped-def]
        return self

    def __exit__(self, *_: object) -> None: ...


def constant(us: float) -> Iterator[float]:
    while True:
        yield us


def feeds(n: int) -> list[Arrays]:
    return [{"x": np.array([index])} for index in range(n)]


def test_every_call_is_kept_the_stall_with_the_rest() -> None:
    stalls = [20.0, 20.0, 20_000.0, 20.0]
    starts, latencies = closed_loop(Planted(iter(stalls)), feeds(1), 4, 10**10)
    assert len(starts) == len(latencies) == 4
    assert latencies.argmax() == 2
    assert latencies[2] >= 20_000_000
    assert (np.diff(starts) >= latencies[:-1]).all()  # one call after another
    assert latencies.dtype == starts.dtype == np.int64


def test_feeds_take_turns() -> None:
    session = Planted(constant(0))
    closed_loop(session, feeds(3), 7, 10**10)
    assert [int(each["x"][0]) for each in session.fed] == [0, 1, 2, 0, 1, 2, 0]


def test_time_is_limited_and_at_least_one_call_is_made() -> None:
    _, latencies = closed_loop(Planted(constant(2_000)), feeds(1), 1000, 10_000_000)
    assert 1 <= len(latencies) < 1000
    _, latencies = closed_loop(Planted(constant(2_000)), feeds(1), 1000, 0)
    assert len(latencies) == 1


def test_sessions_take_turns_in_a_random_order_after_a_warm_up_that_is_not_kept() -> None:
    log: list[str] = []
    sessions = [Planted(constant(1), log, name) for name in "abc"]
    seen: list[tuple[int, int]] = []
    timings = interleaved(
        sessions,
        [feeds(2)] * 3,
        calls=50,
        blocks=10,
        limit_ns=10**10,
        seed=3,
        progress=lambda *each: seen.append(each),
    )
    assert [each.count for each in timings] == [50, 50, 50]
    turn = REACQUAINT + 5
    assert len(log) == 3 * 5 + 30 * turn  # a warm-up, then turns whose first calls do not count
    blocks = ["".join(log[start : start + turn]) for start in range(15, len(log), turn)]
    assert all(len(set(each)) == 1 for each in blocks)  # a block is one session's
    rounds = ["".join(each[0] for each in blocks[start : start + 3]) for start in range(0, 30, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)  # a round is everybody's
    assert len(set(rounds)) > 2  # in changing order
    assert seen[-1] == (10, 10)
    for each in timings:
        assert each.spent_ns == sum(int(block.sum()) for block in each.latencies_ns)
        assert (np.diff(np.concatenate(each.starts_ns)) > 0).all()


@pytest.mark.parametrize("calls", [1, 7, 10, 52])
def test_as_many_calls_are_timed_as_were_asked_for(calls: int) -> None:
    timings = interleaved(
        [Planted(constant(0))], [feeds(1)], calls=calls, blocks=10, limit_ns=10**10, seed=0
    )
    assert timings[0].count == calls


class _Clock:
    """A clock that stands still but for what a session takes: a millisecond a call."""

    inputs = outputs = ()
    now = 0

    def run(self, feeds: Arrays) -> Arrays:
        self.now += 1_000_000
        return {}


def test_throughput_counts_items(monkeypatch: pytest.MonkeyPatch) -> None:
    session: Any = _Clock()
    monkeypatch.setattr(load, "perf_counter_ns", lambda: session.now)
    one = throughput(session, feeds(1)[0], 1, 50_000_000)
    many = throughput(session, feeds(1)[0], 32, 50_000_000)
    assert one == pytest.approx(1000)
    assert many == pytest.approx(32_000)


def test_the_collector_rests_while_timing_and_returns_afterwards() -> None:
    assert gc.isenabled()
    with quiet_collector():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with quiet_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
