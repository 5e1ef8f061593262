"""Single images: where engines disagree most, and which classes are confused."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from edgekd.data.splits import Samples
from edgekd.report import examples

CLASSES = ("cat", "dog", "<b>eel</b>")


def samples(n: int, side: int = 8, channels: int = 1) -> Samples:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, channels, side, side), np.uint8)
    return Samples(images, np.arange(n) % 3, np.arange(100, 100 + n))


def logits(*shares: tuple[float, float, float]) -> np.ndarray:
    return np.log(np.array(shares, np.float32))


def test_confusion_counts_true_classes_by_row() -> None:
    outputs = logits((0.8, 0.1, 0.1), (0.9, 0.05, 0.05), (0.1, 0.1, 0.8), (0.1, 0.8, 0.1))
    found = examples.confusion("e", outputs, np.array([0, 1, 2, 0]), CLASSES)
    assert found["counts"] == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert found["classes"] == list(CLASSES)
    assert found["pairs"] == [
        {"label": "cat", "named": "dog", "count": 1, "of": 2},
        {"label": "dog", "named": "cat", "count": 1, "of": 1},
    ]


def test_of_many_classes_the_worst_pairs_are_told_alone() -> None:
    n = 300
    outputs = np.zeros((5, n), np.float32)
    outputs[:, 7] = 1
    found = examples.confusion("e", outputs, np.array([299, 299, 5, 7, 7]), [*map(str, range(n))])
    assert found["counts"] is None
    assert found["classes"] is None
    assert [(each["label"], each["named"], each["count"]) for each in found["pairs"]] == [
        ("299", "7", 2),
        ("5", "7", 1),
    ]


def test_the_farthest_disagreement_comes_first_and_agreement_last() -> None:
    b = logits((0.9, 0.05, 0.05), (0.9, 0.05, 0.05), (0.4, 0.3, 0.3), (0.1, 0.8, 0.1))
    a = logits((0.5, 0.3, 0.2), (0.1, 0.8, 0.1), (0.3, 0.2, 0.5), (0.1, 0.85, 0.05))
    found = examples.disagreement(("int8", "fp32"), a, b, samples(4), CLASSES)
    assert found["between"] == ["int8", "fp32"]
    assert (found["count"], found["n"]) == (2, 4)
    assert [each["id"] for each in found["images"]] == [101, 102, 100]  # 103 did not fall at all
    first = found["images"][0]
    assert first["label"] == "dog"
    assert first["a"] == {"class": "dog", "share": pytest.approx(0.8)}
    assert first["b"] == {"class": "cat", "share": pytest.approx(0.9)}


def test_no_more_than_twelve_are_shown() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 60, 3)).astype(np.float32)
    found = examples.disagreement(("a", "b"), a, b, samples(60), CLASSES)
    assert len(found["images"]) == 12 < found["count"]


def test_softmax_of_large_outputs_is_finite() -> None:
    shares = examples.softmax(np.array([[1e4, 0, -1e4]], np.float32))
    assert shares.tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize(("side", "shown"), [(8, 8), (64, 64), (500, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnails_are_small_and_keep_what_is_small(side: int, shown: int, channels: int) -> None:
    image = np.asarray(samples(1, side, channels).images[0])
    png = base64.b64decode(examples.thumbnail(image))
    assert len(png) < 6_000
    opened = Image.open(io.BytesIO(png))
    assert opened.size == (shown, shown)
    if (side, channels) == (8, 1):
        assert np.abs(np.asarray(opened.convert("L")).astype(int) - image[0]).max() < 8
