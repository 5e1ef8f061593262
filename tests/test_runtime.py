"""``edgekd.load``: the preferred engine, with numpy and one backend alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekd
from edgekd.bundle import read, sealed
from edgekd.errors import BackendUnavailable, BundleError, CorruptBundle, EngineIncompatible
from edgekd.preprocessing import normalise


def test_the_golden_outputs_are_given(bundle: Path) -> None:
    opened = read(bundle)
    for record in opened.engines[:4]:
        with edgekd.load(bundle, record["target"], record["precision"]) as engine:
            assert (engine.target, engine.precision) == (record["target"], record["precision"])
            found = engine(opened.golden_images())
            np.testing.assert_allclose(
                found, opened.golden_outputs(record), atol=record["tolerance"]
            )
            assert engine.check_golden() <= record["tolerance"]


def test_the_first_engine_of_the_manifest_is_the_one(bundle: Path) -> None:
    best = read(bundle).engines[0]
    with edgekd.load(str(bundle)) as engine:
        assert (engine.target, engine.precision) == (best["target"], best["precision"])
        assert engine.classes == tuple("0123456789")
        assert engine.shape == (1, 8, 8)


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


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 1, 9, 8), np.uint8), r"shape \(2, 1, 9, 8\): expected \(n, 1×8×8\)"),
        (np.zeros((2, 8, 8, 1), np.uint8), "expected"),
        (np.zeros((64,), np.uint8), "expected"),
        (np.zeros((1, 1, 8, 8), np.float64), "images are float64: give uint8 pixels or float32"),
        (np.zeros((1, 1, 8, 8), np.int32), "images are int32"),
    ],
)
def test_other_shapes_and_types_are_refused(bundle: Path, images: np.ndarray, words: str) -> None:
    with edgekd.load(bundle) as engine, pytest.raises(ValueError, match=words):
        engine(images)


def test_no_byte_reaches_a_runtime_before_it_is_checked(bundle: Path) -> None:
    best = read(bundle).engines[0]
    path = bundle / best["path"]
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(CorruptBundle, match="is not the file that the manifest names"):
        edgekd.load(bundle)


def test_outputs_that_are_not_the_golden_ones_are_told(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["preprocessing"]["mean"] = [0.9]
    (bundle / "manifest.json").write_text(sealed(manifest))
    with (
        edgekd.load(bundle) as engine,
        pytest.raises(CorruptBundle, match="differs from the golden"),
    ):
        engine.check_golden()


def test_what_the_bundle_does_not_hold_is_an_error(bundle: Path) -> None:
    with pytest.raises(BundleError, match="no engine for target openvino.*'openvino-cpu'"):
        edgekd.load(bundle, "openvino")
    with pytest.raises(BundleError, match="precision fp8"):
        edgekd.load(bundle, precision="fp8")


def test_an_engine_that_cannot_run_here_is_told_and_passed_over(bundle: Path) -> None:
    if all(each["executed"] for each in read(bundle).engines):
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU") as caught:
        edgekd.load(bundle, "tensorrt-rtx")
    assert "pip install" not in str(caught.value)  # it is installed; a GPU is what is missing
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["engines"].reverse()  # the ones that cannot run come first
    (bundle / "manifest.json").write_text(sealed(manifest))
    with edgekd.load(bundle) as engine:
        assert engine.target != "tensorrt-rtx"


def test_an_engine_of_another_gpu_or_version_is_passed_over(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekd.backends.ort import OnnxRuntime

    def refuse(*_: object, **__: object) -> None:
        raise EngineIncompatible("sm_86", "sm_75")

    monkeypatch.setattr(OnnxRuntime, "open", refuse)
    with edgekd.load(bundle) as engine:
        assert engine.target == "openvino-cpu"
    with pytest.raises(EngineIncompatible, match="is for sm_86, and this is sm_75"):
        edgekd.load(bundle, "onnxruntime-cpu")


_LEAN = """
import sys
absent = "torch onnx onnxscript pydantic openvino rich click sklearn matplotlib scipy"
for name in absent.split():
    sys.modules[name] = None
import numpy as np
import edgekd
engine = edgekd.load(sys.argv[1], "onnxruntime-cpu")
images = np.load(sys.argv[1] + "/golden/images.npy")
print(engine(images).argmax(1).tolist())
"""


def test_an_application_needs_numpy_and_one_runtime_alone(bundle: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _LEAN, str(bundle)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    assert result.returncode == 0, result.stderr
    opened = read(bundle)
    record = next(each for each in opened.engines if each["target"] == "onnxruntime-cpu")
    assert json.loads(result.stdout) == opened.golden_outputs(record).argmax(1).tolist()
