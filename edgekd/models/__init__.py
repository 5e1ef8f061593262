"""Networks by name, and what they cost: built-in ones, and those of ``edgekd.models.external``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edgekd import plugins
from edgekd.errors import RecipeError, TrainError, near_matches
from edgekd.models import external
from edgekd.recipe import TEACHER_FILES

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


def check(name: str, role: str, field: str = "") -> None:
    """Refuses a name that is no network; any network may take either role.

    Args:
        name: a built-in network, ``timm:NAME``, ``torchvision:NAME`` or ``module:function``.
        role: what the network is to be, ``teacher`` or ``student``.
        field: the recipe's key; empty for the role's ``model``.

    Raises:
        RecipeError: naming the near matches.
        BackendUnavailable: the library that the name belongs to is not usable here.
    """
    field = field or f"{role}.model"
    if external.is_external(name) and name.partition(":")[0] in TEACHER_FILES:
        raise RecipeError(
            f"'{name}' cannot be trained", f"a {role} is a network by its name", field=field
        )
    if external.is_external(name):
        external.check(name, field)
    elif name not in MODELS:
        raise RecipeError(f"no {role} is called '{name}'", near_matches(name, MODELS), field=field)


def create(name: str, classes: int, channels: int) -> nn.Module:
    """A network with fresh weights, drawn from torch's global generator.

    It maps (n, channels, height, width) float32 to (n, classes) logits.

    Raises:
        RecipeError, BackendUnavailable, TrainError: an external one cannot be made.
    """
    if external.is_external(name):
        return external.create(name, classes, channels)
    module, factory = MODELS[name].split(":")
    model: nn.Module = getattr(import_module(module), factory)(classes, channels)
    return model


def identity(name: str) -> dict[str, str]:
    """What decides which network a name makes, for a stage's key."""
    return {"model": name, **(external.identity(name) if external.is_external(name) else {})}


def layers(name: str) -> list[str]:
    """The module paths of a built-in network."""
    return [path for path, _ in create(name, 2, 1).named_modules() if path]


def fitting(name: str, classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """``create``, and two black images through it: a network that does not fit is told early.

    Raises:
        TrainError: it fails on images of that shape, or gives anything but (n, classes).
    """
    model = create(name, classes, shape[0])
    found = try_on(model, name, shape)
    if found != (2, classes):
        raise TrainError(
            f"{name} gives {found} for two images, and not (2, {classes})",
            "a network gives one row of logits an image",
        )
    return model


def try_on(model: nn.Module, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what a network gives for two black images; its statistics stay as they are.

    Raises:
        TrainError: it fails, or gives something other than one tensor.
    """
    import torch

    training = model.training
    with torch.no_grad():  # lazy parameters made here are to be trained
        try:
            out = model.eval()(torch.zeros(2, *shape))
        except Exception as error:
            raise TrainError(
                f"{name} fails on images of shape {shape}: {plugins.blame(error, name)}",
                "name a network that takes images of that size",
            ) from error
    model.train(training)
    if not isinstance(out, torch.Tensor):
        raise TrainError(f"{name} gives a {type(out).__name__}, and not one tensor of logits")
    return tuple(out.shape)


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
