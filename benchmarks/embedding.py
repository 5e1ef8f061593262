"""Claim: a bundle in a program costs next to nothing over its runtime, and answers the same.

    python benchmarks/embedding.py build/fashion-mnist-demo.edgekd

Five parts, each in C++ and in Python: what is added to a call; whether outputs are the same, and
the report's; eight threads; memory over a million inferences; a camera's frame to the model's
input. The C++ library and its test programs are built first, in ``build/native-bench``.
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import embedding_calls
import embedding_images
import embedding_memory
import embedding_programs
import embedding_same
import record
from embedding_programs import QUICK, Given, Sizes
from harness import meanwhile

from edgekd import bundle
from edgekd.bench.watch import Watch

PARTS: dict[str, Callable[[Given], str]] = {
    "cpp": embedding_calls.cpp,
    "python": embedding_calls.python,
    "images": embedding_images.part,
    "outputs": embedding_same.outputs,
    "threads": embedding_same.threads,
    "memory": embedding_memory.part,
}


def main() -> None:
    """Writes ``embedding.md``."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--programs", type=Path, default=embedding_programs.ROOT / "build" / "native-bench",
        help="where the C++ programs are built",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    chosen = parser.parse_args()
    opened = bundle.read(chosen.bundle)
    engines = embedding_programs.engines(opened)
    if not engines:
        raise SystemExit(f"{chosen.bundle} has no engine for a CPU: build one with such a target")
    programs = embedding_programs.build(chosen.programs)
    given = Given(opened, engines, programs, QUICK if chosen.quick else Sizes())
    watch = Watch(os.getpid())
    watch.sample()
    body = [text for part in chosen.parts for text in (PARTS[part](given), meanwhile(watch))]
    record.write(
        "embedding",
        "A bundle in a program: what it costs over its runtime, and that it answers the same",
        ["onnxruntime", "openvino", "numpy", "pillow"],
        "\n\n".join(body),
        chosen.out,
    )


if __name__ == "__main__":
    main()
