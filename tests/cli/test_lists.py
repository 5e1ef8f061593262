"""The commands that list, and ``init``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd import data, models, recipe, recipe_file, targets
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


def test_targets_are_a_table_that_fits_and_one_is_shown_with_its_sources() -> None:
    lines = run_cli("targets").stdout.splitlines()
    assert max(map(len, lines)) <= 100
    (orin,) = (each.split() for each in lines if each.startswith("jetson-orin-nx "))
    assert " ".join(orin) == "jetson-orin-nx tensorrt 8.7 fp32 fp16 int8 there 8 Jetson Orin NX"
    (ahead,) = (each.split() for each in lines if each.startswith("tensorrt-rtx "))
    assert " ".join(ahead[1:8]) == "tensorrt-rtx 8.0 +3 fp32 fp16 int8 any"
    one = targets.load("jetson-orin-nx")
    text = run_cli("targets", one.name).stdout
    for each in one.sources:
        assert each.rpartition(", ")[2] in text
    assert "int8 form             s8s8, over fp16\n" in text
    assert "dla_cores             2\n" in text
    shown = run_cli("targets", one.name, "--json")
    assert json.loads(shown.stdout)["sources"] == list(one.sources)
    assert json.loads(shown.stdout)["options"] == one.options
    assert_one_line(run_cli("targets", "jetson-orin-nix"), 2, "did you mean 'jetson-orin-nx'")


def test_init_writes_a_recipe_that_is_the_default(tmp_path: Path) -> None:
    result = run_cli("init", cwd=tmp_path)
    assert result.returncode == 0
    assert "edgekd build recipe.toml" in result.stdout
    written = recipe_file.load(tmp_path / "recipe.toml", {"name": "model"})
    assert written == recipe.Recipe()
    assert_one_line(run_cli("init", cwd=tmp_path), 2, "recipe.toml: exists already")
    assert_one_line(run_cli("init", tmp_path / "none" / "r.toml"), 2, "No such file or directory")
