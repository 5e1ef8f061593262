"""Splits: disjoint, stratified, seeded; test is nobody's but the report's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.artifacts import Dataset
from edgekd.data import open_source
from edgekd.data.digits import Digits
from edgekd.data.splits import prepare, read, stratified
from edgekd.errors import DataError, RecipeError
from edgekd.recipe import DataSettings


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=300).map(np.array),
    st.floats(0, 1),
    st.integers(0, 3),
)
def test_a_stratified_draw_has_each_classs_share_to_within_one(
    labels: np.ndarray, share: float, seed: int
) -> None:
    n = int(share * len(labels))
    ids = stratified(labels, n, seed)
    assert len(ids) == n
    assert len(np.unique(ids)) == n
    for label in np.unique(labels):
        expected = n * (labels == label).mean()
        assert abs((labels[ids] == label).sum() - expected) <= 1


def test_another_seed_draws_others() -> None:
    labels = np.repeat(np.arange(10), 50)
    same = stratified(labels, 100, 0), stratified(labels, 100, 0)
    assert np.array_equal(*same)
    assert not np.array_equal(same[0], stratified(labels, 100, 1))


def test_more_than_there_are_is_an_error() -> None:
    with pytest.raises(DataError, match="5 samples were asked for, and there are 4"):
        stratified(np.zeros(4, np.int64), 5, 0)


def test_the_splits_are_disjoint_and_whole(dataset: Dataset) -> None:
    train, validation, test = (read(dataset, each) for each in ("train", "validation", "test"))
    assert not set(train.ids) & set(validation.ids)
    assert len(train) + len(validation) == len(Digits().read("train")[1])
    assert dataset.sizes == {"train": len(train), "validation": len(validation), "test": len(test)}
    assert {len(set(each.labels)) for each in (train, validation, test)} == {10}
    # The source's two parts share no image either.
    pixels = {each.tobytes() for each in test.images}
    assert not pixels & {each.tobytes() for each in train.images}


def test_the_digits_are_the_real_ones_cut_in_a_fixed_way() -> None:
    images, labels = Digits().read("train")
    test_images, test_labels = Digits().read("test")
    assert images.shape[1:] == test_images.shape[1:] == (1, 8, 8)
    assert len(labels) + len(test_labels) == 1797
    assert images.max() == 255
    assert Digits().fingerprint() == Digits().fingerprint()


def test_mean_and_deviation_are_those_of_train_alone(dataset: Dataset) -> None:
    pixels = read(dataset, "train").images / 255
    assert dataset.preprocessing.mean[0] == pytest.approx(pixels.mean(), abs=1e-5)
    assert dataset.preprocessing.std[0] == pytest.approx(pixels.std(), abs=1e-5)


def test_a_source_that_changed_is_refused(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="is not the one that the splits were cut from"):
        read(replace(dataset, fingerprint="other"), "train")


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    class Gap(Digits):
        def read(self, part: str, progress: object = None) -> tuple[np.ndarray, np.ndarray]:
            images, labels = super().read(part)
            return images[labels != 7], labels[labels != 7]

    with pytest.raises(DataError, match="the train part has no image of class '7'"):
        prepare(DataSettings(source="digits"), Gap(), tmp_path)


def test_an_unknown_source_names_the_near_ones() -> None:
    with pytest.raises(RecipeError, match=r"data.source: .*did you mean 'fashion-mnist'"):
        open_source("fashion_mnist")
