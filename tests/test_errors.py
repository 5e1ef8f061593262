"""Errors: the tree that the module draws is the tree that is."""

from __future__ import annotations

import re

import pytest

from edgekd import errors
from edgekd.errors import BackendUnavailable, EdgekdError, RecipeError, near_matches


def _drawn() -> dict[str, tuple[str, int | None]]:
    """Name to (parent, exit code), read from the module's docstring."""
    tree: dict[str, tuple[str, int | None]] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(
            r"^(    [│├└─ ]*)(\w+(?:Error|Unavailable|Incompatible|Refused|Bundle))\s+(\d)?",
            line + " ",
        )
        if not found:
            continue
        depth = len(found[1])
        path = [each for each in path if each[0] < depth]
        parent = path[-1][1] if path else "Exception"
        tree[found[2]] = (parent, int(found[3]) if found[3] else None)
        path.append((depth, found[2]))
    return tree


def test_the_tree_in_the_docstring_is_the_hierarchy() -> None:
    drawn = _drawn()
    real = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert drawn.keys() == real.keys()
    for name, (parent, code) in drawn.items():
        assert real[name].__mro__[1].__name__ == parent
        if code is not None:
            assert real[name].exit_code == code


def test_a_message_and_its_hint_are_one_line() -> None:
    assert str(EdgekdError("this is wrong", "do that")) == "this is wrong: do that"
    assert str(EdgekdError("this is wrong")) == "this is wrong"


def test_a_recipe_error_names_file_and_field() -> None:
    error = RecipeError("no such key", path="r.toml:3", field="student.modle")
    assert str(error) == "r.toml:3: student.modle: no such key"


def test_a_missing_backend_says_what_to_install() -> None:
    assert "pip install 'edgekd[openvino]'" in str(BackendUnavailable("openvino", "openvino", "no"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dscn-s", "did you mean 'dscnn-s'"), ("zzz", "the known ones are dscnn-s, resnet8")],
)
def test_near_matches_are_named_or_else_all(name: str, expected: str) -> None:
    assert expected in near_matches(name, ["resnet8", "dscnn-s"])
