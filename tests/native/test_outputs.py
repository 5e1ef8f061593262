"""C++ and Python give the same bits, for real engines of both runtimes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import edgekd
from edgekd.bundle import read, sealed
from edgekd.errors import BuildError
from tests.native.conftest import Outputs, run

ENGINES = [
    (target, precision)
    for target in ("onnxruntime-cpu", "openvino-cpu")
    for precision in ("fp32", "int8")
]
every_engine = pytest.mark.parametrize(("target", "precision"), ENGINES)


def _with(bundle: Path, copy: Path, **changed: Any) -> Path:
    """A copy of a bundle with another preprocessing."""
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["preprocessing"].update(changed)
    (copy / "manifest.json").write_text(sealed(manifest))
    return copy


@every_engine
def test_the_whole_test_split(
    built: dict[str, Path], outputs: Outputs, target: str, precision: str
) -> None:
    """And both are what the report was made of."""
    from sklearn.datasets import load_digits

    images = (load_digits().images * (255 / 16)).astype(np.uint8)[..., None]
    found = outputs(built["bundle"], target, precision, images)
    with edgekd.load(built["bundle"], target, precision) as engine:
        one_by_one = np.concatenate([engine(each) for each in images])
        np.testing.assert_array_equal(found, one_by_one)
        assert engine.check_golden() == 0


@every_engine
@pytest.mark.parametrize("crop", [None, 0.875])
@pytest.mark.parametrize(
    ("height", "width", "channels", "order"),
    [
        (48, 64, 3, "RGB"),
        (48, 64, 3, "BGR"),
        (5, 3, 1, "RGB"),
        (8, 8, 3, "RGB"),
        (1, 200, 1, "RGB"),
    ],
)
def test_images_of_any_size(
    built: dict[str, Path], outputs: Outputs, tmp_path: Path, target: str, precision: str,
    crop: float | None, height: int, width: int, channels: int, order: str,
) -> None:  # fmt: skip
    path = _with(built["bundle"], tmp_path / "x.edgekd", crop=crop)
    images = np.random.default_rng(4).integers(0, 256, (3, height, width, channels), np.uint8)
    found = outputs(path, target, precision, images, order)
    with edgekd.load(path, target, precision) as engine:
        wanted = np.concatenate([engine(each, order=order) for each in images])
    np.testing.assert_array_equal(found, wanted)


@every_engine
def test_batches(built: dict[str, Path], outputs: Outputs, target: str, precision: str) -> None:
    images = read(built["bundle"]).golden_images()
    with edgekd.load(built["bundle"], target, precision) as engine:
        wanted = engine(images)
    found = outputs(built["bundle"], target, precision, images.transpose(0, 2, 3, 1), batch=8)
    np.testing.assert_array_equal(found, wanted)


def test_tensors_that_nobody_hashed_are_refused(
    built: dict[str, Path], programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ONNX file may name others; whether they lie beside it or where the program runs."""
    path = tmp_path / "x.edgekd"
    shutil.copytree(built["bundle"], path)
    manifest = json.loads((path / "manifest.json").read_text())
    record = next(each for each in manifest["engines"] if each["target"] == "onnxruntime-cpu")
    engine = path / record["path"]
    model = onnx.load(engine)
    onnx.save(
        model, engine, save_as_external_data=True, location="weights.bin", size_threshold=1024
    )
    shutil.copyfile(engine.with_name("weights.bin"), tmp_path / "weights.bin")
    content = engine.read_bytes()
    record |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(sealed(manifest))
    monkeypatch.chdir(tmp_path)
    assert onnxruntime.InferenceSession(engine).get_inputs()
    assert onnxruntime.InferenceSession(content).get_inputs()
    with pytest.raises(BuildError, match="ONNX Runtime refuses"):
        edgekd.load(path, record["target"], record["precision"])
    words = (path, record["target"], record["precision"], "8", "8", "1", "RGB", "1")
    found = run(programs / "outputs", *words, cwd=tmp_path)
    assert found.returncode == 1
    assert found.stderr.startswith("ONNX Runtime: External data path"), found.stderr


@every_engine
def test_eight_threads_give_what_one_gives(
    built: dict[str, Path], programs: Path, target: str, precision: str
) -> None:
    found = run(programs / "threads", built["bundle"], target, precision, "8", "100")
    assert found.stdout == "816 runs, 0 wrong\n", found.stderr
    assert found.returncode == 0


@every_engine
def test_memory_does_not_grow(
    built: dict[str, Path], programs: Path, target: str, precision: str
) -> None:
    """benchmarks/embedding.py does the same a million times."""
    found = run(programs / "soak", built["bundle"], target, precision, "20000", "20")
    grown = json.loads(found.stdout)
    assert grown["runs"] < 1_000_000, found.stderr
    assert grown["opens"] < 4_000_000
