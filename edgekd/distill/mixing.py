"""Mixup (Zhang et al. 2018, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899).

Teacher and student are shown the same mixed batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch


class Mixed(NamedTuple):
    """A batch of which each image is ``share`` itself and ``1 - share`` its partner.

    Attributes:
        x: shape (n, channels, height, width).
        partner: the place in the batch of each image's partner, int64, shape (n,).
        share: from 0 to 1; 1 where nothing was mixed.
    """

    x: torch.Tensor
    partner: torch.Tensor
    share: float


def mix(x: torch.Tensor, mixup: float, cutmix: float, rng: np.random.Generator) -> Mixed:
    """Mixes a batch by the one or the other, by a coin where both are above zero."""
    n, _, height, width = x.shape
    if not mixup and not cutmix:
        return Mixed(x, torch.arange(n), 1.0)
    cut = bool(cutmix) and (not mixup or rng.random() < 0.5)
    strength = cutmix if cut else mixup
    share = float(rng.beta(strength, strength))
    partner = torch.from_numpy(rng.permutation(n))
    if not cut:
        return Mixed(share * x + (1 - share) * x[partner.to(x.device)], partner, share)
    # A box of 1 - share of the area, its centre anywhere, cut off at the border.
    tall, wide = (round(each * math.sqrt(1 - share)) for each in (height, width))
    top, left = int(rng.integers(height)) - tall // 2, int(rng.integers(width)) - wide // 2
    rows = slice(max(top, 0), min(top + tall, height))
    columns = slice(max(left, 0), min(left + wide, width))
    mixed = x.clone()
    mixed[:, :, rows, columns] = x[partner.to(x.device)][:, :, rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Mixed(mixed, partner, 1 - area / (height * width))
