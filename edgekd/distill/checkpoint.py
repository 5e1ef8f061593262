"""Where a training stands, on disk: enough to go on as if it had never stopped, bit by bit.

A checkpoint is one file, ``step-STEP-SHA256.pt``, of tensors and plain values (it is read with
``weights_only``). It is written beside its place, synced and renamed; the last two are kept.
The name carries the hash of the bytes, so that one that was damaged is passed over.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekd.errors import TrainError

_KEPT = 2
_SHA = 16


def save(folder: Path, step: int, recipe: Mapping[str, Any], state: Mapping[str, Any]) -> Path:
    """Writes a checkpoint, and removes all but the last two.

    Args:
        folder: made where it is missing.
        step: optimizer steps done.
        recipe: what the training depends on; held against another one by ``load``.
        state: tensors and plain values.
    """
    buffer = io.BytesIO()
    torch.save({"recipe": dict(recipe), "step": step, "state": dict(state)}, buffer)
    content = buffer.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()[:_SHA]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:09d}-{sha256}.pt"
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    for old in _newest_first(folder)[_KEPT:]:
        old.unlink()
    for left_behind in folder.glob("*.part"):
        left_behind.unlink()
    return path


def load(folder: Path, recipe: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """The steps done and the state of the newest whole checkpoint; None where there is none.

    Raises:
        TrainError: it belongs to another recipe; the first difference is named.
    """
    for path in _newest_first(folder):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:_SHA] != path.stem.rsplit("-", 1)[-1]:
            continue  # damaged: the one before it is as good a place to go on from
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if found["recipe"] != dict(recipe):
            raise TrainError(
                f"the checkpoint {path} belongs to another recipe:"
                f" {_difference(found['recipe'], recipe)}",
                "go back to that recipe, or delete the checkpoint's folder",
            )
        return found["step"], found["state"]
    return None


def seed(value: int) -> None:
    """Seeds every global generator: Python's, NumPy's, torch's."""
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002
    torch.manual_seed(value)


def random_states() -> dict[str, Any]:
    """Every global generator's state: Python's, NumPy's, torch's and each GPU's."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).copy()), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Puts ``random_states`` back."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy(), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)


def _difference(found: Any, wanted: Any, name: str = "") -> str:
    """The first setting in which two recipes differ."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*found, *wanted}):
            if found.get(key) != wanted.get(key):
                inner = f"{name}.{key}" if name else str(key)
                return _difference(found.get(key), wanted.get(key), inner)
    return f"{name} was {found} and is {wanted}"
