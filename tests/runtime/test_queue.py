"""Frames that are submitted: the policies, what is dropped, and how a stream ends."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.bench import arrivals
from edgekd.errors import EngineError, RecipeError
from edgekd.runtime import POLICIES, Engine
from tests.runtime.kit import Gated, Shared, image, opened, start


@pytest.fixture
def session() -> Gated:
    return Gated()


@pytest.fixture
def engine(session: Gated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    return opened(session, tmp_path, monkeypatch)


def begun(session: Gated) -> None:
    assert session.begun.acquire(timeout=20), "no run has begun"


def let_go(session: Gated, runs: int = 1) -> None:
    session.go.release(runs)


def sums(*futures: Future[Any]) -> list[float | None]:
    """What each was answered; None where it was dropped."""
    return [None if each.cancelled() else float(each.result(20)[0, 0]) for each in futures]


def test_the_policies_are_those_of_the_benchmarks() -> None:
    assert POLICIES.keys() == arrivals.POLICIES.keys()


def test_a_queue_answers_all_in_their_order(engine: Engine, session: Gated) -> None:
    let_go(session, 6)
    with engine.stream(depth=5, policy="queue") as stream:
        futures = [stream.submit(image(n)) for n in range(6)]
        assert sums(*futures) == [0, 4, 8, 12, 16, 20]
    assert session.most == 1
    assert engine.stats().count == 6
    assert engine.stats().misses == 0


def test_a_full_queue_keeps_who_submits_waiting(engine: Engine, session: Gated) -> None:
    with engine.stream(depth=1, policy="queue") as stream:
        first = stream.submit(image(1))
        begun(session)
        second = stream.submit(image(2))
        late = start(lambda: stream.submit(image(3)))
        threading.Thread.join(late, 0.1)
        assert late.is_alive()  # there is no place until the first is answered
        let_go(session)
        assert sums(first) == [4]
        let_go(session, 2)
        assert sums(second, late.join()) == [8, 12]
    assert engine.stats().count == 3


def test_of_those_that_wait_the_newest_stays(engine: Engine, session: Gated) -> None:
    with engine.stream(policy="drop-oldest") as stream:
        first = stream.submit(image(1))
        begun(session)
        futures = [stream.submit(image(n)) for n in (2, 3, 4)]
        assert [each.cancelled() for each in futures] == [True, True, False]
        let_go(session, 2)
        assert sums(first, *futures) == [4, None, None, 16]
        with pytest.raises(CancelledError):
            futures[0].result()
        done, _ = wait(futures, timeout=20)  # whoever waits for it is told
        assert done == set(futures)
    assert (engine.stats().count, engine.stats().misses) == (2, 2)


def test_drop_oldest_keeps_as_many_as_its_depth(engine: Engine, session: Gated) -> None:
    with engine.stream(depth=2, policy="drop-oldest") as stream:
        first = stream.submit(image(1))
        begun(session)
        futures = [stream.submit(image(n)) for n in (2, 3, 4)]
        let_go(session, 3)
        assert sums(first, *futures) == [4, None, 12, 16]


def test_skip_refuses_while_it_is_busy_and_not_a_moment_longer(
    engine: Engine, session: Gated
) -> None:
    with engine.stream(policy="skip") as stream:
        for n in range(50):
            first = stream.submit(image(n))
            begun(session)
            refused = stream.submit(image(n))
            assert refused.cancelled()
            let_go(session)
            assert sums(first) == [4 * n]  # and whoever knows that may submit at once
    assert (engine.stats().count, engine.stats().misses) == (50, 50)


@pytest.mark.parametrize("policy", POLICIES)
def test_workers_answer_side_by_side(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Shared()
    engine = opened(session, tmp_path, monkeypatch)
    with engine.stream(policy=policy, workers=3) as stream:
        futures = [stream.submit(image(n)) for n in range(3)]
        for _ in futures:
            begun(session)
        assert session.most == 3
        let_go(session, 3)
        assert sums(*futures) == [0, 4, 8]


def test_what_the_engine_raises_reaches_the_future_alone(engine: Engine, session: Gated) -> None:
    with engine.stream(policy="queue") as stream:
        assert isinstance(stream.submit(np.zeros(3, np.int8)).exception(20), EngineError)
        session.fails = "out of luck"
        let_go(session)
        with pytest.raises(RuntimeError, match="out of luck"):
            stream.submit(image(1)).result(20)
        session.fails = ""
        let_go(session)
        assert sums(stream.submit(image(1))) == [4]
    assert (engine.stats().count, engine.stats().misses) == (1, 2)  # who waits got no answer


def test_a_frame_that_was_withdrawn_is_not_run_and_is_no_miss(
    engine: Engine, session: Gated
) -> None:
    with engine.stream(depth=2, policy="drop-oldest") as stream:
        first = stream.submit(image(1))
        begun(session)
        withdrawn = [stream.submit(image(n)) for n in (2, 3)]
        assert all(each.cancel() for each in withdrawn)
        last = stream.submit(image(4))  # for which one of them gives way
        let_go(session, 2)
        assert sums(first, last) == [4, 16]
    assert (engine.stats().count, engine.stats().misses) == (2, 0)


def test_closing_answers_what_waits(engine: Engine, session: Gated) -> None:
    stream = engine.stream(depth=3, policy="queue")
    futures = [stream.submit(image(n)) for n in range(3)]
    let_go(session, 3)
    stream.close()
    assert all(each.done() for each in futures)
    assert sums(*futures) == [0, 4, 8]
    stream.close()
    with pytest.raises(EngineError, match="the stream of .* is closed: open another"):
        stream.submit(image(1))


def test_closing_may_cancel_what_waits_but_not_what_is_worked_on(
    engine: Engine, session: Gated
) -> None:
    stream = engine.stream(depth=3, policy="queue")
    futures = [stream.submit(image(n)) for n in range(3)]
    begun(session)
    closing = start(lambda: stream.close(cancel=True))
    wait(futures[1:], timeout=20)
    let_go(session)
    closing.join()
    assert sums(*futures) == [0, None, None]
    assert engine.stats().misses == 2


def test_who_waits_for_a_place_is_told_that_the_stream_was_closed(
    engine: Engine, session: Gated
) -> None:
    stream = engine.stream(policy="queue")
    futures = [stream.submit(image(n)) for n in range(2)]
    late = start(lambda: stream.submit(image(2)))
    begun(session)
    closing = start(lambda: stream.close(cancel=True))
    with pytest.raises(EngineError, match="is closed"):
        late.join()
    let_go(session)
    closing.join()
    assert sums(*futures) == [0, None]


def test_an_error_in_the_block_cancels_what_waits(engine: Engine, session: Gated) -> None:
    futures: list[Future[Any]] = []

    def fail() -> None:
        with engine.stream(depth=2, policy="queue") as stream:
            futures.extend(stream.submit(image(n)) for n in range(3))
            begun(session)
            let_go(session)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert sums(futures[0]) == [0]
    assert futures[2].cancelled()


def test_closing_the_engine_closes_its_streams(engine: Engine, session: Gated) -> None:
    stream = engine.stream(depth=2)
    futures = [stream.submit(image(n)) for n in range(2)]
    begun(session)
    closing = start(engine.close)
    wait(futures[1:], timeout=20)
    assert not session.closed  # while a run is under way
    let_go(session)
    closing.join()
    assert sums(*futures) == [0, None]
    assert session.closed == 1
    for use in (lambda: stream.submit(image(1)), engine.stream):
        with pytest.raises(EngineError, match="is closed"):
            use()


def test_a_stream_that_is_forgotten_ends_its_threads(engine: Engine) -> None:
    stream = engine.stream(workers=2)
    threads = stream._threads
    assert all(each.is_alive() for each in threads)
    del stream
    gc.collect()
    for each in threads:
        each.join(20)
        assert not each.is_alive()


def test_a_callback_may_submit_but_not_wait_for_itself(engine: Engine, session: Gated) -> None:
    told: list[BaseException] = []
    over = threading.Event()

    def after(future: Future[Any]) -> None:
        try:
            stream.submit(image(1))  # takes the worker's place
            stream.submit(image(2))  # waits
            stream.submit(image(3))  # would wait for the thread that it is in
        except EngineError as error:
            told.append(error)
        over.set()

    with engine.stream(policy="queue") as stream:
        future = stream.submit(image(0))
        begun(session)
        future.add_done_callback(after)
        let_go(session, 3)
        assert over.wait(20)
    assert len(told) == 1
    assert "is full, and its own thread submits to it" in str(told[0])
    assert engine.stats().count == 3


def test_skip_is_busy_until_the_callbacks_have_run(engine: Engine, session: Gated) -> None:
    inside, go = threading.Event(), threading.Event()
    with engine.stream(policy="skip") as stream:
        first = stream.submit(image(1))
        first.add_done_callback(lambda _: (inside.set(), go.wait(20)))
        let_go(session, 2)
        assert inside.wait(20)
        assert stream.submit(image(2)).cancelled()
        go.set()
    assert sums(first) == [4]
    assert (engine.stats().count, engine.stats().misses) == (1, 1)


@pytest.mark.parametrize("whole", [False, True])
def test_callbacks_of_several_threads_may_close(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Shared()
    engine = opened(session, tmp_path, monkeypatch)
    streams = [engine.stream(policy="queue", workers=2), engine.stream(policy="queue")]
    together = threading.Barrier(3)
    closed: list[int] = []

    def close(of: int) -> Callable[[Future[Any]], None]:
        def callback(_: Future[Any]) -> None:
            together.wait(20)
            (engine if whole else streams[of]).close()
            closed.append(of)

        return callback

    for of in (0, 0, 1):  # where one stream's thread closes both of them, too
        streams[of].submit(image(1)).add_done_callback(close(of))
    let_go(session, 3)
    for each in [*streams[0]._threads, *streams[1]._threads]:
        each.join(20)
        assert not each.is_alive()
    assert sorted(closed) == [0, 0, 1]
    engine.close()
    assert session.closed


def test_a_forgotten_stream_takes_no_lock_of_whoever_was_allocating(
    engine: Engine, session: Gated
) -> None:
    """The collector runs in any thread, at any allocation, whatever that thread holds."""
    streams = [engine.stream(depth=2, policy="queue")]
    threads = streams[0]._threads
    futures = [streams[0].submit(image(n)) for n in range(2)]
    begun(session)

    def allocate() -> None:
        with engine._tally._lock:
            streams.clear()
            gc.collect()

    start(allocate).join()
    let_go(session)
    assert sums(*futures[:1]) == [0]
    wait(futures, timeout=20)
    assert futures[1].cancelled()
    for each in threads:
        each.join(20)
        assert not each.is_alive()
    assert engine.stats().misses == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_after_a_fork_a_stream_says_so(engine: Engine, session: Gated) -> None:
    with engine.stream(policy="queue") as stream:
        first = stream.submit(image(1))
        begun(session)
        child = os.fork()
        if not child:
            signal.alarm(20)
            with suppress(EngineError):
                stream.submit(image(2))
                os._exit(1)
            engine.close()  # does not wait for the run that the other process is in
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        let_go(session)
        assert sums(first) == [4]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "policy": ({"policy": "drop-newest"}, "no policy is called 'drop-newest': did you mean"),
    "depth": ({"depth": 0}, "depth: 0 is less than 1"),
    "workers": ({"workers": -1}, "workers: -1 is less than 1"),
    "many": ({"workers": 1025}, "workers: 1025 is more than 1024"),
    "text": ({"depth": "1"}, "depth: '1' is no whole number"),
    "part": ({"workers": 1.5}, "workers: 1.5 is no whole number"),
    "nobody": ({"policy": None}, "policy: None is no name"),
    "list": ({"policy": []}, "policy: a list is no name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_makes_no_sense_is_refused(case: str, engine: Engine) -> None:
    given, words = WRONG[case]
    before = threading.active_count()
    with pytest.raises(RecipeError, match=words):
        engine.stream(**given)
    assert threading.active_count() == before


@pytest.mark.parametrize("policy", POLICIES)
def test_no_frame_is_lost_or_answered_twice(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Shared()
    let_go(session, 1000)
    engine = opened(session, tmp_path, monkeypatch)
    submitted: list[list[Future[Any]]] = [[] for _ in range(4)]
    with engine.stream(depth=2, policy=policy, workers=2) as stream:

        def work(futures: list[Future[Any]]) -> Callable[[], None]:
            return lambda: futures.extend(stream.submit(image(n)) for n in range(50))

        for each in [start(work(futures)) for futures in submitted]:
            each.join()
    for futures in submitted:
        answers = sums(*futures)
        assert all(each is None or each == 4 * n for n, each in enumerate(answers))
    dropped = sum(each.cancelled() for futures in submitted for each in futures)
    told = engine.stats()
    assert (told.count, told.misses) == (200 - dropped, dropped)
    assert policy != "queue" or not dropped
