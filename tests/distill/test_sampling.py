"""Which images a step sees: every one once an epoch, wherever it starts, however many ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.artifacts import Preprocessing
from edgekd.data import UNLABELLED
from edgekd.data.splits import Samples
from edgekd.distill import sampling
from edgekd.recipe import TrainSettings

PLAIN = Preprocessing(mean=(0.0,), std=(1 / 255,))


def _samples(n: int, labelled: int) -> Samples:
    """Image i holds its own number."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 1, 2, 2))
    labels = np.where(np.arange(n) < labelled, np.arange(n) % 3, UNLABELLED)
    return Samples(images.copy(), labels, np.arange(n))


@given(st.integers(8, 60), st.integers(2, 4), st.integers(0, 3), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_ranks_share_each_batch_and_a_later_start_skips_nothing(
    n: int, ranks: int, first: int, epoch: int
) -> None:
    chosen = TrainSettings(batch=2 * ranks, flip=False)
    samples = _samples(n, n)

    def run(**how: int) -> list[sampling.Batch]:
        return list(sampling.batches(samples, chosen, PLAIN, epoch, taught=True, **how))

    whole = run()
    assert len(whole) == n // chosen.batch
    seen = torch.cat([each.ids for each in whole])
    assert len(set(seen.tolist())) == len(seen)
    parts = [run(rank=rank, ranks=ranks) for rank in range(ranks)]
    for step, batch in enumerate(whole):
        together = [part[step] for part in parts]
        assert torch.equal(torch.cat([each.ids for each in together]), batch.ids)
        assert torch.equal(torch.cat([each.x for each in together]), batch.x)
        assert torch.equal(batch.x[:, 0, 0, 0], batch.ids.float())
        assert torch.equal(batch.labels, torch.from_numpy(samples.labels)[batch.ids])
    late = run(first=first)
    assert [each.ids.tolist() for each in late] == [each.ids.tolist() for each in whole[first:]]


def test_epochs_differ_and_seeds_too() -> None:
    samples = _samples(50, 50)
    orders = [
        sampling.order(samples, TrainSettings(seed=seed), epoch, True).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({tuple(each) for each in orders}) == 4
    assert all(sorted(each) == list(range(50)) for each in orders)


@pytest.mark.parametrize("labelled", [7, 50])
def test_without_a_teacher_labelled_images_come_round_for_as_many_steps(labelled: int) -> None:
    samples = _samples(50, labelled)
    order = sampling.order(samples, TrainSettings(), 0, False)
    assert len(order) == 50
    counts = np.bincount(order, minlength=50)
    assert counts[labelled:].sum() == 0
    assert counts[:labelled].max() - counts[:labelled].min() <= 1
    taught = sampling.order(samples, TrainSettings(), 0, True)
    assert sorted(taught.tolist()) == list(range(50))


def test_views_come_round() -> None:
    samples = _samples(8, 8)
    for changes, expected in (
        ({"views": 2}, [0, 1, 0]),
        ({"views": 0}, [0, 1, 2]),
        ({"views": 0, "flip": False}, [0, 0, 0]),
    ):
        chosen = TrainSettings(batch=8, **changes)  # type: ignore[arg-type]
        found = [
            next(sampling.batches(samples, chosen, PLAIN, epoch, taught=True)).view
            for epoch in range(3)
        ]
        assert found == expected


def test_items_prepared_ahead_are_the_same_and_errors_pass() -> None:
    assert list(sampling.ahead(iter(range(5)))) == list(range(5))
    assert list(sampling.ahead(iter(()))) == []

    def failing():  # type: ignore[no-untyped-def]
        yield 1
        raise ValueError("the second cannot be read")

    items = sampling.ahead(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="the second"):
        next(items)


def test_the_whole_of_a_view_is_in_the_splits_own_order() -> None:
    samples = _samples(10, 10)
    parts = list(sampling.whole(samples, TrainSettings(flip=False), PLAIN, 0, 4))
    assert [(part.start, part.stop) for part, _ in parts] == [(0, 4), (4, 8), (8, 10)]
    assert torch.equal(torch.cat([x for _, x in parts])[:, 0, 0, 0], torch.arange(10.0))
