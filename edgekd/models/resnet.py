"""CIFAR-style ResNets (He et al. 2015, arXiv:1512.03385, section 4.2).

Depth 6n + 2: a 3×3 stem, then three stages of n basic blocks with 16, 32 and 64 channels,
each later stage halving the image. A shortcut that changes shape is a 1×1 convolution.
"""

from __future__ import annotations

import torch
from torch import nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels_in, h, w) to (n, channels, h / stride, w / stride)."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu(out + self.shortcut(x))


def resnet(blocks: int, classes: int, channels: int) -> nn.Module:
    """The ResNet of depth ``6 * blocks + 2``."""
    stem = nn.Sequential(
        nn.Conv2d(channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    )
    stages = []
    width = 16
    for stage, wider in enumerate((16, 32, 64)):
        layers = []
        for block in range(blocks):
            layers.append(BasicBlock(width, wider, 2 if stage and not block else 1))
            width = wider
        stages.append(nn.Sequential(*layers))
    model = nn.Sequential()
    model.add_module("stem", stem)
    for number, layers_of_stage in enumerate(stages, 1):
        model.add_module(f"layer{number}", layers_of_stage)
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("head", nn.Linear(width, classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def resnet8(classes: int, channels: int) -> nn.Module:
    """The small one, for a student."""
    return resnet(1, classes, channels)


def resnet20(classes: int, channels: int) -> nn.Module:
    """About 31 MMAC and 272 K parameters at 28×28."""
    return resnet(3, classes, channels)


def resnet32(classes: int, channels: int) -> nn.Module:
    """Five blocks a stage."""
    return resnet(5, classes, channels)


def resnet56(classes: int, channels: int) -> nn.Module:
    """Nine blocks a stage."""
    return resnet(9, classes, channels)
