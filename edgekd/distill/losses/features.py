"""Losses of features: what layers of a student give, against what their teacher's layers give.

Features have shape (n, c, h, w) or (n, d). The gradient flows into the student's alone: a
teacher's come detached. Nothing here is trained; where two shapes must be equal, an adaptor has
made them so. Half precision is computed in float32, matrix products too where autocast is on,
and float64 in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

Pair = tuple[torch.Tensor, torch.Tensor]

_TINY = 1e-12
"""A vector no longer than this has no direction: dividing by its length would make gradients
that only rounding steers, up to a million million times too large."""

_VARIANCE_FLOOR = 1e-5


def hint(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """FitNets: the squared difference of features of equal shape, averaged over all elements.

    The paper halves the sum instead; the mean keeps its size whatever the layer's.
    Source: Romero et al. 2015, arXiv:1412.6550, equation 3.

    Raises:
        ValueError: the shapes differ.
    """
    _require(
        student.shape == teacher.shape,
        "hint needs a student and a teacher of equal shape",
        student,
        teacher,
    )
    return (_wide(student) - _wide(teacher)).square().mean()


def attention(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Attention transfer: the squared difference of maps, averaged over batch and positions.

    A map is the mean over channels of squared features, brought to L2 norm 1 for each sample.
    The paper's loss is the norm of the difference; this is its authors' code, and the scale for
    which their weight of 1,000 is meant. Of maps of different size the larger is average-pooled
    to the smaller. A sample's features and any positive multiple of them have the same map.
    Source: Zagoruyko, Komodakis 2017, arXiv:1612.03928, equation 2.

    Args:
        student: shape (n, c, h, w).
        teacher: shape (n, c', h', w').

    Raises:
        ValueError: other shapes.
    """
    _require(
        student.ndim == teacher.ndim == 4 and len(student) == len(teacher),
        "attention needs a student and a teacher (n, c, h, w) of one n",
        student,
        teacher,
    )
    ours, theirs = _alike_in_size(
        _wide(student).square().mean(1), _wide(teacher).square().mean(1), F.adaptive_avg_pool2d
    )
    return (_unit(ours.flatten(1)) - _unit(theirs.flatten(1))).square().mean()


def gram(student_pair: Pair, teacher_pair: Pair) -> torch.Tensor:
    """FSP: the squared difference of two layers' products, averaged over batch and elements.

    The product of a pair is ``F1ᵀ F2 / (h · w)``, shape (n, c1, c2), summed over positions. In
    a pair of different sizes the larger is max-pooled to the smaller, as in the paper. It
    grows with the fourth power of the features. The paper sums over elements where this averages.
    Source: Yim et al. 2017, "A Gift from Knowledge Distillation", CVPR, equations 1 and 2.

    Args:
        student_pair: features of an earlier and a later layer, (n, c1, h, w), (n, c2, h', w').
        teacher_pair: the teacher's; n, c1 and c2 are the student's, the sizes need not be.

    Raises:
        ValueError: other shapes.
    """
    everything = (*student_pair, *teacher_pair)
    _require(
        all(each.ndim == 4 and len(each) == len(student_pair[0]) for each in everything)
        and all(a.shape[1] == b.shape[1] for a, b in zip(student_pair, teacher_pair, strict=True)),
        "gram needs pairs (n, c1, h, w), (n, c2, h', w') of one n, c1 and c2",
        *everything,
    )
    return (_flow(*student_pair) - _flow(*teacher_pair)).square().mean()


