"""One fp32 model's outputs, kept, and how far graphs are from them: top-1 and SQNR.

Graphs are run with their plain semantics, nothing fused, so that those for devices that are not
here are judged as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import OnnxModel
from edgekd.backends import ort
from edgekd.backends.base import usable_cores
from edgekd.calibration.feeds import Feeds
from edgekd.data import UNLABELLED
from edgekd.data.splits import stratified
from edgekd.quantize.proof import EXACT, Noise, Outputs, batches, is_classifier

Truths = npt.NDArray[np.bool_]

_Z95 = 1.96


@dataclass(frozen=True)
class Score:
    """A graph on a judge's samples.

    Attributes:
        top1: in percent; None where samples have no label, or outputs are no classes' scores.
        sqnr: of its outputs to those of the fp32 model, in dB.
        right: for each sample that has a label, whether its class was named; empty where there
            is no top-1.
    """

    top1: float | None
    sqnr: float
    right: Truths = field(repr=False, compare=False)


class Judge:
    """Scores the forms of one fp32 model on the same samples.

    Args:
        model: fp32; it is run once.
        feeds: samples.
        most: use no more than so many of them; each class keeps its share.

    Attributes:
        samples: how many samples it judges on.
        fp32: the model's own score.
    """

    def __init__(self, model: OnnxModel, feeds: Feeds, most: int) -> None:
        feeds = few(feeds, most)
        self._feeds = feeds
        self._parts = list(batches(len(feeds), model.model_inputs))
        self._reference = list(self._outputs(model.path))
        self.samples = sum(part.stop - part.start for part in self._parts)
        known = feeds.labels is not None and (feeds.labels != UNLABELLED).any()
        classes = known and is_classifier(self._reference[0], feeds)
        self._labels = feeds.labels if classes else None
        self.fp32 = self._score(iter(self._reference))

    def score(self, path: Path) -> Score:
        """Runs a graph."""
        return self._score(self._outputs(path))

    def lost(self, score: Score) -> float | None:
        """Points of top-1 that a graph loses to fp32; None where there is no top-1."""
        if self.fp32.top1 is None or score.top1 is None:
            return None
        return self.fp32.top1 - score.top1

    def _outputs(self, path: Path) -> Iterator[Outputs]:
        with ort.open_model(path, usable_cores(), optimise=False) as session:
            for part in self._parts:
                yield session.run(self._feeds.take(part))

    def _score(self, found: Iterator[Outputs]) -> Score:
        noise, named = Noise(), []
        for expected, each in zip(self._reference, found, strict=True):
            noise.see(expected, each)
            if self._labels is not None:
                named.append(next(iter(each.values())).argmax(1))
        sqnr = float(np.clip(noise.decibels(), -EXACT, EXACT))
        if self._labels is None:
            return Score(None, sqnr, np.zeros(0, np.bool_))
        labels = self._labels[: self.samples]
        right = (np.concatenate(named) == labels)[labels != UNLABELLED]
        return Score(100 * float(right.mean()), sqnr, right)


def few(feeds: Feeds, most: int) -> Feeds:
    """At most ``most`` samples: each class keeps its share, or they lie evenly over all."""
    if len(feeds) <= most:
        return feeds
    if feeds.labels is None:
        places = np.linspace(0, len(feeds) - 1, most).astype(np.int64)
    else:
        places = stratified(feeds.labels, most, seed=0)
    return replace(
        feeds,
        arrays={name: each[places] for name, each in feeds.arrays.items()},
        labels=None if feeds.labels is None else feeds.labels[places],
    )


def beaten(one: Truths, other: Truths) -> bool:
    """Whether the other has more of the same samples right than chance explains, at 5 %.

    McNemar's test (Psychometrika 12, 1947): only samples count that one alone has right. One
    sample more is never enough.
    """
    gained, lost = int((other & ~one).sum()), int((one & ~other).sum())
    return gained - lost > max(1.0, _Z95 * math.sqrt(gained + lost))
