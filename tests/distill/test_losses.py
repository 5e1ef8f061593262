"""Losses against formulas written in numpy alone, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.distill.losses import dist, kl
from edgekd.distill.objectives import on_logits
from edgekd.recipe import DistillSettings

Array = np.ndarray
T = 3.0
LOSSES = on_logits(
    DistillSettings(
        temperature=T, target_weight=0.7, rest_weight=3, inter_weight=2, intra_weight=0.5
    )
)
NAMES = list(LOSSES)


def _softmax(x: Array, temperature: float = T) -> Array:
    e = np.exp(x / temperature - (x / temperature).max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _kl(s: Array, t: Array, temperature: float = T) -> float:
    p, q = _softmax(t, temperature), _softmax(s, temperature)
    return float(temperature**2 * (p * np.log(p / q)).sum(1).mean())


def _soft_cross_entropy(s: Array, t: Array, labels: Array) -> float:
    return float(T**2 * -(_softmax(t) * np.log(_softmax(s))).sum(1).mean())


def _dkd(s: Array, t: Array, labels: Array) -> float:
    """Sample by sample, as the paper's equations stand."""
    total = 0.0
    for z, y, right in zip(s, t, labels, strict=True):
        q, p = _softmax(z[None])[0], _softmax(y[None])[0]
        binary = p[right] * np.log(p[right] / q[right]) + (1 - p[right]) * np.log(
            (1 - p[right]) / (1 - q[right])
        )
        rest_p, rest_q = np.delete(p, right) / (1 - p[right]), np.delete(q, right) / (1 - q[right])
        total += 0.7 * binary + 3 * float((rest_p * np.log(rest_p / rest_q)).sum())
    return T**2 * total / len(s)


def _dist(s: Array, t: Array, labels: Array) -> float:
    q, p = _softmax(s), _softmax(t)

    def unlike(a: Array, b: Array) -> float:
        parts = []
        for x, y in zip(a, b, strict=True):
            varies = [np.sqrt(((v - v.mean()) ** 2).sum() / (v**2).sum()) / 0.01 for v in (x, y)]
            if varies[1] > 1:  # else the teacher's row is flat, and left out
                parts.append(1 - min(1, varies[0]) * np.corrcoef(x, y)[0, 1])
        return float(np.mean(parts))

    return T**2 * (2 * unlike(q, p) + 0.5 * unlike(q.T, p.T))


def _logit_std_kl(s: Array, t: Array, labels: Array) -> float:
    def standard(x: Array) -> Array:
        return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)

    return _kl(standard(s), standard(t))


FORMULAS: dict[str, Callable[[Array, Array, Array], float]] = {
    "kl": lambda s, t, labels: _kl(s, t),
    "soft_cross_entropy": _soft_cross_entropy,
    "mse_logits": lambda s, t, labels: float(((s - t) ** 2).mean()),
    "dkd": _dkd,
    "dist": _dist,
    "logit_std_kl": _logit_std_kl,
}


