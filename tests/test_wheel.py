"""The wheel: the package with its data files, and nothing else of the repository."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("*.whl")
    assert path.name.startswith("edgekd-")
    assert path.name.endswith("-py3-none-any.whl")
    return zipfile.ZipFile(path)


def test_it_holds_the_package_alone_and_whole(wheel: zipfile.ZipFile) -> None:
    names = {each for each in wheel.namelist() if ".dist-info/" not in each}
    package = ROOT / "edgekd"
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix in {".py", ".toml", ".j2", ".typed"}
    }
    assert names == sources
    assert {"edgekd/py.typed", "edgekd/report/report.html.j2", "edgekd/cli/recipe.toml"} <= names
    assert "edgekd/targets/tensorrt-rtx.toml" in names


def test_a_device_that_runs_an_engine_installs_no_torch(wheel: zipfile.ZipFile) -> None:
    (name,) = (each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
    lines = wheel.read(name).decode().splitlines()
    needed = [each.removeprefix("Requires-Dist: ") for each in lines if "Requires-Dist" in each]
    always = {each.split(">")[0] for each in needed if "extra ==" not in each}
    assert always == {"click", "filelock", "numpy", "platformdirs", "pydantic", "rich", "tomli"}
    assert "tomli>=2; python_version < '3.11'" in needed
    extras = {each.removeprefix("Provides-Extra: ") for each in lines if "Provides-Extra" in each}
    assert extras == {
        "all", "dev", "loadgen", "nvml", "onnxruntime", "onnxruntime-gpu", "onnxruntime-rtx",
        "openvino", "pycuda", "quantize", "report",
        "tensorboard", "tensorrt", "tensorrt-rtx", "train", "zoo",
    }  # fmt: skip
    torch = {each.split("extra == ")[1] for each in needed if each.startswith("torch>")}
    assert torch == {"'train'", "'dev'", "'all'"}
    assert "pillow>=10; extra == 'train'" in needed
    assert "License-Expression: Apache-2.0" in lines


def test_the_command_is_installed_with_it(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from edgekd.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path), "targets"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "tensorrt-rtx" in result.stdout
    (entry,) = (each for each in wheel.namelist() if each.endswith("entry_points.txt"))
    assert "edgekd = edgekd.cli:main" in wheel.read(entry).decode()
