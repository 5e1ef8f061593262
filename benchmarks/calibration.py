"""Claim: calibration takes constant memory, and half the time of ONNX Runtime's or less.

The peers are ONNX Runtime's calibrators, on the same network, the same images in the same
batches. Each measurement is a process of its own, since a process's peak memory never falls; the
tools take turns. Weights are drawn, not trained: what is measured does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record

NETWORK = "resnet20"
COUNTS = (64, 256, 1024, 4096)
RUNS = 3
BATCH = 32
PEER_MOST = {"Entropy": 1024, "Percentile": 1024, "MinMax": 4096}
"""Images: beyond this two of the peers would need 6 GB."""


def ours(method: str) -> Callable[[Path, Any, Any, Path], None]:
    """Tables of one method, or of all that ``auto`` tries."""
    from edgekd.calibration import collect, feeds, methods, table

    tried = methods.CANDIDATES if method == "auto" else [(method, 99.99)]

    def calibrate(model: Path, images: Any, preprocessing: Any, work: Path) -> None:
        samples = feeds.of_images("image", images, preprocessing)
        collected = collect.collect(model, samples, work, batch=BATCH)
        for each in tried:
            table.tabulate(collected, *each)

    return calibrate


def peer(method: str) -> Callable[[Path, Any, Any, Path], None]:
    """ONNX Runtime's calibrator."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    from edgekd.preprocessing import normalise

    def calibrate(model: Path, images: Any, preprocessing: Any, work: Path) -> None:
        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.starts = iter(range(0, len(images), BATCH))

            def get_next(self) -> Any:
                start = next(self.starts, None)
                if start is None:
                    return None
                return {"image": normalise(images[start : start + BATCH], preprocessing)}

        calibrator = create_calibrator(
            model,
            augmented_model_path=str(work / "augmented.onnx"),
            calibrate_method=CalibrationMethod[method],
        )
        calibrator.collect_data(Reader())
        calibrator.compute_data()

    return calibrate


TOOLS = {
    "EdgeKD entropy": lambda: ours("entropy"),
    "EdgeKD, the six of auto": lambda: ours("auto"),
    "ONNX Runtime Entropy": lambda: peer("Entropy"),
    "ONNX Runtime Percentile": lambda: peer("Percentile"),
    "ONNX Runtime MinMax": lambda: peer("MinMax"),
}


def worker(tool: str, count: int, folder: Path) -> None:
    """One measurement: seconds of wall and of processor, without imports, and peak memory."""
    from edgekd.artifacts import Preprocessing

    calibrate = TOOLS[tool]()
    with np.load(folder / "images.npz") as file:
        images = file["images"][:count]
        preprocessing = Preprocessing(tuple(file["mean"].tolist()), tuple(file["std"].tolist()))
    with tempfile.TemporaryDirectory() as work:
        wall, cpu = time.perf_counter(), time.process_time()
        calibrate(folder / "model.onnx", images, preprocessing, Path(work))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([wall, cpu, peak]))


def material(folder: Path) -> None:
    """The network, and images of Fashion-MNIST's training part."""
    from forms import drawn

    from edgekd import recipe
    from edgekd.data import open_source, splits
    from edgekd.data.splits import prepare
    from edgekd.export import export

    settings = recipe.DataSettings()
    dataset = prepare(settings, open_source(settings.source), folder)
    model = export(drawn(NETWORK, folder), dataset, folder)
    model.path.rename(folder / "model.onnx")
    made = dataset.preprocessing
    images = splits.read(dataset, "train").images[: max(COUNTS)]
    np.savez(folder / "images.npz", images=images, mean=made.mean, std=made.std)


def measured(folder: Path) -> dict[tuple[str, int], list[float]]:
    """Medians of wall, processor and peak memory by tool and number of images."""
    runs: dict[tuple[str, int], list[list[float]]] = {}
    for _ in range(RUNS):
        for count in COUNTS:
            for tool in TOOLS:
                if count > PEER_MOST.get(tool.removeprefix("ONNX Runtime "), count):
                    continue
                command = [sys.executable, __file__, "--worker", tool, str(count), str(folder)]
                result = subprocess.run(command, capture_output=True, text=True, check=True)
                runs.setdefault((tool, count), []).append(json.loads(result.stdout.split("\n")[-2]))
    return {key: np.median(each, axis=0).tolist() for key, each in runs.items()}


def main() -> None:
    """Writes ``results/calibration.md``."""
    with tempfile.TemporaryDirectory() as name:
        # In a process of its own: the peak memory of this one is where its children's begins.
        subprocess.run([sys.executable, __file__, "--material", name], check=True)
        found = measured(Path(name))
    rows = []
    for tool in TOOLS:
        known = [found.get((tool, count)) for count in COUNTS]
        seconds = ["" if each is None else f"{each[0]:.2f} ({each[1]:.2f})" for each in known]
        memory = ["" if each is None else f"{each[2] / 1e6:.0f}" for each in known]
        rows.append((tool, *seconds, *memory))
    headings = ("calibrator", *(f"{n} images, s" for n in COUNTS), *(f"{n}, MB" for n in COUNTS))
    ratios = []
    for n in (n for n in COUNTS if n <= PEER_MOST["Entropy"]):
        wall, cpu = (
            found["EdgeKD entropy", n][k] / found["ONNX Runtime Entropy", n][k] for k in (0, 1)
        )
        ratios.append(f"{wall:.2f} ({cpu:.2f}) at {n} images")
    first, last = (found["EdgeKD entropy", n][2] for n in (COUNTS[0], COUNTS[-1]))
    method = (
        f"{NETWORK} on 28×28 images, at most {BATCH} at a time; seconds of wall clock and, in"
        " parentheses, of processor time (which says more where other work shares the machine, as"
        " it did here), imports left out; peak memory of the process, imports"
        f" included; medians of {RUNS} runs, each a process of its own, the tools in turn. ONNX"
        " Runtime's Entropy and Percentile keep every tensor of every image: they were not run on"
        f" {COUNTS[-1]}. EdgeKD's one pass serves every method; the first row is the pass and the"
        " search for one."
    )
    result = (
        f"EdgeKD's entropy takes this share of the time of ONNX Runtime's: {', '.join(ratios)}."
        f" From {COUNTS[0]} to {COUNTS[-1]} images its peak memory changes by"
        f" {100 * (last / first - 1):+.1f} %."
    )
    body = [record.table(headings, rows), "", method, "", result]
    claim = "Calibration: time and peak memory by the number of images"
    record.write("calibration", claim, ["onnxruntime", "onnx", "numpy"], "\n".join(body))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--material", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker[0], int(given.worker[1]), Path(given.worker[2]))
    elif given.material:
        material(given.material)
    else:
        main()
