"""Distillation losses: pure functions of tensors, with their scale stated."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Hinton's loss: ``T² · KL(softmax(teacher / T) ‖ softmax(student / T))``.

    The divergence is summed over classes and averaged over the batch ("batchmean"), so that
    with T² its gradient keeps the size of cross-entropy's at any temperature.
    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2.

    Args:
        student: logits, shape (n, classes); the gradient flows here.
        teacher: logits, shape (n, classes).
        temperature: above zero; higher is softer.
    """
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence
