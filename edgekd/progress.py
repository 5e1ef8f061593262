"""How a build tells how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """What a stage calls as it goes on."""

    def __call__(
        self, done: int, total: int, note: str = "", scalars: Mapping[str, float] | None = None
    ) -> None:
        """Steps done, steps in all, a note such as the loss; once an epoch, its figures."""


def silent(
    done: int, total: int, note: str = "", scalars: Mapping[str, float] | None = None
) -> None:
    """The progress of nobody watching."""


class Watcher(Protocol):
    """Whoever watches a build."""

    def begin(self, stage: str) -> Progress:
        """A stage starts to work; returns what it is to call."""

    def end(self, stage: str, reused: bool, seconds: float) -> None:
        """A stage is done, or its result was in the store."""

    def note(self, line: str) -> None:
        """What a stage found; a line that starts with ``! `` is a warning."""


class Nobody:
    """Watches nothing."""

    def begin(self, stage: str) -> Progress:
        """See ``Watcher``."""
        return silent

    def end(self, stage: str, reused: bool, seconds: float) -> None:
        """See ``Watcher``."""

    def note(self, line: str) -> None:
        """See ``Watcher``."""
