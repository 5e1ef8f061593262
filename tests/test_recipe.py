"""Recipes: defaults, overlays, and one line for each mistake."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import RecipeError
from edgekd.recipe import Recipe
from edgekd.recipe_file import load
from tests.conftest import ROOT


def _load(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "r.toml"
    path.write_text(text)
    return load(path)


def test_without_a_file_everything_has_its_default() -> None:
    assert load(None) == Recipe()


def test_the_recipe_that_init_writes_is_the_defaults() -> None:
    path = Path(str(files("edgekd.cli") / "recipe.toml"))
    assert load(path).model_copy(update={"name": "model"}) == Recipe()


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_in_the_repository_is_valid(path: Path) -> None:
    assert load(path).name


def test_the_name_is_the_files_own_unless_given(tmp_path: Path) -> None:
    assert _load(tmp_path, "").name == "r"
    assert _load(tmp_path, 'name = "other"').name == "other"


def test_a_part_of_a_table_keeps_the_rest_of_its_defaults(tmp_path: Path) -> None:
    recipe = _load(tmp_path, "[teacher.train]\nepochs = 2")
    assert recipe.teacher.train.epochs == 2
    assert recipe.teacher.train.autocast == "auto"
    assert recipe.student.train.weight_decay == 1e-4


def test_flags_lie_over_the_file_and_assignments_over_flags(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('[student]\nmodel = "a"\n[student.train]\nepochs = 1')
    recipe = load(path, {"student.model": "b"}, ["student.model=c", "student.train.epochs=7"])
    assert (recipe.student.model, recipe.student.train.epochs) == ("c", 7)


def test_paths_in_a_recipe_start_at_its_folder(tmp_path: Path) -> None:
    recipe = _load(tmp_path, '[teacher]\nweights = "w.safetensors"')
    assert Path(recipe.teacher.weights) == tmp_path / "w.safetensors"
    data = _load(tmp_path, '[data]\nsource = "folder:a/b"\nunlabelled = "npz:/c.npz"').data
    assert (data.source, data.unlabelled) == (f"folder:{tmp_path}/a/b", "npz:/c.npz")
    data = _load(tmp_path, '[data]\nsource = "mine.data:load"').data
    assert data.source == "mine.data:load"
    named = load(tmp_path / "r.toml", {"data.source": "folder:here"}, ["data.unlabelled=npz:x"])
    assert (named.data.source, named.data.unlabelled) == ("folder:here", "npz:x")
    teacher = _load(
        tmp_path,
        '[teacher]\nmodel = "onnx:a/t.onnx"\n'
        '[[teacher.also]]\nmodel = "bundle:/b.edgekd"\n'
        '[[teacher.also]]\nmodel = "timm:vit"\nweights = "w.pt"\n'
        '[[teacher.also]]\nmodel = "timm:vit"\nweights = "pretrained"\n',
    ).teacher
    assert teacher.model == f"onnx:{tmp_path / 'a' / 't.onnx'}"
    assert [(each.model, each.weights) for each in teacher.also] == [
        ("bundle:/b.edgekd", ""),
        ("timm:vit", str(tmp_path / "w.pt")),
        ("timm:vit", "pretrained"),
    ]


@given(st.integers(1, 10**6))
def test_a_setting_survives_the_way_through_json(epochs: int) -> None:
    recipe = load(None, assignments=[f"student.train.epochs={epochs}"])
    assert Recipe.model_validate(recipe.canonical()) == recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[student]\nmodle = 1", ("r.toml:2", "student.modle", "no such key", "'model'")),
        ("[stduent]\n", ("r.toml:1", "stduent", "'student'")),
        ("\n[teacher.train]\nepochs = 0", ("r.toml:3", "teacher.train.epochs", "greater than 0")),
        ("[teacher]\ntrain.epochs = -1", ("r.toml:2", "teacher.train.epochs")),
        ('[budget]\nfps = "fast"', ("r.toml:2", "budget.fps", "not 'fast'")),
        ("[budget]\nfps = inf", ("budget.fps", "finite")),
        ("[engines]\ntargets = []", ("engines.targets", "at least 1")),
        ('[calibration]\nmethod = "entropi"', ("calibration.method", "'entropy' or 'mse'")),
        (
            '[[teacher.also]]\nmodel = "a"\n[[teacher.also]]\nmodel = "b"\nwieght = 1',
            ("r.toml:5", "teacher.also.1.wieght", "'weight'"),
        ),
        ("[[teacher.also]]\nweight = 0", ("teacher.also.0.model", "required", "and 1 more")),
        ("[teacher]\nstd = [0]", ("r.toml:2", "teacher.std", "greater than 0")),
        ("[data]\nsize = [32]", ("r.toml:2", "data.size", "give [height, width], or [], not")),
        ("[data]\ncrop = 0.9", ("r.toml:2", "data.crop", "must be 0 where data.size is not set")),
        ("[data]\nsize = [8, 8]\ncrop = 1.5", ("r.toml:3", "data.crop", "less than or equal to 1")),
        ("[data]\nlabelled = 0", ("r.toml:2", "data.labelled", "greater than 0")),
        ('name = "../up"', ("name", "not '../up'")),
        ("a = = 1", ("r.toml", "is not TOML", "line 1")),
        ("[student]\na = 1\nb = 2", ("and 1 more",)),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, words: tuple[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        _load(tmp_path, text)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("student.train.epoch=3", ("--set student.train.epoch=3", "'epochs'")),
        ("student", ("expected KEY=VALUE",)),
        ("name.x=1", ("name.x", "not a table")),
        ("student.train.epochs=many", ("--set", "student.train.epochs")),
    ],
)
def test_a_wrong_assignment_is_told_as_it_was_typed(assignment: str, words: tuple[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load(None, {"name": "n"}, [assignment])
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="this is a folder"):
        load(tmp_path)
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load(tmp_path / "b.toml")
