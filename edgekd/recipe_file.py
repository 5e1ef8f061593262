"""A recipe from its TOML file and the command line, and its faults in one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from edgekd.errors import RecipeError, near_matches
from edgekd.recipe import DATA_FILES, PRETRAINED, TEACHER_FILES, Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load(
    path: Path | None,
    flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> Recipe:
    """Reads a recipe, and lays the command line over it.

    Args:
        path: a TOML file; None for the defaults.
        flags: values by dotted key, such as ``{"student.model": "dscnn-s"}``.
        assignments: ``KEY=VALUE`` texts; a value is read as TOML, or else as plain text.

    Raises:
        RecipeError: naming the file with its line or the argument, the key and the mend.
    """
    document: dict[str, Any] = {}
    text = ""
    if path is not None:
        try:
            text = path.read_text()
        except IsADirectoryError:
            raise RecipeError("this is a folder", "name a .toml file", path=str(path)) from None
        except OSError as error:
            hint = "`edgekd init` writes one to start from"
            raise RecipeError(f"cannot be read: {error.strerror}", hint, path=str(path)) from error
        except UnicodeDecodeError as error:
            raise RecipeError("is not UTF-8 text", path=str(path)) from error
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"is not TOML: {error}", path=str(path)) from error
        document.setdefault("name", _safe_name(path.stem))
        _data_from_folder(document.get("data"), path.parent)
        teacher = document.get("teacher")
        if isinstance(teacher, dict):
            also = teacher.get("also")
            for table in (teacher, *(also if isinstance(also, list) else ())):
                _from_folder(table, path.parent)
    overlaid: dict[str, str] = {}
    for key, value in (flags or {}).items():
        _lay(document, key, value, "the command line")
        overlaid[key] = "the command line"
    for assignment in assignments:
        key, equals, raw = assignment.partition("=")
        if not equals or not key:
            raise RecipeError("expected KEY=VALUE", path=f"--set {assignment}")
        _lay(document, key.strip(), _toml_value(raw), f"--set {assignment}")
        overlaid[key.strip()] = f"--set {assignment}"
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise _explain(error, text, path, overlaid) from None


def _from_folder(table: Any, folder: Path) -> None:
    """A teacher's paths in a file mean the same wherever the command is run."""
    if not isinstance(table, dict):
        return
    if table.get("weights") not in (None, "", PRETRAINED):
        table["weights"] = str(folder / str(table["weights"]))
    kind, _, place = str(table.get("model", "")).partition(":")
    if kind in TEACHER_FILES and place:
        table["model"] = f"{kind}:{folder / place}"


def _data_from_folder(table: Any, folder: Path) -> None:
    """The data's paths in a file mean the same wherever the command is run."""
    if not isinstance(table, dict):
        return
    for key in ("source", "unlabelled"):
        kind, _, place = str(table.get(key, "")).partition(":")
        if kind in DATA_FILES and place:
            table[key] = f"{kind}:{folder / place}"


def _safe_name(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-") or "model"


def _lay(document: dict[str, Any], key: str, value: Any, where: str) -> None:
    *tables, last = key.split(".")
    for table in tables:
        inner = document.setdefault(table, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"'{table}' is not a table", path=where, field=key)
        document = inner
    document[last] = value


def _toml_value(raw: str) -> Any:
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _explain(
    error: ValidationError, text: str, path: Path | None, overlaid: Mapping[str, str]
) -> RecipeError:
    """The first fault of a recipe in one line, with the number of further ones."""
    faults = error.errors()
    fault = faults[0]
    keys = [str(each) for each in fault["loc"]]
    field = ".".join(keys)
    where = next((w for k, w in overlaid.items() if field == k or field.startswith(k + ".")), "")
    if not where and path is not None:
        line = _line_of(text, keys)
        where = f"{path}:{line}" if line else str(path)
    if fault["type"] == "extra_forbidden":
        message = "there is no such key"
        hint = near_matches(keys[-1], _known_keys(keys[:-1]))
    else:
        message = str(fault["msg"]).removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        if not isinstance(fault["input"], dict):
            message += f", not {fault['input']!r}"
        hint = ""
    if len(faults) > 1:
        message += f" (and {len(faults) - 1} more)"
    return RecipeError(message, hint, path=where, field=field)


def _known_keys(tables: Sequence[str]) -> list[str]:
    model: Any = Recipe
    for table in tables:  # a number stands for a table of an array
        model = get_args(model)[0] if table.isdecimal() else model.model_fields[table].annotation
    return list(model.model_fields)


def _line_of(text: str, keys: Sequence[str]) -> int | None:
    """The line on which a dotted key stands, if it is written in the plain way."""
    table: list[str] = []
    arrays: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[(\[?)\s*([\w.-]+)\s*\]", line):
            table = header[2].split(".")
            if header[1]:
                arrays[header[2]] = arrays.get(header[2], -1) + 1
                table.append(str(arrays[header[2]]))
            if table == list(keys):
                return number
        elif (entry := re.match(r"\s*([\w.-]+)\s*=", line)) and [
            *table,
            *entry[1].split("."),
        ] == list(keys[: len(table) + entry[1].count(".") + 1]):
            return number
    return None
