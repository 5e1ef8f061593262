"""Claim: ``edgekd --help`` costs what Python and click cost, and loads nothing else."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import record

RUNS = 40
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import click'": [sys.executable, "-c", "import click"],
    "edgekd --help": [sys.executable, "-m", "edgekd", "--help"],
    "python -c 'import onnxruntime'": [sys.executable, "-c", "import onnxruntime"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
}


def main() -> None:
    """Starts every command in turn, forty times."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, command in COMMANDS.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            taken[name].append(1e3 * (time.perf_counter() - begin))
    base = statistics.median(taken["python -c pass"])
    rows = [
        (
            f"`{name}`",
            f"{statistics.median(each):.0f}",
            f"{max(each):.0f}",
            f"{statistics.median(each) / base:.1f}",
        )
        for name, each in taken.items()
    ]
    record.write(
        "start-up",
        "Starting the command line",
        ["click", "onnxruntime", "torch"],
        record.table(("command", "median, ms", "max, ms", "× bare Python"), rows)
        + f"\n\n{RUNS} starts of each, in turn, files in the page cache. The aim is 250 ms.",
    )


if __name__ == "__main__":
    main()
