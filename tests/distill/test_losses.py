"""Losses against formulas written in numpy alone, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekd.distill.losses import kl


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def _kl(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    log_s, log_t = _log_softmax(student / temperature), _log_softmax(teacher / temperature)
    return float(temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(1).mean())


@given(
    st.integers(1, 8),
    st.integers(1, 12),
    st.floats(0.5, 20),
    st.integers(0, 100),
    st.floats(0.1, 8),
)
def test_kl_is_the_formula(
    n: int, classes: int, temperature: float, seed: int, size: float
) -> None:
    student, teacher = size * np.random.default_rng(seed).normal(size=(2, n, classes))
    found = kl(torch.from_numpy(student), torch.from_numpy(teacher), temperature).item()
    assert found == pytest.approx(_kl(student, teacher, temperature), rel=1e-3, abs=1e-4)


def test_its_gradient_is_the_difference_of_the_softened_outputs() -> None:
    """dL/dz = T · (softmax(z/T) - softmax(t/T)) / n, by hand."""
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 7))
    z = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    kl(z, torch.tensor(teacher), 4.0).backward()
    assert z.grad is not None
    by_hand = 4.0 * (np.exp(_log_softmax(student / 4)) - np.exp(_log_softmax(teacher / 4))) / 5
    np.testing.assert_allclose(z.grad.numpy(), by_hand, atol=1e-6)


def test_the_gradients_size_hardly_depends_on_the_temperature() -> None:
    """What T² is for: the convention that other projects get wrong by up to 1,000 times."""
    student, teacher = np.random.default_rng(0).normal(size=(2, 64, 100))
    sizes = []
    for temperature in (4.0, 8.0, 16.0):
        z = torch.tensor(student, requires_grad=True)
        kl(z, torch.tensor(teacher), temperature).backward()
        assert z.grad is not None
        sizes.append(float(z.grad.norm()))
    assert max(sizes) / min(sizes) < 1.2


def test_equal_logits_cost_nothing_and_a_shift_changes_nothing() -> None:
    x = torch.randn(4, 10)
    assert kl(x, x, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert kl(x + 5, x - 3, 2.0).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_degenerate_inputs_stay_finite(dtype: torch.dtype, size: float) -> None:
    for shape in ((1, 1), (1, 10), (4, 1)):
        z = (size * torch.randn(shape)).to(dtype).requires_grad_()
        loss = kl(z, (size * torch.randn(shape)).to(dtype), 1.0)
        loss.backward()
        assert torch.isfinite(loss)
        assert z.grad is not None
        assert torch.isfinite(z.grad).all()
