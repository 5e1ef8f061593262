"""Samples: what a model gets of them, and every way in which they may not be for it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from edgekd.artifacts import Preprocessing, TensorSpec
from edgekd.calibration.feeds import Feeds, check, of_images, sha256
from edgekd.errors import CalibrationError
from edgekd.preprocessing import normalise

RGB = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
LAST = replace(RGB, layout="NHWC")
NCHW = (TensorSpec("image", "float32", ("batch", 3, 6, 8)),)
NHWC = (TensorSpec("image", "float32", ("batch", 6, 8, 3)),)
FREE = (TensorSpec("image", "float32", ("n", 3, "h", "w")),)
PAIR = (TensorSpec("a", "float32", ("n", 4)), TensorSpec("b", "int64", ("n",)))
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 8), np.uint8)
NORMAL = normalise(IMAGES, RGB)
TWO = {"a": np.zeros((7, 4), np.float32), "b": np.zeros(7, np.int64)}


def test_images_are_normalised_in_the_models_layout() -> None:
    feeds = of_images("image", IMAGES, RGB, np.arange(5))
    assert len(feeds) == 5
    batch = feeds.take(slice(1, 3))["image"]
    assert np.array_equal(batch, normalise(IMAGES[1:3], RGB))
    last = of_images("image", IMAGES, LAST).take(slice(1, 3))["image"]
    assert np.array_equal(last, batch.transpose(0, 2, 3, 1))
    assert last.flags.c_contiguous


def test_without_preprocessing_arrays_are_taken_as_they_are() -> None:
    batch = Feeds({"image": IMAGES, **TWO}).take(slice(0, 2))
    assert np.array_equal(batch["image"], IMAGES[:2])
    assert {name: each.shape for name, each in batch.items()} == {
        "image": (2, 3, 6, 8), "a": (2, 4), "b": (2,),
    }  # fmt: skip


def test_preprocessing_is_for_the_images_alone() -> None:
    batch = Feeds({"image": IMAGES, "a": np.ones((5, 2), np.float32)}, RGB).take(slice(0, 2))
    assert np.array_equal(batch["image"], NORMAL[:2])
    assert np.array_equal(batch["a"], np.ones((2, 2)))


def test_the_hash_is_of_every_sample_in_order() -> None:
    images = np.random.default_rng(0).integers(0, 256, (150, 1, 4, 4), np.uint8)
    whole = sha256(Feeds({"image": images}))
    assert whole == hashlib.sha256(images.tobytes()).hexdigest()
    assert sha256(Feeds({"image": images[::-1]})) != whole
    assert sha256(Feeds(TWO)) == sha256(Feeds(dict(reversed(TWO.items()))))
    assert sha256(Feeds(TWO)) != sha256(Feeds({"c": TWO["a"], "b": TWO["b"]}))
    assert sha256(Feeds(TWO)) != sha256(Feeds({**TWO, "a": TWO["a"].reshape(7, 2, 2)}))


@pytest.mark.parametrize(
    ("feeds", "inputs"),
    [
        (of_images("image", IMAGES, RGB), NCHW),
        (of_images("image", IMAGES, RGB), FREE),
        (of_images("image", IMAGES, LAST), NHWC),
        (Feeds({"image": NORMAL}), NCHW),
        (Feeds({"image": IMAGES}), (TensorSpec("image", "uint8", (1, 3, 6, 8)),)),
        (Feeds({"image": IMAGES.astype(np.float32)}), NCHW),  # the model may normalise itself
        (Feeds(TWO), PAIR),
    ],
)
def test_what_fits(feeds: Feeds, inputs: tuple[TensorSpec, ...]) -> None:
    check(feeds, inputs)


def spoilt(value: float) -> np.ndarray:
    found = NORMAL.copy()
    found[3, 1, 2, 2] = value
    return found


mixed = np.concatenate([NORMAL, IMAGES[:2].astype(np.float32)])


@pytest.mark.parametrize(
    ("feeds", "inputs", "message"),
    [
        (Feeds({}), NCHW, "samples are of nothing, and the model takes 'image'"),
        (Feeds({"data": NORMAL}), NCHW, "of 'data', and the model takes 'image': name each array"),
        (Feeds({"a": TWO["a"]}), PAIR, "of 'a', and the model takes 'a', 'b'"),
        (Feeds({**TWO, "b": TWO["b"][:3]}), PAIR, "differ in number: 'a' has 7, 'b' has 3"),
        (Feeds({"image": NORMAL[:0]}), NCHW, "there is no sample to calibrate on: give a few"),
        (Feeds({"image": NORMAL[:1]}), NCHW, "there is one sample to calibrate on"),
        (
            Feeds({"image": NORMAL}),
            (TensorSpec("image", "float32", (8, 3, 6, 8)),),
            "there are 5 samples to calibrate on, and the model takes 8 at a time",
        ),
        (Feeds({"image": spoilt(np.nan)}), NCHW, "sample 3 of 'image' holds NaN or infinity"),
        (Feeds({"image": spoilt(-np.inf)}), NCHW, "sample 3 of 'image' holds NaN or infinity"),
        (Feeds({"image": IMAGES}), NCHW, "uint8 pixels, .* not normalised: give the preprocess"),
        (Feeds({"image": mixed}), NCHW, "2 samples of 'image' hold pixels of 0 to 255, and 5"),
        (Feeds({"image": NORMAL}, RGB), NCHW, "for uint8 images, and the samples are 'float32'"),
        (Feeds({"image": NORMAL.astype(np.float64)}), NCHW, r"\.astype\('float32'\)"),
        (Feeds({"image": IMAGES.astype(np.int64)}), NCHW, "holds int64, and .* takes float32"),
        (Feeds({"image": NORMAL[..., :5]}), NCHW, "have shape 3×6×5, and the model takes 3×6×8"),
        (Feeds({"image": NORMAL[:, None]}), NCHW, "have shape 1×3×6×8"),
        (Feeds({"image": NORMAL[:, 0]}), NCHW, "have shape 6×8, and the model takes 3×6×8"),
        (Feeds({"a": np.zeros(3, np.float32), "b": np.zeros(3, np.int64)}), PAIR, "shape scalar"),
        (
            Feeds({"image": NORMAL.transpose(0, 2, 3, 1)}),
            NCHW,
            "laid out NHWC, and the model takes NCHW: 6×8×3 for 3×6×8: transpose",
        ),
        (Feeds({"image": NORMAL}), NHWC, "laid out NCHW, and the model takes NHWC"),
        (of_images("image", IMAGES, RGB), NHWC, "set the preprocessing's layout to NHWC"),
        (of_images("image", IMAGES, LAST), NCHW, "set the preprocessing's layout to NCHW"),
        (
            of_images("image", IMAGES.transpose(0, 2, 3, 1), RGB),
            NCHW,
            "preprocessing is of 3 channels: they are laid out NHWC",
        ),
        (of_images("image", IMAGES[:, :1], RGB), NCHW, "1×6×8, and the preprocessing is of 3"),
    ],
)
def test_what_does_not_fit(feeds: Feeds, inputs: tuple[TensorSpec, ...], message: str) -> None:
    with pytest.raises(CalibrationError, match=message) as caught:
        check(feeds, inputs)
    assert "\n" not in str(caught.value)
