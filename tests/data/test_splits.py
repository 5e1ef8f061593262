"""Splits: disjoint, stratified, seeded; test is nobody's but the report's."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from edgekd.artifacts import Dataset
from edgekd.data import UNLABELLED, open_source, open_unlabelled
from edgekd.data.digits import Digits
from edgekd.data.rows import Rows
from edgekd.data.splits import prepare, read, stage_key, stratified
from edgekd.errors import DataError, RecipeError
from edgekd.recipe import DataSettings
from tests.data.conftest import some_digits


def _prepared(out: Path, **settings: object) -> Dataset:
    out.mkdir(exist_ok=True)
    chosen = DataSettings.model_validate({"validation": 0.15, **settings})
    return prepare(chosen, open_source(chosen.source), out)


@example(np.array([0, 0, 0, 1, 2, 3, 4]), 0.75, 0)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=300).map(np.array),
    st.floats(0, 1),
    st.integers(0, 3),
)
def test_a_stratified_draw_has_each_classs_share(
    labels: np.ndarray, share: float, seed: int
) -> None:
    n = int(share * len(labels))
    ids = stratified(labels, n, seed)
    assert len(ids) == n
    assert len(np.unique(ids)) == n
    classes = np.unique(labels)
    for label in classes:
        part = (labels == label).mean()
        off = abs((labels[ids] == label).sum() - n * part)
        assert off <= 0.5 + part * max(len(classes) - 2, 0) / 2 + 1e-9
        assert off < 1 or part > 1 / len(classes)


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


@hypothesis_settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=30, max_size=60),
    st.integers(0, 3),
    st.floats(0.1, 0.5),
)
def test_copies_stay_on_one_side_of_every_cut(
    drawn: list[tuple[int, int]], seed: int, share: float
) -> None:
    """Images of few different pixels, and a rare one of each class so that each is in each part."""
    pixels = np.array([10 * label + each for label, each in drawn])
    rare = np.arange(100, 160)
    values = np.concatenate([pixels, rare]).astype(np.uint8)
    labels = np.concatenate([[label for label, _ in drawn], rare % 3])
    with tempfile.TemporaryDirectory() as folder:
        images = np.broadcast_to(values[:, None, None], (len(values), 2, 2))
        np.savez(Path(folder, "x.npz"), images=images, labels=labels)
        dataset = _prepared(
            Path(folder), source=f"npz:{folder}/x.npz", validation=share, test=0.3, seed=seed
        )
        splits = [read(dataset, each) for each in ("train", "validation", "test")]
        ids = np.concatenate([each.ids for each in splits])
        assert sorted(ids) == list(range(len(values)))
        seen = [set(values[each.ids].tolist()) for each in splits]
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
        assert all(np.array_equal(each.labels, labels[each.ids]) for each in splits)


def test_a_share_of_the_labels_is_stratified_and_the_rest_is_hidden(
    dataset: Dataset, tmp_path: Path
) -> None:
    few = _prepared(tmp_path / "a", source="digits", labelled=0.1)
    train, whole = read(few, "train"), read(dataset, "train")
    assert np.array_equal(train.ids, whole.ids)
    known = train.labels != UNLABELLED
    assert known.sum() == round(0.1 * len(train))
    assert np.array_equal(train.labels[known], whole.labels[known])
    each = np.bincount(train.labels[known])
    assert np.abs(each - 0.1 * np.bincount(whole.labels)).max() <= 1
    assert few.sizes == {**dataset.sizes, "unlabelled": len(train) - known.sum()}
    assert few.audit["unlabelled"] == few.sizes["unlabelled"]
    for split in ("validation", "test"):
        assert read(few, split).labels.min() == 0

    chosen = train.labelled()
    assert np.array_equal(chosen.ids, train.ids[known])
    assert np.array_equal(chosen.images[:], whole.images[:][known])
    assert whole.labelled() is whole

    again = _prepared(tmp_path / "b", source="digits", labelled=0.1)
    assert np.array_equal(read(again, "train").labels, train.labels)
    other = _prepared(tmp_path / "c", source="digits", labelled=0.1, seed=1)
    assert not np.array_equal(read(other, "train").labelled().ids, chosen.ids)


def test_labels_so_few_that_a_class_has_none_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labelled = 0.005 leaves no label of class '.': raise"):
        _prepared(tmp_path, source="digits", labelled=0.005)


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """Seven images without labels at several depths; one of them is a copy of a test image."""
    images = Digits().read("test")[0][:1, 0], some_digits(3, 2, "train")[0] // 2
    for place, image in enumerate(np.concatenate(images)):
        path = tmp_path / "more" / "/".join("ab"[: place % 3]) / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "more"


def test_images_without_labels_join_train_alone(
    dataset: Dataset, more: Path, tmp_path: Path
) -> None:
    joined = _prepared(tmp_path / "out", source="digits", unlabelled=f"folder:{more}")
    train = read(joined, "train")
    assert joined.sizes == {**dataset.sizes, "train": dataset.sizes["train"] + 6, "unlabelled": 6}
    assert joined.audit["left_out"] == 1  # it is in test
    assert (train.labels[-6:] == UNLABELLED).all()
    assert {each.tobytes() for each in train.images[-6:]} == {
        each.tobytes() for each in some_digits(3, 2, "train")[0] // 2
    }
    known = train.labelled()
    assert isinstance(known.images, Rows)
    whole = read(dataset, "train")
    assert np.array_equal(known.images[:], whole.images[:])
    assert np.array_equal(known.labels, whole.labels)
    for split in ("validation", "test"):
        assert np.array_equal(read(joined, split).images[:], read(dataset, split).images[:])
    assert joined.fingerprint != dataset.fingerprint


def test_images_without_labels_are_brought_to_the_shape_or_refused(
    more: Path, tmp_path: Path
) -> None:
    settings = {"source": "digits", "unlabelled": f"folder:{more}"}
    Image.new("L", (9, 8)).save(more / "wide.png")
    with pytest.raises(DataError, match="more/wide.png is 8×9 and .*set data.size"):
        _prepared(tmp_path / "out", **settings)
    assert _prepared(tmp_path / "out", **settings, size=[8, 8]).sizes["unlabelled"] == 7
    np.savez(tmp_path / "more.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    settings["unlabelled"] = f"npz:{tmp_path / 'more.npz'}"
    with pytest.raises(DataError, match="are grey, and some of those without are not.*channels"):
        _prepared(tmp_path / "out", **settings)
    assert _prepared(tmp_path / "out", **settings, channels=3).shape == (3, 8, 8)
    np.savez(tmp_path / "more.npz", images=np.zeros((2, 7, 7), np.uint8))
    with pytest.raises(
        DataError, match=r"more.npz: images\[0\] is 7×7 and digits: train\[0\] is 8"
    ):
        _prepared(tmp_path / "out", **settings)
    np.savez(tmp_path / "more.npz", imagse=np.zeros((2, 7, 7), np.uint8))
    with pytest.raises(
        DataError, match="npz:more.npz has no array 'images': did you mean 'imagse'"
    ):
        _prepared(tmp_path / "out", **settings)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none holds no PNG or JPEG file"):
        _prepared(tmp_path / "out", source="digits", unlabelled=f"folder:{tmp_path / 'none'}")
    with pytest.raises(RecipeError, match="data.unlabelled: 'digits' does not name images"):
        open_unlabelled("digits")


def test_the_key_follows_the_images_without_labels(more: Path) -> None:
    settings = DataSettings(source="digits", unlabelled=f"folder:{more}")

    def key() -> object:
        return stage_key(settings, open_source("digits"), open_unlabelled(settings.unlabelled))

    before = key()
    assert key() == before
    Image.new("L", (8, 8)).save(more / "new.png")
    assert key() != before


def test_a_built_in_source_can_be_brought_to_another_shape(
    dataset: Dataset, tmp_path: Path
) -> None:
    larger = _prepared(tmp_path, source="digits", size=[16, 12], channels=3)
    assert larger.shape == (3, 16, 12)
    assert larger.sizes == dataset.sizes
    for split in dataset.sizes:
        small, large = read(dataset, split), read(larger, split)
        assert np.array_equal(large.labels, small.labels)
        assert large.images.shape == (len(small), 3, 16, 12)
        means = [each.images[:].mean((1, 2, 3)) for each in (small, large)]
        assert np.abs(means[0] - means[1]).max() < 12  # the same images, blurred


def test_decoded_images_stay_on_disk_and_need_no_source(tmp_path: Path) -> None:
    images, labels = some_digits(3, 20)
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    dataset = _prepared(tmp_path / "out", source=f"npz:{tmp_path / 'x.npz'}")
    (tmp_path / "x.npz").unlink()
    train = read(dataset, "train")
    assert isinstance(train.images, Rows)
    assert isinstance(train.images.base, np.memmap)
    assert isinstance(train.labelled().images.base, np.memmap)
    assert np.array_equal(train.images[:][:, 0], images[train.ids])
    assert isinstance(read(dataset, "test").images, Rows)


@pytest.mark.parametrize("file", ["images.npy", "splits.npz"])
@pytest.mark.parametrize("fault", ["missing", "short", "empty", "other"])
def test_damage_to_what_was_decoded_is_an_error(file: str, fault: str, tmp_path: Path) -> None:
    images, labels = some_digits(3, 20)
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    dataset = _prepared(tmp_path / "out", source=f"npz:{tmp_path / 'x.npz'}")
    path = tmp_path / "out" / file
    match fault:
        case "missing":
            path.unlink()
        case "short":
            path.write_bytes(path.read_bytes()[:-30])
        case "empty":
            path.write_bytes(b"")
        case "other":
            np.save(tmp_path / "other.npy", np.zeros((60, 1, 8, 9), np.uint8))
            shutil.move(tmp_path / "other.npy", path)
    with pytest.raises(DataError, match="x.npz is missing or damaged in .*: build again"):
        read(dataset, "train")
