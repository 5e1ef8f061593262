"""Weights on disk: nothing but tensors is read, and every mismatch is named."""

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
from tests.models import nets


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
            r"another shape for 'head.bias', \(3,\) and not \(10,\)",
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


@pytest.mark.parametrize(
    ("suffix", "inside", "prefix"),
    [
        (".pt", None, ""),
        (".pth", "state_dict", "module."),
        (".bin", "model", "_orig_mod.module."),
        (".ckpt", "model_state_dict", "module._orig_mod."),
        (".PT", "teacher", ""),
    ],
)
@pytest.mark.parametrize("old_format", [True, False])
def test_a_pytorch_checkpoint_is_read(
    tmp_path: Path, suffix: str, inside: str | None, prefix: str, old_format: bool
) -> None:
    model, other = nets.pooled(3, 1), nets.pooled(3, 1)
    content: dict[str, object] = {prefix + n: each for n, each in model.state_dict().items()}
    if inside is not None:
        content = {inside: content, "epoch": 3, "optimizer": {"lr": 0.1}, "args": ["a"]}
    path = tmp_path / f"w{suffix}"
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    weights.fill(other, path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_a_networks_own_part_called_module_is_not_taken_off(tmp_path: Path) -> None:
    model = nn.Sequential()
    model.add_module("module", nn.Linear(2, 2))
    weights.save(model, tmp_path / "w.safetensors")
    weights.fill(model, tmp_path / "w.safetensors")


def test_half_precision_and_files_without_a_count_of_batches(tmp_path: Path) -> None:
    model = nets.pooled(3, 1)
    state = {
        name: each.half()
        for name, each in model.state_dict().items()
        if "num_batches_tracked" not in name
    }
    save_file(state, tmp_path / "w.safetensors")
    other = nets.pooled(3, 1)
    weights.fill(other, tmp_path / "w.safetensors")
    assert other[0].weight.dtype == torch.float32
    assert torch.equal(other[0].weight, model[0].weight.half().float())


def test_a_tensor_under_two_names_is_kept(tmp_path: Path) -> None:
    layer = nn.Linear(3, 3)
    shared = nn.Sequential(layer, layer)
    weights.save(shared, tmp_path / "w.safetensors")
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    weights.fill(other, tmp_path / "w.safetensors")
    assert torch.equal(other[0].weight, layer.weight)
    assert torch.equal(other[1].weight, layer.weight)


class _Touch:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "run"
    state = nn.Linear(1, 1).state_dict()
    pickled = pickle.dumps(_Touch(mark), protocol=2)
    (tmp_path / "w.safetensors").write_bytes(pickled)
    with pytest.raises(TrainError, match="not a safetensors file .*save_file"):
        weights.fill(nn.Linear(1, 1), tmp_path / "w.safetensors")
    (tmp_path / "bare.pt").write_bytes(pickled)
    torch.save({**state, "more": _Touch(mark)}, tmp_path / "mixed.pth")
    torch.save({"state_dict": state, "args": _Touch(mark)}, tmp_path / "beside.ckpt")
    torch.save(nn.Linear(1, 1), tmp_path / "module.pt")
    torch.save(_Touch(mark), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("bare.pt", "mixed.pth", "beside.ckpt", "module.pt", "old.bin"):
        with pytest.raises(TrainError, match=f"{name} holds more than tensors; it is not opened"):
            weights.fill(nn.Linear(1, 1), tmp_path / name)
    assert not mark.exists()
    pickle.loads(pickled)  # the mark is one that would be seen
    assert mark.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a PyTorch checkpoint"),
        (b"<html>", "not a PyTorch checkpoint"),
        ([1, 2], "holds no state dict, by itself or under state_dict, model"),
        ({}, "holds no state dict"),
        ({"model": {"a": 1}, "net": {}}, "holds no state dict"),
        (None, "it is not whole"),
    ],
)
def test_a_file_without_weights_is_told(content: object, words: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(nn.Linear(9, 9).state_dict() if content is None else content, path)
    if content is None:
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TrainError, match=words) as caught:
        weights.fill(nn.Linear(1, 1), path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.pt", "none.safetensors"])
def test_a_file_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="cannot be read .No such file"):
        weights.fill(nn.Linear(1, 1), tmp_path / name)


def test_the_number_of_classes_is_told_from_weights_that_differ_in_nothing_else() -> None:
    model = nets.pooled(10, 1)
    assert weights.classes_of(model, nets.pooled(3, 1).state_dict(), 10) == 3
    assert weights.classes_of(model, nets.pooled(10, 1).state_dict(), 10) == 10
    assert weights.classes_of(model, nets.pooled(3, 3).state_dict(), 10) == 10  # channels as well


def test_the_network_of_a_plain_checkpoint_is_itself(checkpoint: Checkpoint) -> None:
    model = weights.load(checkpoint)
    assert weights.network(model) is model
