"""The public face: these names and signatures, and no others."""

from __future__ import annotations

import inspect
import re

import pytest

import edgekd
from tests.conftest import ROOT

SIGNATURES = {
    "build": "(recipe: 'Recipe', out: 'Path', *, store: 'Store | None' = None,"
    " watcher: 'Watcher | None' = None, command: 'str' = 'edgekd.build(...)') -> 'Result'",
    "load": "(path: 'str | Path', target: 'str | None' = None, precision: 'str | None' = None,"
    " threads: 'int' = 1, gpu: 'GpuOptions | None' = None) -> 'Engine'",
}
ENGINE = ["check_golden", "close"]
BUNDLE = [
    "check", "classes", "engine", "engines", "file", "golden_images", "golden_outputs", "hashes",
    "manifest", "preprocessing", "root",
]  # fmt: skip


def test_names() -> None:
    assert edgekd.__all__ == ["Bundle", "Engine", "Recipe", "__version__", "build", "load"]
    for name in edgekd.__all__:
        assert getattr(edgekd, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Enigne'"):
        edgekd.Enigne  # noqa: B018


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    assert str(inspect.signature(getattr(edgekd, name))) == SIGNATURES[name]


def test_members() -> None:
    public = [each for each in dir(edgekd.Engine) if not each.startswith("_")]
    assert public == ENGINE
    fields = edgekd.Bundle.__dataclass_fields__
    public = sorted({each for each in dir(edgekd.Bundle) if not each.startswith("_")} | {*fields})
    assert public == BUNDLE


def test_a_release_has_its_version_in_the_changelog() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in {"Unreleased", edgekd.__version__}
    assert re.fullmatch(r"\d+\.\d+\.\d+", edgekd.__version__)
