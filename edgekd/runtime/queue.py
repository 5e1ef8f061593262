"""Frames that are submitted, and answered by threads of their own: a queue and its policies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Condition, Thread, current_thread
from time import perf_counter_ns
from types import TracebackType
from typing import Any
from weakref import finalize

import numpy as np
import numpy.typing as npt

from edgekd.errors import EngineError, RecipeError, near_matches
from edgekd.runtime.tally import Tally

Logits = npt.NDArray[np.float32]
Answer = Callable[[Any, str], Logits]

POLICIES = {
    "queue": "every frame is answered; who submits waits while the queue is full",
    "drop-oldest": "a frame that finds the queue full takes the place of the oldest there",
    "skip": "a frame that comes while all workers are busy is dropped",
}
"""By the names that the benchmarks use."""


class Stream:
    """Frames to an engine, begun in the order in which they come. A context manager.

    Any thread may submit. A frame that is dropped counts as a miss, and its future is cancelled.

    Args:
        answer: what answers a frame.
        tally: counts from submit to answer, and what was dropped.
        name: of the engine, for errors.
        depth: how many frames may wait; of no meaning to ``skip``, of which none does.
        policy: one of ``POLICIES``.
        workers: how many frames are worked on at once.

    Raises:
        RecipeError: there is no such policy, or a number is less than one.
    """

    def __init__(
        self, answer: Answer, tally: Tally, name: str, depth: int, policy: str, workers: int
    ) -> None:
        if policy not in POLICIES:
            raise RecipeError(
                f"no policy is called '{policy}'", near_matches(policy, POLICIES), path="policy"
            )
        for what, number in (("depth", depth), ("workers", workers)):
            if number < 1:
                raise RecipeError(f"{number} is less than 1", path=what)
        self._name = name
        self._state = _State(tally, depth, policy, workers)
        self._threads = [
            Thread(target=_work, args=(self._state, answer), name=f"edgekd {n}", daemon=True)
            for n in range(workers)
        ]
        # A stream that is forgotten, or left open until the process ends, ends its threads too.
        self._finalizer = finalize(self, _end, self._state, self._threads, cancel=True)
        for each in self._threads:
            each.start()

    def submit(
        self, images: npt.NDArray[Any] | Sequence[npt.NDArray[Any]], order: str = "RGB"
    ) -> Future[Logits]:
        """Hands over what ``Engine.__call__`` takes; it is not copied, so leave it as it is.

        Returns:
            The logits to come, or what the engine raised; cancelled where the frame was dropped.

        Raises:
            EngineError: the stream is closed, or its own thread would wait for itself.
        """
        frame, dropped = _Frame(images, order), None
        state = self._state
        with state.changed:
            while state.open and state.full() and state.policy == "queue":
                if current_thread() in self._threads:
                    raise EngineError(
                        f"the stream of {self._name} is full, and its own thread submits to it",
                        "submit from another thread, or with a larger depth",
                    )
                state.changed.wait()
            if not state.open:
                raise EngineError(f"the stream of {self._name} is closed", "open another")
            if state.full():
                dropped = frame if state.policy == "skip" else state.waiting.popleft()
            if dropped is not frame:
                state.waiting.append(frame)
                state.changed.notify_all()
        if dropped is not None:
            _drop(dropped, state.tally)
        return frame.future

    def close(self, cancel: bool = False) -> None:
        """Waits until all that was submitted is answered; a second time does nothing.

        Args:
            cancel: drop the frames that wait; those that are worked on are answered.
        """
        self._finalizer.detach()
        _end(self._state, self._threads, cancel)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(cancel=error is not None)


class _Frame:
    """What was submitted, when, and who waits for it."""

    def __init__(self, images: Any, order: str) -> None:
        self.submitted_ns = perf_counter_ns()
        self.images = images
        self.order = order
        self.future: Future[Logits] = Future()


class _State:
    """What a stream shares with its threads, who change it under ``changed``."""

    def __init__(self, tally: Tally, depth: int, policy: str, workers: int) -> None:
        self.tally = tally
        self.policy = policy
        self.places = workers + (0 if policy == "skip" else depth)
        self.waiting: deque[_Frame] = deque()
        self.changed = Condition()
        self.busy = 0
        self.open = True

    def full(self) -> bool:
        """Whether no other frame may wait, but for those that an idle worker is about to take."""
        return len(self.waiting) + self.busy >= self.places


def _drop(frame: _Frame, tally: Tally) -> None:
    """Cancels a frame's future; a miss, unless whoever submitted it has done so already."""
    withdrawn = frame.future.cancelled()
    frame.future.cancel()
    frame.future.set_running_or_notify_cancel()
    if not withdrawn:
        tally.drop()


def _work(state: _State, answer: Answer) -> None:
    """Answers frames until the stream is closed and none waits."""
    while True:
        with state.changed:
            while state.open and not state.waiting:
                state.changed.wait()
            if not state.waiting:
                return
            frame = state.waiting.popleft()
            state.busy += 1
        tell = _answered(frame, state.tally, answer)
        with state.changed:  # before anybody is told, who may submit the next at once
            state.busy -= 1
            state.changed.notify_all()
        tell()
        del frame, tell  # the images are not kept while there is nothing to do


def _answered(frame: _Frame, tally: Tally, answer: Answer) -> Callable[[], None]:
    """Answers a frame, and gives what tells it."""
    if not frame.future.set_running_or_notify_cancel():
        return lambda: None
    try:
        logits = answer(frame.images, frame.order)
    except BaseException as error:  # noqa: BLE001  # it is for whoever asks the future
        return partial(frame.future.set_exception, error)
    tally.add(perf_counter_ns() - frame.submitted_ns)
    return partial(frame.future.set_result, logits)


def _end(state: _State, threads: Sequence[Thread], cancel: bool) -> None:
    dropped: list[_Frame] = []
    with state.changed:
        state.open = False
        while cancel and state.waiting:
            dropped.append(state.waiting.popleft())
        state.changed.notify_all()
    for frame in dropped:
        _drop(frame, state.tally)
    for each in threads:
        if each is not current_thread():  # as when a future's callback closes the stream
            each.join()
