"""A small bundle, made without a build."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from edgekd import bundle
from edgekd.artifacts import Preprocessing

DIGITS = tuple("0123456789")


def bundle_of(
    path: Path,
    student: Path,
    labels: tuple[str, ...] = DIGITS,
    mean: tuple[float, ...] = (0.25,),
    std: tuple[float, ...] = (0.5,),
) -> Path:
    """A bundle that holds a student's ONNX file and no engine."""
    images = path.parent / "golden.npy"
    np.save(images, np.zeros((1, 1, 8, 8), np.uint8))
    manifest = {
        "name": path.stem,
        "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 1, 8, 8]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", len(labels)]}],
        "preprocessing": asdict(Preprocessing(mean, std)),
        "labels": list(labels),
        "engines": [],
        "golden": {"images": "golden/images.npy"},
        "budget": {"fps": None, "max_drop": None},
        "verdict": {"status": "pass", "reasons": []},
        "provenance": {},
    }
    bundle.write(path, manifest, {"student.onnx": student, "golden/images.npy": images})
    return path
