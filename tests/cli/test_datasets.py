"""``edgekd datasets SOURCE``: prepared as a build would, told, and nothing kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.conftest import assert_one_line, run_cli
from tests.data.conftest import save_digits, some_digits


def test_a_folder_is_examined(tmp_path: Path) -> None:
    save_digits(tmp_path / "photos", 20, "train")
    (tmp_path / "photos" / "two" / "bad.png").write_text("no image")
    arguments = ["datasets", "folder:photos", "--set", "data.corrupt=skip"]
    arguments += ["--set", "data.size=[4, 6]", "--set", "data.labelled=0.5"]
    env = {"TMPDIR": str(tmp_path / "tmp"), "EDGEKD_STORE": str(tmp_path / "store")}
    (tmp_path / "tmp").mkdir()
    result = run_cli(*arguments, cwd=tmp_path, env=env)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["class", "train", "validation", "test"]
    assert [row[0] for row in rows[1:4]] == ["one", "two", "zero"]
    assert [sum(int(row[each]) for row in rows[1:4]) for each in (1, 2, 3)] == [23, 2, 12]
    assert "folder:photos: 1×4×6" in result.stdout
    assert "! 1 image skipped, not to be decoded: photos/two/bad.png (it is" in result.stdout
    assert "✓ data" in result.stderr
    assert not [*(tmp_path / "tmp").iterdir()]
    assert not (tmp_path / "store").exists()

    told = json.loads(run_cli(*arguments, "--json", cwd=tmp_path).stdout)
    assert told["shape"] == [1, 4, 6]
    assert told["classes"] == ["one", "two", "zero"]
    assert told["sizes"] == {"train": 46, "validation": 2, "test": 12, "unlabelled": 23}
    assert len(told["audit"]["skipped"]) == 1


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    assert_one_line(run_cli("datasets", "digit"), 2, "data.source: ", "did you mean 'digits'")
    assert_one_line(run_cli("datasets", "folder:x", cwd=tmp_path), 2, "there is no folder 'x'")
    assert_one_line(run_cli("datasets", "--set", "data.seed=1"), 2, "--set needs a SOURCE")
    wrong = ["datasets", "digits", "--set", "data.size=[8]"]
    assert_one_line(run_cli(*wrong), 2, "data.size: give [height, width], or []")
    (tmp_path / "mine.py").write_text("def load():\n    raise ValueError('two\\nlines')")
    failed = run_cli("datasets", "mine:load", cwd=tmp_path)
    assert_one_line(failed, 4, "mine:load failed: ValueError: two lines (", "mine.py:2)")


def test_paths_in_a_recipe_start_at_its_folder(tmp_path: Path) -> None:
    """A build that gets as far as its data: the teacher's weights are no weights."""
    images, labels = some_digits(3, 20)
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    save_digits(tmp_path / "more", 3, "test")
    (tmp_path / "none.safetensors").write_bytes(b"")
    (tmp_path / "r.toml").write_text(
        '[data]\nsource = "npz:x.npz"\nunlabelled = "folder:more"\n'
        '[teacher]\nweights = "none.safetensors"\n'
    )
    result = run_cli(
        "build", tmp_path / "r.toml", "--out", tmp_path,
        cwd=Path("/"), env={"EDGEKD_STORE": str(tmp_path / "store")},
    )  # fmt: skip
    assert "✓ data" in result.stderr
    assert "  3 classes; train 55 (15 to 16 a class with a label, 9 without), val" in result.stderr
    assert_one_line(result, 4, "none.safetensors")
