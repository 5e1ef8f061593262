"""The load generator on sessions whose behaviour was planted."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from edgekd import trace
from edgekd.artifacts import TensorSpec
from edgekd.bench.load import (
    EVERY_ANSWER,
    REACQUAINT,
    SOME_ANSWERS,
    closed_loop,
    in_turns,
    interleaved,
    quiet_collector,
    several_at_once,
    throughput,
)
from edgekd.errors import BenchError
from tests.bench.planted import Clock, Planted, Timed, constant, feeds

PULSE = np.zeros(1, np.int64)


def run(session: Planted | Timed, calls: int, limit_ns: int = 10**10, n: int = 1) -> trace.Trace:
    record = trace.empty(calls)
    made = closed_loop(session, feeds(n))(record, 0, limit_ns, PULSE)  # type: ignore[arg-type]
    return record[:made]


def test_every_call_is_kept_the_stall_with_the_rest() -> None:
    stalls = [20.0, 20.0, 20_000.0, 20.0]
    record = run(Planted(iter(stalls)), 4)
    latencies = trace.service(record)
    assert len(latencies) == 4
    assert latencies.argmax() == 2
    assert latencies[2] >= 20_000_000
    assert (np.diff(record[:, trace.BEGUN]) >= latencies[:-1]).all()  # one call after another
    assert record.dtype == np.int64
    assert PULSE[0] == record[-1, trace.ANSWERED]  # who supervises knows that it came back


def test_feeds_take_turns() -> None:
    session = Planted(constant(0))
    run(session, 7, n=3)
    assert [int(each["x"][0]) for each in session.fed] == [0, 1, 2, 0, 1, 2, 0]


def test_time_is_limited_and_at_least_one_call_is_made() -> None:
    assert 1 <= len(run(Planted(constant(2_000)), 1000, 10_000_000)) < 1000
    assert len(run(Planted(constant(2_000)), 1000, 0)) == 1


def test_a_query_of_several_streams_is_answered_with_its_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = Clock(monkeypatch).session(lambda call: 1000)
    record = trace.empty(3)
    several_at_once(session, feeds(5), 4)(record, 0, 10**10, PULSE)  # type: ignore[arg-type]
    assert trace.service(record).tolist() == [4000] * 3
    asked = [int(each["x"][0]) for each in session.fed]
    assert asked == [0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 0]


FINE = np.zeros((1, 2), np.float32)
BAD = {
    "holds values that are not finite": {"y": np.full((1, 2), np.inf, np.float32)},
    r"has shape \(1, 3\)": {"y": np.zeros((1, 3), np.float32)},
    r"has shape \(2,\)": {"y": np.zeros(2, np.float32)},
    "there is no output 'y'": {"z": FINE},
}


@pytest.mark.parametrize("complaint", BAD)
def test_an_answer_that_should_not_be_ends_the_run_and_keeps_what_was(
    complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Clock(monkeypatch).session(lambda call: 5, {"y": FINE})
    session.outputs = (TensorSpec("y", "float32", ("batch", 2)),)
    answers = [{"y": FINE}, {"y": FINE}, BAD[complaint]]
    session.run, plain = lambda feed: answers[plain(feed) is None or session.calls - 1], session.run  # type: ignore[method-assign,assignment]
    record = trace.empty(9)
    with pytest.raises(BenchError, match=f"frame 2: .*{complaint}"):
        closed_loop(session, feeds(3))(record, 0, 10**10, PULSE)  # type: ignore[arg-type]
    assert len(trace.service(record)) == 3


def test_answers_are_looked_at_for_each_sample_and_then_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To look costs the next call its caches; the same sample gets the same answer."""

    def first_seen(bad: int) -> str:
        session = Clock(monkeypatch).session(lambda call: 5)
        session.outputs = (TensorSpec("y", "float32", ("batch", 2)),)
        plain = session.run
        fine, nan = np.zeros((1, 2), np.float32), np.full((1, 2), np.nan, np.float32)
        session.run = lambda feed: {
            "y": nan if plain(feed) is None or session.calls > bad else fine
        }  # type: ignore[method-assign]
        with pytest.raises(BenchError) as error:
            run(session, 100, n=5)
        return error.value.message.partition(":")[0]

    assert first_seen(3) == "frame 3"
    assert first_seen(17) == f"frame {2 * SOME_ANSWERS}"


