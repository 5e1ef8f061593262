"""The C++ library, built once, and bundles for it. All of this is marked ``native``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from edgekd import bundle
from edgekd.manifest import preprocessing_of
from edgekd.preprocessing import normalise
from tests.conftest import ROOT

SOURCE = ROOT / "engines" / "cpp"
TOOLS = ("cmake", "c++", "ninja")
SHAPE = (3, 4, 5)
LABELS = list("abcdefg")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are marked."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("native")


def run(*words: str | Path, **more: Any) -> subprocess.CompletedProcess[Any]:
    """A program, its output kept; text unless told otherwise."""
    more.setdefault("text", True)
    return subprocess.run([str(each) for each in words], capture_output=True, check=False, **more)


def build(folder: Path, *settings: str, targets: tuple[str, ...] = ()) -> Path:
    """Builds the library in a folder; what an earlier build left is used."""
    missing = [each for each in TOOLS if shutil.which(each) is None]
    assert not missing, f"{missing} are missing: run tools/set-up native"
    own = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    headers = Path(sys.prefix, "onnxruntime-headers", "usr")
    own.setdefault("ONNXRUNTIME_ROOT", str(headers))
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # of tests that run side by side
        _make(folder, settings, targets, own)
    return folder


def _make(
    folder: Path, settings: tuple[str, ...], targets: tuple[str, ...], own: dict[str, str]
) -> None:
    configured = run("cmake", "-S", SOURCE, "-B", folder, "-G", "Ninja", *settings, env=own)
    assert configured.returncode == 0, configured.stdout + configured.stderr
    made = run("cmake", "--build", folder, *(f"--target={each}" for each in targets), env=own)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "warning:" not in made.stdout + made.stderr, made.stdout + made.stderr


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder with the library, its plugins and its test programs."""
    return build(ROOT / "build" / "native", "-DEDGEKD_TESTS=ON", "-DEDGEKD_EXAMPLES=ON")


def null_bundle(
    folder: Path,
    name: str,
    *backends: str,
    options: dict[str, str] | None = None,
    golden: float = 0.0,
    batch: str | int = "batch",
    dtype: str = "float32",
) -> Path:
    """A bundle whose engines the null backend runs; see engines/cpp/tests/null_backend.cpp.

    Args:
        folder: where it goes.
        name: its name.
        backends: one engine for each; the first gets the options, the last is called ``other``.
        options: of the first engine, which says what it does wrong.
        golden: what its golden outputs are off by.
        batch: the first dimension of its input and output.
        dtype: of its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(5).integers(0, 256, (3, *SHAPE), np.uint8)
    files = {"golden/images.npy": folder / f"{name}.images.npy"}
    record = {
        "name": name,
        "inputs": [{"name": "image", "dtype": "float32", "shape": [batch, *SHAPE]}],
        "outputs": [{"name": "logits", "dtype": dtype, "shape": [batch, len(LABELS)]}],
        "preprocessing": {
            "color": "RGB", "crop": None, "resize": "bilinear", "mean": [0.5] * 3,
            "std": [0.25] * 3, "layout": "NCHW", "dtype": "float32",
        },
        "labels": LABELS,
        "golden": {"images": "golden/images.npy"},
        "budget": {"fps": 200.0, "max_drop": None},
        "verdict": {"status": "pass", "headline": "", "reasons": []},
        "provenance": {},
    }  # fmt: skip
    mean = normalise(images, preprocessing_of(record["preprocessing"])).mean((1, 2, 3), np.float64)
    np.save(files["golden/images.npy"], images)
    outputs = (mean[:, None] * np.arange(1, 8) + golden).astype(np.float32)
    engines = []
    for number, backend in enumerate(backends or ("null",)):
        target = "other" if number else "cpu"
        engine, golden_name = f"engines/{target}/fp32.null", f"golden/{target}.fp32.npy"
        files[engine] = folder / f"{name}.engine"
        files[engine].write_bytes(b"nothing")
        files[golden_name] = folder / f"{name}.golden.npy"
        np.save(files[golden_name], outputs)
        engines.append(
            {
                "target": target,
                "backend": backend,
                "version": "0",
                "precision": "fp32",
                "device": "cpu",
                "executed": True,
                "path": engine,
                "parts": [],
                "options": {"max_batch": "8", **(options or {})} if not number else {},
                "source": "",
                "golden": golden_name,
                "tolerance": 1e-4,
            }
        )
    path = folder / f"{name}.edgekd"
    bundle.write(path, {**record, "engines": engines}, files)
    return path


@pytest.fixture(scope="session")
def null_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the bundles that test_interface.cpp asks for."""
    folder = tmp_path_factory.mktemp("null")
    null_bundle(folder, "null")
    null_bundle(folder, "slow", options={"sleep_ms": "60"})
    null_bundle(folder, "failing", options={"fail": "it broke"})
    null_bundle(folder, "incompatible", options={"refuse": "5"})
    null_bundle(folder, "failing-open", options={"refuse": "6"})
    null_bundle(folder, "second", "missing", "null")
    null_bundle(folder, "missing", "missing")
    null_bundle(folder, "newer", "newer")
    null_bundle(folder, "renamed", "renamed")
    null_bundle(folder, "other-golden", golden=1.0)
    null_bundle(folder, "fixed", batch=4)
    null_bundle(folder, "least", options={"min_batch": "3"})
    null_bundle(folder, "two", "null", "null")
    null_bundle(folder, "half", dtype="float16")
    return folder


Outputs = Callable[..., "np.ndarray[Any, Any]"]


@pytest.fixture(scope="session")
def outputs(programs: Path) -> Outputs:
    """What the C++ library gives for images (n, height, width, channels): float32 (n, classes)."""

    def ask(
        path: Path, target: str, precision: str, images: np.ndarray[Any, Any], order: str = "RGB",
        batch: int = 1,
    ) -> np.ndarray[Any, Any]:  # fmt: skip
        count, height, width, channels = images.shape
        shape = map(str, (width, height, channels))
        words = (path, target, precision, *shape, order, str(batch))
        found = run(programs / "outputs", *words, input=images.tobytes(), text=False)
        assert found.returncode == 0, found.stderr.decode()
        return np.frombuffer(found.stdout, np.float32).reshape(count, -1)

    return ask
