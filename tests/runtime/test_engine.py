"""An opened engine in threads: contexts, bindings, what is counted, and how it is closed."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekd
from edgekd.errors import EngineError, RecipeError
from edgekd.runtime import Engine
from edgekd.runtime import engine as module
from tests.runtime.kit import Gated, Shared, image, opened, start

TARGETS = ("onnxruntime-cpu", "openvino-cpu")


@pytest.fixture
def session() -> Gated:
    return Gated()


@pytest.fixture
def gated(session: Gated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    return opened(session, tmp_path, monkeypatch)


@pytest.fixture(params=TARGETS)
def engine(request: pytest.FixtureRequest, built: dict[str, Path]) -> Iterator[Engine]:
    with edgekd.load(built["bundle"], request.param, streams=2) as found:
        yield found


def ticking(monkeypatch: pytest.MonkeyPatch, *took_ns: int) -> None:
    """A clock by which each call takes as long as it says."""
    times = iter([each for ns in took_ns for each in (0, ns)])
    monkeypatch.setattr(module, "perf_counter_ns", lambda: next(times))


# Threads


def test_threads_get_what_one_thread_gets(engine: Engine, rng: np.random.Generator) -> None:
    x = rng.normal(size=(8, 40, 1, 1, 8, 8)).astype(np.float32)
    expected = [[engine.run(each) for each in row] for row in x]
    bindings = [engine.bind() for _ in x]
    gate = threading.Barrier(2 * len(x))

    def calls(row: np.ndarray) -> Callable[[], Any]:
        return lambda: (gate.wait(20), [engine.run(each) for each in row])[1]

    def bound(row: np.ndarray, binding: Any) -> Callable[[], Any]:
        def work() -> list[np.ndarray]:
            gate.wait(20)
            found = []
            for each in row:
                binding.inputs["image"][...] = each
                binding.run()
                found.append(binding.outputs["logits"].copy())
            return found

        return work

    threads = [start(calls(row)) for row in x]
    threads += [start(bound(*each)) for each in zip(x, bindings, strict=True)]
    for each, row in zip(threads, [*expected, *expected], strict=True):
        assert all(np.array_equal(*pair) for pair in zip(each.join(), row, strict=True))
    assert engine.stats().count == 3 * 8 * 40


def test_a_session_that_can_be_opened_once_more_is_run_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Shared()
    engine = opened(session, tmp_path, monkeypatch)
    threads = [start(lambda n=n: engine.run(image(n))) for n in range(3)]
    for _ in threads:
        assert session.begun.acquire(timeout=20)
    assert session.most == 3
    session.go.release(3)
    assert [each.join()[0, 0] for each in threads] == [0, 4, 8]


def test_any_other_is_run_by_one_thread_at_a_time(gated: Engine, session: Gated) -> None:
    session.go.release(40)
    binding = gated.bind()
    threads = [start(lambda: [gated.run(image(1)) for _ in range(10)]) for _ in range(3)]
    threads.append(start(lambda: [binding.run() for _ in range(10)]))
    for each in threads:
        each.join()
    assert session.most == 1
    assert gated.stats().count == 40


# Bindings


@pytest.mark.parametrize("batch", [1, 3])
def test_a_binding_gives_the_bits_of_a_run(
    batch: int, engine: Engine, rng: np.random.Generator
) -> None:
    binding = engine.bind(batch)
    read, written = binding.inputs["image"], binding.outputs["logits"]
    assert read.shape == (batch, 1, 8, 8)
    assert written.shape == (batch, 10)
    for _ in range(3):
        read[...] = rng.normal(size=read.shape)
        binding.run()
        np.testing.assert_array_equal(written, engine.run(read))
        assert binding.outputs["logits"] is written


def test_a_binding_without_the_backend_s_help_is_copied(gated: Engine, session: Gated) -> None:
    session.go.release(2)
    binding = gated.bind(2)
    binding.inputs["x"][1] = 3
    held = binding.outputs["y"]
    binding.run()
    np.testing.assert_array_equal(held, [[0, 0], [12, 24]])


def test_a_binding_s_arrays_cannot_be_replaced(engine: Engine) -> None:
    binding = engine.bind()
    for arrays in (binding.inputs, binding.outputs):
        for name in arrays:
            with pytest.raises(TypeError, match="does not support item assignment"):
                arrays[name] = np.zeros(1)  # type: ignore[index]


@pytest.mark.parametrize("batch", [10**12, 10**18, 2**63 - 1])
def test_a_batch_that_memory_does_not_hold(batch: int, engine: Engine) -> None:
    for use in (engine.bind, lambda batch: engine.warmup(1, batch)):
        with pytest.raises(EngineError, match=f"no memory for a batch of {batch}: ask for a small"):
            use(batch)


WRONG: dict[str, tuple[Callable[[Engine], Any], str]] = {
    "bind": (lambda engine: engine.bind(1.5), "batch: 1.5 is no whole number"),  # type: ignore
    "text": (lambda engine: engine.bind("1"), "batch: '1' is no whole number"),  # type: ignore
    "beyond": (lambda engine: engine.bind(10**5000), "batch: a number of more than 63 bits"),
    "runs": (lambda engine: engine.warmup(-1), "runs: -1 is less than 0"),
    "no runs": (lambda engine: engine.warmup(None), "runs: None is no whole"),  # type: ignore
    "batch": (lambda engine: engine.warmup(1, b""), "batch: a bytes is no whole"),  # type: ignore
}


@pytest.mark.parametrize("case", WRONG)
def test_an_argument_that_is_no_number_is_refused(case: str, gated: Engine) -> None:
    use, words = WRONG[case]
    with pytest.raises(RecipeError, match=words):
        use(gated)


def test_two_threads_cannot_run_one_binding(gated: Engine, session: Gated) -> None:
    binding = gated.bind()
    running = start(binding.run)
    assert session.begun.acquire(timeout=20)
    with pytest.raises(EngineError, match="run by another thread: bind once for each thread"):
        binding.run()
    session.go.release(2)
    running.join()
    binding.run()
    assert gated.stats().count == 2


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_that_is_none_is_refused(batch: int, engine: Engine) -> None:
    for use in (engine.bind, lambda batch: engine.warmup(batch=batch)):
        with pytest.raises(EngineError, match=f"takes batches from 1 on, and {batch} was asked"):
            use(batch)


def test_a_binding_s_memory_outlives_the_engine(built: dict[str, Path]) -> None:
    engine = edgekd.load(built["bundle"], "openvino-cpu")
    binding = engine.bind()
    held = binding.outputs["logits"]
    binding.run()
    kept = held.copy()
    engine.close()
    del engine, binding
    gc.collect()
    np.testing.assert_array_equal(held, kept)


# What is counted


def test_calls_are_counted_with_their_preprocessing_and_failures_are_not(
    gated: Engine, session: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.go.release(9)
    ticking(monkeypatch, 30, 50, 1000, 40, 20)
    gated.run(image(1))
    gated(image(1))
    gated(np.zeros((3, 3), np.uint8))
    session.fails = "out of luck"
    for call in (gated, gated.run):
        with pytest.raises(RuntimeError, match="out of luck"):
            call(image(1))
    told = gated.stats()
    assert (told.count, told.p50_ns, told.p99_ns) == (3, 50, 1000)
    gated.reset_stats()
    assert gated.stats().count == 0


def test_answers_later_than_the_deadline_are_misses(
    session: Gated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.go.release(3)
    engine = opened(session, tmp_path, monkeypatch, fps=1000)
    ticking(monkeypatch, 1_000_000, 1_000_001, 999_999)
    for _ in range(3):
        engine.run(image(1))
    assert (engine.stats().deadline_ns, engine.stats().misses) == (1_000_000, 1)


def test_warming_up_runs_every_context_and_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Shared()
    engine = opened(session, tmp_path, monkeypatch, streams=3)
    session.go.release(12)
    engine.warmup(runs=4)
    assert not session.go.acquire(blocking=False)
    assert engine.stats().count == 0


def test_warming_up_makes_one_context_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Shared()
    made: list[Shared] = []
    monkeypatch.setattr(Shared, "another", lambda self: made.append(self) or self)
    engine = opened(session, tmp_path, monkeypatch)
    threads = [start(lambda: engine.warmup(1)) for _ in range(3)]
    for _ in threads:
        assert session.begun.acquire(timeout=20)
    session.go.release(3)
    for each in threads:
        each.join()
    assert len(made) == 2  # beside the first


# Interrupts


class _Interrupted(BaseException):
    pass


def interrupted(work: Callable[[], Any], at: int) -> bool:
    """Interrupts work at that of the places where Python looks for a signal; whether it did.

    They are the beginnings of its functions, and the ends of calls of C's.
    """
    left = at

    def look(frame: Any, event: str, _: object) -> None:
        nonlocal left
        if event in ("call", "c_return") and "edgekd" in frame.f_code.co_filename:
            left -= 1
            if left < 0:
                sys.setprofile(None)
                raise _Interrupted

    sys.setprofile(look)
    try:
        work()
    except _Interrupted:
        return True
    finally:
        sys.setprofile(None)
    return False


@pytest.mark.parametrize("use", ["run", "call", "bound", "warmup"])
def test_an_interrupt_anywhere_leaves_it_whole(use: str, built: dict[str, Path]) -> None:
    engine = edgekd.load(built["bundle"], "openvino-cpu")
    x = np.zeros((1, 1, 8, 8), np.float32)
    binding = engine.bind()
    work: Callable[[], Any] = {
        "run": lambda: engine.run(x),
        "call": lambda: engine(x),
        "bound": binding.run,
        "warmup": lambda: engine.warmup(1),
    }[use]
    work()
    expected = engine.run(x)
    places = 0
    while interrupted(work, places):
        places += 1
        work()  # the next one is as if nothing had been
    assert places > 3
    np.testing.assert_array_equal(engine.run(x), expected)
    assert len(engine._pool._made) == 1  # what was lost was found
    start(engine.close).join()


@pytest.mark.parametrize("held", [False, True])
def test_closing_does_not_wait_for_a_context_that_was_never_given_back(
    held: bool, gated: Engine, session: Gated
) -> None:
    """As an interrupt leaves it; its traceback may hold the context, for a while or for good."""
    context = gated._pool.take()
    if not held:
        del context
    start(gated.close).join()
    assert session.closed == 1


def test_checking_the_golden_outputs_is_not_counted(engine: Engine) -> None:
    engine.check_golden()
    assert engine.stats().count == 0


# The end


def test_closing_waits_for_who_runs(gated: Engine, session: Gated) -> None:
    binding = gated.bind()
    running = [start(lambda: gated.run(image(2))), start(binding.run)]
    assert session.begun.acquire(timeout=20)
    closing = start(gated.close)
    threading.Thread.join(closing, 0.1)
    assert closing.is_alive()
    assert not session.closed
    session.go.release(2)
    for each in running:
        each.join()
    closing.join()
    assert session.closed == 1
    gated.close()
    assert session.closed == 1


def test_after_it_is_closed_everything_says_so(engine: Engine) -> None:
    x = np.zeros((1, 1, 8, 8), np.float32)
    engine.run(x)
    binding = engine.bind()
    stream = engine.stream()
    engine.close()
    uses: list[Callable[[], Any]] = [
        lambda: engine.run(x),
        lambda: engine(x),
        binding.run,
        engine.bind,
        engine.warmup,
        engine.stream,
        engine.check_golden,
        lambda: stream.submit(x),
    ]
    for use in uses:
        with pytest.raises(EngineError, match="is closed: open"):
            use()
    assert engine.stats().count == 1


def test_threads_that_run_without_a_pause_do_not_keep_it_open(engine: Engine) -> None:
    x = np.zeros((1, 1, 8, 8), np.float32)
    started = threading.Barrier(5)

    def work() -> None:
        started.wait(20)
        while True:
            engine.run(x)

    threads = [start(work) for _ in range(4)]
    started.wait(20)
    engine.close()
    for each in threads:
        with pytest.raises(EngineError, match="is closed"):
            each.join()


def test_an_engine_that_is_forgotten_gives_its_memory_back(
    session: Gated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(session, tmp_path, monkeypatch)
    binding = engine.bind()
    del engine, binding
    gc.collect()
    assert session.closed == 1


def test_a_binding_of_a_forgotten_engine_says_so(
    gated: Engine, session: Gated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(session, tmp_path / "2", monkeypatch) as engine:
        binding = engine.bind()
    with pytest.raises(EngineError, match="is closed"):
        binding.run()
