"""The teacher: frozen, in eval mode, asked once for each image of a view that comes back."""

from __future__ import annotations

import torch

from edgekd.artifacts import Checkpoint
from edgekd.distill.teachers import Teacher
from edgekd.models import weights

CPU = torch.device("cpu")


def _state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_nothing_of_it_moves_even_if_it_comes_in_train_mode(checkpoint: Checkpoint) -> None:
    model = weights.load(checkpoint).train()
    before = _state(model)
    teacher = Teacher(model, CPU, n=8, keep=False)
    logits = teacher.logits(torch.randn(8, 1, 8, 8), 0, torch.arange(8))
    assert not logits.requires_grad
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_its_logits_are_the_networks(checkpoint: Checkpoint) -> None:
    model = weights.load(checkpoint)
    x = torch.randn(16, 1, 8, 8)
    with torch.no_grad():
        expected = model(x)
    found = Teacher(model, CPU, n=16, keep=False).logits(x, 0, torch.arange(16))
    assert found.dtype == torch.float32
    # bf16 holds eight bits: where the processor has it, outputs agree to about one part in 100.
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
    found.requires_grad_().sum().backward()  # a tensor that autograd can use, not an inference one


class _Counting(torch.nn.Module):
    """Gives each image's first pixel as its logits, and counts the images."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        return x[:, 0, 0, :3]


def test_a_view_that_comes_back_is_asked_for_once_in_any_order() -> None:
    model = _Counting()
    teacher = Teacher(model, CPU, n=10, keep=True)
    x = torch.arange(10.0)[:, None, None, None].expand(10, 1, 3, 3)
    for ids in (torch.tensor([3, 1, 7]), torch.tensor([1, 0, 9]), torch.randperm(10)):
        assert torch.equal(teacher.logits(x[ids], 5, ids)[:, 0], ids.float())
    asked = model.seen
    for _ in range(3):
        ids = torch.randperm(10)
        assert torch.equal(teacher.logits(x[ids], 5, ids)[:, 0], ids.float())
    assert model.seen == asked
    assert asked == 10 + 1  # and one image to learn the number of classes
    teacher.logits(x, 6, torch.arange(10))
    assert model.seen == asked + 10 + 1  # another view is another question
