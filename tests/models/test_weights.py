"""Weights on disk: safetensors alone, and every mismatch is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgekd import models
from edgekd.artifacts import Checkpoint
from edgekd.errors import TrainError
from edgekd.models import weights


def test_what_is_saved_is_loaded(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = weights.load(checkpoint)
    assert not model.training
    weights.save(model.to(memory_format=torch.channels_last), tmp_path / "w.safetensors")
    other = models.create("resnet8", 10, 1)
    weights.fill(other, tmp_path / "w.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("head.bias"), "miss 'head.bias'"),
        (lambda state: state.update(extra=torch.zeros(1)), "hold the unknown 'extra'"),
        (
            lambda state: state.update({"head.bias": torch.zeros(3)}),
            "another shape for 'head.bias'",
        ),
        (lambda state: state.clear(), "and .* more"),
    ],
)
def test_other_tensors_are_named(change, words: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = models.create("resnet8", 10, 1)
    state = dict(model.state_dict())
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(TrainError, match=words):
        weights.fill(model, tmp_path / "w.safetensors")


class _Touch:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    mark = tmp_path / "run"
    path.write_bytes(pickle.dumps(_Touch(mark)))
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "w.pt")
    for each in (path, tmp_path / "w.pt"):
        with pytest.raises(TrainError, match="not a safetensors file .*save_file"):
            weights.fill(models.create("resnet8", 10, 1), each)
    assert not mark.exists()
    with pytest.raises(TrainError, match="cannot be read"):
        weights.fill(models.create("resnet8", 10, 1), tmp_path / "none")
