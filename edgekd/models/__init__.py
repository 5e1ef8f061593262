"""Built-in networks by name, and what they cost."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edgekd.errors import RecipeError, near_matches

if TYPE_CHECKING:
    from torch import nn

TEACHERS = {
    "resnet20": "edgekd.models.resnet:resnet20",
    "resnet32": "edgekd.models.resnet:resnet32",
    "resnet56": "edgekd.models.resnet:resnet56",
}
STUDENTS = {
    "dscnn-s": "edgekd.models.dscnn:dscnn_s",
    "dscnn-m": "edgekd.models.dscnn:dscnn_m",
    "dscnn-l": "edgekd.models.dscnn:dscnn_l",
    "resnet8": "edgekd.models.resnet:resnet8",
}
MODELS = {**STUDENTS, **TEACHERS}


def check(name: str, role: str) -> None:
    """Refuses a name that is no built-in network; any of them may take either role.

    Raises:
        RecipeError: naming the near matches.
    """
    if name not in MODELS:
        raise RecipeError(
            f"no {role} is called '{name}'", near_matches(name, MODELS), field=f"{role}.model"
        )


def create(name: str, classes: int, channels: int) -> nn.Module:
    """A built-in network with fresh weights, drawn from torch's global generator.

    It maps (n, channels, height, width) float32 to (n, classes) logits.
    """
    module, factory = MODELS[name].split(":")
    model: nn.Module = getattr(import_module(module), factory)(classes, channels)
    return model


def cost(model: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of convolutions and products for one image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    training = model.training
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        model.eval()(torch.zeros(1, *shape))
    model.train(training)
    return sum(each.numel() for each in model.parameters()), counter.get_total_flops() // 2
