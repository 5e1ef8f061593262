"""Engines that tests profile: a small network in fp32, in int8, and with a layer kept in float."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from edgekd import targets
from edgekd.artifacts import CalibrationTable, EngineFile, OnnxModel, QuantizedModel
from edgekd.backends.base import build_engine
from edgekd.quantize.qdq import quantize

PRODUCTS = ("Conv", "Gemm")


def products(path: Path) -> list[str]:
    """Names of a model's convolutions and products."""
    return [node.name for node in onnx.load(path).graph.node if node.op_type in PRODUCTS]


def inner(model: OnnxModel) -> str:
    """A convolution in the middle."""
    return products(model.path)[5]


def to_int8(model: OnnxModel, folder: Path, keep_float: Sequence[str] = ()) -> QuantizedModel:
    """The form for CPUs, with ranges of no calibration."""
    ranges = {
        name: (-4.0, 4.0) if name in ("image", "logits") else (0.0, 8.0)
        for node in onnx.load(model.path).graph.node
        for name in (*node.input, *node.output)
    }
    table = CalibrationTable(method="minmax", ranges=ranges, set_sha256="", samples=1)
    folder.mkdir(parents=True)
    return quantize(model, table, "u8s8", folder, keep_float=keep_float)


def build(model: OnnxModel | QuantizedModel, target: str, folder: Path) -> EngineFile:
    """The student's engine for a target."""
    folder.mkdir(parents=True, exist_ok=True)
    return build_engine(model, "student", targets.load(target), folder)


def feeds(batch: int = 1) -> dict[str, np.ndarray]:
    """Images of noise."""
    return {"image": np.random.default_rng(0).normal(size=(batch, 1, 8, 8)).astype(np.float32)}
