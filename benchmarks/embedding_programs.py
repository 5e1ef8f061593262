"""The C++ library's test programs, built and run, and the engines that they are run with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from edgekd import bundle

ROOT = Path(__file__).parent.parent
PROGRAMS = ("overhead", "outputs", "soak", "threads")
BACKENDS = ("onnxruntime", "openvino")
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much of everything is measured.

    Attributes:
        processes: in which C++ callers take turns.
        openings: of engines in one process, in which Python's callers do.
        rounds: of turns in each of these.
        calls: in a turn.
        images: of the test split; None for all.
        runs, opens: of the C++ library, while memory is looked at.
        python_runs, python_opens: of the Python engine.
        thread_runs: of each of eight threads.
        frames: rounds in which ways to prepare an image take turns.
    """

    processes: int = 15
    openings: int = 11
    rounds: int = 30
    calls: int = 100
    images: int | None = None
    runs: int = 1_000_000
    opens: int = 1_000
    python_runs: int = 200_000
    python_opens: int = 200
    thread_runs: int = 2_000
    frames: int = 25


QUICK = Sizes(2, 2, 3, 10, 100, 2_000, 3, 1_000, 3, 50, 2)


@dataclass(frozen=True)
class Given:
    """What is measured: a bundle, its engines that run here, and where the programs lie."""

    bundle: bundle.Bundle
    engines: tuple[Record, ...]
    programs: Path
    sizes: Sizes


def build(folder: Path) -> Path:
    """Builds the programs, optimised, with the plugins whose runtimes are found."""
    own = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    own.setdefault("ONNXRUNTIME_ROOT", str(Path(sys.prefix, "onnxruntime-headers", "usr")))
    settings = ("-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DEDGEKD_TESTS=ON")
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        for words in (
            ("-S", ROOT / "engines" / "cpp", "-B", folder, *settings),
            ("--build", folder, "--target", *PROGRAMS),
        ):
            _checked(["cmake", *map(str, words)], env=own)
    return folder


def engines(of: bundle.Bundle) -> tuple[Record, ...]:
    """Those of the backends that run on this machine's processor."""
    return tuple(
        each
        for each in of.engines
        if each["backend"] in BACKENDS and each["executed"] and "provider" not in each["options"]
    )


def name(engine: Record) -> str:
    """What an engine is called in a table."""
    return f"{engine['target']} {engine['precision']}"


def ask(given: Given, program: str, *words: object, stdin: bytes = b"") -> bytes:
    """What a program prints."""
    return _checked([str(given.programs / program), *map(str, words)], input=stdin)


def told(given: Given, program: str, *words: object, stdin: bytes = b"") -> dict[str, Any]:
    """The JSON that a program prints."""
    found: dict[str, Any] = json.loads(ask(given, program, *words, stdin=stdin))
    return found


def _checked(words: list[str], **more: Any) -> bytes:
    done = subprocess.run(words, capture_output=True, check=False, **more)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {(done.stdout[-2000:] + done.stderr).decode()}")
    return done.stdout
