"""A recipe's loss by name, with its settings filled in."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgekd.distill import losses
from edgekd.recipe import DistillSettings

Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def objective(settings: DistillSettings) -> Objective:
    """The soft term of the loss: from student logits, teacher logits and labels to a scalar."""
    t = settings.temperature
    known: dict[str, Objective] = {
        "kl": lambda s, z, labels: losses.kl(s, z, t),
        "soft_cross_entropy": lambda s, z, labels: losses.soft_cross_entropy(s, z, t),
        "mse_logits": lambda s, z, labels: losses.mse_logits(s, z),
        "dkd": lambda s, z, labels: losses.dkd(
            s, z, labels, t, settings.target_weight, settings.rest_weight
        ),
        "dist": lambda s, z, labels: losses.dist(
            s, z, t, settings.inter_weight, settings.intra_weight
        ),
        "logit_std_kl": lambda s, z, labels: losses.logit_std_kl(s, z, t),
    }
    return known[settings.loss]
