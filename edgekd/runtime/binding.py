"""Memory that stays in its place from run to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock
from time import perf_counter_ns
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.backends import base
from edgekd.backends.base import Session, sized
from edgekd.errors import EngineError
from edgekd.runtime.tally import Tally


class Binding:
    """Write into ``inputs``, ``run``, read from ``outputs``; for one thread at a time.

    Attributes:
        inputs: arrays by name, which the runtime reads where they lie; none can be replaced.
        outputs: arrays by name, which the runtime writes; the next run overwrites them.
    """

    def __init__(
        self, bound: base.Binding, run: Callable[[], None], tally: Tally, name: str
    ) -> None:
        self.inputs: Mapping[str, npt.NDArray[Any]] = MappingProxyType(dict(bound.inputs))
        self.outputs: Mapping[str, npt.NDArray[Any]] = MappingProxyType(dict(bound.outputs))
        self._run = run
        self._tally = tally
        self._name = name
        self._lock = Lock()

    def run(self) -> None:
        """Runs the engine on what stands in ``inputs``.

        Raises:
            EngineError: another thread runs this binding, or the engine is closed.
        """
        begin = perf_counter_ns()
        if self._lock.locked():
            raise EngineError(
                f"this binding of {self._name} is run by another thread",
                "bind once for each thread",
            )
        with self._lock:  # which leaves it free, wherever an interrupt comes
            self._run()
        self._tally.add(perf_counter_ns() - begin)

    def _end(self, error: EngineError) -> None:
        """Waits for a run, lets the runtime's side go, and has later runs raise this."""

        def refuse() -> None:
            raise error

        with self._lock:
            self._run = refuse


class Copied:
    """What a session without memory of its own is bound to: its arrays are copied."""

    def __init__(self, session: Session, batch: int) -> None:
        self._session = session
        self.inputs = {
            each.name: np.zeros(sized(each, batch), each.dtype) for each in session.inputs
        }
        self.outputs = {
            each.name: np.zeros(sized(each, batch), each.dtype) for each in session.outputs
        }

    def run(self) -> None:
        """See ``base.Binding``."""
        for name, found in self._session.run(self.inputs).items():
            np.copyto(self.outputs[name], found)
