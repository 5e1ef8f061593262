"""Adaptors: any shapes of features, gradients to the student, memories that learn."""

from __future__ import annotations

import pytest
import torch

from edgekd.distill.adaptors import ADAPTORS, Setting, as_maps
from edgekd.errors import RecipeError
from edgekd.recipe import DistillSettings

N = 12
LABELS = torch.arange(40) % 4
SETTINGS = DistillSettings(negatives=16, embedding=8)


def _features(shapes: list[tuple[int, ...]], seed: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(N, *shape, generator=rng) for shape in shapes]


def _adaptor(name: str, ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> torch.nn.Module:
    torch.manual_seed(0)
    return ADAPTORS[name](Setting(as_maps(ours), as_maps(theirs), LABELS, SETTINGS))


@pytest.mark.parametrize("name", ADAPTORS)
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ([(3, 8, 8), (4, 4, 4)], [(6, 6, 6), (5, 4, 4)]),  # maps of other sizes and channels
        ([(3, 4, 4), (7,)], [(5, 4, 4), (9,)]),  # a vector beside a map
        ([(6, 3), (6, 5)], [(4, 2, 3), (6, 8)]),  # tokens
    ],
    ids=["maps", "vectors", "tokens"],
)
def test_any_shapes_give_one_number_and_a_gradient(
    name: str, student: list[tuple[int, ...]], teacher: list[tuple[int, ...]]
) -> None:
    ours = [each.requires_grad_() for each in _features(student, 0)]
    theirs = _features(teacher, 1)
    adaptor = _adaptor(name, ours, theirs)
    loss = adaptor(as_maps(ours), as_maps(theirs), torch.arange(N))
    assert loss.shape == ()
    loss.backward()
    assert ours[-1].grad is not None
    assert torch.isfinite(ours[-1].grad).all()
    assert all(each.grad is not None for each in adaptor.parameters() if each.requires_grad)


@pytest.mark.parametrize("name", ["hint", "vid", "crd"])
def test_a_trained_adaptor_brings_its_loss_down(name: str) -> None:
    ours, theirs = _features([(3, 4, 4), (4, 2, 2)], 0), _features([(5, 4, 4), (6, 2, 2)], 1)
    adaptor = _adaptor(name, ours, theirs)
    optimizer = torch.optim.Adam(adaptor.parameters(), 0.01)
    losses = []
    for _ in range(60):
        loss = adaptor(as_maps(ours), as_maps(theirs), torch.arange(N))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_crd_contrasts_with_other_classes_and_never_with_itself() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, -1, -1])
    ours, theirs = _features([(4, 1, 1)], 0), _features([(4, 1, 1)], 1)
    setting = Setting(as_maps(ours), as_maps(theirs), labels, SETTINGS)
    crd = ADAPTORS["crd"](setting)
    for image, label in enumerate(labels.tolist()):
        found = set(crd._others(torch.tensor([image] * 50)).flatten().tolist())  # type: ignore[operator]
        alike = {image} if label < 0 else {i for i, y in enumerate(labels.tolist()) if y == label}
        assert found == set(range(7)) - alike


def test_crd_s_memories_move_toward_what_was_seen_and_only_there() -> None:
    ours, theirs = _features([(4, 1, 1)], 0), _features([(4, 1, 1)], 1)
    crd = _adaptor("crd", ours, theirs)
    before = crd.ours.clone()  # type: ignore[operator]
    ids = torch.arange(20, 20 + N)
    crd(as_maps(ours), as_maps(theirs), ids)
    moved = (crd.ours != before).any(1)  # type: ignore[union-attr]
    assert moved.nonzero()[:, 0].tolist() == ids.tolist()
    torch.testing.assert_close(crd.ours.norm(dim=1), torch.ones(40))  # type: ignore[operator]


def test_gram_wants_two_layers_and_other_ranks_are_refused() -> None:
    one = _features([(4, 2, 2)], 0)
    with pytest.raises(RecipeError, match="'gram' relates two layers, and one is named"):
        _adaptor("gram", one, one)
    with pytest.raises(RecipeError, match=r"shape \(12, 2, 2, 2, 2\), which is no map"):
        as_maps(_features([(2, 2, 2, 2)], 0))
