"""What the tests of sessions run: a small network, its engine's file, and inputs for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifacts import EngineFile, TensorSpec
from edgekd.backends.tensorrt.session import TensorRtSession
from tests.backends.fake_cuda import FakeCuda, FakeEngine

IN = (TensorSpec("x", "float32", ("batch", 3)), TensorSpec("shift", "int32", ("batch",)))
OUT = (TensorSpec("y", "float32", ("batch", 3)),)
FILE = EngineFile(
    role="student",
    target="tensorrt",
    backend="tensorrt",
    backend_version="10.13",
    device="sm_86",
    precision="fp32",
    path=Path("none"),
    model_inputs=IN,
    model_outputs=OUT,
    executed=True,
    options={"max_batch": "4"},
)
TYPES: dict[Any, str] = {name: name for name in ("float32", "float16", "int32")}
OPEN = {"memory": 3, "pinned": 3, "streams": 1, "events": 0, "graphs": 0}
NOTHING = dict.fromkeys(OPEN, 0)


def twice_and_shift(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"y": 2 * feeds["x"] + feeds["shift"][:, None].astype(np.float32)}


def open_session(
    fake: FakeCuda, device: Any = None, *, cuda_graph: bool = False, **engine: Any
) -> Any:
    """A session with what it runs; ``session.context`` is the fake's."""
    made = FakeEngine(fake, IN, OUT, twice_and_shift, **engine)
    context: Any = made.create_execution_context()
    return TensorRtSession(
        made,  # type: ignore[arg-type]
        context,
        device or fake,
        FILE,
        TYPES,
        cuda_graph=cuda_graph,
    )


def feeds_of(batch: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "x": random.normal(size=(batch, 3)).astype(np.float32),
        "shift": random.integers(0, 9, batch).astype(np.int32),
    }


def check_run(session: TensorRtSession, batch: int = 2, seed: int = 0) -> None:
    feeds = feeds_of(batch, seed)
    assert np.array_equal(session.run(feeds)["y"], twice_and_shift(feeds)["y"])