def test_large_answers_are_looked_at_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    large = np.zeros(EVERY_ANSWER + 1, np.float32)
    large[-1] = np.nan
    session = Clock(monkeypatch).session(lambda call: 5, {"y": large})
    session.outputs = (TensorSpec("y", "float32", (EVERY_ANSWER + 1,)),)
    with pytest.raises(BenchError, match="frame 0"):
        run(session, 3)
    assert SOME_ANSWERS > 1


def test_a_session_that_raises_is_named_with_its_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(call: int) -> int:
        if call == 3:
            raise RuntimeError("out of\nluck")
        return 5

    record = trace.empty(9)
    session = Clock(monkeypatch).session(broken)
    with pytest.raises(BenchError, match="frame 3: RuntimeError: out of luck"):
        closed_loop(session, feeds(1))(record, 0, 10**10, PULSE)  # type: ignore[arg-type]
    assert len(trace.service(record)) == len(trace.decided(record)) == 3
    assert len(trace.reached(record)) == 4  # it was begun


def test_a_clock_that_goes_back_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Clock(monkeypatch).session(lambda call: -7 if call == 4 else 5)
    with pytest.raises(BenchError, match="frame 4: the clock went back by 7 ns"):
        run(session, 9)


def test_one_that_fails_leaves_the_turns_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def broken(call: int) -> int:
        if call == 60:
            raise RuntimeError("no")
        return 5

    sessions = [clock.session(lambda call: 5), clock.session(broken)]
    timings = in_turns(
        [closed_loop(each, feeds(1)) for each in sessions],  # type: ignore[arg-type]
        [trace.empty(100), trace.empty(100)],
        blocks=5, limit_ns=10**10, seed=0, begin_ns=0, pulse=PULSE,
    )  # fmt: skip
    assert timings[0].failure is None
    assert timings[0].count == 100
    assert isinstance(timings[1].failure, BenchError)
    assert 0 < timings[1].count < 60
    assert timings[1].failure.message.startswith("turn 2, frame 0: RuntimeError")
    with pytest.raises(BenchError, match=r"^warm-up, frame 60: "):
        interleaved(
            [clock.session(broken)],
            [feeds(1)],
            calls=90,
            blocks=1,
            limit_ns=10**10,
            seed=0,  # type: ignore[list-item]
        )


@pytest.mark.parametrize(
    ("blocks", "at", "where"),
    [
        (4, 3, "warm-up, frame 3"),
        (4, 27, "warm-up, frame 2"),
        (4, 107, "turn 3, frame 2"),
        (1, 130, "frame 20"),
    ],
)
def test_where_one_fails_is_said(
    blocks: int, at: int, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warm-up of a block; then, in each turn, ten calls that are not kept, and a block."""

    def broken(call: int) -> int:
        if call == at:
            raise RuntimeError("no")
        return 5

    drive = closed_loop(Clock(monkeypatch).session(broken), feeds(1))  # type: ignore[arg-type]
    (found,) = in_turns(
        [drive], [trace.empty(100)], blocks=blocks, limit_ns=10**10, seed=0, begin_ns=0, pulse=PULSE
    )
    assert found.failure is not None
    assert found.failure.message == f"{where}: RuntimeError: no"


def test_so_many_frames_at_least_however_long_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(least: int) -> int:
        session = Clock(monkeypatch).session(lambda call: 1_000_000)
        drive = closed_loop(session, feeds(1))  # type: ignore[arg-type]
        (timing,) = in_turns(
            [drive], [trace.empty(1000)],
            blocks=10, least=least, limit_ns=100_000_000, seed=0, begin_ns=0, pulse=PULSE,
        )  # fmt: skip
        return timing.count

    assert 100 <= count(0) <= 120  # what fits into the limit, and the call that ends each block
    assert 400 <= count(400) <= 1000


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
        assert (np.diff(each.trace[:, trace.BEGUN]) > 0).all()
        assert each.blocks == tuple(range(0, 50, 5))


@pytest.mark.parametrize("calls", [1, 7, 10, 52])
def test_as_many_calls_are_timed_as_were_asked_for(calls: int) -> None:
    timings = interleaved(
        [Planted(constant(0))], [feeds(1)], calls=calls, blocks=10, limit_ns=10**10, seed=0
    )
    assert timings[0].count == calls


def test_throughput_counts_items(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Clock(monkeypatch).session(lambda call: 1_000_000)
    one = throughput(session, feeds(1)[0], 1, 50_000_000, PULSE)  # type: ignore[arg-type]
    many = throughput(session, feeds(1)[0], 32, 50_000_000, PULSE)  # type: ignore[arg-type]
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
