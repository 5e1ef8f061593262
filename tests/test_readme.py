"""The documents: commands that parse, links that lead somewhere, a snippet that runs."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgekd import models, targets
from tests.conftest import ROOT
from tests.documents import DOCUMENTS, blocks, commands, parse

README = (ROOT / "README.md").read_text()


def _commands(first: str) -> list[list[str]]:
    """Every command of every document that starts with this word."""
    return [words for words in commands(*DOCUMENTS) if Path(words[0]).name == first]


@pytest.mark.parametrize("words", _commands("edgekd"), ids=shlex.join)
def test_a_command_parses(words: list[str]) -> None:
    parsed = parse(words[1:])
    if parsed.get("student"):
        models.check(parsed["student"], "student")
    assert set(parsed.get("targets") or ()) <= set(targets.names())


def test_what_make_is_told_to_do_it_knows() -> None:
    named = {each for words in _commands("make") for each in words[1:]}
    assert {"demo", "test"} <= named
    for each in named:
        command = ["make", "--dry-run", each]
        assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_ci_runs_the_readme_s_test_command() -> None:
    assert "make test\n" in (ROOT / ".ci" / "run").read_text()


def test_benchmarks_are_scripts_that_are() -> None:
    folder = ROOT / "benchmarks"
    index = (folder / "README.md").read_text()
    scripts = {
        each.relative_to(folder).as_posix()
        for each in folder.rglob("*.py")
        if "record.write(" in each.read_text()
    }
    assert set(re.findall(r"`([\w/]+\.py)[ `]", index)) == scripts
    for recipe in re.findall(r"recipes/[\w-]+\.toml", index):
        assert (ROOT / recipe).is_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: str(each.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        aim = (document.parent / path).resolve() if path else document
        assert aim.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", aim.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in slugs, link


def test_the_table_of_targets_is_whole() -> None:
    table = README.split("\n## Targets, and what is proven where\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)]
    assert sorted(named) == targets.names()


@pytest.mark.parametrize("name", ["README.md", "docs/embedding.md"])
def test_the_python_snippet_runs(
    name: str, built: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = blocks(ROOT / name, "python")
    path = re.search(r'"([\w/-]+\.edgekd)"', snippet)
    assert path is not None
    pixels = np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8)
    known: dict[str, object] = {
        "image": pixels,
        "frame": pixels,
        "tensor": np.zeros((1, 1, 8, 8), np.float32),
    }
    exec(snippet.replace(path[1], str(built["bundle"])), known)
    logits = known["logits"]
    assert isinstance(logits, np.ndarray)
    assert logits.shape == (1, 10)
    if "future" in known:
        assert known["future"].result().shape == (1, 10)  # type: ignore[attr-defined]
    assert re.match(r"[0-9]$|Stats\(count=\d", capsys.readouterr().out.strip())


def test_the_figures_of_the_readme_are_those_of_the_results() -> None:
    results = ROOT / "benchmarks" / "results"
    known = {
        float(each)
        for name in ("demo", "fashion-mnist")
        for each in re.findall(r"\d+\.\d+", (results / f"{name}.md").read_text())
    }
    rows = [
        line
        for line in README.splitlines()
        if line.startswith(("| teacher", "| student", "| the same,"))
    ]
    figures = [each for line in rows for each in re.findall(r"(\d+\.\d+) (?:%|ms)", line)]
    assert len(figures) == 11
    for figure in figures:
        places = len(figure.split(".")[1])
        assert float(figure) in {round(each, places) for each in known}, figure
