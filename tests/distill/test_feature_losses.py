"""Losses of features against the formulas of their papers, and what holds of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.distill.losses import attention, crd, gram, hint, rkd, similarity, vid
from tests.distill import feature_formulas as formulas
from tests.distill.feature_formulas import POPULATION, TAU

Array = np.ndarray
Tensors = tuple[torch.Tensor, ...]


class Case(NamedTuple):
    """A loss: how it is called, its formula, its arguments' shapes, how many are the student's.

    In a shape ``n`` stands for the batch.
    """

    call: Callable[..., torch.Tensor]
    formula: Callable[..., float]
    shapes: tuple[tuple[str | int, ...], ...]
    trained: int = 1
    is_zero_for_equals: bool = True


CASES = {
    "hint": Case(hint, formulas.hint, (("n", 3, 2, 4),) * 2),
    "attention": Case(attention, formulas.attention, (("n", 3, 4, 6), ("n", 5, 2, 3))),
    "attention, uneven": Case(attention, formulas.attention, (("n", 2, 3, 5), ("n", 2, 4, 2))),
    "gram": Case(
        lambda a, b, c, d: gram((a, b), (c, d)),
        formulas.gram,
        (("n", 3, 4, 4), ("n", 2, 2, 2), ("n", 3, 3, 5), ("n", 2, 3, 5)),
        trained=2,
    ),
    "similarity": Case(similarity, formulas.similarity, (("n", 2, 3, 2), ("n", 5))),
    "rkd": Case(rkd, formulas.rkd, (("n", 2, 2, 2), ("n", 6))),
    "vid": Case(
        vid,
        formulas.vid,
        (("n", 3, 2, 2), (3,), ("n", 3, 2, 2)),
        trained=2,
        is_zero_for_equals=False,
    ),
    "vid, vectors": Case(
        vid, formulas.vid, (("n", 4), (4,), ("n", 4)), trained=2, is_zero_for_equals=False
    ),
    "crd": Case(
        lambda s, p, m: crd(s, p, m, TAU, POPULATION),
        formulas.crd,
        (("n", 4), ("n", 4), ("n", 6, 4)),
        is_zero_for_equals=False,
    ),
}
by_name = pytest.mark.parametrize("name", CASES)
law = settings(max_examples=30, deadline=None)


def _draw(name: str, seed: int, n: int, size: float = 1.0) -> list[Array]:
    rng = np.random.default_rng(seed)
    shapes = [[n if side == "n" else side for side in shape] for shape in CASES[name].shapes]
    return [size * rng.normal(size=shape) for shape in shapes]


def _tensors(arrays: list[Array], trained: int = 0, dtype: torch.dtype = torch.float64) -> Tensors:
    tensors = [torch.from_numpy(each).to(dtype) for each in arrays]
    return tuple(each.requires_grad_(i < trained) for i, each in enumerate(tensors))


def _finite_gradients(loss: torch.Tensor, trained: Tensors) -> list[torch.Tensor]:
    found = list(torch.autograd.grad(loss, trained))
    assert torch.isfinite(loss)
    assert all(torch.isfinite(each).all() for each in found)
    return found


@by_name
@law
@given(st.integers(0, 1000), st.integers(2, 5), st.sampled_from([0.1, 1.0, 3.0]))
def test_a_loss_is_its_formula(name: str, seed: int, n: int, size: float) -> None:
    arrays = _draw(name, seed, n, size)
    found = CASES[name].call(*_tensors(arrays))
    assert found.dtype == torch.float64 and found.shape == ()
    assert found.item() == pytest.approx(CASES[name].formula(*arrays), rel=1e-9, abs=1e-12)


@by_name
def test_its_gradient_is_the_formula_s(name: str) -> None:
    """By central differences of the numpy formula, in every argument of the student's."""
    case, arrays = CASES[name], _draw(name, 1, 3)
    tensors = _tensors(arrays, case.trained)
    gradients = torch.autograd.grad(case.call(*tensors), tensors[: case.trained])
    step = 1e-5
    for which, gradient in enumerate(gradients):
        for place in np.ndindex(*arrays[which].shape):
            ends = []
            for move in (step, -step):
                moved = [each.copy() for each in arrays]
                moved[which][place] += move
                ends.append(case.formula(*moved))
            rise = (ends[0] - ends[1]) / (2 * step)
            assert gradient[place].item() == pytest.approx(rise, rel=1e-5, abs=1e-8)


@by_name
def test_its_gradient_is_the_function_s(name: str) -> None:
    case = CASES[name]
    assert torch.autograd.gradcheck(case.call, _tensors(_draw(name, 2, 4), case.trained))


# ---- what holds of every loss