def similarity(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """SP: ``‖G_student - G_teacher‖² / n²``, G being the samples' similarities, shape (n, n).

    G is the matrix of inner products of the flattened features, each row brought to L2 norm 1.
    It relates the samples of a batch and so depends on its size; of one sample it is zero.
    Source: Tung, Mori 2019, arXiv:1907.09682, the loss L_SP.

    Args:
        student: shape (n, ...).
        teacher: shape (n, ...); all but n may differ.

    Raises:
        ValueError: other shapes.
    """
    _require_one_batch("similarity", student, teacher)
    ours, theirs = (_wide(each).flatten(1) for each in (student, teacher))
    return (_unit(_product(ours, ours.T)) - _unit(_product(theirs, theirs.T))).square().mean()


def rkd(
    student: torch.Tensor,
    teacher: torch.Tensor,
    distance_weight: float = 1.0,
    angle_weight: float = 2.0,
) -> torch.Tensor:
    """Relational distillation: ``distance_weight · RKD-D + angle_weight · RKD-A``.

    RKD-D is Huber's loss (delta 1) of distances divided by their mean over the batch's pairs,
    RKD-A that of the cosines of the angles at j between i and k; averages are over distinct
    pairs and triples. (The authors' code divides by n² and n³.) So it relates the samples of a
    batch: with one sample, or two, there is nothing to compare. Points that coincide have
    distance 0 and cosine 0. It takes n² · d and n³ numbers of memory: give it pooled features.
    Source: Park et al. 2019, arXiv:1904.05068, the losses L_RKD-D and L_RKD-A.

    Args:
        student: shape (n, ...), flattened to (n, d).
        teacher: shape (n, ...); all but n may differ.
        distance_weight: of the distances.
        angle_weight: of the angles; the paper's is twice that of the distances.

    Raises:
        ValueError: other shapes.
    """
    _require_one_batch("rkd", student, teacher)
    n = len(student)
    distances, angles = _relations(_wide(student).flatten(1))
    distances_t, angles_t = _relations(_wide(teacher).flatten(1))
    by_distance = F.huber_loss(distances, distances_t, reduction="sum") / max(1, n * (n - 1))
    triples = max(1, n * (n - 1) * (n - 2))
    by_angle = F.huber_loss(angles, angles_t, reduction="sum") / triples
    return distance_weight * by_distance + angle_weight * by_angle


def vid(mean: torch.Tensor, raw_variance: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """VID: the negative log likelihood of the teacher's features, averaged over all elements.

    ``½ (log v + (teacher - mean)² / v)`` without the constant ½ log 2π, so that it may be below
    zero, and is not zero where the features are equal. Each channel has a variance of its own,
    ``v = softplus(raw_variance) + 1e-5``; the authors start it at 5, a raw value of 4.9932.
    Source: Ahn et al. 2019, arXiv:1904.05835, section 2.2.

    Args:
        mean: what the student predicts of the teacher's features, (n, c, h, w) or (n, c).
        raw_variance: the trained parameter, shape (c,).
        teacher: the shape of ``mean``.

    Raises:
        ValueError: other shapes.
    """
    _require(
        mean.ndim >= 2 and mean.shape == teacher.shape and raw_variance.shape == mean.shape[1:2],
        "vid needs a mean (n, c, ...), variances (c,), and a teacher of the mean's shape",
        mean,
        raw_variance,
        teacher,
    )
    variance = F.softplus(_wide(raw_variance)) + _VARIANCE_FLOOR
    variance = variance.view(-1, *(1,) * (mean.ndim - 2))
    off = (_wide(teacher) - _wide(mean)).square()
    return (variance.log() + off / variance).mean() / 2


def crd(
    student: torch.Tensor,
    positives: torch.Tensor,
    negatives: torch.Tensor,
    temperature: float,
    population: float,
) -> torch.Tensor:
    """CRD: ``-(log h(s, positive) + Σ log(1 - h(s, negative)))``, averaged over the batch.

    ``h(s, t) = e / (e + k / population)`` with ``e = exp(s · t / temperature)`` of vectors
    brought to L2 norm 1: the chance that t was made from s's sample. It is computed from log h,
    where no exponential overflows at a low temperature. The authors' code adds the direction in
    which the two networks change places, for which embeddings of both are trained.
    Source: Tian et al. 2020, arXiv:1910.10699, equations 18 and 19.

    Args:
        student: shape (n, d).
        positives: the teacher's, of the same samples, shape (n, d).
        negatives: the teacher's, of other samples, shape (n, k, d).
        temperature: above zero; the authors' is 0.07.
        population: the paper's M, the samples from which negatives are drawn; the authors' code
            divides it by a normalising constant Z, their sum of e over all M.

    Raises:
        ValueError: other shapes, or no negative.
    """
    n, d = student.shape if student.ndim == 2 else (0, 0)
    drawn = negatives.shape[1] if negatives.ndim == 3 else 0
    _require(
        n > 0 and drawn > 0 and positives.shape == (n, d) and negatives.shape == (n, drawn, d),
        "crd needs a student (n, d), positives (n, d) and negatives (n, k, d), k above zero",
        student,
        positives,
        negatives,
    )
    ours, same, others = (_unit(_wide(each)) for each in (student, positives, negatives))
    noise = math.log(drawn / population)
    pull = (ours * same).sum(1) / temperature - noise
    push = _product(others, ours.unsqueeze(2)).squeeze(2) / temperature - noise
    # h is the sigmoid of its log odds, and 1 - h that of their negative.
    return -(F.logsigmoid(pull) + F.logsigmoid(-push).sum(1)).mean()


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _unit(x: torch.Tensor) -> torch.Tensor:
    """Vectors along the last axis at L2 norm 1; those without a direction stay as they are."""
    length: torch.Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.masked_fill(length <= _TINY, 1)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a @ b`` in its own precision: autocast would round to bf16, or overflow fp16."""
    with torch.autocast(a.device.type, enabled=False):
        product: torch.Tensor = a @ b
    return product


def _alike_in_size(
    a: torch.Tensor, b: torch.Tensor, pool: Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]
) -> Pair:
    """Both at the smaller height and the smaller width of the two; those are the last axes."""
    size = (min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1]))
    a, b = (each if each.shape[-2:] == size else pool(each, size) for each in (a, b))
    return a, b


def _flow(early: torch.Tensor, late: torch.Tensor) -> torch.Tensor:
    early, late = _alike_in_size(_wide(early), _wide(late), F.adaptive_max_pool2d)
    early, late = early.flatten(2), late.flatten(2)
    return _product(early, late.mT) / early.shape[2]


def _relations(points: torch.Tensor) -> Pair:
    """Distances over their mean, (n, n), and cosines at j between i and k, (n, n, n) as [j, i, k].

    Both come from the differences themselves, n² · d numbers: inner products would give points
    that coincide a distance made of rounding, and that an endless gradient.
    """
    n = len(points)
    steps = points.unsqueeze(1) - points
    distances = torch.linalg.vector_norm(steps, dim=2)
    mean = distances.sum() / max(1, n * (n - 1))
    ways = _unit(steps)
    same = torch.eye(n, dtype=torch.bool, device=points.device)
    angles = _product(ways, ways.mT).masked_fill(same, 0)
    return distances / mean.masked_fill(mean <= _TINY, 1), angles


def _require(works: bool, need: str, *given: torch.Tensor) -> None:
    if not works:
        shapes = ", ".join(str(tuple(each.shape)) for each in given)
        raise ValueError(f"{need}; these are {shapes}")


def _require_one_batch(name: str, student: torch.Tensor, teacher: torch.Tensor) -> None:
    _require(
        min(student.ndim, teacher.ndim) >= 2 and len(student) == len(teacher),
        f"{name} needs a student and a teacher (n, ...) of one n",
        student,
        teacher,
    )
