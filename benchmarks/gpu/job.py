"""What the parts of ``run.py`` have in common: what a part is told, and the rows that it gives."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

OUTCOMES = ("ran", "built", "refused", "skipped", "failed")
"""Of a row. ``built``: an engine that there is no GPU to run on; ``refused``: by a library, as the
target's profile foresees; ``failed``: something is not as EdgeKD says."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: was tried.
        figures: by name, with their unit; a text where it is no number.
        outcome: of ``OUTCOMES``.
        reason: why it did not run, or what failed.
    """

    what: str
    figures: Mapping[str, float | str] = field(default_factory=dict)
    outcome: str = "ran"
    reason: str = ""


def skipped(what: str, reason: str) -> Row:
    """What could not be run, and why."""
    return Row(what, outcome="skipped", reason=reason)


def failed(what: str, reason: str) -> Row:
    """What is not as it should be."""
    return Row(what, outcome="failed", reason=reason)


@dataclass(frozen=True)
class Job:
    """What a part is told.

    Attributes:
        work: where all parts of a run keep what they make.
        quick: little of everything: whether it runs, not how fast.
        device: what networks are trained on, ``cuda`` or ``cpu``.
        limit_s: after which nothing more is begun.
        begin: seconds, of ``time.monotonic``.
    """

    work: Path
    quick: bool = False
    device: str = "cuda"
    limit_s: float = 600.0
    begin: float = field(default_factory=time.monotonic)

    def over(self) -> bool:
        """Whether the part has had its time."""
        return time.monotonic() - self.begin > self.limit_s

    def too_late(self, what: str) -> Row:
        """What was left out for want of time."""
        return skipped(what, f"the part had its {self.limit_s:g} s")
