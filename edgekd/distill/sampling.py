"""Which training images a step sees, in which view: a matter of the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from edgekd.artifacts import Preprocessing
from edgekd.data import UNLABELLED, Images
from edgekd.data.batches import draw_view, slices
from edgekd.data.splits import Ids, Samples
from edgekd.preprocessing import normalise
from edgekd.recipe import TrainSettings

T = TypeVar("T")


class Batch(NamedTuple):
    """One rank's part of one step; ``ids`` are places in the training split."""

    x: torch.Tensor
    labels: torch.Tensor
    view: int
    ids: torch.Tensor


def order(samples: Samples, settings: TrainSettings, epoch: int, taught: bool) -> Ids:
    """The places of an epoch's images, shape (n,), in an order drawn for it.

    Without a teacher only images with a label are of use; they come round again until the
    epoch is as long as one with a teacher, so that both take the same steps.

    Args:
        samples: the training split.
        settings: ``seed`` counts.
        epoch: from 0.
        taught: whether there is a teacher.
    """
    n = len(samples)
    rng = np.random.default_rng([settings.seed, epoch, n])
    pool = np.arange(n) if taught else np.flatnonzero(samples.labels != UNLABELLED)
    rounds = [pool[rng.permutation(len(pool))] for _ in range(-(-n // len(pool)))]
    return np.concatenate(rounds)[:n]


def batches(
    samples: Samples,
    settings: TrainSettings,
    preprocessing: Preprocessing,
    epoch: int,
    *,
    taught: bool,
    first: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """An epoch's batches from step ``first`` on; a last batch that is short is left out.

    Of each batch, rank ``rank`` gets the images in its place in the whole one.
    """
    n = len(samples)
    distinct = settings.distinct_views()
    index = epoch % distinct if distinct else epoch
    view = draw_view(n, flip=settings.flip, shift=settings.shift, seed=settings.seed, index=index)
    places = order(samples, settings, epoch, taught)
    own = settings.batch // ranks
    for step in range(first, n // settings.batch):
        begin = step * settings.batch + rank * own
        ids = places[begin : begin + own]
        images = view.apply(samples.images[ids], ids)
        labels = torch.from_numpy(samples.labels[ids])
        yield Batch(tensor(images, preprocessing), labels, index, torch.from_numpy(ids))


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each prepared in a thread while the one before is worked on."""
    nothing = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, nothing)
        while (item := coming.result()) is not nothing:
            coming = thread.submit(next, items, nothing)
            yield item  # type: ignore[misc]


def whole(
    samples: Samples, settings: TrainSettings, preprocessing: Preprocessing, view: int, batch: int
) -> Iterator[tuple[slice, torch.Tensor]]:
    """One view of the whole split in the split's own order: a slice of places, and its images."""
    n = len(samples)
    drawn = draw_view(n, flip=settings.flip, shift=settings.shift, seed=settings.seed, index=view)
    for part in slices(n, batch):
        images = drawn.apply(samples.images[part], np.arange(part.start, part.stop))
        yield part, tensor(images, preprocessing)


def tensor(images: Images, preprocessing: Preprocessing) -> torch.Tensor:
    """A network's input from pixels, channels last in memory."""
    x = torch.from_numpy(normalise(images, preprocessing))
    return x.contiguous(memory_format=torch.channels_last)
