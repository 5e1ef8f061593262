"""Claim: on ONNX Runtime's CPU kernels ``u8s8`` is the faster int8 form of a network.

The peer is ONNX Runtime's own ``quantize_static``, at its defaults and as its documentation
recommends for CPUs with VNNI (uint8 activations, per-channel int8 weights).
Weights are drawn, not trained: speed does not depend on them; ranges are of real images.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch

from edgekd import models, recipe, targets
from edgekd.artifacts import Checkpoint, OnnxModel
from edgekd.backends.base import build_engine, find
from edgekd.bench.load import interleaved
from edgekd.calibration.feeds import of_images
from edgekd.calibration.sets import choose, images
from edgekd.calibration.table import calibrate
from edgekd.data import open_source
from edgekd.data.splits import prepare
from edgekd.export import export
from edgekd.models import weights
from edgekd.preprocessing import normalise
from edgekd.quantize.qdq import quantize
from edgekd.stats.percentiles import percentile

NETWORKS = ("dscnn-s", "dscnn-m", "dscnn-l", "resnet20")
RUNS = 3
CALLS = 2000


def drawn(name: str, folder: Path) -> Checkpoint:
    """A network with drawn weights."""
    torch.manual_seed(0)
    model = models.create(name, 10, 1)
    weights.save(model, folder / "weights.safetensors")
    params, macs = models.cost(model, (1, 28, 28))
    return Checkpoint(
        weights=folder / "weights.safetensors",
        model=name,
        classes=10,
        shape=(1, 28, 28),
        params=params,
        macs=macs,
        metrics={"validation_top1": 10.0},
    )


def peer(model: OnnxModel, x: Any, folder: Path, name: str, **options: Any) -> Path:
    """The model as ONNX Runtime quantises it, calibrated on the same images."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(np.array_split(x, 16))

        def get_next(self) -> Any:
            part = next(self.rest, None)
            return None if part is None else {model.model_inputs[0].name: part}

    prepared, path = folder / "prepared.onnx", folder / f"{name}.onnx"
    quant_pre_process(str(model.path), str(prepared))
    quantize_static(str(prepared), str(path), Reader(), **options)
    return path


def variants(name: str, folder: Path, dataset: Any, chosen: Any) -> tuple[int, dict[str, Path]]:
    """MACs, and the file of each variant."""
    from onnxruntime.quantization import QuantType

    settings = recipe.CalibrationSettings(method="percentile")
    for each in ("w", "e", "t", "s8s8", "u8s8", "ort"):
        (folder / each).mkdir()
    checkpoint = drawn(name, folder / "w")
    model = export(checkpoint, dataset, folder / "e")
    feeds = of_images("image", images(chosen, dataset), dataset.preprocessing)
    table = calibrate(model, feeds, settings, chosen, folder / "t")
    x = normalise(images(chosen, dataset), dataset.preprocessing)
    found = {"fp32": model.path}
    for form in ("u8s8", "s8s8"):
        found[f"EdgeKD {form}"] = quantize(model, table, form, folder / form).path
    found["ONNX Runtime, defaults"] = peer(model, x, folder / "ort", "default")
    found["ONNX Runtime, u8s8"] = peer(
        model,
        x,
        folder / "ort",
        "u8s8",
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return checkpoint.macs, found


def times(model: OnnxModel, files: dict[str, Path], x: Any, folder: Path, seed: int) -> list[int]:
    """p50 of each file, timed in turn."""
    import dataclasses

    target = targets.load("onnxruntime-cpu")
    backend = find(target.backend)
    feeds = [{model.model_inputs[0].name: x[k : k + 1]} for k in range(64)]
    with contextlib.ExitStack() as stack:
        sessions = []
        for number, path in enumerate(files.values()):
            place = folder / str(number)
            place.mkdir(exist_ok=True)
            engine = build_engine(dataclasses.replace(model, path=path), "student", target, place)
            sessions.append(stack.enter_context(backend.open(engine, 1)))
        timings = interleaved(
            sessions, [feeds] * len(sessions), calls=CALLS, limit_ns=10**10, blocks=20, seed=seed
        )
    return [percentile(np.sort(np.concatenate(each.latencies_ns)), 0.5) for each in timings]


def main() -> None:
    """Three runs of every network."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "data").mkdir()
        (root / "set").mkdir()
        settings = recipe.DataSettings()
        dataset = prepare(settings, open_source(settings.source), root / "data")
        chosen = choose(dataset, recipe.CalibrationSettings(), root / "set")
        x = normalise(images(chosen, dataset), dataset.preprocessing)
        for network in NETWORKS:
            folder = root / network
            folder.mkdir()
            macs, files = variants(network, folder, dataset, chosen)
            model = export(drawn(network, folder / "w"), dataset, folder / "e")
            runs = np.array([times(model, files, x, folder, seed) for seed in range(RUNS)])
            ratios = runs[:, :1] / runs
            cells = [
                f"{np.median(each):.2f} ({each.min():.2f} – {each.max():.2f})"
                for each in ratios[:, 1:].T
            ]
            rows.append((network, f"{macs / 1e6:.2f} M", f"{runs[0, 0] / 1e6:.3f}", *cells))
            headings = ("network", "MACs", "fp32 p50, ms", *list(files)[1:])
    record.write(
        "forms",
        "int8 forms on ONNX Runtime's CPU kernels: speed as a multiple of fp32",
        ["onnxruntime", "onnx", "torch"],
        record.table(headings, rows)
        + f"\n\nMore than 1 is faster than fp32. p50 of {CALLS} calls at batch 1, one thread, the"
        f" five models of a network in turn; median and range of {RUNS} runs.",
    )


if __name__ == "__main__":
    main()
