"""A teacher as a recipe names it: what can be refused early, and what decides its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd import bundle, models
from edgekd.errors import RecipeError
from edgekd.models import external
from edgekd.recipe import PRETRAINED, TEACHER_FILES, MemberSettings, TeacherSettings
from edgekd.store import hash_file

STUDENT = "student.onnx"
"""The file of a bundle that a teacher is run from."""


def tables(settings: TeacherSettings) -> list[tuple[str, MemberSettings]]:
    """The members in order, each with its dotted key in the recipe."""
    also = [(f"teacher.also.{number}", each) for number, each in enumerate(settings.also)]
    return [("teacher", settings), *also]


def place(model: str) -> tuple[str, Path]:
    """``onnx`` or ``bundle`` and its path; an empty kind for a network by its name."""
    kind, _, path = model.partition(":")
    return (kind, Path(path)) if kind in TEACHER_FILES and path else ("", Path())


def given(settings: TeacherSettings) -> bool:
    """Whether the teacher comes with its weights, and is not trained by the recipe."""
    apart = (settings.also, settings.classes, settings.mean, settings.std, settings.size)
    return bool(settings.weights or any(apart) or place(settings.model)[0])


def check(settings: TeacherSettings) -> None:
    """Refuses a teacher that cannot be had.

    Raises:
        RecipeError: a name or file is not there, or keys do not fit together.
        BundleError: a bundle is none.
        BackendUnavailable: a library is not usable here.
    """
    for field, table in tables(settings):
        kind, path = place(table.model)
        if kind:
            _check_file(kind, path, table, field)
        else:
            models.check(table.model, "teacher", f"{field}.model")
            if given(settings):
                _check_weights(table, field)
        if len(table.mean) != len(table.std):
            raise RecipeError(
                f"mean has {len(table.mean)} figures and std {len(table.std)}",
                "give both, one figure a channel, or neither",
                field=f"{field}.mean",
            )
        if len(table.size) not in (0, 2):
            raise RecipeError(
                f"{len(table.size)} figures are no height and width", field=f"{field}.size"
            )


def _check_file(kind: str, path: Path, table: MemberSettings, field: str) -> None:
    if table.weights:
        raise RecipeError(
            f"{kind}:{path.name} holds its weights", "leave weights out", field=f"{field}.weights"
        )
    if kind == "bundle":
        if STUDENT not in bundle.read(path).hashes():
            raise RecipeError(f"{path} holds no {STUDENT}", field=f"{field}.model")
    elif not path.is_file():
        raise RecipeError(f"there is no file {path}", field=f"{field}.model")


def _check_weights(table: MemberSettings, field: str) -> None:
    if not table.weights:
        raise RecipeError(
            f"{table.model} has no weights",
            "name their file: beside also, classes, mean, std or size no teacher is trained",
            field=f"{field}.weights",
        )
    if table.weights == PRETRAINED:
        if table.model.partition(":")[0] not in external.LIBRARIES:
            raise RecipeError(
                f"{table.model} comes with no weights",
                "'pretrained' is for timm:NAME and torchvision:NAME",
                field=f"{field}.weights",
            )
    elif not Path(table.weights).is_file():
        raise RecipeError(f"there is no file {table.weights}", field=f"{field}.weights")


def identity(settings: TeacherSettings) -> list[dict[str, Any]]:
    """What decides the answers of a given teacher, by member, for its stage's key."""
    return [
        {
            **_source(table),
            **table.model_dump(mode="json", include=_OWN),
        }
        for _, table in tables(settings)
    ]


_OWN = {"weight", "classes", "mean", "std", "size"}


def _source(table: MemberSettings) -> dict[str, Any]:
    """The content of what a member is read from."""
    kind, path = place(table.model)
    if kind == "bundle":
        return {"model": f"bundle:{path.name}", "content": bundle.read(path).manifest["content"]}
    if kind == "onnx":
        from edgekd.models import onnx_file

        hashes = [hash_file(each).sha256 for each in onnx_file.files(path)]
        return {"model": f"onnx:{path.name}", "files": hashes}
    own = table.weights == PRETRAINED
    content = table.weights if own else hash_file(Path(table.weights)).sha256
    return {**models.identity(table.model), "weights": content}
