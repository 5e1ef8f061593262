"""Open loops by a planted clock: what becomes of frames that come while another is worked on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd import trace
from edgekd.bench import arrivals
from edgekd.bench.arrivals import POLICIES, open_loop, periodic, poisson
from edgekd.errors import BenchError
from tests.bench.planted import Clock, Timed, feeds

MS = 1_000_000
PULSE = np.zeros(1, np.int64)


def run(
    session: Timed, policy: str, frames: int, period_ns: int, limit_ns: int = 10**12
) -> trace.Trace:
    """The trace of a camera, from its first frame on."""
    record = trace.empty(frames)
    drive = open_loop(session, feeds(7), partial(periodic, period_ns=period_ns), policy)  # type: ignore[arg-type]
    made = drive(record, 0, limit_ns, PULSE)
    record = record[:made]
    return np.where(record == trace.NEVER, trace.NEVER, record - record[0, trace.DUE])


def expected(services: list[int], policy: str, frames: int, period: int) -> trace.Trace:
    """The same by another way: frame by frame as they come, with what waits in a list."""
    rows = [[n * period, -1, -1] for n in range(frames)]
    free, waiting, calls = 0, [], iter(services)
    events = [n * period for n in range(frames)]
    index = 0
    while index < frames or waiting:
        if waiting and (index == frames or events[index] > free):
            frame = waiting.pop(0)
            begun = max(free, rows[frame][0])
            free = begun + next(calls)
            rows[frame][1:] = [begun, free]
            continue
        if index < frames:
            busy = events[index] < free
            if policy == "drop-oldest":
                waiting = [index]
            elif policy == "queue" or not busy:
                waiting.append(index)
            index += 1
    return np.array(rows)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_session_that_keeps_up_answers_every_frame_when_it_is_due(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(Clock(monkeypatch).session(lambda call: 3 * MS), policy, 20, 10 * MS)
    assert trace.answered(record).all()
    assert (trace.response(record) == 3 * MS).all()
    assert (np.diff(record[:, trace.DUE]) == 10 * MS).all()
    assert not trace.lateness(record).any()


def test_a_stall_is_charged_to_every_frame_that_it_held_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """35 ms in place of 3, once: a closed loop would see one slow call."""

    def stall(call: int) -> int:
        return 35 * MS if call == 4 else 3 * MS

    def at(policy: str) -> trace.Trace:
        return run(Clock(monkeypatch).session(stall), policy, 12, 10 * MS)

    queue = trace.response(at("queue")) // MS
    assert queue.tolist() == [3, 3, 3, 3, 35, 28, 21, 14, 7, 3, 3, 3]
    newest = at("drop-oldest")
    assert np.flatnonzero(~trace.answered(newest)).tolist() == [5, 6]
    assert (trace.response(newest) // MS).tolist() == [3, 3, 3, 3, 35, 8, 3, 3, 3, 3]
    skipped = at("skip")
    assert np.flatnonzero(~trace.answered(skipped)).tolist() == [5, 6, 7]
    assert (trace.response(skipped) // MS).tolist() == [3, 3, 3, 3, 35, 3, 3, 3, 3]
    for policy, missed in (("queue", 4), ("drop-oldest", 3), ("skip", 4)):
        assert trace.missed(at(policy), 10 * MS).sum() == missed


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=40, max_size=40), st.integers(1, 30))
def test_it_is_what_a_camera_and_a_list_of_waiting_frames_would_do(
    policy: str, services: list[int], period: int
) -> None:
    services = [each * MS + 1 for each in services]  # never done at the moment a frame is due
    with pytest.MonkeyPatch.context() as patch:
        record = run(Clock(patch).session(lambda call: services[call]), policy, 40, period * MS)
    wanted = expected(services, policy, 40, period * MS)
    assert record.tolist() == wanted.tolist()


def test_frames_are_fed_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Clock(monkeypatch).session(lambda call: 15 * MS)
    run(session, "skip", 9, 10 * MS)
    assert [int(each["x"][0]) for each in session.fed] == [0, 2, 4, 6, 1]


def test_where_time_runs_out_what_waits_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Clock(monkeypatch).session(lambda call: 40 * MS)
    record = run(session, "queue", 100, 10 * MS, limit_ns=200 * MS)
    assert trace.answered(record).sum() == 6  # begun at 0, 40, ... 200
    assert len(record) == 25  # those due by 240, when the last was answered
    assert trace.missed(record, 40 * MS).sum() == 24


def test_who_waits_for_a_frame_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pulse is of when the frame is due, however far that is."""
    clock, told = Clock(monkeypatch), []
    waited = clock.wait

    def wait(moment: int) -> None:
        told.append((PULSE[0], moment))
        waited(moment)

    monkeypatch.setattr(arrivals, "wait_until", wait)
    run(clock.session(lambda call: MS), "queue", 5, 10_000 * MS)
    assert len(told) == 5
    assert all(pulse == moment for pulse, moment in told)


def test_a_failure_names_the_frame_and_keeps_what_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(call: int) -> int:
        if call == 3:
            raise OSError("no device")
        return MS

    record = trace.empty(9)
    drive: Callable[..., int] = open_loop(
        Clock(monkeypatch).session(broken),  # type: ignore[arg-type]
        feeds(1),
        partial(periodic, period_ns=10 * MS),
    )
    with pytest.raises(BenchError, match="frame 3: OSError: no device"):
        drive(record, 0, 10**12, PULSE)
    assert len(trace.decided(record)) == 3


def test_a_period_that_is_no_whole_number_does_not_drift() -> None:
    due = periodic(30_001, 1e9 / 30)
    assert due[30_000] == 1000 * 10**9
    assert np.abs(due - np.arange(30_001) * 1e9 / 30).max() <= 0.5


def test_requests_at_random_know_nothing_of_each_other() -> None:
    due = poisson(100_000, 200.0, seed=1)
    gaps = np.diff(due) / 1e9
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.02)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.02)  # as only an exponential's is its mean
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.02
    assert (due == poisson(100_000, 200.0, seed=1)).all()
    assert (due != poisson(100_000, 200.0, seed=2)).any()
