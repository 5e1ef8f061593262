"""A recipe's loss: its terms by name, with their settings filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from edgekd.data import UNLABELLED
from edgekd.distill import losses, ranks
from edgekd.distill.adaptors import ADAPTORS, Features, Setting, as_maps
from edgekd.errors import RecipeError
from edgekd.recipe import DistillSettings

OnLogits = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Lesson(NamedTuple):
    """What the teacher says of a batch.

    Attributes:
        logits: shape (n, classes).
        features: one tensor a layer; empty where no loss is on features.
        ids: the places of the images in the training split, int64, shape (n,).
    """

    logits: torch.Tensor
    features: Features
    ids: torch.Tensor


def on_logits(settings: DistillSettings) -> Mapping[str, OnLogits]:
    """The losses on logits by name: from student's, teacher's and labels to a scalar."""
    t = settings.temperature
    return {
        "kl": lambda s, z, labels: losses.kl(s, z, t),
        "soft_cross_entropy": lambda s, z, labels: losses.soft_cross_entropy(s, z, t),
        "mse_logits": lambda s, z, labels: losses.mse_logits(s, z),
        "dkd": lambda s, z, labels: losses.dkd(
            s, z, labels, t, settings.target_weight, settings.rest_weight
        ),
        "dist": lambda s, z, labels: losses.dist(
            ranks.gather(s), ranks.gather(z), t, settings.inter_weight, settings.intra_weight
        ),
        "logit_std_kl": lambda s, z, labels: losses.logit_std_kl(s, z, t),
    }


class Objective(nn.Module):
    """The terms that a teacher adds to the loss, with the adaptors that train beside the student.

    Args:
        settings: which terms; those without weight are not computed.
        student: the student's features of any batch, one a layer.
        teacher: the teacher's, of the same batch.
        labels: of the whole training split.
    """

    def __init__(
        self,
        settings: DistillSettings,
        student: Features = (),
        teacher: Features = (),
        labels: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        known = on_logits(settings)
        self._on_logits = {
            name: known[name] for name, w in settings.weights.items() if w and name in known
        }
        self.adaptors = nn.ModuleDict()
        if settings.features():
            assert labels is not None
            setting = Setting(as_maps(student), as_maps(teacher), labels, settings)
            for name in settings.features():
                self.adaptors[name] = ADAPTORS[name](setting)

    def forward(
        self,
        logits: torch.Tensor,
        features: Features,
        labels: torch.Tensor,
        lesson: Lesson,
    ) -> dict[str, torch.Tensor]:
        """Each term by name, unweighted.

        Args:
            logits: the student's, shape (n, classes).
            features: the student's, one a layer.
            labels: int64, shape (n,); where there is none the teacher's word is taken.
            lesson: what the teacher says of the same images.
        """
        said = lesson.logits.argmax(1)
        labels = torch.where(labels == UNLABELLED, said, labels)
        terms: dict[str, torch.Tensor] = {
            name: loss(logits, lesson.logits, labels) for name, loss in self._on_logits.items()
        }
        if self.adaptors:
            ours, theirs = as_maps(features), as_maps(lesson.features)
            for name, adaptor in self.adaptors.items():
                terms[name] = adaptor(ours, theirs, lesson.ids)
        return terms


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """The sum over the images that have a label, divided by the whole batch.

    So each label weighs the same however few there are. A mean over the labelled alone would let
    one or two noisy images outweigh what the teacher says of all.
    """
    total = F.cross_entropy(
        logits, labels, ignore_index=UNLABELLED, label_smoothing=smoothing, reduction="sum"
    )
    return total / len(labels)


_STAGES = (("layer1", "layer2", "layer3"), ("block1", "block3", "block5"))
"""The stages of the networks whose layers need not be named."""


def pairs(
    settings: DistillSettings, teacher: nn.Module, student: nn.Module
) -> tuple[list[str], list[str]]:
    """The teacher's and the student's layers that losses on features compare, in order.

    Raises:
        RecipeError: the recipe names none, and the networks' own stages are not known.
    """
    if settings.layers:
        return list(settings.layers), list(settings.layers.values())
    found = []
    for whose, network in (("teacher", teacher), ("student", student)):
        children = dict(network.named_children())
        stages = next((each for each in _STAGES if children.keys() >= set(each)), None)
        if stages is None:
            raise RecipeError(
                f"the {whose}'s layers are not known, which {_listed(settings.features())} needs",
                f"give them as teacher's = student's; the {whose} has {', '.join(children)}",
                field="distill.layers",
            )
        found.append(list(stages))
    return found[0], found[1]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{each}'" for each in names)
