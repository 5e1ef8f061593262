"""The TensorRT backend against the types of TensorRT 10.13, since the library itself needs a GPU.

The package tensorrt-stubs has parameters called ``in``, and defaults before parameters without
one, and a variable called ``bool``, so Python cannot use it; a copy is mended and mypy reads that.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import pytest

from tests.conftest import ROOT

BACKEND = ROOT / "edgekd" / "backends" / "tensorrt"


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stubs")
    for each in files("tensorrt-stubs") or []:
        if each.suffix == ".pyi":
            (folder / each).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(each.locate()), folder / each)
    bindings = folder / "tensorrt_bindings" / "tensorrt.pyi"
    text = re.sub(r"\bin: ", "in_: ", bindings.read_text())
    text = re.sub(r"(?m)^bool: .*$", "", text)  # it hides the builtin
    bindings.write_text(text.replace("channel_axis: int) ->", "channel_axis: int = 0) ->"))
    return folder


def test_every_call_exists_in_tensorrt_10_with_these_arguments(stubs: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"  # shows that the check finds what it is there to find
    source = (BACKEND / "builder.py").read_text()
    source = source.replace("build_serialized_network(", "build_serialised_network(")
    wrong.write_text(source.replace("parser.get_error(each)", "parser.get_error(str(each))"))
    config = tmp_path / "mypy.ini"
    config.write_text(
        "[mypy]\nstrict = True\nfollow_imports = silent\n"
        "[mypy-cuda.*,tensorrt_libs.*]\nignore_missing_imports = True\n"
    )
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            config,
            "--cache-dir",
            tmp_path / "cache",
            *sorted(BACKEND.glob("*.py")),
            wrong,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "MYPYPATH": str(stubs)},
        cwd=ROOT,
        check=False,
    )
    found = result.stdout.splitlines()
    assert not [each for each in found if each.startswith("edgekd/")]
    in_wrong = "\n".join(each for each in found if "wrong.py" in each)
    assert "build_serialised_network" in in_wrong
    assert 'Argument 1 to "get_error"' in in_wrong
