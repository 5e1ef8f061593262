"""Distillation losses: pure functions of tensors, with their scale stated.

Half precision is computed in float32, float64 in float64. None carries a weight of its own:
weights are the recipe's.
"""

from edgekd.distill.losses.features import (
    attention,
    crd,
    gram,
    hint,
    rkd,
    similarity,
    vid,
)
from edgekd.distill.losses.logits import (
    dist,
    dkd,
    kl,
    logit_std_kl,
    mse_logits,
    soft_cross_entropy,
)

__all__ = [
    "attention",
    "crd",
    "dist",
    "dkd",
    "gram",
    "hint",
    "kl",
    "logit_std_kl",
    "mse_logits",
    "rkd",
    "similarity",
    "soft_cross_entropy",
    "vid",
]
