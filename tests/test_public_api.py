"""The public face: these names and signatures, and no others."""

from __future__ import annotations

import inspect
import re
from operator import attrgetter
from pathlib import Path

import pytest

import edgekd
from tests.conftest import ROOT

SIGNATURES = {
    "build": "(recipe: 'Recipe', out: 'Path', *, store: 'Store | None' = None,"
    " watcher: 'Watcher | None' = None, command: 'str' = 'edgekd.build(...)') -> 'Result'",
    "load": "(path: 'str | Path', target: 'str | None' = None, precision: 'str | None' = None,"
    " threads: 'int' = 1, device: 'str | None' = None, streams: 'int' = 1,"
    " deadline_ms: 'float | None' = None, gpu: 'GpuOptions | None' = None) -> 'Engine'",
    "Engine.__call__": "(self, images: 'npt.NDArray[Any] | Sequence[npt.NDArray[Any]]',"
    " order: 'str' = 'RGB') -> 'npt.NDArray[np.float32]'",
    "Engine.run": "(self, tensor: 'npt.NDArray[Any] | Arrays') -> 'npt.NDArray[Any]'",
    "Engine.bind": "(self, batch: 'int | None' = None) -> 'Binding'",
    "Engine.stream": "(self, depth: 'int' = 1, policy: 'str' = 'drop-oldest',"
    " workers: 'int' = 1) -> 'Stream'",
    "Engine.warmup": "(self, runs: 'int' = 10, batch: 'int | None' = None) -> 'None'",
    "Engine.stats": "(self) -> 'Stats'",
    "Engine.reset_stats": "(self) -> 'None'",
    "Engine.check_golden": "(self) -> 'float'",
    "Engine.close": "(self) -> 'None'",
}
ENGINE = [
    "bind", "check_golden", "close", "reset_stats", "run", "shape", "stats", "stream", "warmup",
]  # fmt: skip
OPENED = [
    *ENGINE, "classes", "inputs", "outputs", "precision", "target",
]  # fmt: skip
BINDING = ["inputs", "outputs", "run"]
STREAM = ["close", "submit"]
STATS = ["count", "deadline_ns", "misses", "p50_ns", "p99_ns"]
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
    found = attrgetter(name)(edgekd)
    assert str(inspect.signature(found)) == SIGNATURES[name]


def test_members() -> None:
    public = [each for each in dir(edgekd.Engine) if not each.startswith("_")]
    assert public == ENGINE
    fields = edgekd.Bundle.__dataclass_fields__
    public = sorted({each for each in dir(edgekd.Bundle) if not each.startswith("_")} | {*fields})
    assert public == BUNDLE


def test_members_of_what_an_engine_gives(built: dict[str, Path]) -> None:
    def public(value: object) -> list[str]:
        return [each for each in dir(value) if not each.startswith("_")]

    with edgekd.load(built["bundle"]) as engine:
        assert public(engine) == sorted(OPENED)
        assert public(engine.bind()) == BINDING
        assert public(engine.stats()) == STATS
        with engine.stream() as stream:
            assert public(stream) == STREAM


def test_a_release_has_its_version_in_the_changelog() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in {"Unreleased", edgekd.__version__}
    assert re.fullmatch(r"\d+\.\d+\.\d+", edgekd.__version__)
