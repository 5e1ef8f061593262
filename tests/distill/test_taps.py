"""Taps: the feature as the module gave it, whatever happens to it afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekd import models
from edgekd.distill.taps import Tap
from edgekd.errors import RecipeError


def _with_inplace_relu() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten())


def test_a_feature_is_what_the_module_gave_before_an_inplace_relu() -> None:
    model = _with_inplace_relu()
    x = torch.randn(2, 1, 8, 8)
    with Tap(model, {"conv": "0"}) as tap:
        model(x)
        found = tap.features()["conv"]
    assert torch.equal(found, model[0](x))  # type: ignore[index]
    assert (found < 0).any()


class _InplaceSum(nn.Module):
    """As torchvision's residual blocks do: ``out += x``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(x)
        out += x
        return out


def test_gradients_pass_through_a_feature_and_the_output_alike() -> None:
    model = _InplaceSum()
    x = torch.randn(2, 2, 5, 5)
    with Tap(model, {"f": "conv"}) as tap:
        out = model(x)
        (tap.features()["f"].square().sum() + out.sum()).backward()
    weight = model.conv.weight
    assert weight.grad is not None
    expected = torch.autograd.grad(model.conv(x).square().sum() + model.conv(x).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, expected)


def test_each_pass_has_its_own_features_in_the_order_of_the_layers() -> None:
    model = models.create("resnet8", 10, 1).eval()
    with Tap(model, {"late": "layer3", "early": "layer1.0.conv1"}) as tap:
        for n in (3, 5):
            model(torch.randn(n, 1, 8, 8))
            found = tap.features()
            assert list(found) == ["late", "early"]
            assert found["late"].shape == (n, 64, 2, 2)
            assert found["early"].shape == (n, 16, 8, 8)


class _Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.act = nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.act(self.first(self.act(x)))
        return out


def test_a_shared_module_is_named_with_the_call_that_is_meant() -> None:
    model, x = _Shared(), torch.randn(2, 3)
    with Tap(model, {"a": "act:0", "b": "act:1"}) as tap:
        out = model(x)
        found = tap.features()
    assert torch.equal(found["a"], torch.tanh(x))
    assert torch.equal(found["b"], out)
    with Tap(model, {"a": "act"}) as tap:
        model(x)
        with pytest.raises(RecipeError, match="'act' is called 2 times in a pass: .*'act:0'"):
            tap.features()
    with Tap(model, {"a": "act:2"}) as tap:
        model(x)
        with pytest.raises(RecipeError, match="'act' is called 2 times"):
            tap.features()


def test_nothing_is_left_on_the_network_even_after_an_error() -> None:
    model = _with_inplace_relu()
    before = model(torch.ones(1, 1, 8, 8))
    with pytest.raises(RuntimeError), Tap(model, {"f": "0"}):
        model(torch.ones(1, 3, 8, 8))
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert torch.equal(model(torch.ones(1, 1, 8, 8)), before)


def test_a_layer_that_does_not_exist_is_named_with_its_like() -> None:
    model = models.create("resnet8", 10, 1)
    with pytest.raises(RecipeError, match=r"no layer 'layer4': did you mean .*'layer3'") as caught:
        Tap(model, {"f": "layer4"})
    assert caught.value.exit_code == 2
    with pytest.raises(RecipeError, match="no layer ''"):
        Tap(model, {"f": ""})


def test_a_module_that_gives_no_tensor_is_refused() -> None:
    model = nn.Sequential(nn.LSTM(3, 4))
    with Tap(model, {"f": "0"}), pytest.raises(RecipeError, match="'0' gives a tuple"):
        model(torch.zeros(2, 1, 3))


def test_it_looks_inside_distributed_data_parallel(tmp_path) -> None:  # type: ignore[no-untyped-def]
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))
        x = torch.randn(4, 3)
        with Tap(wrapped, {"f": "0"}) as tap:
            wrapped(x)
            assert torch.equal(tap.features()["f"], wrapped.module[0](x))
    finally:
        torch.distributed.destroy_process_group()
