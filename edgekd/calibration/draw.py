"""Which samples a set takes: pure functions from labels or features to places.

Each draw is an order of which the set is the beginning, so that the first half of a set is the
set of half as many samples, and what the second half adds can be told.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgekd.data import UNLABELLED, Labels
from edgekd.data.splits import by_share
from edgekd.progress import Progress, silent

Features = npt.NDArray[np.float32]
"""(n, features), one row a sample."""
Places = npt.NDArray[np.int64]

DRAWS = ("stratified", "coverage", "random")


def stratified(labels: Labels, n: int, seed: int) -> Places:
    """Each class its share, to a sample or so; those without a label come last."""
    known = np.flatnonzero(labels != UNLABELLED)
    others = np.flatnonzero(labels == UNLABELLED)
    first = known[by_share(labels[known], seed)]
    return np.concatenate([first, others[at_random(len(others), len(others), seed)]])[:n]


def at_random(count: int, n: int, seed: int) -> Places:
    """``n`` of ``count``, each as likely as any other."""
    return np.random.default_rng(seed).permutation(count)[:n]


def coverage(features: Features, n: int, progress: Progress = silent) -> Places:
    """The samples that leave no other one far away: greedy k-centre.

    It begins with the sample nearest to the mean, and takes the one farthest from all that were
    taken, again and again. No sample is then farther from the nearest taken one than twice what
    the best choice of ``n`` would leave (Gonzalez, Theoretical Computer Science 38, 1985; for
    choosing images: Sener & Savarese, ICLR 2018). Time is ``n`` passes over the features.
    """
    centred = features - features.mean(0, dtype=np.float64).astype(np.float32)
    squares = np.einsum("nf,nf->n", centred, centred)
    nearest = np.full(len(features), np.inf, np.float32)
    taken = np.empty(n, np.int64)
    place = int(squares.argmin())
    for step in range(n):
        taken[step] = place
        distance = squares - 2 * (centred @ centred[place]) + squares[place]
        nearest = np.minimum(nearest, np.maximum(distance, 0))
        nearest[place] = -1  # never again, even where copies leave all distances at zero
        place = int(nearest.argmax())
        progress(step + 1, n, "covering")
    return taken
