"""What losses on features need besides features: projections and memories, trained alongside.

They live in the distiller, never in the student: its checkpoint and its ONNX know nothing of
them. Features of any rank become maps (n, channels, height, width) first: a vector is a map of
one position, a sequence of tokens (n, tokens, channels) a map of one column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from edgekd.distill import losses, ranks
from edgekd.errors import RecipeError
from edgekd.recipe import DistillSettings

Features = Sequence[torch.Tensor]
"""One tensor a layer."""


@dataclass(frozen=True)
class Setting:
    """What an adaptor is made for: one map of the student and one of the teacher a layer.

    Attributes:
        student: features of any batch.
        teacher: features of the same batch.
        labels: of the whole training split, int64; -1 where there is none.
        settings: the recipe's.
    """

    student: Features
    teacher: Features
    labels: torch.Tensor
    settings: DistillSettings


class Hint(nn.Module):
    """``hint`` on every pair of layers, through a trained 1×1 convolution (FitNets)."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Conv2d(s.shape[1], t.shape[1], 1)
            for s, t in zip(setting.student, setting.teacher, strict=True)
        )

    def forward(self, student: Features, teacher: Features, ids: torch.Tensor) -> torch.Tensor:
        """The mean over the pairs."""
        pairs = zip(self.projections, student, teacher, strict=True)
        return _mean([losses.hint(*_same_size(project(s), t)) for project, s, t in pairs])


class Attention(nn.Module):
    """``attention`` on every pair of layers; nothing to train."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()

    def forward(self, student: Features, teacher: Features, ids: torch.Tensor) -> torch.Tensor:
        """The mean over the pairs."""
        return _mean([losses.attention(s, t) for s, t in zip(student, teacher, strict=True)])


class Gram(nn.Module):
    """``gram`` on neighbouring layers; where channels differ, through 1×1 convolutions.

    Raises:
        RecipeError: there is one layer alone.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        if len(setting.student) < 2:
            raise RecipeError(
                "'gram' relates two layers, and one is named",
                "name two or more",
                field="distill.layers",
            )
        self.projections = nn.ModuleList(
            nn.Identity() if s.shape[1] == t.shape[1] else nn.Conv2d(s.shape[1], t.shape[1], 1)
            for s, t in zip(setting.student, setting.teacher, strict=True)
        )

    def forward(self, student: Features, teacher: Features, ids: torch.Tensor) -> torch.Tensor:
        """The mean over the neighbouring pairs."""
        ours = [project(s) for project, s in zip(self.projections, student, strict=True)]
        steps = range(len(ours) - 1)
        return _mean(
            [losses.gram((ours[i], ours[i + 1]), (teacher[i], teacher[i + 1])) for i in steps]
        )


class Similarity(nn.Module):
    """``similarity`` on the last pair of layers, over the batch of all ranks."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()

    def forward(self, student: Features, teacher: Features, ids: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return losses.similarity(
            ranks.gather(student[-1].flatten(1)), ranks.gather(teacher[-1].flatten(1))
        )


class Rkd(nn.Module):
    """``rkd`` on the pooled features of the last pair of layers, over the batch of all ranks."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self._weights = setting.settings.distance_weight, setting.settings.angle_weight

    def forward(self, student: Features, teacher: Features, ids: torch.Tensor) -> torch.Tensor:
        """See the class."""
        ours, theirs = (ranks.gather(_pooled(each[-1])) for each in (student, teacher))
        return losses.rkd(ours, theirs, *self._weights)


