"""Two engines compared: formulas against scipy's, intervals against planted differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from edgekd.stats.compare import (
    block_bootstrap_ratio,
    bootstrap_difference,
    mcnemar,
    paired,
    wilson,
)

answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200).map(
    lambda pairs: tuple(np.array(pairs, bool).T)
)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_is_scipys(pair: tuple[int, int]) -> None:
    successes, n = pair
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson(successes, n) == (
        pytest.approx(expected.low, abs=1e-9),
        pytest.approx(expected.high, abs=1e-9),
    )


def test_paired_differences_by_hand() -> None:
    a = np.array([1, 1, 1, 0, 0, 1, 1, 1, 1, 1], bool)
    b = np.array([1, 1, 0, 1, 0, 0, 1, 1, 1, 1], bool)
    delta, low, high = paired(a, b)
    assert delta == pytest.approx(10.0)  # gained two, lost one, of ten
    # Agresti and Min with 2.5 and 1.5 of 12: (1 ± 1.96 · sqrt(4 - 1/12)) / 12
    half = 1.959964 * np.sqrt(4 - 1 / 12)
    assert (low, high) == (
        pytest.approx(100 * (1 - half) / 12),
        pytest.approx(100 * (1 + half) / 12),
    )


def test_no_difference_at_all_still_has_a_width() -> None:
    same = np.ones(1000, bool)
    delta, low, high = paired(same, same)
    assert delta == 0
    assert low < 0 < high


def test_paired_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held, trials = 0, 500
    for _ in range(trials):
        b = rng.random(2000) < 0.9
        flip = rng.random(2000)
        a = np.where(b, flip > 0.03, flip > 0.8)  # a is right at 0.9·0.97 + 0.1·0.2 = 0.893
        _, low, high = paired(a, b)
        held += low <= 100 * (0.893 - 0.9) <= high
    assert held / trials >= 0.92


def _answers(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """2,000 samples on which ``b`` is right at 0.9, ``a`` at 0.9 · 0.97 + 0.1 · 0.2 = 0.893."""
    b = rng.random(2000) < 0.9
    flip = rng.random(2000)
    return np.where(b, flip > 0.03, flip > 0.8), b


@given(answers)
def test_mcnemars_p_is_that_of_a_fair_coin(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    gained, lost = int((a & ~b).sum()), int((b & ~a).sum())
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(expected)


def test_mcnemar_errs_no_more_often_than_its_level_and_sees_a_difference() -> None:
    rng = np.random.default_rng(0)
    trials = 1000
    alike, other = 0, 0
    for _ in range(trials):
        b = rng.random(700) < 0.9
        flip = rng.random(700)
        alike += mcnemar(np.where(b, flip > 0.05, flip < 0.45), b) < 0.05  # 0.9 as well
        other += mcnemar(np.where(b, flip > 0.10, flip < 0.45), b) < 0.05  # 0.855
    assert alike / trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)
    assert other / trials > 0.8


def test_the_bootstrap_of_a_difference_agrees_with_the_formula() -> None:
    a, b = _answers(np.random.default_rng(1))
    found, expected = bootstrap_difference(a, b, 0), paired(a, b)
    assert found[0] == expected[0]
    assert found[1:] == pytest.approx(expected[1:], abs=0.1)
    few = [bootstrap_difference(a, b, seed, resamples=50) for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]


def test_the_bootstrap_of_a_difference_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    held, trials = 0, 500
    for trial in range(trials):
        _, low, high = bootstrap_difference(*_answers(rng), trial, resamples=1000)
        held += low <= 100 * (0.893 - 0.9) <= high
    assert held / trials >= 0.92


Blocks = list[np.ndarray]


def _turns(rng: np.random.Generator, blocks: int, size: int) -> tuple[Blocks, Blocks]:
    """Blocks of ``a``, slower by 1.1, and of ``b``: speed drifts by block, for each a little
    otherwise, and samples within a block are alike."""
    machine = rng.lognormal(0, 0.05, blocks)
    return tuple(  # type: ignore[return-value]
        [
            (factor * 1e6 * speed * own * rng.lognormal(0, 0.1, size)).astype(np.int64)
            for speed, own in zip(machine, rng.lognormal(0, 0.04, blocks), strict=True)
        ]
        for factor in (1.1, 1.0)
    )


def _ratio_of_independent_samples(
    rng: np.random.Generator, a: Blocks, b: Blocks
) -> tuple[float, float]:
    """The textbook's bootstrap, for which all samples are independent."""
    medians = [
        np.median(rng.choice(np.concatenate(each), (100, each[0].size * len(each))), axis=1)
        for each in (a, b)
    ]
    low, high = np.quantile(medians[0] / medians[1], [0.025, 0.975])
    return low, high


def test_blocks_hold_the_truth_where_independent_samples_would_not() -> None:
    rng = np.random.default_rng(3)
    by_block, by_sample, trials = 0, 0, 200
    for trial in range(trials):
        a, b = _turns(rng, 12, 60)
        found = block_bootstrap_ratio(a, b, seed=trial, resamples=400)
        assert found is not None
        by_block += found[1] <= 1.1 <= found[2]
        low, high = _ratio_of_independent_samples(rng, a, b)
        by_sample += low <= 1.1 <= high
    assert by_block / trials >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)
    assert by_sample / trials < 0.85


@pytest.mark.parametrize("blocks", [5, 10])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_few_blocks_hold_the_truth_too(blocks: int, share: float) -> None:
    rng = np.random.default_rng(4)
    held, trials = 0, 200
    for trial in range(trials):
        a, b = _turns(rng, blocks, 100)
        found = block_bootstrap_ratio(a, b, share=share, seed=trial, resamples=400)
        assert found is not None
        held += found[1] <= 1.1 <= found[2]
    assert held / trials >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)


def test_pairing_takes_out_what_met_both() -> None:
    rng = np.random.default_rng(5)
    speed = np.repeat([1.0, 2.0], 10)  # the clock fell half-way
    a, b = (
        [(factor * each * rng.normal(1e6, 1e4, 50)).astype(np.int64) for each in speed]
        for factor in (1.1, 1.0)
    )
    together = block_bootstrap_ratio(a, b)
    apart = block_bootstrap_ratio(a, b[::-1])
    assert together is not None
    assert apart is not None
    assert together[1] < 1.1 < together[2]
    assert together[2] - together[1] < 0.05 < 0.5 < apart[2] - apart[1]


def test_the_ratio_is_that_of_the_pooled_percentiles_and_the_seed_repeats() -> None:
    rng = np.random.default_rng(6)
    a = [rng.integers(1, 10**6, size) for size in (30, 70, 41, 50, 9)]
    b = [rng.integers(1, 10**6, size) for size in (20, 60, 40, 50, 8)]
    found = block_bootstrap_ratio(a, b, share=0.9)
    assert found is not None
    expected = np.divide(
        *(np.quantile(np.concatenate(each), 0.9, method="inverted_cdf") for each in (a, b))
    )
    assert found[0] == expected
    assert found[1] <= found[0] <= found[2]
    assert found == block_bootstrap_ratio(a, b, share=0.9)
    assert block_bootstrap_ratio(a, a, share=0.9) == (1.0, 1.0, 1.0)


def test_blocks_that_cannot_be_compared() -> None:
    block = np.arange(1, 10)
    assert block_bootstrap_ratio([block] * 4, [block] * 4) is None
    with pytest.raises(ValueError, match="5 blocks cannot be paired with 6"):
        block_bootstrap_ratio([block] * 5, [block] * 6)
