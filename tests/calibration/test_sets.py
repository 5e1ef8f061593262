"""Calibration sets: named samples, disjoint from validation and test, held to their hash."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.artifacts import Dataset, TensorSpec
from edgekd.calibration import manifest
from edgekd.calibration.sets import choose, create, images, open_given, open_set, open_whole
from edgekd.data import UNLABELLED, open_source, splits
from edgekd.errors import CalibrationError, DataError, EdgekdError, RecipeError
from edgekd.recipe import CalibrationSettings, DataSettings
from tests.data.conftest import save_digits, some_digits

SETTINGS = CalibrationSettings(samples=100)
FEW = CalibrationSettings(samples=12)
DRAWS = ("stratified", "coverage", "random")


def _same_images(one: np.ndarray, other: np.ndarray) -> bool:
    return {each.tobytes() for each in one} == {each.tobytes() for each in other}


def test_the_manifest_names_the_samples(dataset: Dataset, tmp_path: Path) -> None:
    chosen = choose(dataset, SETTINGS, tmp_path)
    record = json.loads(chosen.manifest.read_text())
    assert record["source"] == "digits"
    assert record["licence"] == "CC BY 4.0"
    assert record["split"] == "train"
    assert record["data"]["validation"] == 0.15
    assert len(record["ids"]) == chosen.samples == 100
    assert all(9 <= count <= 11 for count in record["per_class"].values())
    assert record["preprocessing"]["mean"] == list(dataset.preprocessing.mean)
    pixels = images(chosen, dataset)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == record["sha256"] == chosen.sha256


@pytest.mark.parametrize("draw", DRAWS)
def test_it_shares_no_image_with_validation_or_test(
    dataset: Dataset, tmp_path: Path, draw: str
) -> None:
    settings = CalibrationSettings(samples=100, draw=draw)  # type: ignore[arg-type]
    chosen = choose(dataset, settings, tmp_path)
    ids = json.loads(chosen.manifest.read_text())["ids"]
    assert not set(ids) & set(splits.read(dataset, "validation").ids)
    test = {each.tobytes() for each in splits.read(dataset, "test").images}
    assert not test & {each.tobytes() for each in images(chosen, dataset)}


@pytest.mark.parametrize("draw", DRAWS)
def test_a_small_set_is_the_beginning_of_a_large_one(
    dataset: Dataset, tmp_path: Path, draw: str
) -> None:
    ids = []
    for n in (20, 60):
        settings = CalibrationSettings(samples=n, draw=draw)  # type: ignore[arg-type]
        ids.append(json.loads(choose(dataset, settings, tmp_path).manifest.read_text())["ids"])
    assert ids[1][:20] == ids[0]


def test_more_samples_than_train_has(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="9999 .* lower calibration.samples"):
        choose(dataset, CalibrationSettings(samples=9999), tmp_path)


def test_other_pixels_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    chosen = choose(dataset, SETTINGS, tmp_path)
    with pytest.raises(CalibrationError, match="not those that the calibration set names"):
        images(replace(chosen, sha256="0" * 64), dataset)


@pytest.fixture
def few_labels(tmp_path: Path) -> Dataset:
    """Digits, decoded, with 57 labels in train and 70 images that never had one."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "more.npz", images=rng.integers(0, 256, (70, 8, 8), np.uint8))
    settings = DataSettings(
        source="digits", unlabelled=f"npz:{tmp_path / 'more.npz'}", labelled=0.05, validation=0.15
    )
    return splits.prepare(settings, open_source("digits"), tmp_path)


@pytest.mark.parametrize("samples", [30, 57, 100])
def test_labelled_images_come_first(few_labels: Dataset, tmp_path: Path, samples: int) -> None:
    chosen = choose(few_labels, CalibrationSettings(samples=samples), tmp_path)
    record = json.loads(chosen.manifest.read_text())
    train = splits.read(few_labels, "train")
    places = np.searchsorted(train.ids, record["ids"])
    labels = train.labels[places]
    assert len(labels) == chosen.samples == samples
    assert (labels[: min(samples, 57)] != UNLABELLED).all()
    assert (labels[57:] == UNLABELLED).all()
    counts = [(labels == label).sum() for label in range(10)]
    assert list(record["per_class"].values()) == counts
    assert max(counts) - min(counts) <= 2
    pixels = images(chosen, few_labels)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == record["sha256"]
    assert np.array_equal(pixels, train.images[places])


