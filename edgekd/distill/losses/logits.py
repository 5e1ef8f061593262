"""Losses of logits: what a student says of a batch, against what its teacher says.

Logits have shape (n, classes), the same for both, or ValueError is raised; the gradient flows
into the student's alone, since a teacher's come detached. Sums over classes are means over the
batch ("batchmean"), and a temperature's loss carries T², so that its gradient keeps the size of
cross-entropy's. Half precision is computed in float32, float64 in float64.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

_EPSILON = 1e-8
_FLAT = 0.01
"""Probabilities that deviate from their mean by less than this share of themselves have no
direction that a correlation could compare: its gradient would grow beyond all bounds."""


def kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Hinton's loss: ``T² · KL(softmax(teacher / T) ‖ softmax(student / T))``.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2.

    Args:
        student: logits, shape (n, classes).
        teacher: logits, shape (n, classes).
        temperature: above zero; higher is softer.
    """
    _require_alike(student, teacher)
    return temperature**2 * _divergence(
        _log_softmax(student, temperature), _log_softmax(teacher, temperature)
    )


def soft_cross_entropy(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    """``T² · H(softmax(teacher / T), softmax(student / T))``: ``kl`` plus the teacher's entropy.

    Its gradient is ``kl``'s; its value does not reach zero.
    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2.
    """
    _require_alike(student, teacher)
    likely = _log_softmax(teacher, temperature).exp()
    entropy = -(likely * _log_softmax(student, temperature)).sum(1).mean()
    return temperature**2 * entropy


def mse_logits(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The squared difference of the logits, averaged over batch and classes.

    Papers that sum over classes mean a weight smaller by their number.
    Source: Ba, Caruana 2014, arXiv:1312.6184, section 2.2; Kim et al. 2021, arXiv:2105.08919.
    """
    _require_alike(student, teacher)
    return (_wide(student) - _wide(teacher)).square().mean()


def dkd(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    target_weight: float = 1.0,
    rest_weight: float = 8.0,
) -> torch.Tensor:
    """Decoupled distillation: ``T² · (target_weight · TCKD + rest_weight · NCKD)``.

    TCKD is the divergence of (right class, all others), NCKD that among the others alone,
    which Hinton's loss weighs by how unsure the teacher is. With one class both are zero, with
    two NCKD is.
    Source: Zhao et al. 2022, arXiv:2203.08679, equations 6 and 7.

    Args:
        student: logits, shape (n, classes).
        teacher: logits, shape (n, classes).
        labels: right classes, int64, shape (n,).
        temperature: above zero.
        target_weight: the paper's alpha.
        rest_weight: the paper's beta; 8 is its most frequent choice for CIFAR-100.
    """
    _require_alike(student, teacher)
    if student.shape[1] < 2:
        return _wide(student).sum() * 0
    parts = []
    rest = torch.arange(student.shape[1] - 1, device=labels.device).expand(len(labels), -1)
    rest = rest + (rest >= labels[:, None])  # every class but the right one
    for logits in (student, teacher):
        scaled = _wide(logits) / temperature
        right, others = scaled.gather(1, labels[:, None])[:, 0], scaled.gather(1, rest)
        everything = scaled.logsumexp(1)
        # log(1 - p) as a difference of sums: no subtraction that rounds to log(0).
        pair = torch.stack([right - everything, others.logsumexp(1) - everything], 1)
        parts.append((pair, F.log_softmax(others, dim=1)))
    (pair, others), (pair_t, others_t) = parts
    target, rest = _divergence(pair, pair_t), _divergence(others, others_t)
    return temperature**2 * (target_weight * target + rest_weight * rest)


def dist(
    student: torch.Tensor,
    teacher: torch.Tensor,
    temperature: float,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
) -> torch.Tensor:
    """DIST: ``T² · (inter_weight · (1 - ρ by sample) + intra_weight · (1 - ρ by class))``.

    ρ is Pearson's correlation of the softened outputs, averaged. The second term relates the
    samples of a batch and so depends on its size. Where the teacher's outputs are all but equal,
    over classes or over samples, there is nothing to correlate and the row is left out; so
    with one sample, or one class, the loss of equal logits is zero as well.
    Source: Huang et al. 2022, arXiv:2205.10536, equations 6 to 10.

    Args:
        student: logits, shape (n, classes).
        teacher: logits, shape (n, classes).
        temperature: above zero.
        inter_weight: the paper's beta.
        intra_weight: the paper's gamma.
    """
    _require_alike(student, teacher)
    ours, theirs = (_log_softmax(each, temperature).exp() for each in (student, teacher))
    inter = _unlike(ours, theirs)
    intra = _unlike(ours.T, theirs.T)
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


def logit_std_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """``kl`` of standardised logits: each sample's are brought to mean 0 and deviation 1.

    The student need not match the teacher's scale of logits, only their order and distances.
    The deviation is the population's, as in the paper; its code takes the sample's.
    Source: Sun et al. 2024, arXiv:2403.01427, algorithm 1.
    """
    return kl(_standardised(student), _standardised(teacher), temperature)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return F.log_softmax(_wide(logits) / temperature, dim=1)


def _divergence(log_student: torch.Tensor, log_teacher: torch.Tensor) -> torch.Tensor:
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def _unlike(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """One minus Pearson's correlation of each row with its like, averaged over rows that vary."""
    (ours, _), (theirs, told) = _direction(student), _direction(teacher)
    unlike = (1 - (ours * theirs).sum(1)) * told
    return unlike.sum() / told.sum().clamp(min=1)


def _direction(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row less its mean, at length 1, or shorter where it hardly varies; and where not."""
    centred = rows - rows.mean(1, keepdim=True)
    # A plain norm has no gradient at zero.
    length = (centred.square().sum(1, keepdim=True) + torch.finfo(rows.dtype).tiny).sqrt()
    least = _FLAT * rows.detach().norm(dim=1, keepdim=True) + torch.finfo(rows.dtype).tiny
    return centred / torch.maximum(length, least), (length > least)[:, 0]


def _standardised(logits: torch.Tensor) -> torch.Tensor:
    centred = _wide(logits)
    centred = centred - centred.mean(1, keepdim=True)
    variance = centred.square().mean(1, keepdim=True)
    return centred / (variance + _EPSILON).sqrt()


def _require_alike(student: torch.Tensor, teacher: torch.Tensor) -> None:
    if student.shape != teacher.shape or student.ndim != 2:
        shapes = tuple(student.shape), tuple(teacher.shape)
        raise ValueError(f"student and teacher need logits (n, classes) of one shape, not {shapes}")
