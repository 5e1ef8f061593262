"""Targets: every profile loads, names a backend that is, and a form that it takes."""

from __future__ import annotations

import pytest

from edgekd import targets
from edgekd.backends.base import BACKENDS
from edgekd.errors import RecipeError
from edgekd.quantize.forms import FORMS


@pytest.mark.parametrize("name", targets.names())
def test_a_profile_is_whole(name: str) -> None:
    target = targets.load(name)
    assert target.backend in BACKENDS
    assert set(target.precisions) <= {"fp32", "int8"}
    assert "fp32" in target.precisions
    assert (target.form in FORMS) == ("int8" in target.precisions)
    assert target.summary


def test_an_unknown_target_is_told_with_its_near_matches() -> None:
    with pytest.raises(RecipeError, match="engines.targets: no target is called 'tensorrt-rx'"):
        targets.load("tensorrt-rx")


def test_a_name_is_not_a_path() -> None:
    with pytest.raises(RecipeError):
        targets.load("../recipe")
