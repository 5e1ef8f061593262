"""Images and tensors of any shape, batch and type: what an engine makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekd
from edgekd.bundle import read
from edgekd.errors import EngineError
from edgekd.preprocessing import normalise, prepare
from tests.runtime.kit import edited, with_model


def test_pixels_or_inputs_one_image_or_many_with_or_without_the_grey_channel(bundle: Path) -> None:
    opened = read(bundle)
    pixels = opened.golden_images()
    with edgekd.load(bundle) as engine:
        whole = engine(pixels)
        assert whole.shape == (8, 10)
        assert whole.dtype == np.float32
        np.testing.assert_array_equal(engine(normalise(pixels, opened.preprocessing)), whole)
        for one in (pixels[3], pixels[3:4], pixels[3, 0]):
            np.testing.assert_allclose(engine(one), whole[3:4], atol=1e-4)
        np.testing.assert_allclose(engine(pixels[:, 0]), whole, atol=1e-4)
        np.testing.assert_array_equal(engine(pixels[::-1]), whole[::-1])
        np.testing.assert_array_equal(engine(list(pixels)), whole)


def test_pictures_of_any_size_and_either_order_are_prepared(
    bundle: Path, rng: np.random.Generator
) -> None:
    opened = read(bundle)
    colour = rng.integers(0, 256, (20, 13, 3), np.uint8)
    grey = rng.integers(0, 256, (5, 40), np.uint8)
    with edgekd.load(bundle) as engine:

        def expected(image: np.ndarray, order: str = "RGB") -> np.ndarray:
            prepared = prepare(image, opened.preprocessing, (1, 8, 8), order)
            return engine.run(normalise(prepared[None], opened.preprocessing))

        rgb, bgr = expected(colour), expected(colour, "BGR")
        assert not np.array_equal(rgb, bgr)
        np.testing.assert_array_equal(engine(colour), rgb)
        np.testing.assert_array_equal(engine(colour, "BGR"), bgr)
        np.testing.assert_array_equal(engine(colour[:, :, ::-1], "BGR"), rgb)
        for one in (grey, grey[:, :, None], grey[None, :, :, None]):
            np.testing.assert_array_equal(engine(one), expected(grey))
        several = engine([colour, grey, opened.golden_images()[0]])
        np.testing.assert_allclose(several[:2], np.concatenate([rgb, expected(grey)]), atol=1e-4)
        np.testing.assert_allclose(engine(np.stack([colour] * 3)), rgb.repeat(3, 0), atol=1e-4)


@pytest.mark.parametrize("n", [1, 4, 5, 8])
def test_a_model_of_a_fixed_batch_takes_any(n: int, bundle: Path, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (n, 8, 8), np.uint8)
    preprocessing = read(bundle).preprocessing
    x = normalise(images[:, None], preprocessing)
    with edgekd.load(with_model(bundle, 4)) as engine:
        found = engine(images)
        assert found.shape == (n, 10)
        np.testing.assert_allclose(found, np.concatenate([engine(each) for each in images]))
        np.testing.assert_array_equal(engine.run(x), found)
        binding = engine.bind()
        assert binding.inputs["image"].shape == (4, 1, 8, 8)
        binding.run()
        engine.warmup(1)
        with pytest.raises(EngineError, match="takes batches from 4 to 4, and 3 was asked for"):
            engine.bind(3)


def test_a_model_of_another_type_is_given_tensors(bundle: Path) -> None:
    x = np.ones((2, 1, 8, 8), np.float16)
    with edgekd.load(with_model(bundle, "batch", "float16")) as engine:
        for images in (np.zeros((8, 8), np.uint8), [np.zeros((8, 8), np.uint8)]):
            with pytest.raises(EngineError, match="^input 'image' is float16: give it tensors$"):
                engine(images)
        assert engine(x).dtype == np.float32
        assert engine.run(x).dtype == np.float16


def test_what_is_cut_out_already_has_the_model_s_own_shape(
    bundle: Path, rng: np.random.Generator
) -> None:
    grey = rng.integers(0, 256, (8, 8), np.uint8)

    def crop(manifest: dict[str, Any]) -> None:
        manifest["preprocessing"]["crop"] = 0.5

    with edgekd.load(edited(bundle, crop)) as engine:
        cut = engine(grey)
        for same in (grey[:, :, None], grey[:, :, None].repeat(3, 2), [grey]):
            np.testing.assert_array_equal(engine(same), cut)
        np.testing.assert_allclose(engine(np.stack([grey] * 2)), cut.repeat(2, 0), atol=1e-4)
        whole = engine(grey[None])
        assert not np.allclose(whole, cut)
        np.testing.assert_array_equal(engine(grey[None, None]), whole)


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (0, 8, 8), (0, 20, 20, 3)])
def test_a_batch_of_no_images_is_refused(shape: tuple[int, ...], built: dict[str, Path]) -> None:
    with edgekd.load(built["bundle"]) as engine:
        for given in (np.zeros(shape, np.uint8), [np.zeros(shape, np.uint8)]):
            with pytest.raises(EngineError, match="a batch of no images was given: give one"):
                engine(given)
        for use in (engine, engine.run):
            with pytest.raises(EngineError, match="a batch of no images was given: give one"):
                use(np.zeros((0, 1, 8, 8), np.float32))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 1, 9, 8), np.uint8), r"has 8 channels: give 1 or 3; or uint8 \(1×8×8\)"),
        (np.zeros((8, 8, 4), np.uint8), "has 4 channels: give 1 or 3, without alpha"),
        (np.zeros((64,), np.uint8), r"shape \(64,\): give \(height, width\)"),
        (np.zeros((0, 8, 3), np.uint8), "at least a pixel"),
        (np.zeros((1, 1, 1, 8, 8, 1), np.uint8), "the image has shape"),
        (np.zeros((2, 1, 9, 8), np.float32), r"shape \(2, 1, 9, 8\): expected \(n, 1×8×8\)"),
        (np.zeros((1, 1, 8, 8), np.float64), "images are float64: give uint8 pixels, or float32"),
        (np.zeros((1, 1, 8, 8), np.int32), "images are int32"),
        ("a picture", "images are <U9"),
        ([], "a list of no images"),
        ([np.zeros((8, 8), np.float32)], "images are float32: give uint8 pixels"),
    ],
)
def test_other_shapes_and_types_are_refused(bundle: Path, images: Any, words: str) -> None:
    with edgekd.load(bundle) as engine:
        with pytest.raises(EngineError, match=words):
            engine(images)
        assert engine.stats().count == 0


def test_another_order_of_colours_is_refused(bundle: Path) -> None:
    with edgekd.load(bundle) as engine, pytest.raises(EngineError, match="'rgb': give RGB or BGR"):
        engine(np.zeros((8, 8, 3), np.uint8), "rgb")