def test_decoded_images_that_are_gone_are_an_error(few_labels: Dataset, tmp_path: Path) -> None:
    chosen = choose(few_labels, SETTINGS, tmp_path)
    assert few_labels.pixels is not None
    few_labels.pixels.unlink()
    with pytest.raises(DataError, match="missing or damaged"):
        images(chosen, few_labels)


def test_a_set_of_a_build_is_opened_by_its_file(dataset: Dataset, tmp_path: Path) -> None:
    chosen = choose(dataset, SETTINGS, tmp_path)
    found, feeds, validation = open_set(chosen.manifest)
    assert (found.sha256, found.samples) == (chosen.sha256, 100)
    assert np.array_equal(feeds.arrays["image"], images(chosen, dataset))
    assert feeds.preprocessing == dataset.preprocessing
    assert validation is not None
    assert np.array_equal(validation.arrays["image"], splits.read(dataset, "validation").images)
    assert validation.labels is not None


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of 20 images, each in a folder."""
    save_digits(tmp_path / "photos", 20, "train")
    return tmp_path / "photos"


def _data(source: str, **more: object) -> DataSettings:
    return DataSettings(source=source, validation=0.1, **more)  # type: ignore[arg-type]


def test_a_folder_of_classes(photos: Path, tmp_path: Path) -> None:
    made = create(_data(f"folder:{photos}"), FEW, tmp_path / "set.json", mean=(0.5,), std=(0.2,))
    assert made.per_class == {"one": 4, "two": 4, "zero": 4}
    assert made.source == "folder:photos"
    assert made.preprocessing is not None and made.preprocessing.mean == (0.5,)
    opened = open_whole(tmp_path / "set.json")
    assert opened.manifest == made
    parts = opened.pool.parts
    sizes = {name: len(each) for name, each in parts.items()}
    assert sum(sizes.values()) == 60 and sizes["test"] == 12
    assert set(made.ids) <= set(parts["train"].ids.tolist())
    # Moved with its folder, it is still found; without it, it must be told where.
    (tmp_path / "there").mkdir()
    (tmp_path / "set.json").rename(tmp_path / "there" / "set.json")
    with pytest.raises(RecipeError, match="there is no folder"):
        open_set(tmp_path / "there" / "set.json")
    _, feeds, _ = open_set(tmp_path / "there" / "set.json", f"folder:{photos}")
    assert np.array_equal(feeds.arrays["image"], opened.feeds.arrays["image"])
    photos.rename(tmp_path / "there" / "photos")
    open_set(tmp_path / "there" / "set.json")


def test_a_flat_folder_has_no_labels_and_no_test_part(photos: Path, tmp_path: Path) -> None:
    source = f"folder:{photos / 'two'}"
    made = create(_data(source, size=(4, 6)), FEW, tmp_path / "set.json", layout="NHWC")
    assert made.per_class == {}
    opened = open_whole(tmp_path / "set.json")
    assert {name: len(each) for name, each in opened.pool.parts.items()} == {
        "train": 18, "validation": 2, "test": 0,
    }  # fmt: skip
    assert opened.feeds.labels is None
    assert opened.feeds.take(slice(0, 2))["image"].shape == (2, 4, 6, 1)
    assert opened.validation is not None
    held = opened.validation.arrays["image"]
    assert not {each.tobytes() for each in held} & {
        each.tobytes() for each in opened.feeds.arrays["image"]
    }


def test_a_copy_stays_on_the_side_of_the_first_one(tmp_path: Path) -> None:
    pixels, _ = some_digits(2, 10)
    np.savez(tmp_path / "x.npz", images=np.concatenate([pixels, pixels, pixels]))
    create(_data("npz:" + str(tmp_path / "x.npz")), FEW, tmp_path / "set.json")
    parts = open_whole(tmp_path / "set.json").pool.parts
    train, held = (parts[name].arrays["image"][:] for name in ("train", "validation"))
    assert len(held) == 6
    assert not {each.tobytes() for each in train} & {each.tobytes() for each in held}


def test_more_samples_than_a_folder_has(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    with pytest.raises(CalibrationError, match="100 .* train has 43"):
        create(_data(f"folder:{photos}"), SETTINGS, path)
    assert not path.exists()
    made = create(_data(f"folder:{photos}"), SETTINGS, path, at_most=True)
    assert len(made.ids) == 43


def _two_inputs(path: Path, rows: int = 40, **more: np.ndarray) -> str:
    rng = np.random.default_rng(0)
    given = {
        "pixels": rng.normal(size=(rows, 3, 4, 4)).astype(np.float32),
        "tokens": rng.integers(0, 900, (rows, 5)),
    }
    np.savez(path, **{**given, **more})
    return f"npz:{path}"


@pytest.mark.parametrize("draw", DRAWS)
def test_arrays_named_after_inputs(draw: str, tmp_path: Path) -> None:
    source = _two_inputs(tmp_path / "x.npz", labels=np.arange(40) % 2)
    settings = CalibrationSettings(samples=12, draw=draw)  # type: ignore[arg-type]
    made = create(_data(source), settings, tmp_path / "set.json")
    assert (made.kind, made.preprocessing) == ("tensors", None)
    assert sum(made.per_class.values()) == 12 and set(made.per_class) <= {"0", "1"}
    inputs = (
        TensorSpec("pixels", "float32", ("n", 3, 4, 4)),
        TensorSpec("tokens", "int64", ("n", 5)),
    )
    chosen, feeds, validation = open_set(tmp_path / "set.json", inputs=inputs)
    assert chosen.sha256 == made.sha256
    with np.load(tmp_path / "x.npz") as given:
        for name in ("pixels", "tokens"):
            assert np.array_equal(feeds.arrays[name], given[name][list(made.ids)])
        assert feeds.labels is not None
        assert np.array_equal(feeds.labels, given["labels"][list(made.ids)])
    assert validation is not None and len(validation) == 4


def test_all_of_a_file_s_arrays_may_calibrate_without_a_manifest(tmp_path: Path) -> None:
    source = _two_inputs(tmp_path / "x.npz")
    chosen, feeds, validation = open_given(source)
    assert (chosen.samples, len(feeds), validation, feeds.labels) == (40, 40, None, None)
    with pytest.raises(CalibrationError, match="'pixels', 'tokens', and the model takes 'x'"):
        open_given(source, inputs=(TensorSpec("x", "float32", ("n", 3, 4, 4)),))
    with pytest.raises(RecipeError, match="no file 'none.npz'"):
        open_given("npz:none.npz")
    create(_data(source), FEW, tmp_path / "set.json")
    assert open_given(str(tmp_path / "set.json"))[0].samples == 12


NAN = np.zeros((40, 2), np.float32)
NAN[17, 1] = np.nan


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "holds no array: name one after each input"),
        ({"x": np.zeros((0, 3), np.float32)}, "holds no sample"),
        ({"x": NAN}, "sample 17 of x.npz: x holds NaN or infinity"),
        ({"x": np.full((9, 2), np.inf)}, "sample 0 of x.npz: x holds NaN"),
        ({"x": np.zeros((9, 2)), "y": np.zeros((8, 2))}, "differ in samples: 9 in 'x', 8 in 'y'"),
        ({"x": np.zeros((9, 2)), "labels": np.zeros(8, int)}, "8 in 'labels'"),
        ({"x": np.array(["a", "b"])}, "x.npz: x holds <U1, which no input takes"),
        ({"x": np.zeros((9, 2))}, "too few samples that differ"),
        ({"images": np.zeros((1, 8, 8), np.uint8)}, "too few images that differ"),
        ({"train_images": np.zeros((9, 8, 8)), "train_labels": np.zeros(9, int)}, "has no array"),
    ],
)
def test_samples_that_nothing_can_be_made_of(
    arrays: dict[str, np.ndarray], words: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(EdgekdError) as caught:
        create(_data(f"npz:{tmp_path / 'x.npz'}"), FEW, tmp_path / "set.json", at_most=True)
    assert words in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mean": (0.5,)}, "the one makes no sense without the other"),
        ({"mean": (0.5, 0.5), "std": (1.0, 1.0)}, "2 figures for images with 1 channels"),
        ({"mean": (0.5,), "std": (0.0,)}, "--std: must be greater than 0"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "--mean: is no number"),
        ({"model": Path("m.onnx")}, "--model: a stratified draw asks no model"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict, words: str, tmp_path: Path) -> None:  # type: ignore[type-arg]
    with pytest.raises(RecipeError, match=words):
        create(_data("digits"), FEW, tmp_path / "set.json", **arguments)
    assert not [*tmp_path.iterdir()]


def test_arrays_are_taken_as_they_are(tmp_path: Path) -> None:
    source = _two_inputs(tmp_path / "x.npz")
    with pytest.raises(RecipeError, match="are what the model takes, as they are"):
        create(_data(source), FEW, tmp_path / "set.json", mean=(0.5,), std=(0.5,))


def test_no_file_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text("mine")
    with pytest.raises(RecipeError, match="exists already"):
        create(_data("digits"), FEW, path)
    assert path.read_text() == "mine"
    with pytest.raises(RecipeError, match="there is no folder"):
        create(_data("digits"), FEW, tmp_path / "none" / "set.json")


@pytest.fixture
def made(photos: Path, tmp_path: Path) -> Path:
    """A set on a folder of classes, all of whose train it holds."""
    create(_data(f"folder:{photos}"), SETTINGS, tmp_path / "set.json", at_most=True)
    return tmp_path / "set.json"


def test_a_pixel_that_changed(made: Path, photos: Path) -> None:
    record = manifest.read(made)
    files = sorted(os.path.relpath(each, photos) for each in photos.rglob("*.png"))
    spoilt = photos / files[record.ids[5]]
    with Image.open(spoilt) as image:
        pixels = np.asarray(image).copy()
    pixels[3, 3] ^= 1
    Image.fromarray(pixels).save(spoilt)
    with pytest.raises(CalibrationError, match="not those that the calibration set names"):
        open_set(made)


def test_images_that_are_gone(made: Path, photos: Path) -> None:
    for path in sorted((photos / "zero").iterdir())[5:]:
        path.unlink()
    with pytest.raises(CalibrationError, match="of the 43 samples .* are not in train of"):
        open_set(made)


def test_another_source_in_its_place(made: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="not in train of digits|not those"):
        open_set(made, "digits")
    with pytest.raises(CalibrationError, match="a set of images, and npz:x.npz holds tensors"):
        open_set(made, _two_inputs(tmp_path / "x.npz"))
    with pytest.raises(RecipeError, match="no data source is called 'digit'"):
        open_set(made, "digit")
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (80, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "c.npz", images=colour, labels=np.arange(80) % 3)
    with pytest.raises(CalibrationError, match="of 1 channels, and the images .* have 3|not in tr"):
        open_set(made, f"npz:{tmp_path / 'c.npz'}")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([("x", "float32", ("n", 1, 28, 28))], r"1×8×8, and the model takes 1×28×28"),
        ([("x", "float32", (64, 1, 8, 8))], "43 samples"),
        ([("x", "uint8", ("n", 1, 8, 8))], "holds float32, and the model takes uint8"),
        ([("x", "float32", ("n", 8, 8, 1))], "NCHW, and the model takes NHWC"),
        ([("a", "float32", ("n", 4)), ("b", "int64", ("n",))], "the model takes 'a', 'b'"),
    ],
)
def test_a_set_made_for_another_model(
    made: Path, inputs: list[tuple[str, str, tuple[int | str, ...]]], words: str
) -> None:
    with pytest.raises(CalibrationError, match=words):
        open_set(made, inputs=[TensorSpec(*each) for each in inputs])


def test_images_are_called_after_the_model_s_input(made: Path) -> None:
    inputs = (TensorSpec("input.1", "float32", ("n", 1, 8, 8)),)
    _, feeds, validation = open_set(made, inputs=inputs)
    assert [*feeds.arrays] == ["input.1"]
    assert validation is not None and [*validation.arrays] == ["input.1"]


def test_nothing_is_left_behind(made: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    _, feeds, _ = open_set(made)
    assert not [*scratch.iterdir()]
    assert feeds.take(slice(0, 43))["image"].shape == (43, 1, 8, 8)  # still mapped
