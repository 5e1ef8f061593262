"""What a TensorRT session does when a call of CUDA or of TensorRT fails, and at its end."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from edgekd.errors import DeviceError, StageError
from tests.backends.fake_arrays import ByDlpack
from tests.backends.fake_cuda import FakeContext, FakeCuda
from tests.backends.session_kit import (
    FILE,
    NOTHING,
    OPEN,
    check_run,
    feeds_of,
    open_session,
    twice_and_shift,
)


@pytest.fixture
def fake() -> FakeCuda:
    return FakeCuda()


AT_OPEN = ["stream", *(f"{what} {nth}" for what in ("malloc", "pinned") for nth in (1, 2, 3))]
IN_RUN = ["upload 1", "upload 2", "download", "wait", "begin_capture", "end_capture", "launch"]
TIMED = [*(f"{what} {nth}" for what in ("event", "record") for nth in (1, 4)), "elapsed_ns 3"]
AT_CLOSE = ["free 1", "free 3", "unpin 2", "destroy_stream", "destroy_graph", "destroy_event 2"]


def _fail(fake: FakeCuda, what: str, **kind: bool) -> None:
    function, _, nth = what.partition(" ")
    fake.fail(function, int(nth or 1), **kind)


@pytest.mark.parametrize("what", AT_OPEN)
def test_a_failure_at_open_leaves_nothing_behind(what: str, fake: FakeCuda) -> None:
    _fail(fake, what)
    with pytest.raises(DeviceError, match=rf"^{what.split()[0]} failed \(as it was told to\)$"):
        open_session(fake)
    assert fake.live() == NOTHING
    with open_session(fake) as session:
        check_run(session)


@pytest.mark.parametrize("what", IN_RUN)
@pytest.mark.parametrize("runs_before", [0, 1, 3])
def test_after_a_failure_in_a_run_the_next_run_works(
    what: str, runs_before: int, fake: FakeCuda
) -> None:
    with open_session(fake, cuda_graph=True) as session:
        for seed in range(runs_before):
            check_run(session, seed=seed)
        _fail(fake, what)
        failed = 0
        for seed in range(4):
            try:
                check_run(session, seed=seed)
            except DeviceError:
                failed += 1
        reached = what == "launch" or "capture" not in what
        assert failed == (1 if reached else 0)  # a capture that fails does not fail the run
        assert set(fake.live().items()) - {("graphs", 1)} <= set(OPEN.items())
    assert fake.live() == NOTHING


@pytest.mark.parametrize("what", TIMED)
def test_after_a_failure_to_take_time_the_next_run_works(what: str, fake: FakeCuda) -> None:
    with open_session(fake) as session:
        _fail(fake, what)
        with pytest.raises(DeviceError):
            session.timed(feeds_of(2))
        assert fake.live()["events"] in (0, 4)
        check_run(session)
        assert session.timed(feeds_of(2))[1].gpu_ns == 1000
    assert fake.live() == NOTHING


@pytest.mark.parametrize("what", [*IN_RUN, "record 3", "event 2", "elapsed_ns"])
def test_after_the_gpu_is_lost_every_run_says_so_and_asks_nothing_of_it(
    what: str, fake: FakeCuda
) -> None:
    session = open_session(fake, cuda_graph=True)
    for _ in range(1 if "capture" in what else 3):
        check_run(session)
    _fail(fake, what, lost=True)
    with pytest.raises(DeviceError, match="unspecified launch failure") as told:
        session.timed(feeds_of(2))
    assert told.value.lost
    for _ in range(2):
        fake.log.clear()
        with pytest.raises(
            DeviceError,
            match=r"the GPU was lost in an earlier run \(.*unspecified launch failure.*open the",
        ) as later:
            session.run(feeds_of(2))
        assert later.value.lost
        assert not fake.log
    session.close()
    session.close()


def test_a_network_that_reads_beyond_its_memory_loses_the_gpu(fake: FakeCuda) -> None:
    session = open_session(fake)
    check_run(session)
    session.context.addresses["y"] = 256
    with pytest.raises(DeviceError, match="illegal memory access"):
        session.run(feeds_of(2))
    with pytest.raises(DeviceError, match="lost in an earlier run"):
        session.run(feeds_of(2))
    session.close()


def test_what_tensorrt_refuses_to_enqueue_is_told_and_the_next_run_works(fake: FakeCuda) -> None:
    with open_session(fake, cuda_graph=True) as session:
        check_run(session)
        session.context.enqueues = False
        with pytest.raises(StageError, match="TensorRT could not enqueue the engine"):
            session.run(feeds_of(1))
        session.context.enqueues = True
        fake.log.clear()
        check_run(session)
        assert fake.log[0] == "upload"  # the stream was waited for within the failed run


def test_a_refusal_that_comes_of_a_lost_gpu_says_so(fake: FakeCuda) -> None:
    session = open_session(fake)
    session.context.enqueues = False
    _fail(fake, "wait", lost=True)
    with pytest.raises(DeviceError, match="unspecified launch failure") as told:
        session.run(feeds_of(2))
    assert isinstance(told.value.__cause__, StageError)
    session.close()


@pytest.mark.parametrize("function", ["set_input_shape", "set_tensor_address"])
def test_a_shape_or_address_that_tensorrt_refuses_is_told_and_set_anew(
    function: str, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes = getattr(FakeContext, function)

    def refused(*arguments: Any) -> bool:
        takes(*arguments)  # nobody knows what it did with it
        return False

    moved = ByDlpack(fake, feeds_of(1)["x"])
    with open_session(fake, cuda_graph=True) as session:
        check_run(session)
        with monkeypatch.context() as patch:
            patch.setattr(FakeContext, function, refused)
            with pytest.raises(StageError, match=r"TensorRT refuses the (shape|memory)"):
                session.run({**feeds_of(1), "x": moved})
        for seed in range(2):
            check_run(session, seed=seed)
        assert session.graph_launched
        assert session.graph_refused == ""  # it was not captured before it was prepared again


def test_too_little_memory_at_open_names_what_is_needed_and_what_is_free() -> None:
    fake = FakeCuda(memory_bytes=100)
    with pytest.raises(DeviceError, match="smaller max_batch") as told:
        open_session(fake)
    assert told.value.out_of_memory
    needed = 4 * 3 * 4 + 4 * 4 + 4 * 3 * 4
    assert f"need {needed} bytes of the GPU" in str(told.value)
    assert "100 of the GPU's 100 are free (malloc failed (out of memory))" in str(told.value)
    assert fake.live() == NOTHING


def test_too_little_memory_in_a_run_names_it_too_and_the_next_run_works(fake: FakeCuda) -> None:
    with open_session(fake) as session:
        fake.fail("upload", out_of_memory=True)
        free = fake.memory_bytes - 112
        with pytest.raises(DeviceError, match=f"and {free} of the GPU's {fake.memory_bytes}"):
            session.run(feeds_of(2))
        check_run(session)


def test_a_run_that_is_interrupted_does_not_spoil_the_next(fake: FakeCuda) -> None:
    with open_session(fake) as session:
        check_run(session)
        execute = session.context.execute_async_v3

        def interrupted(stream: int) -> bool:
            execute(stream)
            raise KeyboardInterrupt

        session.context.execute_async_v3 = interrupted
        with pytest.raises(KeyboardInterrupt):
            session.run(feeds_of(2, 5))
        session.context.execute_async_v3 = execute
        fake.log.clear()
        check_run(session)
        assert fake.log[0] == "wait"  # for what the interrupted run had begun


# ── The end ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("what", AT_CLOSE)
def test_what_can_be_given_back_is_given_back_and_a_failure_is_told(
    what: str, fake: FakeCuda
) -> None:
    session = open_session(fake, cuda_graph=True)
    for _ in range(3):
        session.timed(feeds_of(2))
    _fail(fake, what)
    with pytest.raises(DeviceError, match="as it was told to"):
        session.close()
    assert sum(fake.live().values()) == 1
    session.close()


def test_a_closed_session_says_so_and_closes_twice(fake: FakeCuda) -> None:
    session = open_session(fake)
    session.close()
    session.close()
    for use in (session.run, session.timed):
        with pytest.raises(StageError, match=f"{re.escape(FILE.name)} is closed: open"):
            use(feeds_of(2))


class Sessions(RuleBasedStateMachine):
    """Whatever is run, fails and is closed, in any order: no leak, no stale result."""

    @initialize(cuda_graph=st.booleans(), capturable=st.sampled_from([None, True, False]))
    def open(self, cuda_graph: bool, capturable: bool | None) -> None:
        self.fake = FakeCuda()
        self.session = open_session(self.fake, cuda_graph=cuda_graph, capturable=capturable)
        self.context = self.session.context
        self.lost = self.closed = False
        self.given = {batch: ByDlpack(self.fake, feeds_of(batch)["x"]) for batch in range(1, 5)}

    @property
    def usable(self) -> bool:
        return not (self.lost or self.closed)

    @rule(
        batch=st.integers(0, 6), seed=st.integers(0, 3), on_gpu=st.booleans(), timed=st.booleans()
    )
    def run(self, batch: int, seed: int, on_gpu: bool, timed: bool) -> None:
        feeds = feeds_of(batch, seed)
        wanted = twice_and_shift(feeds)["y"]
        if on_gpu and batch in self.given:
            feeds["x"] = self.given[batch]
            wanted = twice_and_shift({**feeds, "x": self.given[batch].array})["y"]
        try:
            results = self.session.timed(feeds)[0] if timed else self.session.run(feeds)
        except StageError:
            assert not self.usable or batch not in self.given
        else:
            assert self.usable
            assert np.array_equal(results["y"], wanted)

    @precondition(lambda self: self.usable)
    @rule(
        what=st.sampled_from([*IN_RUN, "record 2"]),
        kind=st.sampled_from([{}, {"lost": True}, {"out_of_memory": True}]),
        batch=st.integers(1, 4),
    )
    def run_that_may_fail(self, what: str, kind: dict[str, bool], batch: int) -> None:
        _fail(self.fake, what, **kind)
        try:
            self.session.timed(feeds_of(batch))
        except DeviceError as error:
            self.lost = error.lost
        assert not self.lost or "lost" in kind
        self.fake._faults.clear()  # it may not have come to that

    @precondition(lambda self: self.usable)
    @rule(batch=st.integers(1, 4))
    def run_that_tensorrt_refuses(self, batch: int) -> None:
        self.context.enqueues = False
        try:
            check_run(self.session, batch)
        except StageError as error:
            told = str(error)
        else:  # a graph needs nobody's leave
            told = "TensorRT could not enqueue the engine" if self.session.graph_launched else ""
        assert told == "TensorRT could not enqueue the engine"
        self.context.enqueues = True

    @rule()
    def close(self) -> None:
        self.session.close()
        self.closed = True

    @invariant()
    def nothing_leaks(self) -> None:
        if not hasattr(self, "session") or self.lost:
            return
        live = self.fake.live()
        live["memory"] -= len(self.given)
        if self.closed:
            assert live == NOTHING
        else:
            assert live.pop("graphs") <= 1
            assert live.pop("events") in (0, 4)
            assert live == {"memory": 3, "pinned": 3, "streams": 1}


TestSessions = Sessions.TestCase
