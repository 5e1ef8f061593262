"""Networks of other people: ``timm:NAME``, ``torchvision:NAME``, and ``module:function``.

A function is called as ``function(classes=..., channels=...)`` and returns an ``nn.Module``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgekd import plugins
from edgekd.errors import BackendUnavailable, DataError, RecipeError, TrainError, near_matches
from edgekd.store import installed

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("timm", "torchvision")
_AUXILIARY = {"googlenet", "inception_v3"}
"""Networks of torchvision with further heads, which give a tuple while they train."""


@dataclass(frozen=True)
class Pretrained:
    """A library's own weights, and the preprocessing that they were trained with."""

    network: nn.Module
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def is_external(name: str) -> bool:
    """Whether a name has the form of an external network's."""
    return ":" in name


def check(name: str, field: str) -> None:
    """Refuses a network that its library, or its module, does not have.

    Raises:
        RecipeError: naming the near matches.
        BackendUnavailable: the library is not installed, or cannot be imported.
    """
    library, inner = _split(name)
    if not library:
        plugins.function(name, field)
        return
    known = _names(library)
    if inner not in known and not (library == "timm" and _library("timm").is_model(inner)):
        close = get_close_matches(inner, known, n=3, cutoff=0.6)
        raise RecipeError(
            f"{library} has no network '{inner}'",
            near_matches(inner, close) if close else f"{library}'s list_models() names them",
            field=field,
        )


def identity(name: str) -> dict[str, str]:
    """The library's version, or the hash of the function's source."""
    library, _ = _split(name)
    return installed([library]) if library else {"source": plugins.source_hash(name)}


def create(name: str, classes: int, channels: int) -> nn.Module:
    """A network with fresh weights.

    Raises:
        RecipeError: there is no such network.
        BackendUnavailable: its library is not usable here.
        TrainError: the function, or the library, fails or returns no network.
    """
    from torch import nn

    check(name, "model")
    library, inner = _split(name)
    try:
        if library == "timm":
            made = _library(library).create_model(
                inner, num_classes=classes, in_chans=channels, pretrained=False
            )
        elif library == "torchvision":
            made = _torchvision(inner, num_classes=classes, weights=None)
            if channels != 3:
                _replace_first_convolution(made, channels)
        else:
            made = plugins.function(name, "model")(classes=classes, channels=channels)
    except Exception as error:
        raise TrainError(f"{name} cannot be made: {plugins.blame(error, name)}") from error
    if not isinstance(made, nn.Module):
        raise TrainError(f"{name} returned a {type(made).__name__}, and not a torch.nn.Module")
    return made


def pretrained(name: str) -> Pretrained:
    """A network with its library's own weights, classes and preprocessing.

    Raises:
        DataError: they cannot be had.
        RecipeError, BackendUnavailable: see ``check``.
    """
    check(name, "model")
    library, inner = _split(name)
    try:
        if library == "timm":
            network = _library(library).create_model(inner, pretrained=True)
            own = network.pretrained_cfg
            mean, std, channels = own["mean"], own["std"], own["input_size"][0]
        else:
            network = _torchvision(inner, weights="DEFAULT")
            own = _library(library).models.get_model_weights(inner).DEFAULT.transforms()
            mean, std, channels = own.mean, own.std, 3
    except (OSError, RuntimeError, ValueError, AttributeError) as error:
        raise DataError(
            f"the weights of {name} cannot be had: {plugins.blame(error, name)}",
            "download them elsewhere and name the file in weights",
        ) from error
    return Pretrained(network, channels, tuple(mean), tuple(std))


def _split(name: str) -> tuple[str, str]:
    """The library, empty for a function, and the name in it."""
    library, _, inner = name.partition(":")
    return (library, inner) if library in LIBRARIES else ("", name)


def _library(name: str) -> Any:
    """An imported library.

    Raises:
        BackendUnavailable: it is not installed, or fails where it is imported.
    """
    if installed([name])[name] == "absent":
        raise BackendUnavailable(name, "zoo", "it is not installed")
    try:
        return import_module(name)
    except (ImportError, RuntimeError, OSError) as error:  # torchvision built for another torch
        torch = installed(["torch"])["torch"]
        reason = f"it cannot be imported beside torch {torch}: {plugins.blame(error, name)}"
        raise BackendUnavailable(name, "", reason) from error


def _names(library: str) -> Sequence[str]:
    found: Sequence[str]
    if library == "timm":
        found = _library(library).list_models()
    else:
        models = _library(library).models
        found = models.list_models(module=models)  # those that classify
    return found


def _torchvision(name: str, **arguments: Any) -> nn.Module:
    if name in _AUXILIARY:
        arguments |= {"aux_logits": False}
        if arguments["weights"] is None:
            arguments |= {"init_weights": True}
    network: nn.Module = _library("torchvision").models.get_model(name, **arguments)
    return network


def _replace_first_convolution(network: nn.Module, channels: int) -> None:
    """Puts a fresh one with that many input channels in its place.

    Raises:
        ValueError: no convolution takes three channels.
    """
    from torch import nn

    for path, old in network.named_modules():
        if isinstance(old, nn.Conv2d) and old.in_channels == 3:
            parent, _, last = path.rpartition(".")
            new = nn.Conv2d(
                channels,
                old.out_channels,
                old.kernel_size,  # type: ignore[arg-type]
                old.stride,  # type: ignore[arg-type]
                old.padding,  # type: ignore[arg-type]
                old.dilation,  # type: ignore[arg-type]
                bias=old.bias is not None,
                padding_mode=old.padding_mode,
            )
            setattr(network.get_submodule(parent), last, new)
            return
    raise ValueError("none of its convolutions takes three channels")
