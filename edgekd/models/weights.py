"""Weights on disk: safetensors, which hold tensors and nothing that runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekd import models
from edgekd.artifacts import Checkpoint
from edgekd.errors import TrainError

if TYPE_CHECKING:
    from torch import nn


def save(model: nn.Module, path: Path) -> None:
    """Writes a network's parameters and buffers."""
    from safetensors.torch import save as to_bytes

    state = {name: each.detach().cpu().contiguous() for name, each in model.state_dict().items()}
    path.write_bytes(to_bytes(state))


def load(checkpoint: Checkpoint) -> nn.Module:
    """The network of a checkpoint, in eval mode, on the CPU."""
    model = models.create(checkpoint.model, checkpoint.classes, checkpoint.shape[0])
    fill(model, checkpoint.weights)
    return model.eval()


def fill(model: nn.Module, path: Path) -> None:
    """Fills a network from a .safetensors file.

    Raises:
        TrainError: the file cannot be read, or its tensors are not this network's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        state = from_bytes(path.read_bytes())
    except OSError as error:
        raise TrainError(f"weights {path} cannot be read ({error.strerror})") from error
    except SafetensorError as error:
        raise TrainError(
            f"weights {path} are not a safetensors file ({error})",
            "save them with safetensors.torch.save_file(model.state_dict(), path)",
        ) from error
    own = {name: tuple(each.shape) for name, each in model.state_dict().items()}
    given = {name: tuple(each.shape) for name, each in state.items()}
    for fault, names in (
        ("miss", sorted(own.keys() - given.keys())),
        ("hold the unknown", sorted(given.keys() - own.keys())),
        (
            "have another shape for",
            sorted(n for n in own.keys() & given.keys() if own[n] != given[n]),
        ),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise TrainError(
                f"weights {path} {fault} '{names[0]}'{more}",
                "name the model that they belong to, with its number of classes",
            )
    model.load_state_dict(state)