def _case(seed: int, n: int, classes: int, size: float = 2.0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    s, t = size * rng.normal(size=(2, n, classes))
    return s, t, rng.integers(0, classes, n)


def _torch(name: str, s: Array, t: Array, labels: Array) -> torch.Tensor:
    found = LOSSES[name](torch.from_numpy(s), torch.from_numpy(t), torch.from_numpy(labels))
    assert found.dtype == torch.float64
    return found


def test_every_loss_of_a_recipe_has_its_formula_here() -> None:
    assert set(NAMES) == FORMULAS.keys()


@pytest.mark.parametrize("name", NAMES)
@given(st.integers(0, 1000), st.integers(2, 9), st.integers(3, 12))
@settings(deadline=None)
def test_a_loss_is_its_formula(name: str, seed: int, n: int, classes: int) -> None:
    case = _case(seed, n, classes)
    assert _torch(name, *case).item() == pytest.approx(FORMULAS[name](*case), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_its_gradient_is_the_formula_s(name: str) -> None:
    """By central differences of the numpy formula."""
    s, t, labels = _case(1, 4, 5)
    z = torch.from_numpy(s).requires_grad_()
    loss = LOSSES[name](z, torch.from_numpy(t), torch.from_numpy(labels))
    loss.backward()
    assert z.grad is not None
    step = 1e-5
    for place in np.ndindex(*s.shape):
        ahead, behind = s.copy(), s.copy()
        ahead[place] += step
        behind[place] -= step
        rise = FORMULAS[name](ahead, t, labels) - FORMULAS[name](behind, t, labels)
        assert z.grad[place].item() == pytest.approx(rise / (2 * step), rel=1e-4, abs=1e-6)


def test_kl_s_gradient_is_the_difference_of_the_softened_outputs() -> None:
    """dL/dz = T · (softmax(z/T) - softmax(t/T)) / n, by hand."""
    s, t, _ = _case(0, 5, 7)
    z = torch.from_numpy(s).requires_grad_()
    kl(z, torch.from_numpy(t), T).backward()
    assert z.grad is not None
    np.testing.assert_allclose(z.grad.numpy(), T * (_softmax(s) - _softmax(t)) / 5, atol=1e-12)


def test_the_gradients_size_hardly_depends_on_the_temperature() -> None:
    """What T² is for: the convention that other projects get wrong by up to 1,000 times."""
    student, teacher = np.random.default_rng(0).normal(size=(2, 64, 100))
    sizes = []
    for temperature in (4.0, 8.0, 16.0):
        z = torch.from_numpy(student).requires_grad_()
        kl(z, torch.from_numpy(teacher), temperature).backward()
        assert z.grad is not None
        sizes.append(float(z.grad.norm()))
    assert max(sizes) / min(sizes) < 1.2


@pytest.mark.parametrize("name", [each for each in NAMES if each != "soft_cross_entropy"])
def test_equal_logits_cost_nothing(name: str) -> None:
    s, _, labels = _case(2, 6, 10)
    assert _torch(name, s, s, labels).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", [each for each in NAMES if each != "mse_logits"])
def test_a_shift_of_all_logits_changes_nothing(name: str) -> None:
    s, t, labels = _case(3, 6, 10)
    moved = _torch(name, s + 5, t - 3, labels).item()
    assert moved == pytest.approx(_torch(name, s, t, labels).item(), rel=1e-6)


def test_standardised_logits_forget_their_scale() -> None:
    s, t, labels = _case(4, 6, 10)
    one = _torch("logit_std_kl", s, t, labels).item()
    assert _torch("logit_std_kl", 7 * s, t, labels).item() == pytest.approx(one, rel=1e-6)


def test_dkd_with_the_teacher_s_doubt_as_weight_is_kl() -> None:
    """Zhao et al., equation 5: KL = TCKD + (1 - p_right) · NCKD, here for one sample."""
    s, t, labels = _case(5, 1, 6)
    doubt = float(1 - _softmax(t)[0, labels[0]])
    plain = DistillSettings(temperature=T, target_weight=1, rest_weight=doubt)
    found = on_logits(plain)["dkd"](
        torch.from_numpy(s), torch.from_numpy(t), torch.from_numpy(labels)
    )
    assert found.item() == pytest.approx(_kl(s, t), rel=1e-9)


def test_dist_leaves_out_what_the_teacher_does_not_tell_apart() -> None:
    """A class that never occurs in a batch, and a teacher that is sure of everything."""
    rng = np.random.default_rng(6)
    t = rng.normal(size=(64, 100))
    t[np.arange(64), rng.integers(0, 40, 64)] += 30
    for temperature in (1.0, 4.0):
        same = torch.from_numpy(t)
        assert dist(same, same, temperature).item() == pytest.approx(0, abs=1e-9)
        assert dist(same.float(), same.float(), temperature).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0.0, 1e-4, 1e-2])
def test_a_student_that_says_nothing_yet_gets_a_gradient_of_reason(name: str, size: float) -> None:
    """A head that starts at zero gives equal logits at the first step."""
    rng = torch.Generator().manual_seed(0)
    z = (size * torch.randn(128, 10, generator=rng)).requires_grad_()
    teacher = 3 * torch.randn(128, 10, generator=rng)
    LOSSES[name](z, teacher, torch.arange(128) % 10).backward()
    assert z.grad is not None
    unit = 1 if name != "logit_std_kl" else 1 / max(size, 1e-4)  # its scale is divided out
    assert 0 < z.grad.norm() < 50 * unit or (name == "logit_std_kl" and size == 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_degenerate_inputs_stay_finite(name: str, dtype: torch.dtype, size: float) -> None:
    rng = torch.Generator().manual_seed(1)
    for shape in ((1, 1), (1, 10), (4, 1), (4, 2)):
        z = (size * torch.randn(shape, generator=rng)).to(dtype).requires_grad_()
        teacher = (size * torch.randn(shape, generator=rng)).to(dtype)
        for label in {0, shape[1] - 1}:
            loss = LOSSES[name](z, teacher, torch.full(shape[:1], label))
            (gradient,) = torch.autograd.grad(loss, z)
            assert torch.isfinite(loss)
            assert loss.dtype == torch.float32
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_single(name: str) -> None:
    s, t, labels = _case(7, 6, 10)
    halves = [torch.from_numpy(each).bfloat16() for each in (s, t)]
    found = LOSSES[name](*halves, torch.from_numpy(labels))
    exact = LOSSES[name](*(each.double() for each in halves), torch.from_numpy(labels))
    assert found.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_a_batch_does_not_matter(name: str) -> None:
    s, t, labels = _case(8, 12, 5)
    order = np.random.default_rng(0).permutation(12)
    mixed = _torch(name, s[order], t[order], labels[order]).item()
    assert mixed == pytest.approx(_torch(name, s, t, labels).item(), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_differ_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="of one shape"):
        LOSSES[name](torch.zeros(4, 1), torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("name", NAMES)
def test_a_teachers_inference_tensors_are_taken(name: str) -> None:
    s, t, labels = _case(9, 4, 5)
    with torch.inference_mode():
        teacher = torch.from_numpy(t) * 1
    z = torch.from_numpy(s).requires_grad_()
    LOSSES[name](z, teacher, torch.from_numpy(labels)).backward()
    assert z.grad is not None
