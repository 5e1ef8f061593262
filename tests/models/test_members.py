"""A recipe's teachers: what is refused before any work, and what makes them others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekd.artifacts import OnnxModel
from edgekd.errors import BundleError, RecipeError
from edgekd.models import members
from edgekd.recipe import TeacherSettings
from tests.models.bundles import bundle_of

LINEAR = "tests.models.nets:linear"


def _teacher(**values: Any) -> TeacherSettings:
    return TeacherSettings.model_validate(values)


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A weights file that nobody opens."""
    path = tmp_path / "w.pt"
    path.write_bytes(b"weights")
    return str(path)


def test_a_plain_teacher_is_trained_and_any_of_these_is_given(file: str) -> None:
    assert not members.given(_teacher())
    assert not members.given(_teacher(model=LINEAR))
    for values in (
        {"weights": file},
        {"also": [{"model": LINEAR}]},
        {"classes": ["a"]},
        {"mean": [0.5], "std": [0.5]},
        {"size": [8, 8]},
        {"model": "onnx:t.onnx"},
        {"model": "bundle:t.edgekd"},
    ):
        assert members.given(_teacher(**values)), values


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "resnet2"}, "teacher.model: no teacher is called 'resnet2'"),
        ({"weights": "/none"}, "teacher.weights: there is no file /none"),
        ({"model": "onnx:/none.onnx"}, "teacher.model: there is no file /none.onnx"),
        ({"model": "onnx:t.onnx", "weights": "FILE"}, "teacher.weights: onnx:t.onnx holds its"),
        ({"weights": "pretrained"}, "teacher.weights: resnet20 comes with no weights: 'pretr"),
        ({"classes": ["a"]}, "teacher.weights: resnet20 has no weights: name their file"),
        ({"weights": "FILE", "mean": [0.5]}, "teacher.mean: mean has 1 figures and std 0"),
        ({"weights": "FILE", "size": [8]}, "teacher.size: 1 figures are no height and width"),
        ({"weights": "FILE", "also": [{"model": LINEAR}]}, "teacher.also.0.weights: .* no weights"),
        (
            {"weights": "FILE", "also": [{"model": LINEAR, "weights": "FILE"}, {"model": "x"}]},
            "teacher.also.1.model: no teacher is called 'x'",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_by_its_key(
    values: dict[str, Any], words: str, file: str
) -> None:
    def filled(table: dict[str, Any]) -> dict[str, Any]:
        return {k: file if each == "FILE" else each for k, each in table.items()}

    whole = filled(values)
    if "also" in whole:
        whole["also"] = [filled(each) for each in whole["also"]]
    with pytest.raises(RecipeError, match=words):
        members.check(_teacher(**whole))


def test_a_bundle_must_be_one(onnx_model: OnnxModel, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        members.check(_teacher(model=f"bundle:{tmp_path}"))
    bundle = bundle_of(tmp_path / "t.edgekd", onnx_model.path)
    members.check(_teacher(model=f"bundle:{bundle}"))


def test_its_identity_is_content_and_not_place(
    onnx_model: OnnxModel, file: str, tmp_path: Path
) -> None:
    bundle = bundle_of(tmp_path / "t.edgekd", onnx_model.path)
    sources: list[dict[str, Any]] = [
        {"model": f"onnx:{onnx_model.path}"},
        {"model": f"bundle:{bundle}"},
        {"model": "resnet8", "weights": file},
        {"model": LINEAR, "weights": file},
    ]
    found = [members.identity(_teacher(**each)) for each in sources]
    assert str(tmp_path) not in str(found)
    assert len({str(each) for each in found}) == len(sources)
    for change in (
        {"weight": 2.0},
        {"classes": ["a"]},
        {"mean": [0.1], "std": [1.0]},
        {"size": [9, 9]},
        {"also": [sources[0]]},
    ):
        for values, before in zip(sources, found, strict=True):
            assert members.identity(_teacher(**(values | change))) != before
    Path(file).write_bytes(b"others")
    assert members.identity(_teacher(**sources[2])) != found[2]
    # How it would have been trained changes nothing.
    assert members.identity(_teacher(**sources[0], train={"epochs": 3})) == found[0]
