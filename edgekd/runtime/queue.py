"""Frames that are submitted, and answered by threads of their own: a queue and its policies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from os import getpid
from threading import Condition, RLock, Thread, current_thread
from time import perf_counter_ns
from types import TracebackType
from typing import Any
from weakref import finalize, ref

import numpy as np
import numpy.typing as npt

from edgekd.errors import EngineError, RecipeError, near_matches
from edgekd.runtime.arguments import shown, whole
from edgekd.runtime.tally import Tally

Logits = npt.NDArray[np.float32]
Answer = Callable[[Any, str], Logits]

POLICIES = {
    "queue": "every frame is answered; who submits waits while the queue is full",
    "drop-oldest": "a frame that finds the queue full takes the place of the oldest there",
    "skip": "a frame that comes while all workers are busy, or in callbacks, is dropped",
}
"""By the names that the benchmarks use."""
_MOST = 1024
"""Workers, as threads of an engine."""


class Stream:
    """Frames to an engine, begun in the order in which they come. A context manager.

    Any thread may submit. A frame that is dropped counts as a miss, and its future is cancelled;
    one for which the engine raises counts as one too.

    Args:
        answer: what answers a frame.
        tally: counts from submit to answer, and what was dropped.
        name: of the engine, for errors.
        depth: how many frames may wait; of no meaning to ``skip``, of which none does.
        policy: one of ``POLICIES``.
        workers: how many frames are worked on at once.

    Raises:
        RecipeError: there is no such policy, or a number is none that makes sense.
    """

    def __init__(
        self, answer: Answer, tally: Tally, name: str, depth: int, policy: str, workers: int
    ) -> None:
        if not isinstance(policy, str):
            raise RecipeError(f"{shown(policy)} is no name", path="policy")
        if policy not in POLICIES:
            raise RecipeError(
                f"no policy is called '{policy}'", near_matches(policy, POLICIES), path="policy"
            )
        depth, workers = whole("depth", depth), whole("workers", workers, most=_MOST)
        self._name = name
        self._state = _State(tally, depth, policy, workers)
        self._threads = [
            _Worker(target=_work, args=(self._state, answer), name=f"edgekd {n}", daemon=True)
            for n in range(workers)
        ]
        self._process = getpid()
        # A stream that is forgotten, or left open until the process ends, ends its threads too.
        self._finalizer = finalize(self, _leave, ref(self), self._state)
        for each in self._threads:
            each.start()

    def submit(
        self, images: npt.NDArray[Any] | Sequence[npt.NDArray[Any]], order: str = "RGB"
    ) -> Future[Logits]:
        """Hands over what ``Engine.__call__`` takes; it is not copied, so leave it as it is.

        Returns:
            The logits to come, or what the engine raised; cancelled where the frame was dropped.

        Raises:
            EngineError: the stream is closed or of the process before a fork, or its own thread
                would wait for itself.
        """
        if getpid() != self._process:  # where its threads are, and maybe the lock that they held
            raise EngineError(
                f"the stream of {self._name} is in the process that this one was forked from",
                "open the engine and its stream after the fork",
            )
        frame, dropped = _Frame(images, order), None
        state = self._state
        with state.lock:
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

        In a stream's own thread, such as a future's callback is in, it does not wait, for that
        thread may be what others wait for. Where the process was forked it does nothing.

        Args:
            cancel: drop the frames that wait; those that are worked on are answered.
        """
        if getpid() != self._process:
            return
        dropped: list[_Frame] = []
        state = self._state
        with state.lock:
            state.open = False
            while cancel and state.waiting:
                dropped.append(state.waiting.popleft())
            state.changed.notify_all()
        for frame in dropped:
            _drop(frame, state.tally)
        if not isinstance(current_thread(), _Worker):
            for each in self._threads:
                each.join()
            self._finalizer.detach()

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
        self.future = _Answer()


class _Answer(Future[Logits]):
    """A future that says whether it has callbacks.

    Attributes:
        watched: whether there are any.
    """

    watched = False

    def add_done_callback(self, fn: Callable[[Future[Logits]], object]) -> None:
        """See ``Future``."""
        self.watched = True
        super().add_done_callback(fn)


class _Worker(Thread):
    """A thread of a stream, which nobody waits for in another."""


class _State:
    """What a stream shares with its threads, who change it under ``lock``.

    It is the lock itself that ``with`` takes: of the condition, an interrupt might leave it held.
    """

    def __init__(self, tally: Tally, depth: int, policy: str, workers: int) -> None:
        self.tally = tally
        self.policy = policy
        self.places = workers + (0 if policy == "skip" else depth)
        self.waiting: deque[_Frame] = deque()
        self.lock = RLock()
        self.changed = Condition(self.lock)
        self.busy = 0
        self.open = True
        self.forgotten = False

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
        with state.lock:
            while state.open and not state.waiting:
                state.changed.wait()
            if not state.waiting:
                return
            frame = state.waiting.popleft()
            state.busy += 1
        if state.forgotten:
            _drop(frame, state.tally)
            continue
        tell = _answered(frame, state.tally, answer)
        if state.policy == "skip" and frame.future.watched:  # callbacks are work, too
            tell()
            _idle(state)
        else:  # before anybody is told, who may submit the next at once
            _idle(state)
            tell()
        del frame, tell  # the images are not kept while there is nothing to do


def _idle(state: _State) -> None:
    with state.lock:
        state.busy -= 1
        state.changed.notify_all()


def _answered(frame: _Frame, tally: Tally, answer: Answer) -> Callable[[], None]:
    """Answers a frame, and gives what tells it."""
    if not frame.future.set_running_or_notify_cancel():
        return lambda: None
    try:
        logits = answer(frame.images, frame.order)
    except BaseException as error:  # noqa: BLE001  # it is for whoever asks the future
        tally.drop()
        return partial(frame.future.set_exception, error)
    tally.add(perf_counter_ns() - frame.submitted_ns)
    return partial(frame.future.set_result, logits)


def _leave(stream: ref[Stream], state: _State) -> None:
    """Ends a stream that nobody has any more, or, when the process ends, one that is open."""
    left = stream()
    if left is not None:
        left.close(cancel=True)
        return
    # In the midst of whatever was allocating: nobody is waited for, and no lock of others taken.
    with state.lock:
        state.open, state.forgotten = False, True
        state.changed.notify_all()
