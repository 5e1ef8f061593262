"""The examples in ``engines/python``: each runs as a user would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgekd
from tests.conftest import ROOT

EXAMPLES = ROOT / "engines" / "python"


def run(name: str, *arguments: str | Path) -> list[str]:
    """What an example prints."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.fixture
def pictures(built: dict[str, Path], tmp_path: Path) -> Path:
    """Three digits as files, larger than the network takes them."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    images = np.load(built["bundle"] / "golden" / "images.npy")[:3, 0]
    for number, each in enumerate(images):
        Image.fromarray(each.repeat(3, 0).repeat(3, 1)).save(folder / f"{number}.png")
    return folder


def test_classify(built: dict[str, Path], pictures: Path) -> None:
    paths = sorted(pictures.iterdir())
    lines = run("classify.py", built["bundle"], *paths)
    with edgekd.load(built["bundle"]) as engine:
        best = engine([np.asarray(Image.open(each)) for each in paths]).argmax(1)
    for path, line, each in zip(paths, lines, best, strict=True):
        assert line.startswith(f"{path} {each} ")
        assert line.count(" %") == 3


def test_camera(built: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    *labels, told = run("camera.py", built["bundle"], pictures, 10)
    assert told.startswith(f"{len(labels)} answered, p50 ")
    assert set(labels) <= set("0123456789")
    np.save(tmp_path / "frames.npy", np.zeros((4, 20, 30, 3), np.uint8))
    *labels, told = run("camera.py", built["bundle"], tmp_path / "frames.npy", 50)
    assert 1 <= len(labels) <= 4
    assert told.endswith(" missed")


def test_threads(built: dict[str, Path]) -> None:
    lines = run("threads.py", built["bundle"], built["bundle"], 2)
    assert [each.split(", p50")[0] for each in lines] == [f"{built['bundle']}: 400 runs"] * 2


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("camera.py", ["{bundle}", "{folder}", "0"], "FPS must be more than 0, and is 0"),
        ("camera.py", ["{bundle}", "{folder}"], "cannot identify image file"),
        ("camera.py", ["{folder}", "{folder}"], "is not a bundle"),
        ("classify.py", ["{folder}", "{folder}/note.txt"], "is not a bundle"),
        ("classify.py", ["{bundle}", "{folder}/note.txt"], "cannot identify image file"),
        ("threads.py", ["{folder}"], "is not a bundle"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    name: str, arguments: list[str], words: str, built: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("no image")
    given = [each.format(bundle=built["bundle"], folder=tmp_path) for each in arguments]
    command = [sys.executable, str(EXAMPLES / name), *given]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_all_examples_are_listed() -> None:
    told = (EXAMPLES / "README.md").read_text()
    assert all(f"`python {each.name} " in told for each in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", ["camera.py", "classify.py", "threads.py"])
def test_an_example_is_short_and_says_how_it_is_called(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    assert len(text.splitlines()) < 70
    assert f"python {name} BUNDLE" in text
    assert f"`python {name} BUNDLE" in (EXAMPLES / "README.md").read_text()
    command = [sys.executable, str(EXAMPLES / name)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert f"python {name} BUNDLE" in result.stderr
