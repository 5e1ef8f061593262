"""Networks: their cost is what a count by hand gives, and their names are found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekd import models
from edgekd.errors import RecipeError

SHAPE = (1, 28, 28)


def _counted(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates from each layer's own dimensions: an independent count."""
    total = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            per_output = module.in_channels // module.groups * module.kernel_size[0] ** 2
            total += output[0].numel() * per_output
        elif isinstance(module, nn.Linear):
            total += module.in_features * module.out_features

    hooks = [each.register_forward_hook(count) for each in model.modules()]
    with torch.inference_mode():
        model.eval()(torch.zeros(1, *shape))
    for each in hooks:
        each.remove()
    return total


@pytest.mark.parametrize("name", models.MODELS)
def test_cost_is_the_layers_own(name: str) -> None:
    model = models.create(name, 10, 1)
    params, macs = models.cost(model, SHAPE)
    assert macs == _counted(model, SHAPE)
    assert params == sum(each.numel() for each in model.parameters())
    assert model.training is False or models.cost(model.train(), SHAPE) == (params, macs)


@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [
        ("resnet20", 31.0e6, 272e3),
        ("dscnn-s", 0.6e6, 18.3e3),
        ("dscnn-m", 1.9e6, 50e3),
        ("dscnn-l", 6.5e6, 170e3),
        ("resnet8", 9.3e6, 78e3),
    ],
)
def test_the_sizes_that_the_documents_give(name: str, macs: float, params: float) -> None:
    found = models.cost(models.create(name, 10, 1), SHAPE)
    assert found == (pytest.approx(params, rel=0.1), pytest.approx(macs, rel=0.1))


def test_the_smallest_student_is_under_a_fortieth_of_the_teacher() -> None:
    student = models.cost(models.create("dscnn-s", 10, 1), SHAPE)[1]
    teacher = models.cost(models.create("resnet20", 10, 1), SHAPE)[1]
    assert student * 40 < teacher


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 47)])
def test_any_image_size_and_number_of_channels(name: str, shape: tuple[int, int, int]) -> None:
    model = models.create(name, 7, shape[0]).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, *shape)).shape == (2, 7)


def test_an_unknown_name_names_the_near_ones() -> None:
    with pytest.raises(RecipeError, match=r"student.model: no student is called 'dscn-s': did you"):
        models.check("dscn-s", "student")
    models.check("resnet20", "student")  # a teacher's architecture may be taught as well
