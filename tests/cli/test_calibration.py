"""``edgekd calibration create`` and ``inspect``, from source to verdict."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from edgekd.cli import main
from tests.conftest import ROOT, assert_one_line, run_cli
from tests.documents import commands

GUIDE = [
    words[1:] for words in commands(ROOT / "calibration" / "README.md") if words[1] == "calibration"
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guide's commands name: colour images by class, arrays, and a model."""
    folder = tmp_path_factory.mktemp("guide")
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (folder / "photos" / kind).mkdir(parents=True)
        for place in range(30):
            pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / kind / f"{place}.png")
    np.savez(
        folder / "inputs.npz",
        image=rng.normal(size=(150, 3, 8, 8)).astype(np.float32),
        scale=rng.random((150, 1)).astype(np.float32),
    )
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input.1"], ["r"]), helper.make_node("Neg", ["r"], ["y"])],
        "g",
        [helper.make_tensor_value_info("input.1", 1, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("y", 1, ["n", 3, 32, 32])],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.save(model, folder / "model.onnx")
    for words in GUIDE:
        result = run_cli(*words, cwd=folder)
        assert result.returncode == 0, f"{shlex.join(words)}: {result.stderr}"
        (folder / f"{words[1]}.txt").write_text(result.stdout)
    return folder


def test_the_guide_s_commands_make_sets(place: Path) -> None:
    photos = json.loads((place / "photos.json").read_text())
    assert photos["per_class"] == {"cat": 23, "dog": 23}  # 46 left of 60: 12 test, 2 validate
    assert photos["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert photos["source"] == "folder:photos"
    inputs = json.loads((place / "inputs.json").read_text())
    assert (inputs["kind"], inputs["draw"], len(inputs["ids"])) == ("tensors", "coverage", 100)
    assert len(json.loads((place / "my-digits.json").read_text())["ids"]) == 64
    assert not [*place.glob(".*")]


def test_the_audit_is_told(place: Path) -> None:
    told = (place / "inspect.txt").read_text()
    rows = [line.split() for line in told.splitlines()]
    assert ["class", "set", "train"] in rows
    assert ["tensor", "low", "high", "moved", "clipped"] in rows
    assert {"input.1", "r", "y"} <= {row[0] for row in rows if row}
    assert "0 with the content of another one of the set" in told
    assert "none with the content of one of test" in told
    assert told.splitlines()[-1].startswith("enough: no range of 3 tensors moves by more than 5 %")


def test_the_audit_as_json_from_another_folder(place: Path, tmp_path: Path) -> None:
    arguments = ["calibration", "inspect", str(place / "photos.json"), "--method", "minmax"]
    result = run_cli(*arguments, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["ranges"]["method"] == "minmax"
    assert [*found["ranges"]["tensors"]] == ["image"]
    assert found["ranges"]["verdict"] == "enough"
    assert found["overlap"] == {"validation": 0, "test": 0}
    assert not [*tmp_path.iterdir()]


def test_one_sample_is_made_with_a_warning(tmp_path: Path) -> None:
    arguments = ["calibration", "create", "digits", "-o", "one.json", "--samples", "1"]
    result = run_cli(*arguments, "--json", cwd=tmp_path)
    assert result.returncode == 0
    assert "! one sample calibrates nothing" in result.stderr
    assert len(json.loads(result.stdout)["ids"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["create", "digits"], 2, ["Missing option '-o'", "calibration create --help"]),
        (["create", "digit", "-o", "x.json"], 2, ["did you mean 'digits'"]),
        (["create", "digits", "-o", "photos.json"], 2, ["photos.json: exists already"]),
        (["create", "digits", "-o", "no/x.json"], 2, ["there is no folder 'no'"]),
        (["create", "folder:none", "-o", "x.json"], 2, ["there is no folder 'none'"]),
        (["create", "npz:photos.json", "-o", "x.json"], 4, ["cannot be read", "np.savez"]),
        (["create", "digits", "-o", "x.json", "--mean", "a"], 2, ["'a' is not numbers"]),
        (["create", "digits", "-o", "x.json", "--samples", "5000"], 4, ["5000", "train has 1281"]),
        (["create", "digits", "-o", "x.json", "--model", "model.onnx"], 2, ["--draw coverage"]),
        (
            ["create", "digits", "-o", "x.json", "--model", "model.onnx", "--draw", "coverage"],
            4,
            ["1×8×8", "3×32×32"],
        ),
        (["inspect", "none.json"], 2, ["none.json: cannot be read: No such file"]),
        (["inspect", "model.onnx"], 4, ["model.onnx is no calibration set"]),
        (["inspect", "my-digits.json", "--model", "model.onnx"], 4, ["1×8×8", "3×32×32"]),
        (["inspect", "photos.json", "--model", "photos.json"], 4, ["ONNX Runtime refuses"]),
        (["inspect", "my-digits.json", "--data", "folder:photos"], 4, ["not in train"]),
        (["inspect", "inputs.json", "--model", "model.onnx"], 4, ["'image', 'scale'", "input.1"]),
    ],
)
def test_what_is_wrong_is_one_line(
    place: Path,
    arguments: list[str],
    code: int,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = sorted(place.rglob("*"))
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit) as left:
        main(["calibration", *arguments])
    told = capfd.readouterr()
    assert_one_line(CompletedProcess(arguments, left.value.code, *told), code, *words)  # type: ignore[arg-type]
    assert sorted(place.rglob("*")) == before
