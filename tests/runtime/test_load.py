"""``edgekd.load``: the preferred engine, with numpy and one backend alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekd
from edgekd.bundle import read, sealed
from edgekd.errors import (
    BackendUnavailable,
    BundleError,
    CorruptBundle,
    EngineError,
    EngineIncompatible,
    RecipeError,
)
from tests.runtime.kit import edited


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


def test_a_run_takes_inputs_as_they_are_and_gives_the_same(
    bundle: Path, rng: np.random.Generator
) -> None:
    x = rng.normal(size=(3, 1, 8, 8)).astype(np.float32)
    for target in ("onnxruntime-cpu", "openvino-cpu"):
        with edgekd.load(bundle, target) as engine:
            whole = engine(x)
            strided = np.zeros((3, 1, 8, 16), np.float32)[..., ::2]
            strided[...] = x
            for same in (x, x.copy(), strided, {"image": x}):
                np.testing.assert_array_equal(engine.run(same), whole)
            for batch in (1, 2, 1, 3):
                found = engine.run(x[:batch])
                np.testing.assert_allclose(found, whole[:batch], atol=1e-4)
                kept = found.copy()
                engine.run(-x[:batch])
                np.testing.assert_array_equal(found, kept)


class Raises:
    """Another library's array, which it does not hand over."""

    def __array__(self, *_: Any, **__: Any) -> None:
        raise AttributeError("not\ntoday")


RUN_WRONG: dict[str, tuple[Any, str]] = {
    "type": (np.zeros((1, 1, 8, 8)), "must be float32 of shape .*, and float64 of shape"),
    "bytes": (np.zeros((1, 1, 8, 8), ">f4"), "must be float32 .*, and >f4"),
    "shape": (np.zeros((1, 1, 8, 9), np.float32), r"of shape \(.*, 1, 8, 8\), and float32 of"),
    "rank": (np.zeros((1, 8, 8), np.float32), r"and float32 of shape \(1, 8, 8\) came"),
    "none": (np.float32(1), r"and float32 of shape \(\) came"),
    "name": ({"imgae": np.zeros((1, 1, 8, 8), np.float32)}, "'imgae': did you mean 'image'"),
    "missing": ({}, "input 'image' is not given"),
    "nothing": (None, "and object of shape"),
    "ragged": ([[1], [2, 3]], "input 'image' is no array"),
    "raises": (Raises(), r"input 'image' is no array \(not today\)"),
}


@pytest.mark.parametrize("case", RUN_WRONG)
@pytest.mark.parametrize("target", ["onnxruntime-cpu", "openvino-cpu"])
def test_what_a_run_does_not_take_is_told_in_a_sentence(
    target: str, case: str, built: dict[str, Path]
) -> None:
    given, words = RUN_WRONG[case]
    good = np.ones((1, 1, 8, 8), np.float32)
    with edgekd.load(built["bundle"], target) as engine:
        before = engine.run(good)
        with pytest.raises(EngineError, match=words) as caught:
            engine.run(given)
        assert "\n" not in str(caught.value)
        np.testing.assert_array_equal(engine.run(good), before)
        assert engine.stats().count == 2


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


def test_golden_outputs_of_another_shape_are_told(bundle: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        best = manifest["engines"][0]
        path = bundle / best["golden"]
        np.save(path, np.load(path)[:1])  # which numpy would stretch
        content = path.read_bytes()
        manifest["files"][best["golden"]] = [len(content), hashlib.sha256(content).hexdigest()]
        best["tolerance"] = 1000.0

    with (
        edgekd.load(edited(bundle, change)) as engine,
        pytest.raises(CorruptBundle, match=r"shape \(8, 10\), and the golden ones are \(1, 10\)"),
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


@pytest.mark.parametrize("device", ["NPU", "cuda:0", "GPU.1", "tpu"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(
    device: str, built: dict[str, Path]
) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        edgekd.load(built["bundle"], device=device)
    assert f"device '{device}' is unavailable: " in str(caught.value)
    assert f"onnxruntime is unavailable: it has no device '{device}' here, only cpu" in str(
        caught.value
    )
    with pytest.raises(BackendUnavailable, match=f"it has no device '{device}' here, only CPU"):
        edgekd.load(built["bundle"], "openvino-cpu", device=device)


@pytest.mark.parametrize("target", ["onnxruntime-cpu", "openvino-cpu"])
def test_a_device_may_be_named_in_either_case(target: str, built: dict[str, Path]) -> None:
    for device in ("cpu", "CPU"):
        with edgekd.load(built["bundle"], target, device=device) as engine:
            assert engine.target == target


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"threads": 0}, "threads: 0 is less than 1"),
        ({"streams": 0}, "streams: 0 is less than 1"),
        ({"deadline_ms": -1.0}, "deadline_ms: -1.0 is no time"),
        ({"deadline_ms": float("nan")}, "deadline_ms: nan is no time"),
        ({"deadline_ms": 1e9}, "deadline_ms: 1000000000.0 is no time up to 1e.09 ms: 0 is for"),
        ({"deadline_ms": 10**400}, "deadline_ms: a number of more than 63 bits is no time"),
        ({"deadline_ms": "5"}, "deadline_ms: '5' is no number"),
        ({"threads": 1025}, "threads: 1025 is more than 1024"),
        ({"threads": 10**5000}, "threads: a number of more than 63 bits is more than 1024"),
        ({"threads": 1.0}, "threads: 1.0 is no whole number"),
        ({"threads": None}, "threads: None is no whole number"),
        ({"streams": "2"}, "streams: '2' is no whole number"),
        ({"streams": 10**6}, "streams: 1000000 is more than 1024"),
        ({"target": 5}, "target: 5 is no name"),
        ({"precision": b"int8"}, "precision: a bytes is no name"),
        ({"device": 0}, "device: 0 is no name"),
        ({"device": ""}, "device: '' is no name"),
        ({"gpu": {}}, "gpu: a dict is no GpuOptions"),
        ({"path": 5}, "path: 5 is no path"),
        ({"path": None}, "path: None is no path"),
        ({"path": b"x.edgekd"}, "path: a bytes is no path"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    given: dict[str, Any], words: str, built: dict[str, Path]
) -> None:
    with pytest.raises(RecipeError, match=words):
        edgekd.load(**{"path": built["bundle"], **given})


@pytest.mark.parametrize(
    ("budget", "asked", "expected"),
    [
        ({"fps": 20, "deadline_ms": None}, None, 50_000_000),
        ({"fps": 30}, None, 33_333_333),
        ({"fps": 20, "deadline_ms": 12.5}, None, 12_500_000),
        ({"fps": 20, "deadline_ms": 12.5}, 2, 2_000_000),
        ({"fps": 20}, 0, 0),
        ({"fps": 20}, float("inf"), 0),
        ({"fps": 20}, 1e-300, 1),
        ({"fps": 20}, np.float32(0.5), 500_000),
        ({"fps": None}, None, 0),
    ],
)
def test_the_deadline_is_the_one_asked_for_or_the_budget_s(
    budget: dict[str, Any], asked: float | None, expected: int, bundle: Path
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["budget"] = {"max_drop": None, **budget}
    (bundle / "manifest.json").write_text(sealed(manifest))
    with edgekd.load(bundle, deadline_ms=asked) as engine:
        assert engine.stats().deadline_ns == expected


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