class Vid(nn.Module):
    """``vid`` on every pair of layers: three 1×1 convolutions predict the teacher's features.

    Source of the head and of its first variance, 5: Ahn et al. 2019, arXiv:1904.05835,
    section 3.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.heads = nn.ModuleList()
        self.raw = nn.ParameterList()
        for s, t in zip(setting.student, setting.teacher, strict=True):
            width = t.shape[1]
            self.heads.append(
                nn.Sequential(
                    nn.Conv2d(s.shape[1], width, 1), nn.ReLU(),
                    nn.Conv2d(width, width, 1), nn.ReLU(),
                    nn.Conv2d(width, width, 1),
                )
            )  # fmt: skip
            self.raw.append(torch.full((width,), 4.9932))  # a variance of 5

    def forward(self, student: Features, teacher: Features, ids: torch.Tensor) -> torch.Tensor:
        """The mean over the pairs."""
        parts = []
        for head, raw, s, t in zip(self.heads, self.raw, student, teacher, strict=True):
            predicted, known = _same_size(head(s), t)
            parts.append(losses.vid(predicted, raw, known))
        return _mean(parts)


class Crd(nn.Module):
    """``crd`` on the pooled features of the last pair of layers, in both directions.

    Negatives come from memories of every training image's embeddings, of another class where
    the class is known. A memory moves half the way to each new embedding. Scores are divided by
    their mean over the first batch's negatives, as the authors' code does, so that an image and
    its negatives start with even chances.
    Source: Tian et al. 2020, arXiv:1910.10699, sections 3.1 and 3.2.
    """

    ours: torch.Tensor
    theirs: torch.Tensor
    usual: torch.Tensor
    order: torch.Tensor
    start: torch.Tensor
    stop: torch.Tensor

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        settings = setting.settings
        n, width = len(setting.labels), settings.embedding
        self._negatives, self._temperature = settings.negatives, settings.contrast_temperature
        self.student = nn.Linear(setting.student[-1].shape[1], width)
        self.teacher = nn.Linear(setting.teacher[-1].shape[1], width)
        self.register_buffer("ours", F.normalize(torch.randn(n, width)))
        self.register_buffer("theirs", F.normalize(torch.randn(n, width)))
        self.register_buffer("usual", torch.zeros(2))
        # In the order of their labels the images of one class stand side by side, so that those
        # of all others are one stretch, which begins where the class ends and goes round.
        order = torch.argsort(setting.labels, stable=True)
        ordered = setting.labels[order].contiguous()
        start = torch.searchsorted(ordered, setting.labels)
        stop = torch.searchsorted(ordered, setting.labels, right=True)
        alone = setting.labels < 0
        place = torch.empty_like(order)
        place[order] = torch.arange(n)
        self.register_buffer("order", order)
        self.register_buffer("start", torch.where(alone, place, start))
        self.register_buffer("stop", torch.where(alone, place + 1, stop))

    def forward(self, student: Features, teacher: Features, ids: torch.Tensor) -> torch.Tensor:
        """The sum of both directions."""
        ours = F.normalize(self.student(_pooled(student[-1])))
        theirs = F.normalize(self.teacher(_pooled(teacher[-1])))
        others = self._others(ids)
        directions = ((ours, theirs, self.theirs), (theirs, ours, self.ours))
        parts = []
        for index, (anchor, positive, memory) in enumerate(directions):
            negatives = memory[others]
            if not self.usual[index]:
                with torch.no_grad():
                    scores = torch.einsum("nkd,nd->nk", negatives, anchor) / self._temperature
                    self.usual[index] = ranks.gather(scores.exp().mean()[None]).mean()
            population = 1 / float(self.usual[index])
            parts.append(losses.crd(anchor, positive, negatives, self._temperature, population))
        with torch.no_grad():
            ids = ranks.gather(ids)
            for memory, new in ((self.ours, ours), (self.theirs, theirs)):
                moved = memory[ids] + ranks.gather(new.detach())
                memory[ids] = F.normalize(moved).to(memory.dtype)
        return torch.stack(parts).sum()

    def _others(self, ids: torch.Tensor) -> torch.Tensor:
        """The places of each image's negatives, shape (n, negatives)."""
        start, stop, n = self.start[ids, None], self.stop[ids, None], len(self.order)
        free = (n - (stop - start)).clamp(min=1)
        draw = torch.rand(len(ids), self._negatives, device=ids.device, dtype=torch.float64)
        return self.order[(stop + (draw * free).long()) % n]


ADAPTORS: dict[str, type[nn.Module]] = {
    "hint": Hint,
    "attention": Attention,
    "gram": Gram,
    "similarity": Similarity,
    "rkd": Rkd,
    "vid": Vid,
    "crd": Crd,
}


def as_maps(features: Features) -> list[torch.Tensor]:
    """Features of rank 2, 3 or 4 as float maps (n, channels, height, width).

    Raises:
        RecipeError: a feature has another rank.
    """
    maps = []
    for each in features:
        if each.ndim not in (2, 3, 4):
            raise RecipeError(
                f"a layer gives a tensor of shape {tuple(each.shape)}, which is no map, no"
                " sequence and no vector",
                "name another layer",
                field="distill.layers",
            )
        x = each if each.dtype == torch.float64 else each.float()
        if x.ndim == 3:
            x = x.transpose(1, 2)
        maps.append(x.reshape(*x.shape, *[1] * (4 - x.ndim)))
    return maps


def _same_size(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two maps, the larger average-pooled to the smaller, side by side."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    a, b = (
        each if each.shape[2:] == size else F.adaptive_avg_pool2d(each, size) for each in (a, b)
    )
    return a, b


def _pooled(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3))


def _mean(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(parts)).mean()
