"""What the tests of opened engines share: engines whose time is under a test's control."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from edgekd.artifacts import TensorSpec
from edgekd.backends.base import Arrays
from edgekd.bundle import read, sealed
from edgekd.runtime import Engine, engine
from tests.bench import planted


class Gated:
    """A session whose runs wait until they are let go; doubles the sum of an image.

    Attributes:
        begun: released once for each run that begins.
        go: what each run takes one of.
        most: how many ran at once at most.
        closed: how often it was closed.
    """

    inputs = (TensorSpec("x", "float32", ("batch", 1, 2, 2)),)
    outputs = (TensorSpec("y", "float32", ("batch", 2)),)

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.running = self.most = self.closed = 0
        self.fails = ""

    def run(self, feeds: Arrays) -> Arrays:
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.release()
        assert self.go.acquire(timeout=20), "nobody let it go"
        self.running -= 1
        if self.fails:
            raise RuntimeError(self.fails)
        total = feeds["x"].reshape(len(feeds["x"]), -1).sum(1)
        return {"y": np.stack([total, 2 * total], 1)}

    def __enter__(self) -> Gated:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1


class Shared(Gated):
    """One that can be opened once more."""

    def another(self) -> Shared:
        return self


def opened(
    session: Any, folder: Path, monkeypatch: Any, fps: float | None = None, **options: Any
) -> Engine:
    """An engine of a planted bundle, on that session."""

    class Backend:
        def open(self, *_: object, **__: object) -> Any:
            return session

    bundle = read(planted.bundle(folder / "gated.edgekd", {}, fps=fps))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "find", lambda name: Backend())
        return Engine(bundle, bundle.engines[0], **options)


def image(value: float) -> np.ndarray:
    return np.full((1, 1, 2, 2), value, np.float32)


def start(work: Any) -> threading.Thread:
    """A thread that runs that, and hands what it raises on to ``join``."""
    return _Thread(work)


class _Thread(threading.Thread):
    def __init__(self, work: Any) -> None:
        super().__init__(daemon=True)
        self.work, self.result = work, None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.work()
        except BaseException as error:  # noqa: BLE001
            self.error = error

    def join(self, timeout: float | None = 20) -> Any:  # type: ignore[override]
        super().join(timeout)
        assert not self.is_alive(), "it hangs"
        if self.error is not None:
            raise self.error
        return self.result


def edited(bundle: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The bundle with another manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(sealed(manifest))
    return bundle


def with_model(bundle: Path, batch: int | str, dtype: str = "float32") -> Path:
    """The bundle with one engine alone, which multiplies what it is given by a matrix."""
    shape = [batch, 1, 8, 8]
    weights = np.random.default_rng(0).normal(size=(64, 10)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        ],
        "g",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("logits", kind, [batch, 10])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def change(manifest: dict[str, Any]) -> None:
        best = next(each for each in manifest["engines"] if each["backend"] == "onnxruntime")
        content = model.SerializeToString()
        (bundle / best["path"]).write_bytes(content)
        best |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest["engines"] = [best]
        for name, first in (("inputs", shape), ("outputs", [batch, 10])):
            manifest[name][0] |= {"dtype": dtype, "shape": first}

    return edited(bundle, change)
