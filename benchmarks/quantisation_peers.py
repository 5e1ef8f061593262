"""Quantises an ONNX model with one of the peers, for ``quantisation.py``.

    PYTHON benchmarks/quantisation_peers.py PEER MODEL.onnx SAMPLES.npz OUT.onnx

A script of its own, so that a peer whose pins conflict with EdgeKD's has its own environment.
SAMPLES holds the calibration batch under the name of the model's input. Prints one line of JSON:
the versions, and the seconds that the peer's own call took.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 16


def onnxruntime_default(model: Path, samples: dict[str, Any], out: Path) -> None:
    """``quantize_static`` as it is: asymmetric int8 activations, int8 weights per tensor."""
    from onnxruntime.quantization import quantize_static

    quantize_static(str(model), str(out), _reader(samples))


def onnxruntime_cpu(model: Path, samples: dict[str, Any], out: Path) -> None:
    """As its documentation recommends for CPUs with VNNI, after its own preprocessing."""
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(model), str(prepared))
        quantize_static(
            str(prepared),
            str(out),
            _reader(samples),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )


def nncf(model: Path, samples: dict[str, Any], out: Path) -> None:
    """Its post-training quantisation of ONNX, with nothing but the data given."""
    import onnx
    from nncf import Dataset, quantize

    count = len(next(iter(samples.values())))
    rows = [{name: each[i : i + 1] for name, each in samples.items()} for i in range(count)]
    onnx.save(quantize(onnx.load(model), Dataset(rows)), out)


def modelopt(model: Path, samples: dict[str, Any], out: Path) -> None:
    """Its ONNX quantisation to int8; what is left in float stays fp32, as CPUs want it.

    Its default for that is fp16, which ONNX Runtime's CPU kernels have to cast and back.
    """
    from modelopt.onnx.quantization import quantize

    quantize(
        str(model),
        calibration_data=samples,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out),
        log_level="ERROR",
    )


PEERS: dict[str, Callable[[Path, dict[str, Any], Path], None]] = {
    "ort-default": onnxruntime_default,
    "ort-cpu": onnxruntime_cpu,
    "nncf": nncf,
    "modelopt": modelopt,
}
"""By the name of the peer; also that of its environment's folder, where it has one."""
TITLES = {
    "ort-default": "ONNX Runtime, defaults",
    "ort-cpu": "ONNX Runtime, CPU settings",
    "nncf": "NNCF",
    "modelopt": "ModelOpt",
}
PACKAGES = ("nncf", "nvidia-modelopt", "onnxruntime", "onnxruntime-gpu", "onnx")


def _reader(samples: dict[str, Any]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            count = len(next(iter(samples.values())))
            self.starts = iter(range(0, count, BATCH))

        def get_next(self) -> Any:
            start = next(self.starts, None)
            if start is None:
                return None
            return {name: each[start : start + BATCH] for name, each in samples.items()}

    return Reader()


def _installed() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """One model, one peer."""
    name, model, samples, out = sys.argv[1], *map(Path, sys.argv[2:5])
    with np.load(samples) as kept:
        arrays = dict(kept)
    begin = time.perf_counter()
    PEERS[name](model, arrays, out)
    seconds = round(time.perf_counter() - begin, 1)
    print(json.dumps({"versions": _installed(), "seconds": seconds}))


if __name__ == "__main__":
    main()
