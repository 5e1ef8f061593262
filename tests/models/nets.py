"""Networks that a recipe may name as ``tests.models.nets:NAME``, good ones and bad ones."""

from __future__ import annotations

import torch
from torch import nn


def linear(classes: int, channels: int) -> nn.Module:
    """For images of 8×8."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, classes))


def pooled(classes: int, channels: int) -> nn.Module:
    """For images of any size; small, with batch norm."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, 1, 1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, classes),
    )


def probable(classes: int, channels: int) -> nn.Module:
    """``pooled``, with a softmax at its end."""
    return nn.Sequential(pooled(classes, channels), nn.Softmax(1))


def no_network(classes: int, channels: int) -> str:
    return "a network"


def failing(classes: int, channels: int) -> nn.Module:
    raise ValueError(f"no {classes} classes\nwith {channels} channels")


def two_outputs(classes: int, channels: int) -> nn.Module:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    return Two()


def maps(classes: int, channels: int) -> nn.Module:
    """Gives (n, classes, h, w)."""
    return nn.Conv2d(channels, classes, 1)


not_callable = 3
