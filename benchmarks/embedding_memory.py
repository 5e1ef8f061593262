"""How much memory grows with use, in C++ and in Python.

python benchmarks/embedding_memory.py BUNDLE TARGET PRECISION RUNS OPENS
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import record
from embedding_programs import Given, Record, name, told

import edgekd

LIMIT = 1_000_000
_SIDE_BY_SIDE = 2


def part(given: Given) -> str:
    """The table of growth; several programs at once, since nothing is timed."""
    with ThreadPoolExecutor(min(_SIDE_BY_SIDE, os.cpu_count() or 1)) as pool:
        asked = [
            [pool.submit(ask, given, each) for each in given.engines]
            for ask in (_cpp, _runtime, _python)
        ]
        grown = [[each.result() for each in asked_of] for asked_of in zip(*asked, strict=True)]
    sizes = given.sizes
    rows = [
        [name(engine), *(_kib(grew) for each in of_it for grew in each.values())]
        for engine, of_it in zip(given.engines, grown, strict=True)
    ]
    headings = (
        "engine", f"C++, {sizes.runs:,} inferences", f"{sizes.opens:,} times opened",
        f"the runtime alone, {sizes.runs:,} inferences",
        f"Python, {sizes.python_runs:,} inferences", f"{sizes.python_opens:,} times opened",
    )  # fmt: skip
    return "\n\n".join(
        [
            "## Memory",
            record.table(headings, rows),
            (
                "Growth of resident memory in KiB, bold from 1 MB on. Before that come a"
                " hundredth as many inferences and a tenth as often opening, and what is free"
                " within the allocator is given back on both sides (`malloc_trim`). Opened is:"
                " hashes checked, engine compiled, an image run, closed. Images are 64×48 in"
                " colour; in Python every tenth is, the others have the model's size. The runtime"
                " alone is what *bare* is above: what grows there too is its own, such as parts of"
                " its library that are first used after a while."
            ),
        ]
    )


def _kib(grown: int) -> str:
    told = f"{grown / 1024:,.0f}"
    return told if grown < LIMIT else f"**{told}**"


def _cpp(given: Given, engine: Record) -> dict[str, int]:
    words = (engine["target"], engine["precision"], given.sizes.runs, given.sizes.opens)
    return told(given, "soak", given.bundle.root, *words)


def _runtime(given: Given, engine: Record) -> dict[str, int]:
    root, file = given.bundle.root, given.bundle.root / engine["path"]
    words = (engine["target"], engine["precision"], file, given.sizes.runs)
    return told(given, "overhead", "memory", root, *words)


def _python(given: Given, engine: Record) -> dict[str, int]:
    words = (engine["target"], engine["precision"])
    counts = (given.sizes.python_runs, given.sizes.python_opens)
    command = [sys.executable, __file__, given.bundle.root, *words, *counts]
    done = subprocess.run([str(each) for each in command], stdout=subprocess.PIPE, check=True)
    grown: dict[str, int] = json.loads(done.stdout)
    return grown


def resident() -> int:
    """This process's resident memory in bytes, what is free given back before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def grow(path: str, target: str, precision: str, runs: int, opens: int) -> dict[str, int]:
    """What so many inferences and so many openings add, in bytes."""
    frame = np.full((48, 64, 3), 128, np.uint8)

    def infer(engine: edgekd.Engine, count: int) -> None:
        channels, height, width = engine.shape
        image = np.full((height, width, channels), 128, np.uint8)
        for run in range(count):
            engine(image if run % 10 else frame)

    def reopen(count: int) -> None:
        for _ in range(count):
            with edgekd.load(path, target, precision) as engine:
                engine(frame)

    with edgekd.load(path, target, precision) as engine:
        infer(engine, runs // 100 + 10)
        before = resident()
        infer(engine, runs)
        ran = resident() - before
    reopen(opens // 10 + 3)
    before = resident()
    reopen(opens)
    return {"runs": ran, "opens": resident() - before}


if __name__ == "__main__":
    where, wanted, kept, *numbers = sys.argv[1:]
    print(json.dumps(grow(where, wanted, kept, *map(int, numbers))))
