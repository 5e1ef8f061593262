"""The sessions of one opened engine: as many as threads run it at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from threading import Event, Lock
from weakref import finalize

from edgekd.backends.base import Arrays, Binding, Runs, Session, can_bind, can_share
from edgekd.errors import EngineError
from edgekd.runtime.binding import Copied


class Pool:
    """Lends contexts to run; all sessions are closed with it, or when it is forgotten.

    A session that cannot be opened once more (see ``base.Shares``) serves all threads, which
    then wait for each other.

    Args:
        name: of the engine, for errors.
        session: the first.
        count: how many contexts to have from the beginning.

    Attributes:
        made: how many there are.
    """

    def __init__(self, name: str, session: Session, count: int) -> None:
        self._name = name
        self._first = session
        self._opened = [session]  # those to close
        self._finalizer = finalize(self, _close, self._opened)
        self._lock = Lock()
        self._turn = None if can_share(session) else Lock()
        self._closed = False
        self._back = Event()
        self.made = 1
        self._free: list[Runs] = [
            self._first if self._turn is None else _InTurn(session, self._turn)
        ]
        if self._turn is None:
            self._free.extend([self._another() for _ in range(count - 1)])

    def take(self) -> Runs:
        """A context for the caller alone, until it is given back.

        Raises:
            EngineError: the engine is closed.
        """
        try:
            context = self._free.pop()
        except IndexError:
            return self._another()
        if self._closed:  # else threads that run without a pause would keep ``close`` waiting
            self.give(context)
            raise closed(self._name)
        return context

    def give(self, context: Runs) -> None:
        """Takes it back."""
        self._free.append(context)
        if self._closed:
            self._back.set()

    def bind(self, batch: int) -> tuple[Binding, Callable[[], None]]:
        """Memory for a batch, and what runs it.

        Raises:
            EngineError: the engine is closed, or more than the batch is free in a shape.
        """
        with self._lock:
            if self._closed:
                raise closed(self._name)
            session, turn = self._first, self._turn
            bound = session.bind(batch) if can_bind(session) else Copied(session, batch)
        if turn is None:
            return bound, bound.run

        def run() -> None:
            with turn:
                bound.run()

        return bound, run

    def close(self) -> None:
        """Waits for whoever runs, and gives everything back; a second time does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        while True:
            self._back.clear()
            if len(self._free) == self.made:
                break
            self._back.wait()
        self._free.clear()
        del self._first
        self._finalizer()

    def _another(self) -> Runs:
        with self._lock:
            if self._closed:
                raise closed(self._name)
            context: Runs
            if self._turn is not None:
                context = _InTurn(self._first, self._turn)
            else:
                assert can_share(self._first)
                session = self._first.another()
                self._opened.append(session)
                context = session
            self.made += 1
            return context


def closed(name: str) -> EngineError:
    """What the user of a closed engine is told."""
    return EngineError(f"{name} is closed", "open it again with edgekd.load")


class _InTurn:
    """A session that several threads have, of whom one runs it at a time."""

    def __init__(self, session: Session, turn: Lock) -> None:
        self._run = session.run
        self._turn = turn

    def run(self, feeds: Arrays) -> Arrays:
        """See ``Session.run``."""
        with self._turn:
            return self._run(feeds)


def _close(sessions: list[Session]) -> None:
    with ExitStack() as stack:
        while sessions:
            stack.push(sessions.pop())
