"""``edgekd build``: what is wrong is said in one line, before any work is lost."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.data.fashion_mnist import DEBIAN, SHA256
from tests.conftest import BUILT_WITH, assert_one_line, run_cli


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--student", "dscn-s"], ["no student is called 'dscn-s'", "did you mean 'dscnn-s'"]),
        (["--teacher", "resnet21"], ["no teacher is called 'resnet21'", "'resnet20'"]),
        (["--data", "fashion_mnist"], ["fashion_mnist", "did you mean 'fashion-mnist'?"]),
        (["--target", "openvino"], ["no target is called 'openvino'", "'openvino-cpu'"]),
        (["--set", "student.modle=x"], ["--set student.modle=x", "did you mean 'model'?"]),
        (["--set", "student.train.epochs=0"], ["student.train.epochs", "greater than 0", "not 0"]),
        (["--set", "epochs"], ["expected KEY=VALUE"]),
        (["--set", "bench.seconds=inf"], ["bench.seconds", "finite"]),
        (["--set", "student.train.seed=-1"], ["student.train.seed", "greater than or equal to 0"]),
        (["--out", "/dev/null/x"], ["/dev/null is no folder that can be written", "--out"]),
        (["--fps", "-1"], ["budget.fps", "greater than or equal to"]),
        (["no-such.toml"], ["no-such.toml: cannot be read", "`edgekd init` writes one"]),
    ],
)
def test_wrong_names_and_values(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    result = run_cli("build", *arguments, env={"EDGEKD_STORE": str(store)}, cwd=tmp_path)
    assert_one_line(result, 2, *words)
    assert not store.exists()


def test_a_misspelt_key_is_shown_with_its_line(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "x"\n[student]\nmodel = "dscnn-s"\n[student.train]\nepoch = 3\n')
    result = run_cli("build", recipe)
    assert_one_line(result, 2, f"{recipe}:5: student.train.epoch", "did you mean 'epochs'?")


def test_what_is_not_toml_is_shown_with_its_line(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "x"\n[student\n')
    assert_one_line(run_cli("build", recipe), 2, str(recipe), "is not TOML", "line 2")


# A build in a process that finds no Debian package and reaches no network.
_ALONE = """
import sys
from pathlib import Path
from edgekd.data import fashion_mnist
fashion_mnist.DEBIAN = Path(sys.argv.pop(1))
from edgekd.cli import main
main()
"""


def _alone(tmp_path: Path, data: Path | None = None) -> subprocess.CompletedProcess[str]:

    env = {
        **os.environ,
        "EDGEKD_STORE": str(tmp_path / "store"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "EDGEKD_DATA_URL": "http://127.0.0.1:9",  # nothing listens there
    }
    env.pop("EDGEKD_DATA", None)
    if data is not None:
        env["EDGEKD_DATA"] = str(data)
    return subprocess.run(
        [sys.executable, "-c", _ALONE, str(tmp_path / "no-debian"), "build", "--out", tmp_path],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )


def test_no_data_and_no_network(tmp_path: Path) -> None:
    result = _alone(tmp_path)
    words = ["could not be downloaded", "refused", "dataset-fashion-mnist", "EDGEKD_DATA"]
    assert_one_line(result, 4, "train-images-idx3-ubyte.gz is not in", *words)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs dataset-fashion-mnist")
@pytest.mark.parametrize("how", ["truncated", "changed"])
def test_a_damaged_data_file(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in SHA256:
        shutil.copy(DEBIAN / f"{name}.gz", folder)
    spoilt = folder / "train-labels-idx1-ubyte.gz"
    whole = spoilt.read_bytes()
    if how == "truncated":
        spoilt.write_bytes(whole[: len(whole) // 2])
    else:
        labels = bytearray(gzip.decompress(whole))
        labels[-1] ^= 1
        spoilt.write_bytes(gzip.compress(labels))
    words = "is damaged" if how == "truncated" else "its sha256 differs"
    assert_one_line(_alone(tmp_path, folder), 4, str(spoilt), words, "delete it")


def test_a_missing_backend(tmp_path: Path) -> None:
    result = run_cli("build", "--target", "tensorrt", env={"EDGEKD_STORE": str(tmp_path / "s")})
    assert_one_line(result, 3, "tensorrt is unavailable", "pip install 'edgekd[tensorrt]'")


def test_an_out_that_is_something_else(built: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "digits.edgekd").mkdir()
    (tmp_path / "digits.edgekd" / "precious.txt").write_text("mine")
    result = run_cli(*BUILT_WITH, env={"EDGEKD_STORE": str(built["store"])}, cwd=tmp_path)
    assert_one_line(result, 2, "digits.edgekd exists and is not a bundle", "--out")
    assert (tmp_path / "digits.edgekd" / "precious.txt").read_text() == "mine"
