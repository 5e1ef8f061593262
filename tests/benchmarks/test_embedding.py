"""``benchmarks/embedding.py``: its exact claims hold, and its tables show where one does not."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import bundle
from edgekd.artifacts import Preprocessing
from tests.conftest import ROOT

SCRIPT = ROOT / "benchmarks" / "embedding.py"
sys.path.insert(0, str(SCRIPT.parent))
calls, images, memory, programs, same = map(
    import_module,
    [f"embedding_{each}" for each in ("calls", "images", "memory", "programs", "same")],
)
ENGINES = {
    f"{target} {precision}"
    for target in ("onnxruntime-cpu", "openvino-cpu")
    for precision in ("fp32", "int8")
}
Tables = dict[str, list[list[str]]]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, without its headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.fixture(scope="module")
def text(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the script writes."""
    out = tmp_path_factory.mktemp("embedding")
    chosen = [built["bundle"], "--quick", "--programs", ROOT / "build" / "native", "--out", out]
    done = subprocess.run(
        [sys.executable, SCRIPT, *chosen], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return (out / "embedding.md").read_text()


@pytest.fixture(scope="module")
def tables(text: str) -> Tables:
    """By the first words of their headings."""
    parts = text.split("\n## ")[1:]
    return {part.splitlines()[0]: rows(part) for part in parts}


def of(tables: Tables, words: str) -> list[list[str]]:
    (found,) = [table for heading, table in tables.items() if words in heading]
    return found


@pytest.mark.native
def test_a_call_allocates_nothing_of_its_own_and_answers_as_the_runtime_does(
    tables: Tables, text: str
) -> None:
    found = of(tables, "C++ library adds")
    callers = {calls.BARE, calls.AGAIN, calls.ANEW, *calls.OURS}
    assert {(row[0], row[1]) for row in found} == {(e, c) for e in ENGINES for c in callers}
    assert {row[5] for row in found} == {"0"}
    assert all(int(row[4]) > 0 for row in found)  # the runtimes' own, so that any are seen
    python = of(tables, "Python engine adds")
    assert [row[1] for row in python].count(f"`{calls.RUN}`") == len(ENGINES)
    assert [row[1] for row in python].count(f"`{calls.BINDING}`") == len(ENGINES)
    assert text.count("the same to the bit") == 2


@pytest.mark.native
def test_images_and_outputs_are_the_same_to_the_bit(tables: Tables) -> None:
    prepared = {row[0]: row[3] for row in of(tables, "model's input")}
    assert prepared[images.PYTHON] == prepared[images.PILLOW] == "64 of 64"
    found = of(tables, "same outputs")
    assert {row[0] for row in found} == ENGINES
    for _, differ, right, _, golden, _ in found:
        assert differ == golden == "0"
        assert 50 < int(right) <= programs.QUICK.images


@pytest.mark.native
def test_threads_and_memory(tables: Tables) -> None:
    runs = same.THREADS * programs.QUICK.thread_runs
    told = [f"{runs + 16} runs, 0 wrong", f"{runs} runs, 0 wrong"]
    assert {row[0]: row[1:] for row in of(tables, "threads")} == dict.fromkeys(ENGINES, told)
    grown = of(tables, "Memory")
    assert {row[0] for row in grown} == ENGINES
    assert all(len(row) == 6 for row in grown)


def test_what_differs_is_shown(built: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened = bundle.read(built["bundle"])
    chosen = tuple(each for each in programs.engines(opened) if each["backend"] == "onnxruntime")
    given = programs.Given(opened, chosen[:1], Path("none"), programs.QUICK)

    def wrong(given: Any, engine: Any, pixels: Any) -> Any:
        answers = same._python(given, engine, pixels).copy()
        answers[3, 0] += 1
        return answers

    for stand_in, differ, golden in ((wrong, "**1**", "**1**"), (same._python, "0", "0")):
        monkeypatch.setattr(same, "_cpp", stand_in)
        (row,) = rows(same.outputs(given))
        assert (row[1], row[4]) == (differ, golden)


def test_a_difference_is_of_neighbours_and_bold_beyond_its_limit() -> None:
    bare = [np.array([20_000, 30_000, 40_000]) + opening for opening in range(7)]
    p50 = {"bare": bare, "own": [each + 600 for each in bare], "other": [each - 5 for each in bare]}
    assert calls._more(p50, "own", "bare", {"own": 500}, 1) == "**+600** [+600, +600]"
    assert calls._more(p50, "own", "bare", {"own": 700}, 1) == "+600 [+600, +600]"
    assert calls._more(p50, "other", "bare", {}, 1000) == "-0.01 [-0.01, -0.01]"
    assert calls._more(p50, "bare", "bare", {}, 1) == ""


@pytest.mark.parametrize("color", ["L", "RGB"])
@pytest.mark.parametrize("crop", [None, 0.875])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pillow_makes_the_same_bits(color: str, crop: float | None, layout: str) -> None:
    channels = len(color)  # L is one, RGB three
    wanted = Preprocessing(
        mean=(0.3, 0.4, 0.5)[:channels], std=(0.2, 0.25, 0.3)[:channels],
        color=color, crop=crop, layout=layout,
    )  # fmt: skip
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    shape = (channels, 8, 10)
    ours = images._edgekd(frame, wanted, shape)
    np.testing.assert_array_equal(images._pillow(frame, wanted, shape)[None], ours)
    assert len(np.unique(ours)) > 20


def test_memory_that_is_held_is_seen() -> None:
    before = memory.resident()
    held = np.ones(8 << 20, np.uint8)
    assert memory.resident() - before >= 0.9 * held.nbytes
    assert memory._kib(999_999) == "977"
    assert memory._kib(1_000_000) == "**977**"
