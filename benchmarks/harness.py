"""Claim: EdgeKD's figures are those of the industry's tools, and a camera's are what was planted.

Four parts: the same model by several tools; what the load generator adds to a bare call; how late
it releases a camera's frames; a session whose stalls are known.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness_clock
import harness_stalls
import harness_tools
import numpy as np
import record

from edgekd.bench.scenarios import Feeds
from edgekd.bench.watch import Watch

NETWORKS = {"dscnn-s": (1, 28, 28), "resnet20": (3, 32, 32)}
PARTS = ("tools", "overhead", "lateness", "stalls")
_SAMPLES = 64


def export_all(folder: Path) -> None:
    """Writes ONNX files of the networks, with drawn weights."""
    import torch

    from edgekd import export, models

    for name, shape in NETWORKS.items():
        torch.manual_seed(0)
        network = models.create(name, 10, shape[0]).eval()
        export.write(network, np.zeros((2, *shape), np.float32), folder / f"{name}.onnx", name)


def exported(folder: Path) -> dict[str, Path]:
    """The same in a process of its own: torch is not loaded where something is timed."""
    program = f"import harness, pathlib; harness.export_all(pathlib.Path({str(folder)!r}))"
    here = Path(__file__).parent
    command = [sys.executable, "-c", program]
    subprocess.run(command, check=True, cwd=here, stdout=subprocess.DEVNULL)
    return {name: folder / f"{name}.onnx" for name in NETWORKS}


def fixed(path: Path, folder: Path) -> Path:
    """The same model with batch 1 alone: benchmark_app takes no other in its synchronous mode."""
    import onnx

    model = onnx.load(path)
    for each in (*model.graph.input, *model.graph.output):
        each.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    written = folder / f"fixed-{path.name}"
    onnx.save(model, written)
    return written


def samples_of(path: Path) -> Feeds:
    """Random samples for a model's one input; times do not depend on them."""
    import onnx

    (given,) = onnx.load(path).graph.input
    shape = [each.dim_value for each in given.type.tensor_type.shape.dim[1:]]
    x = np.random.default_rng(0).standard_normal((_SAMPLES, *shape)).astype(np.float32)
    return {given.name: x}


def meanwhile(watch: Watch) -> str:
    """What else went on since the look before."""
    watch.sample()
    last: dict[str, Any] = watch.record()["samples"][-1]
    others, steal = last["others"], last["steal"]
    told = [] if others is None else [f"other processes kept {others:.1f} cores busy"]
    told += [] if steal is None else [f"a hypervisor kept back {100 * steal:.1f} % of the CPU time"]
    return f"Meanwhile {' and '.join(told) or 'nothing is known of the machine'}."


def main() -> None:
    """Writes ``harness.md``."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--model", type=Path, help="an ONNX file in place of the two networks")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given: dict[str, Path] = {}
        if set(chosen.parts) != {"stalls"}:
            given = {chosen.model.stem: chosen.model} if chosen.model else exported(folder)
        models = {each: fixed(path, folder) for each, path in given.items()}
        samples = {each: samples_of(path) for each, path in models.items()}
        run: dict[str, Callable[[], str]] = {
            "tools": lambda: harness_tools.part(models, samples, folder, chosen.quick),
            "overhead": lambda: harness_clock.overhead(models, samples, chosen.quick),
            "lateness": lambda: harness_clock.lateness(models, samples, folder),
            "stalls": lambda: harness_stalls.part(chosen.quick),
        }
        watch = Watch(os.getpid())
        watch.sample()
        body = [text for part in chosen.parts for text in (run[part](), meanwhile(watch))]
    record.write(
        "harness",
        "EdgeKD's times held against other tools' and against what was planted",
        ["onnxruntime", "openvino", "mlcommons-loadgen", "numpy"],
        "\n\n".join(body),
        chosen.out,
    )


if __name__ == "__main__":
    main()
