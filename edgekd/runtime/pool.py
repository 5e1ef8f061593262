"""The sessions of one opened engine: as many as threads run it at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from os import getpid
from threading import Lock
from weakref import finalize, ref

from edgekd.backends.base import Arrays, Binding, Runs, Session, can_bind, can_share
from edgekd.errors import EngineError
from edgekd.runtime.binding import Copied


class Context:
    """What is lent: a session, and a lock that whoever runs it holds meanwhile.

    Sessions that cannot be opened once more are in several contexts, which have one lock.
    """

    __slots__ = ("__weakref__", "busy", "session")

    def __init__(self, session: Runs, busy: Lock) -> None:
        self.session = session
        self.busy = busy


class Pool:
    """Lends contexts to run; all sessions are closed with it, or when it is forgotten.

    An interrupt may come between any two steps of whoever has a context. So it is the lock alone
    that says whether a context runs, since ``with`` leaves none held; and one that was never given
    back is known by its having gone, for it is held by nobody else.

    Args:
        name: of the engine, for errors.
        session: the first.
        count: how many contexts to have from the beginning.

    Attributes:
        free: the contexts that nobody has.
        give: takes a context back.
    """

    def __init__(self, name: str, session: Session, count: int) -> None:
        self._name = name
        self._first = session
        self._opened = [session]  # those to close
        self._finalizer = finalize(self, _close, self._opened)
        self._lock = Lock()
        self._turn = None if can_share(session) else Lock()
        self._closed = False
        self._process = getpid()
        self._made: list[tuple[ref[Context], Runs, Lock]] = []
        self.free = [self._new(session)]
        if self._turn is None:
            self.free.extend([self._another() for _ in range(count - 1)])
        self.give = self.free.append  # nothing can come between this call and its end

    def take(self) -> Context:
        """A context for the caller alone, until it is given back.

        Raises:
            EngineError: the engine is closed.
        """
        try:
            return self.free.pop()
        except IndexError:
            return self._another()

    def idle(self) -> list[Context]:
        """Takes all that nobody has now, or else one more."""
        found = []
        while self.free:
            found.append(self.take())
        return found or [self.take()]

    def bind(self, batch: int) -> tuple[Binding, Callable[[], None]]:
        """Memory for a batch, and what runs it.

        Raises:
            EngineError: the engine is closed, more than the batch is free in a shape, or there is
                no memory for so many.
        """
        with self._lock:
            if self._closed:
                raise closed(self._name)
            session, turn = self._first, self._turn
            try:
                bound = session.bind(batch) if can_bind(session) else Copied(session, batch)
            except (MemoryError, ValueError, OverflowError) as error:  # as numpy has it
                raise no_room(batch) from error
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
        ended = _Closed(self._name)
        for lent, _, _ in self._made:
            context = lent()
            if context is not None:
                context.session = ended  # for whoever has it, and is not running yet
        if getpid() == self._process:  # else those who ran when it was forked are not here
            for _, _, busy in self._made:
                with busy:
                    pass
        self.free.clear()
        self._made.clear()
        del self._first
        self._finalizer()

    def _another(self) -> Context:
        with self._lock:
            if self._closed:
                raise closed(self._name)
            for number, (lent, session, busy) in enumerate(self._made):
                if lent() is None:  # whoever had it was interrupted
                    context = Context(session, busy)
                    self._made[number] = ref(context), session, busy
                    return context
            if self._turn is not None:
                return self._new(self._first)
            assert can_share(self._first)
            more = self._first.another()
            self._opened.append(more)
            return self._new(more)

    def _new(self, session: Runs) -> Context:
        context = Context(session, self._turn or Lock())
        self._made.append((ref(context), session, context.busy))
        return context


def closed(name: str) -> EngineError:
    """What the user of a closed engine is told."""
    return EngineError(f"{name} is closed", "open it again with edgekd.load")


def no_room(batch: int) -> EngineError:
    """What is told of a batch that memory does not hold."""
    return EngineError(f"there is no memory for a batch of {batch}", "ask for a smaller one")


class _Closed:
    """What a closed engine's contexts run."""

    def __init__(self, name: str) -> None:
        self._name = name

    def run(self, feeds: Arrays) -> Arrays:
        """See ``Runs.run``."""
        raise closed(self._name)


def _close(sessions: list[Session]) -> None:
    with ExitStack() as stack:
        while sessions:
            stack.push(sessions.pop())
