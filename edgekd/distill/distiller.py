"""The student, the adaptors that train beside it, and the sum of their losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from edgekd.distill.objectives import Lesson, Objective, cross_entropy
from edgekd.distill.optim import autocast
from edgekd.distill.taps import Tap
from edgekd.recipe import TrainSettings


class Distiller(nn.Module):
    """One forward pass of a training: from a batch and the teacher's lesson to the loss.

    It is what DistributedDataParallel wraps and what the optimizer trains; the student alone is
    validated, kept and exported.

    Args:
        student: the network.
        objective: the teacher's part of the loss, with its adaptors; None without a teacher.
        tap: opened on the student; its features go to the objective.
        weights: of each term, cross-entropy (``ce``) among them.
        settings: label smoothing and autocast.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective | None,
        tap: Tap,
        weights: Mapping[str, float],
        settings: TrainSettings,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self._tap = tap
        self._weights = weights
        self._settings = settings

    def forward(
        self, x: torch.Tensor, labels: Sequence[tuple[torch.Tensor, float]], lesson: Lesson | None
    ) -> dict[str, torch.Tensor]:
        """The terms by name, unweighted, and ``loss``, their weighted sum.

        Args:
            x: the batch, shape (n, channels, height, width).
            labels: int64 (n,) with its share of the images; one pair, or two where they are
                mixed, the larger share first.
            lesson: what the teacher says of ``x``; None without a teacher.
        """
        with autocast(self._settings, x.device):
            logits = self.student(x)
        logits = logits.float()
        terms: dict[str, torch.Tensor] = {}
        if self._weights.get("ce"):
            smoothing = self._settings.label_smoothing
            parts = [share * cross_entropy(logits, each, smoothing) for each, share in labels]
            terms["ce"] = torch.stack(parts).sum()
        if self.objective is not None and lesson is not None:
            features = list(self._tap.features().values())
            terms |= self.objective(logits, features, labels[0][0], lesson)
        loss = torch.stack([self._weights[name] * term for name, term in terms.items()]).sum()
        return {**{name: term.detach() for name, term in terms.items()}, "loss": loss}
