"""Scenarios by name: what is asked of a session, and what is timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.backends.base import Arrays, Session
from edgekd.bench.arrivals import open_loop, periodic, poisson
from edgekd.bench.load import Drive, closed_loop, several_at_once
from edgekd.errors import BenchError

Feeds = Mapping[str, Any]
"""A number of samples by input, (n, ...) each."""


@dataclass(frozen=True)
class Load:
    """What is asked of each session.

    Attributes:
        scenario: one of ``SCENARIOS``.
        frames: how many it is given.
        least: so many at least, however long they take.
        seconds: beyond those, no longer than this for each session.
        blocks: how often sessions take turns.
        period_ns: between a camera's frames.
        rate_per_s: of requests to a server, on average.
        policy: of ``arrivals.POLICIES``.
        streams: whose samples come at once.
        background: processes that keep the machine busy meanwhile.
        pauses: how often a call is made after half a second of nothing, when all else is done.
        batches: whose throughput is measured, when all else is done.
        loadgen: ask the same of MLPerf LoadGen, when all else is done.
        seed: of the order of turns, and of requests.
    """

    scenario: str = "single-stream"
    frames: int = 7000
    least: int = 0
    seconds: float = 5.0
    blocks: int = 20
    period_ns: float = 0.0
    rate_per_s: float = 0.0
    policy: str = "queue"
    streams: int = 8
    background: int = 0
    pauses: int = 0
    batches: tuple[int, ...] = ()
    loadgen: bool = False
    seed: int = 0

    @property
    def is_open(self) -> bool:
        """Whether frames come whatever became of the last."""
        return self.scenario in OPEN


SCENARIOS = {
    "single-stream": "one image after another, each as soon as the last is done",
    "multi-stream": "images of several streams at once, again when all are done",
    "offline": "as many images a second as can be, by batch",
    "server": "requests at random times, at a given rate on average",
    "camera": "an image each period, whether or not the last is done",
}
OPEN = ("server", "camera")


def driver(session: Session, feeds: Feeds, least: int, most: int | None, load: Load) -> Drive:
    """What gives one session its frames.

    Args:
        session: what answers.
        feeds: samples; a frame is one, or as many as the session takes at least.
        least: the smallest batch that it takes.
        most: the largest; None for any.
        load: what is asked.
    """
    if load.scenario == "camera":
        return open_loop(
            session, cut(feeds, least), partial(periodic, period_ns=load.period_ns), load.policy
        )
    if load.scenario == "server":
        due = partial(poisson, rate_per_s=load.rate_per_s, seed=load.seed)
        return open_loop(session, cut(feeds, least), due, load.policy)
    size = call_size(load, least, most)
    calls = frame_size(load, least, most) // size
    fed = cut(feeds, size)
    return closed_loop(session, fed) if calls == 1 else several_at_once(session, fed, calls)


def call_size(load: Load, least: int, most: int | None) -> int:
    """How many images the session is given at once."""
    if load.scenario == "multi-stream" and least <= load.streams <= (most or load.streams):
        return load.streams
    return least


def frame_size(load: Load, least: int, most: int | None) -> int:
    """How many images are timed together: those of one call, or of a call for each stream.

    Streams that do not fill the engine's last batch are made up to it.
    """
    size = call_size(load, least, most)
    return -(-load.streams // size) * size if load.scenario == "multi-stream" else size


def cut(feeds: Feeds, size: int) -> Sequence[Arrays]:
    """Samples as batches of a size; again from the first where they do not go into it."""
    count = len(next(iter(feeds.values())))
    batches = max(1, count // size)
    return [
        {
            name: np.ascontiguousarray(each[np.arange(first * size, (first + 1) * size) % count])
            for name, each in feeds.items()
        }
        for first in range(batches)
    ]


def write(feeds: Sequence[Feeds], folder: Path) -> list[Path]:
    """Samples in files, those that several engines share once.

    Raises:
        BenchError: there is no room for them.
    """
    paths: dict[tuple[Any, ...], Path] = {}
    written = []
    for each in feeds:
        key = tuple((name, id(array)) for name, array in each.items())
        if key not in paths:
            paths[key] = folder / f"{len(paths)}.npz"
            arrays: Any = dict(each)
            try:
                np.savez(paths[key], **arrays)
            except OSError as error:
                raise BenchError(
                    f"{paths[key]} cannot be written ({error.strerror})",
                    "make room, or name another folder in TMPDIR",
                ) from error
        written.append(paths[key])
    return written
