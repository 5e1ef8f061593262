"""The commands that list, ``doctor`` and ``init``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd import data, models, recipe, recipe_file, targets
from edgekd.backends.base import BACKENDS
from tests.conftest import assert_one_line, run_cli


def _json(*arguments: str) -> Any:
    result = run_cli(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("targets", targets.names()),
        ("students", models.STUDENTS),
        ("teachers", models.TEACHERS),
        ("datasets", data.SOURCES),
    ],
)
def test_every_name_is_listed(command: str, names: list[str]) -> None:
    assert sorted(each["name"] for each in _json(command)) == sorted(names)
    text = run_cli(command).stdout
    for name in names:
        assert f"{name} " in text


def test_the_cost_of_networks_is_computed() -> None:
    students = {each["name"]: each for each in _json("students")}
    teachers = {each["name"]: each for each in _json("teachers")}
    small, large = students["dscnn-s"], teachers["resnet20"]
    assert 15e3 < small["params"] < 25e3
    assert 0.4e6 < small["macs"] < 0.7e6
    assert 260e3 < large["params"] < 290e3
    assert 29e6 < large["macs"] < 33e6
    assert small["macs"] * 40 < large["macs"]


def test_doctor_says_what_runs_here_and_what_to_install() -> None:
    found = _json("doctor")["backends"]
    assert list(found) == list(BACKENDS)
    assert found["onnxruntime"]["runs_on"]
    assert found["openvino"]["runs_on"]
    assert found["tensorrt-rtx"]["builds"]
    text = run_cli("doctor").stdout
    for name, each in found.items():
        if not each["installed"]:
            assert f"pip install 'edgekd[{name}]'" in text
            assert not each["builds"]
        elif not each["runs_on"]:
            assert f"{each['version']}: builds, cannot run here" in text


def test_init_writes_a_recipe_that_is_the_default(tmp_path: Path) -> None:
    result = run_cli("init", cwd=tmp_path)
    assert result.returncode == 0
    assert "edgekd build recipe.toml" in result.stdout
    written = recipe_file.load(tmp_path / "recipe.toml", {"name": "model"})
    assert written == recipe.Recipe()
    assert_one_line(run_cli("init", cwd=tmp_path), 2, "recipe.toml: exists already")
    assert_one_line(run_cli("init", tmp_path / "none" / "r.toml"), 2, "No such file or directory")
