"""The guides: every recipe in them loads, every command is one, every name in them exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgekd import preflight
from edgekd.cli import COMMANDS, cli
from edgekd.quantize.lint.rule import GROUPS
from edgekd.quantize.lint.rules import RULES
from edgekd.recipe import STANDARD_WEIGHTS, DistillSettings, MemberSettings, TrainSettings
from edgekd.recipe_file import load
from tests.conftest import ROOT
from tests.documents import blocks, commands, lint_row, parse

GUIDES = [ROOT / "docs" / f"{name}.md" for name in ("distillation", "data", "quantisation")]
DISTILLATION = GUIDES[0].read_text()
RECIPES = [
    pytest.param(block, id=f"{guide.stem} {number}")
    for guide in GUIDES
    for number, block in enumerate(blocks(guide, "toml"), 1)
]
METHODS = dict(
    re.findall(r"(?ms)^\*\*`(\w+)`\*\*.*?^```toml\n(.*?)^```", DISTILLATION),
)
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```", "", DISTILLATION))


def _written(text: str, folder: Path) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", RECIPES)
def test_a_recipe_loads_and_one_on_digits_can_be_built(text: str, tmp_path: Path) -> None:
    recipe = load(_written(text, tmp_path))
    if recipe.data.source == "digits":
        preflight.check(recipe, tmp_path)


@pytest.mark.parametrize("name", STANDARD_WEIGHTS)
def test_each_method_has_a_recipe_with_the_weights_that_its_name_sets(
    name: str, tmp_path: Path
) -> None:
    recipe = load(_written(METHODS[name], tmp_path))
    assert recipe.data.source == "digits"
    assert recipe.distill.weights == STANDARD_WEIGHTS[name]


def test_every_setting_of_distillation_is_explained() -> None:
    named = {part for code in CODE for part in re.findall(r"\w+", code)}
    toml = {key for block in blocks(GUIDES[0], "toml") for key in re.findall(r"(\w+) =", block)}
    settings = (DistillSettings, TrainSettings, MemberSettings)
    assert {each for model in settings for each in model.model_fields} <= named | toml
    assert not set(DistillSettings.model_fields) - named - {"weights"}


def test_the_commands_beside_edgekd_s_own_are_known_and_take_what_they_are_given() -> None:
    from torch.distributed.run import get_args_parser

    folders = set()
    for first, *rest in commands(*GUIDES):
        if first == "edgekd":
            folders.add(str(parse(rest).get("scalars")))
        elif first == "torchrun":
            given = get_args_parser().parse_args(rest)
            assert given.module
            assert given.training_script == "edgekd"
            assert parse(given.training_script_args)["recipe"] == Path("recipe.toml")
        else:
            assert (first, rest[0]) == ("tensorboard", "--logdir")
            assert rest[1] in folders


def test_flags_in_the_text_exist() -> None:
    options = set()
    for name in COMMANDS:
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        options |= {option for each in command.params for option in each.opts}
    flags = {flag for code in CODE for flag in re.findall(r"(?<!\S)--[\w-]+", code)}
    assert flags
    assert flags <= options


def test_each_trap_has_a_test() -> None:
    sources = "".join(each.read_text() for each in (ROOT / "tests").rglob("test_*.py"))
    rows = re.findall(r"^\| .+ \| .+ \| (.+) \|$", DISTILLATION.split("## Traps")[1], re.MULTILINE)
    named = [each.strip("`") for each in rows[1:] if each not in ("the same", "---")]
    assert len(named) > 10
    for each in named:
        assert f"def {each}(" in sources, each


def test_the_table_of_lint_rules_is_that_of_the_code() -> None:
    text = (ROOT / "docs" / "quantisation.md").read_text().split("\n## Lint rules\n")[1]
    rows = re.findall(r"^\| [A-Z]{3}\d{3} .*$", text.split("\n## ")[0], re.MULTILINE)
    assert rows == [lint_row(each) for group in GROUPS for each in RULES if each.id[:3] == group]
