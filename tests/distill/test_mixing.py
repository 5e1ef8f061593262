"""Mixup and CutMix: what is mixed, and that the share says how much."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.distill.mixing import mix

X = torch.arange(6.0)[:, None, None, None].expand(6, 2, 8, 10)


def test_without_either_nothing_is_mixed_or_drawn() -> None:
    rng = np.random.default_rng(0)
    mixed = mix(X, 0, 0, rng)
    assert mixed.x is X
    assert mixed.share == 1
    assert rng.random() == np.random.default_rng(0).random()


@given(st.integers(0, 1000), st.floats(0.1, 4))
@settings(max_examples=40, deadline=None)
def test_mixup_is_the_blend_that_it_says(seed: int, strength: float) -> None:
    mixed = mix(X, strength, 0, np.random.default_rng(seed))
    assert 0 <= mixed.share <= 1
    expected = mixed.share * X + (1 - mixed.share) * X[mixed.partner]
    torch.testing.assert_close(mixed.x, expected)


@given(st.integers(0, 1000), st.floats(0.1, 4))
@settings(max_examples=60, deadline=None)
def test_cutmix_takes_every_pixel_whole_and_the_share_is_their_number(
    seed: int, strength: float
) -> None:
    mixed = mix(X, 0, strength, np.random.default_rng(seed))
    own = mixed.x == X
    assert (own | (mixed.x == X[mixed.partner])).all()
    moved = next((i for i in range(6) if mixed.partner[i] != i), None)
    if moved is not None:
        assert abs(own[moved].float().mean() - mixed.share) < 1e-6
    assert sorted(mixed.partner.tolist()) == list(range(6))


def test_with_both_a_coin_decides() -> None:
    rng = np.random.default_rng(0)
    whole = [set(mix(X, 1, 1, rng).x.unique().tolist()) <= set(range(6)) for _ in range(40)]
    assert 5 < sum(whole) < 35