@pytest.mark.parametrize("name", [each for each in CASES if CASES[each].is_zero_for_equals])
@law
@given(st.integers(0, 1000), st.integers(1, 5))
def test_equal_features_cost_nothing(name: str, seed: int, n: int) -> None:
    case = CASES[name]
    ours = _tensors(_draw(name, seed, n))[: case.trained]
    assert case.call(*ours, *ours).item() == 0


@by_name
@law
@given(st.integers(0, 1000), st.permutations(range(5)))
def test_the_order_of_a_batch_changes_nothing(name: str, seed: int, order: list[int]) -> None:
    case, arrays = CASES[name], _draw(name, seed, 5)
    moved = [
        each[order] if shape[0] == "n" else each
        for each, shape in zip(arrays, case.shapes, strict=True)
    ]
    before, after = (case.call(*_tensors(each)).item() for each in (arrays, moved))
    assert after == pytest.approx(before, rel=1e-12)


@by_name
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    """Features of 300: their squares are past float16."""
    case = CASES[name]
    half = _tensors(_draw(name, 3, 4, 300.0), dtype=dtype)
    found = case.call(*half)
    assert found.dtype == torch.float32
    assert found.item() == case.call(*(each.float() for each in half)).item()


@by_name
def test_autocast_does_not_lower_the_precision(name: str) -> None:
    case, tensors = CASES[name], _tensors(_draw(name, 4, 4), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = case.call(*tensors)
    assert found.dtype == torch.float32
    assert found.item() == case.call(*tensors).item()


@by_name
def test_a_teacher_s_features_may_come_of_inference_mode(name: str) -> None:
    """Autograd may not keep such tensors, so no loss may make it."""
    case, arrays = CASES[name], _draw(name, 5, 4)
    ours = _tensors(arrays, case.trained)[: case.trained]
    with torch.inference_mode():
        theirs = _tensors(arrays[case.trained :])
    _finite_gradients(case.call(*ours, *theirs), ours)


# ---- what each loss does not see

scales = st.floats(0.01, 100)


@law
@given(st.integers(0, 1000), st.lists(scales, min_size=3, max_size=3), st.permutations(range(3)))
def test_attention_sees_no_scale_and_no_order_of_channels(
    seed: int, scale: list[float], order: list[int]
) -> None:
    s, t = _tensors(_draw("attention", seed, 3))
    factor = torch.tensor(scale, dtype=s.dtype).view(3, 1, 1, 1)
    found = attention(factor * s[:, order], t / factor).item()
    assert found == pytest.approx(attention(s, t).item(), rel=1e-9)


@law
@given(st.integers(0, 1000), st.permutations(range(6)))
def test_gram_sees_no_order_of_positions(seed: int, order: list[int]) -> None:
    rng = np.random.default_rng(seed)
    pairs = [torch.from_numpy(rng.normal(size=(2, c, 1, 6))) for c in (3, 2, 3, 2)]
    moved = [each[..., order] for each in pairs[:2]]
    before, after = (gram((a, b), (pairs[2], pairs[3])) for a, b in (pairs[:2], moved))
    assert after.item() == pytest.approx(before.item(), rel=1e-9)


def _rotation(rng: np.random.Generator, d: int) -> Array:
    rotation: Array = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return rotation


@law
@given(st.integers(0, 1000), scales)
def test_similarity_sees_no_scale_and_no_rotation(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    s, t = rng.normal(size=(2, 4, 5))
    before, after = (
        similarity(*_tensors(each)) for each in ([s, t], [scale * s @ _rotation(rng, 5), t / scale])
    )
    assert after.item() == pytest.approx(before.item(), rel=1e-9)


@law
@given(st.integers(0, 1000), scales)
def test_rkd_sees_no_scale_no_rotation_and_no_shift(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    s, t = rng.normal(size=(2, 5, 4))
    moved = scale * s @ _rotation(rng, 4) + 3
    before, after = (rkd(*_tensors(each)).item() for each in ([s, t], [moved, t / scale - 2]))
    assert after == pytest.approx(before, rel=1e-7)


@law
@given(st.integers(0, 1000), scales, st.permutations(range(6)))
def test_crd_sees_no_length_and_no_order_of_negatives(
    seed: int, scale: float, order: list[int]
) -> None:
    s, p, m = _tensors(_draw("crd", seed, 3))
    found = crd(scale * s, p / scale, scale * m[:, order], TAU, POPULATION).item()
    assert found == pytest.approx(crd(s, p, m, TAU, POPULATION).item(), rel=1e-9)


# ---- what each loss is for


def test_rkd_s_two_parts_are_weighed() -> None:
    s, t = _tensors(_draw("rkd", 6, 5))
    distance, angle = rkd(s, t, 1, 0).item(), rkd(s, t, 0, 1).item()
    assert distance > 0 and angle > 0
    assert rkd(s, t).item() == pytest.approx(distance + 2 * angle)
    assert rkd(s, t, 0.5, 3).item() == pytest.approx(0.5 * distance + 3 * angle)


def test_rkd_of_two_samples_compares_nothing() -> None:
    """Their one distance is the mean, and there is no third for an angle."""
    assert rkd(*_tensors(_draw("rkd", 7, 2))).item() == pytest.approx(0, abs=1e-12)


def test_rkd_gives_coinciding_samples_no_angle() -> None:
    """Two samples that the student cannot tell apart: cosines at either are 0, not undefined."""
    s, t = _draw("rkd", 7, 4)
    s[1] = s[0]
    assert rkd(*_tensors([s, t])).item() == pytest.approx(formulas.rkd(s, t), rel=1e-9)


def test_vid_s_best_variance_is_the_mean_squared_error() -> None:
    mean, _, t = _tensors(_draw("vid", 8, 6))
    error = (t - mean).square().mean((0, 2, 3))
    raw = (error - 1e-5).expm1().log().requires_grad_()
    (gradient,) = _finite_gradients(vid(mean, raw, t), (raw,))
    np.testing.assert_allclose(gradient.numpy(), 0, atol=1e-12)


def test_vid_s_variance_has_a_floor() -> None:
    mean, t = torch.zeros(2, 1), torch.full((2, 1), 0.01)
    found = vid(mean, torch.full((1,), -1e4), t).item()
    assert found == pytest.approx((math.log(1e-5) + 1e-4 / 1e-5) / 2, rel=1e-5)


def test_crd_falls_as_the_student_turns_to_its_positive() -> None:
    _, p, m = _tensors(_draw("crd", 9, 8))
    away, across, toward = (
        crd(s, p, m, 0.07, POPULATION).item() for s in (-p, p.roll(1, dims=1), p)
    )
    assert toward < across < away


@pytest.mark.parametrize("temperature", [0.07, 1e-3, 1e-5])
def test_crd_overflows_at_no_temperature(temperature: float) -> None:
    """exp(1 / 0.001) is past every float; the loss is the size of 1 / temperature."""
    s, p, m = _tensors(_draw("crd", 10, 4), trained=1, dtype=torch.float32)
    for positives in (p, s.detach(), -s.detach()):
        loss = crd(s, positives, m, temperature, 60_000)
        _finite_gradients(loss, (s,))
        assert 0 <= loss.item() < 8 / temperature + 60


# ---- degenerate input

HUGE = 1e4


def _edge_cases(name: str, dtype: torch.dtype) -> list[tuple[str, Tensors]]:
    """Sizes from nothing to huge, batches of one and of two, and samples that are all equal."""
    case = CASES[name]
    found = []
    for n in (1, 2, 4):
        for size in (0.0, 1e-4, 1.0, HUGE):
            arrays = _draw(name, n, n, size)
            found.append((f"{n} of size {size}", arrays))
        arrays = _draw(name, n, n, 1.0)
        ours, theirs = arrays[: case.trained], arrays[case.trained :]
        found.append((f"{n}, the student's zero", [0 * each for each in ours] + theirs))
        found.append((f"{n}, the teacher's zero", ours + [0 * each for each in theirs]))
        same = [np.repeat(each[:1], len(each), 0) for each in ours]
        found.append((f"{n}, the student's all equal", same + theirs))
        half = [
            np.where(np.arange(len(e)).reshape(-1, *[1] * (e.ndim - 1)) % 2, e, 0) for e in ours
        ]
        found.append((f"{n}, half of the student's zero", half + theirs))
    return [(what, _tensors(arrays, case.trained, dtype)) for what, arrays in found]


@by_name
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_degenerate_inputs_stay_finite(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    for _, tensors in _edge_cases(name, dtype):
        _finite_gradients(case.call(*tensors), tensors[: case.trained])


@by_name
def test_dead_features_make_no_gradient_of_rounding_s_size(name: str) -> None:
    """Dividing by a norm of 0 + 1e-12 gives finite gradients too, that throw training away."""
    case = CASES[name]
    for what, tensors in _edge_cases(name, torch.float32):
        if "zero" in what or "equal" in what:
            gradients = _finite_gradients(case.call(*tensors), tensors[: case.trained])
            assert max(each.abs().max().item() for each in gradients) < 1e3, what


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_channel_and_one_position_stay_finite(n: int, dtype: torch.dtype) -> None:
    for size in (0.0, 1.0, HUGE):
        s = (size * torch.randn(n, 1, 1, 1)).to(dtype).requires_grad_()
        raw = torch.zeros(1, dtype=dtype, requires_grad=True)
        t = (size * torch.randn(n, 1, 1, 1)).to(dtype)
        for loss in (
            hint(s, t),
            attention(s, t),
            gram((s, s), (t, t)),
            similarity(s, t),
            rkd(s, t),
            vid(s, raw, t),
            crd(s.flatten(1), t.flatten(1), t.flatten(1)[:, None], 0.07, 10),
        ):
            _finite_gradients(loss, (s,))


def test_points_that_nearly_coincide_keep_rkd_finite() -> None:
    """As a network that has collapsed gives them, far from the origin in float32."""
    s = 1e4 + 1e-3 * torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    s = torch.cat([s, s[:3]]).requires_grad_()
    t = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    _finite_gradients(rkd(s, t), (s,))


# ---- shapes


def _f(*shape: int) -> torch.Tensor:
    return torch.ones(shape)


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (attention, ((2, 3, 8, 8), (2, 7, 4, 4))),
        (attention, ((2, 3, 4, 4), (2, 7, 8, 8))),
        (attention, ((2, 3, 4, 9), (2, 3, 9, 4))),
        (similarity, ((3, 4, 2, 2), (3, 7, 5, 5))),
        (similarity, ((3, 4, 2, 2), (3, 9))),
        (rkd, ((3, 4), (3, 7, 5, 5))),
    ],
)
def test_teacher_s_channels_and_size_may_differ(
    loss: Callable[..., torch.Tensor], shapes: tuple[tuple[int, ...], ...]
) -> None:
    s, t = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes)
    s.requires_grad_()
    (gradient,) = _finite_gradients(loss(s, t), (s,))
    assert gradient.abs().max() > 0


def test_gram_s_teacher_may_differ_in_size() -> None:
    s1, s2 = (torch.randn(2, c, 4, 4, requires_grad=True) for c in (3, 5))
    for size in (2, 4, 7):
        loss = gram((s1, s2), (torch.randn(2, 3, size, size), torch.randn(2, 5, size, 1)))
        for gradient in _finite_gradients(loss, (s1, s2)):
            assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: hint(_f(2, 3), _f(2, 4)), r"hint .* equal shape; these are \(2, 3\), \(2, 4\)"),
        (lambda: hint(_f(2, 3), _f(1, 3)), "hint .* equal shape"),
        (lambda: attention(_f(2, 3), _f(2, 3)), r"attention .* \(n, c, h, w\)"),
        (lambda: attention(_f(2, 3, 4, 4), _f(1, 3, 4, 4)), "attention .* one n"),
        (
            lambda: gram((_f(2, 3, 4, 4), _f(2, 5, 4, 4)), (_f(2, 5, 4, 4), _f(2, 3, 4, 4))),
            "gram .* one n, c1 and c2",
        ),
        (
            lambda: gram((_f(2, 3, 4, 4), _f(2, 5, 4, 4)), (_f(2, 3, 4, 4), _f(1, 5, 4, 4))),
            "gram .* one n, c1 and c2",
        ),
        (lambda: gram((_f(2, 3), _f(2, 5)), (_f(2, 3), _f(2, 5))), r"gram .* \(n, c1, h, w\)"),
        (lambda: similarity(_f(2, 3), _f(3, 3)), "similarity .* one n"),
        (lambda: similarity(_f(3), _f(3)), r"similarity .* \(n, ...\)"),
        (lambda: rkd(_f(2, 3), _f(1, 3)), "rkd .* one n"),
        (lambda: vid(_f(2, 3, 4, 4), _f(3), _f(2, 3, 2, 2)), "vid .* teacher of the mean's shape"),
        (lambda: vid(_f(2, 3, 4, 4), _f(4), _f(2, 3, 4, 4)), r"vid .* variances \(c,\)"),
        (lambda: vid(_f(2, 3), _f(1), _f(2, 3)), r"vid .* variances \(c,\)"),
        (lambda: crd(_f(2, 3), _f(1, 3), _f(2, 4, 3), 1, 9), r"crd .* positives \(n, d\)"),
        (lambda: crd(_f(2, 3), _f(2, 3), _f(4, 3), 1, 9), r"crd .* negatives \(n, k, d\)"),
        (lambda: crd(_f(2, 3), _f(2, 3), _f(2, 4, 1), 1, 9), r"crd .* negatives \(n, k, d\)"),
        (lambda: crd(_f(2, 3), _f(2, 3), _f(2, 0, 3), 1, 9), "crd .* k above zero"),
    ],
)
def test_shapes_that_cannot_work_are_told_in_one_line(
    call: Callable[[], torch.Tensor], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
