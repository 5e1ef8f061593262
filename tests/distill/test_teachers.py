"""The teacher: frozen, in eval mode, asked for each batch, or once for each view and kept."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.artifacts import Checkpoint, Dataset, TeacherLogits
from edgekd.data import UNLABELLED, splits
from edgekd.data.batches import draw_view
from edgekd.distill.sampling import tensor
from edgekd.distill.teachers import Kept, Teacher, record, state_hash, within_reach
from edgekd.errors import TrainError
from edgekd.models import weights
from edgekd.recipe import DistillSettings, TrainSettings

CPU = torch.device("cpu")
EXACT = DistillSettings(autocast="off")


def test_nothing_of_it_moves_even_if_it_comes_in_train_mode(checkpoint: Checkpoint) -> None:
    model = weights.load(checkpoint).train()
    before = state_hash(model)
    teacher = Teacher(model, CPU, {"f": "layer2"})
    logits, (feature,) = teacher.ask(torch.randn(8, 1, 8, 8))
    assert not logits.requires_grad
    assert not feature.requires_grad
    assert feature.shape == (8, 32, 4, 4)
    assert not model.training
    assert state_hash(model) == before
    teacher.check_frozen()


def test_its_logits_are_the_networks(checkpoint: Checkpoint) -> None:
    model = weights.load(checkpoint)
    x = torch.randn(16, 1, 8, 8)
    with torch.no_grad():
        expected = model(x)
    exact, _ = Teacher(model, CPU, autocast="off").ask(x)
    torch.testing.assert_close(exact, expected, rtol=1e-5, atol=1e-5)
    quick, _ = Teacher(model, CPU).ask(x)
    assert quick.dtype == torch.float32
    # bf16 holds eight bits: where the processor has it, outputs agree to about one part in 100.
    assert (quick - expected).abs().max() < 0.05 * expected.abs().max()
    student = torch.ones(10, requires_grad=True)
    (quick * student).sum().backward()  # a tensor that autograd can use


def test_kept_logits_are_the_answers_to_each_seeded_view(
    checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    train = TrainSettings(flip=True, shift=1, views=3, seed=5)
    found = record(dataset, checkpoint, train, EXACT, tmp_path)
    samples = splits.read(dataset, "train")
    n = len(samples)
    assert (found.views, found.classes) == (3, 10)
    kept = Kept(found, n, 10)
    assert isinstance(kept._logits, np.memmap)
    model, ids = weights.load(checkpoint), np.array([7, 0, n - 1, 300])
    answers = []
    for view in range(3):
        drawn = draw_view(n, flip=True, shift=1, seed=5, index=view)
        x = tensor(drawn.apply(samples.images[ids], ids), dataset.preprocessing)
        with torch.no_grad():
            answers.append(model(x))
        logits = kept.logits(view, torch.from_numpy(ids))
        torch.testing.assert_close(logits, answers[-1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(answers[0], answers[1])


def test_without_augmentation_one_view_is_enough(
    checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    train = TrainSettings(flip=False, shift=0, views=0)
    assert record(dataset, checkpoint, train, EXACT, tmp_path).views == 1


def test_half_precision_holds_what_it_can_and_refuses_the_rest(
    checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    half = EXACT.model_copy(update={"cache_dtype": "float16"})
    plain = TrainSettings(flip=False)
    found = record(dataset, checkpoint, plain, half, tmp_path)
    assert np.load(found.path).dtype == np.float16
    loud = weights.load(checkpoint)
    with torch.no_grad():
        loud.get_submodule("head").weight *= 1e6  # type: ignore[operator]
    path = tmp_path / "loud.safetensors"
    weights.save(loud, path)
    louder = Checkpoint(**{**vars(checkpoint), "weights": path})
    with pytest.raises(TrainError, match="logits that float16 cannot hold: use distill"):
        record(dataset, louder, plain, half, tmp_path)


def test_logits_of_another_split_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "logits.npy", np.zeros((2, 5, 3), np.float32))
    found = TeacherLogits(path=tmp_path / "logits.npy", views=2, classes=3)
    assert Kept(found, 5, 3).logits(1, torch.tensor([4])).shape == (1, 3)
    with pytest.raises(TrainError, match=re.escape("shape (2, 5, 3), and the training split")):
        Kept(found, 6, 3)


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        (TrainSettings(flip=True, views=0), "draws new views"),
        (TrainSettings(shift=1, flip=False, views=0), "draws new views"),
        (TrainSettings(flip=False, mixup=0.1), "must see them"),
        (TrainSettings(flip=False, cutmix=0.1), "must see them"),
        (TrainSettings(flip=True, views=2), ""),
        (TrainSettings(flip=False), ""),
    ],
)
def test_random_views_are_not_kept(train: TrainSettings, reason: str) -> None:
    auto = DistillSettings()
    assert reason in auto.uncacheable(train)
    assert bool(auto.uncacheable(train)) == bool(reason)
    assert auto.caches(train) == (not reason)
    assert not DistillSettings(cache="off").caches(train)
    assert DistillSettings(weights={"rkd": 1}).uncacheable(TrainSettings(flip=False))


def test_as_many_views_as_epochs_are_not_worth_keeping_unless_asked_for() -> None:
    train = TrainSettings(epochs=4, views=4)
    assert not DistillSettings().caches(train)
    assert DistillSettings(cache="on").caches(train)


KNOWS = torch.tensor(  # a teacher of classes 0 and 1, one of 2 and 3
    [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.bool
)


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_an_image_hears_only_teachers_that_know_its_label(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(6, 4, generator=rng)
    labels = torch.tensor([0, 1, 2, 3, UNLABELLED, 0])
    heard = within_reach(logits, labels, KNOWS)
    for row, label in enumerate(labels.tolist()):
        if label == UNLABELLED:
            assert torch.equal(heard[row], logits[row])
            continue
        told = KNOWS[label]
        assert torch.equal(heard[row][told], logits[row][told])
        assert (heard[row][~told] == logits[row][told].min() - 10).all()
    assert within_reach(logits, labels, None) is logits
    everything = torch.ones(4, 4, dtype=torch.bool)
    assert torch.equal(within_reach(logits, labels, everything), logits)
