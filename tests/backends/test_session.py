"""A TensorRT session, on a GPU and a TensorRT of host memory (``fake_cuda.py``)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.artifacts import TensorSpec
from edgekd.backends.cuda.bindings import CudaPython
from edgekd.backends.cuda.pycuda import PyCuda
from edgekd.backends.tensorrt.session import Split, TensorRtSession
from edgekd.errors import EngineIncompatible, StageError
from tests.backends.fake_arrays import ByDlpack, ByInterface, OnGpu
from tests.backends.fake_cuda import FakeCuda, FakeEngine
from tests.backends.fake_vendors import FakePyCuda, FakeRuntime
from tests.backends.session_kit import (
    FILE,
    IN,
    NOTHING,
    OPEN,
    OUT,
    TYPES,
    check_run,
    feeds_of,
    open_session,
    twice_and_shift,
)


@pytest.fixture
def fake() -> FakeCuda:
    return FakeCuda()


LAYERS = {
    "the fake itself": lambda fake: fake,
    "cuda-python": lambda fake: CudaPython(FakeRuntime(fake)),
    "pycuda": lambda fake: PyCuda(FakePyCuda(fake)),
}

# ── A run ────────────────────────────────────────────────────────────────────────────────


def test_a_run_puts_all_into_one_stream_and_then_waits(fake: FakeCuda) -> None:
    with open_session(fake) as session:
        check_run(session)
        fake.log.clear()
        check_run(session, seed=1)
        assert fake.log == ["upload", "upload", "execute", "download", "wait"]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_every_layer_gives_the_same(layer: str, cuda_graph: bool, fake: FakeCuda) -> None:
    with open_session(fake, LAYERS[layer](fake), cuda_graph=cuda_graph) as session:
        for seed, batch in enumerate((2, 2, 2, 4, 4, 1, 2)):
            check_run(session, batch, seed)
        feeds = feeds_of(3)
        results, split = session.timed(feeds)
        assert np.array_equal(results["y"], twice_and_shift(feeds)["y"])
        assert split == Split(3 * 4 * 4, 1000, 3 * 3 * 4)
        assert bool(session.graph_refused) == (cuda_graph and layer == "pycuda")
    assert fake.live() == NOTHING


def test_outputs_belong_to_who_asked(fake: FakeCuda) -> None:
    with open_session(fake) as session:
        first = session.run(feeds_of(2, 0))["y"]
        before = first.copy()
        session.run(feeds_of(2, 1))
    assert np.array_equal(first, before)
    assert first.flags.owndata


def test_inputs_may_lie_in_any_order_in_memory_or_be_of_another_library(fake: FakeCuda) -> None:
    feeds = feeds_of(2)
    wanted = twice_and_shift(feeds)["y"]
    with open_session(fake) as session:
        for x in (np.asfortranarray(feeds["x"]), torch.from_numpy(feeds["x"])):
            assert np.array_equal(session.run({**feeds, "x": x})["y"], wanted)


def test_memory_is_taken_at_open_for_the_largest_batch_and_not_in_a_run(fake: FakeCuda) -> None:
    with open_session(fake, cuda_graph=False) as session:
        assert fake.live() == OPEN
        assert fake.memory()[0] == fake.memory_bytes - (4 * 3 * 4 + 4 * 4 + 4 * 3 * 4)
        fake.log.clear()
        for batch in (1, 4, 2):
            check_run(session, batch)
        assert not {"malloc", "pinned", "stream", "event"} & set(fake.log)
    assert fake.live() == NOTHING


def test_ten_thousand_runs_of_changing_batches_leave_nothing_behind(fake: FakeCuda) -> None:
    with open_session(fake, cuda_graph=True) as session:
        session.timed(feeds_of(1))
        batches = np.random.default_rng(0).integers(1, 5, 10_000)
        feeds = {batch: feeds_of(batch) for batch in range(1, 5)}
        for batch in batches.tolist():
            session.run(feeds[batch])
        live = fake.live()
        assert live.pop("graphs") <= 1
        assert live == {"memory": 3, "pinned": 3, "streams": 1, "events": 4}
        assert 1000 < fake.calls["launch"] < 9000  # both ways of running were taken
    assert fake.live() == NOTHING


# ── What is wrong with an input ──────────────────────────────────────────────────────────

X, SHIFT = np.ones((2, 3), np.float32), np.ones(2, np.int32)
WRONG = {
    "type": (
        {"x": X.astype(np.float64), "shift": SHIFT},
        r"input 'x' must be float32 of shape \(batch, 3\), and float64 of shape \(2, 3\) came",
    ),
    "size": (
        {"x": np.ones((2, 4), np.float32), "shift": SHIFT},
        r"input 'x' must be float32 of shape \(batch, 3\), and float32 of shape \(2, 4\) came",
    ),
    "rank": (
        {"x": X[0], "shift": SHIFT},
        r"must be float32 of shape \(batch, 3\), and float32 of shape \(3\) came",
    ),
    "no array": (
        {"x": "a", "shift": SHIFT},
        r"input 'x' must be float32 .*, and <U1 of shape \(\)",
    ),
    "ragged": ({"x": [[1], [2, 3]], "shift": SHIFT}, r"input 'x' is no array"),
    "missing": ({"x": X}, "input 'shift' is not given"),
    "unknown": (
        {"x": X, "shift": SHIFT, "shfit": SHIFT},
        "no input is called 'shfit': did you mean 'shift'",
    ),
    "two batches": ({"x": X, "shift": SHIFT[:1]}, "are of different batches: x 2, shift 1"),
    "none": (
        {"x": X[:0], "shift": SHIFT[:0]},
        "a batch of 0 was given to an engine built for 1 to 4: split",
    ),
    "too many": (feeds_of(5), "a batch of 5 was given to an engine built for 1 to 4: split"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_input_that_is_wrong_is_told_and_disturbs_nothing(case: str, fake: FakeCuda) -> None:
    feeds, told = WRONG[case]
    with open_session(fake, cuda_graph=True) as session:
        for _ in range(3):
            check_run(session)
        fake.log.clear()
        with pytest.raises(StageError, match=told):
            session.run(feeds)
        assert not fake.log
        check_run(session)
        assert session.graph_launched


def test_the_smallest_batch_may_be_more_than_one(fake: FakeCuda) -> None:
    engine = FakeEngine(fake, IN, OUT, twice_and_shift)
    file = replace(FILE, options={"min_batch": "2", "max_batch": "4"})
    context: Any = engine.create_execution_context()
    with TensorRtSession(engine, context, fake, file, TYPES) as session:  # type: ignore[arg-type]
        check_run(session, 2)
        with pytest.raises(StageError, match="a batch of 1 .* built for 2 to 4"):
            session.run(feeds_of(1))


def test_a_batch_that_is_fixed_is_part_of_the_shape(fake: FakeCuda) -> None:
    fixed = TensorSpec("x", "float32", (2, 3)), TensorSpec("y", "float32", (2, 3))
    file = replace(
        FILE, model_inputs=fixed[:1], model_outputs=fixed[1:], options={"max_batch": "2"}
    )
    engine = FakeEngine(fake, fixed[:1], fixed[1:], lambda feeds: {"y": feeds["x"]})
    context: Any = engine.create_execution_context()
    with TensorRtSession(engine, context, fake, file, TYPES) as session:  # type: ignore[arg-type]
        assert np.array_equal(session.run({"x": X})["y"], X)
        with pytest.raises(StageError, match=r"of shape \(2, 3\), and float32 of shape \(1, 3\)"):
            session.run({"x": X[:1]})


def test_an_engine_of_other_types_than_its_file_says_is_refused(fake: FakeCuda) -> None:
    with pytest.raises(EngineIncompatible, match="x of float32, and this is float16"):
        open_session(fake, types={"x": "float16"})
    assert fake.live() == NOTHING


# ── Inputs that lie on the GPU already ───────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [ByDlpack, ByInterface])
def test_an_input_on_the_gpu_is_used_where_it_lies(kind: type[OnGpu], fake: FakeCuda) -> None:
    feeds = feeds_of(2)
    given = kind(fake, feeds["x"])
    with open_session(fake) as session:
        results = session.run({**feeds, "x": given})
        assert np.array_equal(results["y"], twice_and_shift(feeds)["y"])
        assert fake.calls["upload"] == 1  # of the other
        assert fake.calls["copy"] == 0
        assert session.context.addresses["x"] == given.pointer
        check_run(session)
        assert session.context.addresses["x"] != given.pointer


def test_an_address_that_tensorrt_does_not_take_is_copied_on_the_gpu(fake: FakeCuda) -> None:
    feeds = feeds_of(2)
    given = ByDlpack(fake, feeds["x"], offset=64)
    with open_session(fake) as session:
        results = session.run({**feeds, "x": given})
        assert np.array_equal(results["y"], twice_and_shift(feeds)["y"])
        assert (fake.calls["upload"], fake.calls["copy"]) == (1, 1)


def test_an_input_on_the_gpu_is_checked_as_any_other(fake: FakeCuda) -> None:
    with open_session(fake) as session:
        with pytest.raises(StageError, match="and float64 of shape .2, 3. came"):
            session.run({**feeds_of(2), "x": ByDlpack(fake, np.ones((2, 3)))})


def test_what_its_producer_has_yet_to_write_is_waited_for(fake: FakeCuda) -> None:
    feeds = feeds_of(2)
    given = ByInterface(fake, np.zeros((2, 3), np.float32))
    theirs = fake.stream()
    given.more = {"version": 3, "stream": theirs}
    fake.enqueue(theirs, lambda: np.copyto(given.array, feeds["x"]), 1)
    with open_session(fake) as session:
        results = session.run({**feeds, "x": given})
    assert np.array_equal(results["y"], twice_and_shift(feeds)["y"])


# ── CUDA graphs ──────────────────────────────────────────────────────────────────────────


def test_the_second_run_is_captured_and_the_third_only_launched(fake: FakeCuda) -> None:
    with open_session(fake, cuda_graph=True) as session:
        launched = []
        for seed in range(4):
            fake.log.clear()
            check_run(session, seed=seed)
            launched.append(session.graph_launched)
            if seed == 1:
                assert fake.log[2:6] == ["begin_capture", "execute", "end_capture", "launch"]
        assert launched == [False, True, True, True]
        assert fake.log == ["upload", "upload", "launch", "download", "wait"]
        assert session.graph_refused == ""


def test_another_shape_ends_the_graph_and_gets_its_own(fake: FakeCuda) -> None:
    with open_session(fake, cuda_graph=True) as session:
        launched = []
        for seed, batch in enumerate((1, 1, 2, 2, 2, 1, 1)):
            check_run(session, batch, seed)
            launched.append(session.graph_launched)
        assert launched == [False, True, False, True, True, False, True]
        assert fake.calls["end_capture"] == 3
        assert fake.live()["graphs"] == 1


def test_another_address_ends_the_graph_and_gets_its_own(fake: FakeCuda) -> None:
    feeds = feeds_of(2)
    given = [ByDlpack(fake, feeds["x"] + each) for each in range(2)]
    with open_session(fake, cuda_graph=True) as session:
        launched = []
        for each in (0, 0, 0, 1, 1, 0):
            results = session.run({**feeds, "x": given[each]})
            wanted = twice_and_shift({**feeds, "x": given[each].array})["y"]
            assert np.array_equal(results["y"], wanted)
            launched.append(session.graph_launched)
        assert launched == [False, True, True, False, True, False]


def test_no_graph_is_made_unasked(fake: FakeCuda) -> None:
    with open_session(fake, cuda_graph=False) as session:
        for _ in range(3):
            check_run(session)
        assert fake.calls["begin_capture"] == 0
        assert session.graph_refused == ""


REFUSED = {
    "the layer": "the device layer has no CUDA graphs",
    "TensorRT beforehand": "TensorRT says that this engine cannot be captured",
    "TensorRT meanwhile": "TensorRT could not enqueue the engine while it was captured",
    "begin_capture": "could not be captured: begin_capture failed",
    "end_capture": "could not be captured: end_capture failed",
    "what it does": "could not be captured: end_capture failed",
}


@pytest.mark.parametrize("who", REFUSED)
def test_without_a_graph_the_runs_go_on_and_it_is_told_why(who: str) -> None:
    fake = FakeCuda(graphs=who != "the layer")
    capturable = False if who == "TensorRT beforehand" else None
    with open_session(fake, cuda_graph=True, capturable=capturable) as session:
        check_run(session)
        if who in ("begin_capture", "end_capture"):
            fake.fail(who)
        session.context.captures = who != "what it does"
        session.context.enqueues = who != "TensorRT meanwhile"
        if who == "TensorRT meanwhile":
            with pytest.raises(StageError, match="could not enqueue"):
                session.run(feeds_of(2))
            session.context.enqueues = True
        for seed in range(3):
            check_run(session, seed=seed)
            assert not session.graph_launched
        assert REFUSED[who] in session.graph_refused
        assert fake.calls["begin_capture"] <= 1  # it is tried once
        assert fake.live() == OPEN
    assert fake.live() == NOTHING


def test_what_tensorrt_for_rtx_allows_is_captured(fake: FakeCuda) -> None:
    with open_session(fake, cuda_graph=True, capturable=True) as session:
        for seed in range(3):
            check_run(session, seed=seed)
        assert session.graph_launched


# ── Time ─────────────────────────────────────────────────────────────────────────────────


def test_time_is_split_by_the_gpus_own_clock(fake: FakeCuda) -> None:
    with open_session(fake, cost_ns=70_000) as session:
        assert fake.live()["events"] == 0
        for _ in range(2):
            results, split = session.timed(feeds_of(4))
            assert split == Split(h2d_ns=4 * 4 * 4, gpu_ns=70_000, d2h_ns=4 * 3 * 4)
            assert np.array_equal(results["y"], twice_and_shift(feeds_of(4))["y"])
        assert fake.live()["events"] == 4
        fake.log.clear()
        session.run(feeds_of(4))
        assert "record" not in fake.log
    assert fake.live() == NOTHING
