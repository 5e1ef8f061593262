"""The examples, each run as its first line says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekd
from tests.conftest import ROOT
from tests.native.conftest import run


@pytest.fixture(scope="module")
def photo(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digit as a photograph in colour, of another size than the model's input."""
    from PIL import Image

    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.load(built["bundle"] / "golden" / "images.npy")[1, 0]
    Image.fromarray(pixels).resize((100, 80)).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def label(built: dict[str, Path], photo: Path) -> str:
    """What Python says that it shows."""
    from PIL import Image

    with edgekd.load(built["bundle"]) as engine:
        return engine.classes[engine(np.asarray(Image.open(photo)))[0].argmax()]


def test_classify(programs: Path, built: dict[str, Path], photo: Path, label: str) -> None:
    found = run(programs / "classify", built["bundle"], photo, photo)
    assert found.stdout == f"{photo}: {label}\n" * 2
    found = run(programs / "classify", built["bundle"], "nowhere.png")
    assert (found.returncode, found.stderr) == (1, "nowhere.png: can't fopen\n")
    found = run(programs / "classify", "nowhere", photo)
    assert found.returncode == 1
    assert found.stderr.startswith("nowhere is not a bundle")
    assert run(programs / "classify").returncode == 2


def test_opencv(programs: Path, built: dict[str, Path], photo: Path, label: str) -> None:
    """Its frames are blue first, and their rows are padded."""
    found = run(programs / "opencv", built["bundle"], photo)
    assert found.stdout == f"{label}\n", found.stderr


def test_camera(programs: Path, built: dict[str, Path]) -> None:
    found = run(programs / "camera", built["bundle"], "50", "1")
    told = re.fullmatch(r"(\d+) answered, (\d+) dropped, (\d+) late; .*\n", found.stdout)
    assert told, found.stderr
    answered, dropped, _ = map(int, told.groups())
    assert answered + dropped == 50
    assert answered > 0
    assert run(programs / "camera", built["bundle"], "x", "1").returncode == 2


def test_several(programs: Path, built: dict[str, Path]) -> None:
    found = run(programs / "several", built["bundle"], built["bundle"])
    assert found.stdout.count("digits: 400 runs, p50 ") == 2, found.stderr


def test_abi(programs: Path, built: dict[str, Path]) -> None:
    """Without EdgeKD in Python, or anything but Python."""
    script, library = ROOT / "engines" / "python" / "abi.py", programs / "libedgekd.so"
    found = run(sys.executable, "-I", "-S", script, library, built["bundle"])
    assert found.returncode == 0, found.stderr
    label, *logits = found.stdout.split()
    image = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    with edgekd.load(built["bundle"]) as engine:
        wanted = engine(image)[0]
        assert label == engine.classes[wanted.argmax()]
    np.testing.assert_allclose(np.array(logits, float), wanted, atol=1e-4)
    found = run(sys.executable, "-I", "-S", script, library, "nowhere")
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
