"""How a build tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Progress = Callable[[int, int, str], None]
"""What a stage calls: steps done, steps in all, and a note such as the loss."""


def silent(done: int, total: int, note: str = "") -> None:
    """The progress of nobody watching."""


class Watcher(Protocol):
    """Whoever watches a build."""

    def begin(self, stage: str) -> Progress:
        """A stage starts to work; returns what it is to call."""

    def end(self, stage: str, reused: bool, seconds: float) -> None:
        """A stage is done, or its result was in the store."""


class Nobody:
    """Watches nothing."""

    def begin(self, stage: str) -> Progress:
        """See ``Watcher``."""
        return silent

    def end(self, stage: str, reused: bool, seconds: float) -> None:
        """See ``Watcher``."""
