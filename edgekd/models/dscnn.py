"""Depthwise-separable networks (Howard et al. 2017, arXiv:1704.04861) for small images.

A strided 3×3 stem, then blocks of a 3×3 depthwise and a 1×1 convolution, each with batch
norm and ReLU, global average pooling and a linear head.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def _unit(channels_in: int, channels: int, kernel: int, stride: int, groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


def dscnn(stem: int, blocks: Sequence[tuple[int, int]], classes: int, channels: int) -> nn.Module:
    """A network from the stem's width and each block's (width, stride)."""
    model = nn.Sequential()
    model.add_module("stem", _unit(channels, stem, 3, 2, 1))
    width = stem
    for number, (wider, stride) in enumerate(blocks, 1):
        block = nn.Sequential(_unit(width, width, 3, stride, width), _unit(width, wider, 1, 1, 1))
        model.add_module(f"block{number}", block)
        width = wider
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("head", nn.Linear(width, classes))
    return model


def dscnn_s(classes: int, channels: int) -> nn.Module:
    """About 0.6 MMAC at 28×28."""
    return dscnn(16, ((24, 1), (48, 2), (48, 1), (48, 1), (160, 2)), classes, channels)


def dscnn_m(classes: int, channels: int) -> nn.Module:
    """About three times the small one."""
    blocks = ((48, 1), (96, 2), (96, 1), (96, 1), (192, 2))
    return dscnn(24, blocks, classes, channels)


def dscnn_l(classes: int, channels: int) -> nn.Module:
    """About ten times the small one."""
    blocks = ((64, 1), (64, 1), (128, 2), (128, 1), (128, 1), (128, 1), (256, 2), (256, 1))
    return dscnn(32, blocks, classes, channels)
