"""Weights on disk: safetensors, and PyTorch's files where they hold nothing but tensors."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import models
from edgekd.artifacts import Checkpoint
from edgekd.errors import TrainError

if TYPE_CHECKING:
    import torch
    from torch import nn

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
_INSIDE = ("state_dict", "model", "model_state_dict", "teacher")
"""Under which names training scripts keep a state dict beside other things."""
_WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""
_SAVE = "save them with safetensors.torch.save_file(model.state_dict(), path)"


def save(model: nn.Module, path: Path) -> None:
    """Writes a network's parameters and buffers."""
    from safetensors.torch import save as to_bytes

    # A tensor under two names is written twice: safetensors does not hold shared memory.
    state = {
        name: each.detach().cpu().contiguous().clone() for name, each in model.state_dict().items()
    }
    path.write_bytes(to_bytes(state))


def load(checkpoint: Checkpoint) -> nn.Module:
    """The network of a checkpoint, or the ensemble of its members, in eval mode, on the CPU."""
    if checkpoint.members:
        from edgekd.models.ensemble import ensemble

        return ensemble(checkpoint.members, checkpoint.classes)
    model = models.create(checkpoint.model, checkpoint.classes, checkpoint.shape[0])
    fill(model, checkpoint.weights)
    return model.eval()


def network(model: nn.Module) -> nn.Module:
    """The torch network in which the paths of layers are looked up.

    Raises:
        TrainError: an ensemble has none, or several.
    """
    from edgekd.models.ensemble import Ensemble

    if not isinstance(model, Ensemble):
        return model
    found = model.torch_networks()
    if not found:
        raise TrainError(
            "an ONNX teacher gives logits alone, and has no layers to learn from",
            "choose a loss on logits, such as kl",
        )
    if len(found) > 1:
        raise TrainError(
            f"the teacher is {len(found)} networks, and layers are looked up in one",
            "choose a loss on logits, such as kl, or one teacher",
        )
    return found[0]


def fill(model: nn.Module, path: Path) -> None:
    """Fills a network from a file.

    Raises:
        TrainError: the file cannot be read, or its tensors are not this network's.
    """
    fill_from(model, read(path, model), path)


def fill_from(model: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Fills a network with tensors that were read from ``path``.

    Raises:
        TrainError: they are not this network's.
    """
    own = model.state_dict()
    # Older files lack the count of batches, which nothing reads in eval mode.
    missing = [
        name for name in own if name not in state and not name.endswith(".num_batches_tracked")
    ]
    other = sorted(
        name for name in own.keys() & state.keys() if own[name].shape != state[name].shape
    )
    for fault, names in (
        ("miss", sorted(missing)),
        ("hold the unknown", sorted(state.keys() - own.keys())),
        ("have another shape for", other),
    ):
        if names:
            first = names[0]
            shapes = (
                f", {tuple(state[first].shape)} and not {tuple(own[first].shape)}"
                if names is other
                else ""
            )
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise TrainError(
                f"weights {path} {fault} '{first}'{shapes}{more}",
                "name the model that they belong to, with its number of classes",
            )
    model.load_state_dict(state, strict=False)


def classes_of(model: nn.Module, state: Mapping[str, torch.Tensor], classes: int) -> int:
    """How many classes weights are for, where nothing but the last layer differs; else ``classes``.

    Args:
        model: the network, made for ``classes``.
        state: the weights.
        classes: the classes that the network was made for.
    """
    own = model.state_dict()
    other = [
        (tuple(own[name].shape), tuple(state[name].shape))
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    counts = {given[0] for _, given in other if given}
    same_inputs = all(
        expected[:1] == (classes,) and expected[1:] == given[1:] for expected, given in other
    )
    return counts.pop() if same_inputs and len(counts) == 1 else classes


def read(path: Path, model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file or of a PyTorch checkpoint, by their name in ``model``.

    A checkpoint is read by ``torch.load(weights_only=True)``, which makes tensors and plain
    containers, and runs nothing that the file names.

    Raises:
        TrainError: the file cannot be read, or holds more than tensors.
    """
    try:
        content = _torch_file(path) if path.suffix.lower() in TORCH_SUFFIXES else _safetensors(path)
    except OSError as error:
        raise TrainError(f"weights {path} cannot be read ({error.strerror or error})") from error
    while prefix := _wrapper(content, model):
        content = {name.removeprefix(prefix): each for name, each in content.items()}
    return content


def _wrapper(state: Mapping[str, torch.Tensor], model: nn.Module) -> str:
    """What stands before every name of the state and is not the network's own."""
    own = model.state_dict()
    for prefix in _WRAPPERS:
        if state and all(name.startswith(prefix) for name in state):
            return "" if any(name.startswith(prefix) for name in own) else prefix
    return ""


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        state: dict[str, torch.Tensor] = from_bytes(path.read_bytes())
    except SafetensorError as error:
        raise TrainError(f"weights {path} are not a safetensors file ({error})", _SAVE) from error
    return state


def _torch_file(path: Path) -> dict[str, torch.Tensor]:
    import torch

    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK" and start[:1] != b"\x80":  # a zip archive, or the pickle of old
        raise TrainError(f"weights {path} are not a PyTorch checkpoint", _SAVE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on how the file was written
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TrainError(f"{path} holds more than tensors; it is not opened", _SAVE) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = "it is a TorchScript archive" if "TorchScript" in str(error) else "it is not whole"
        raise TrainError(
            f"weights {path} cannot be read as a PyTorch checkpoint: {reason}", _SAVE
        ) from error
    found = _state_dict(content)
    if found is None:
        raise TrainError(
            f"{path} holds no state dict, by itself or under " + ", ".join(_INSIDE), _SAVE
        )
    return found


def _state_dict(content: Any) -> dict[str, torch.Tensor] | None:
    """The state dict that a checkpoint is, or holds."""
    import torch

    if not isinstance(content, dict) or not content:
        return None
    if all(isinstance(each, torch.Tensor) for each in content.values()):
        return {str(name): each for name, each in content.items()}
    inner = (_state_dict(content[name]) for name in _INSIDE if name in content)
    return next((each for each in inner if each is not None), None)
