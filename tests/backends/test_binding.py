"""Sessions with memory of their own: the runtime itself reads and writes a binding's arrays."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import targets
from edgekd.artifacts import EngineFile, OnnxModel, TensorSpec
from edgekd.backends import cuda, ort, ort_providers
from edgekd.backends.base import build_engine, can_bind, can_share, find, require_device, sized
from edgekd.errors import BackendUnavailable, EngineError, StageError
from tests.backends.fake_cuda import FakeCuda
from tests.backends.session_kit import (
    NOTHING,
    OPEN,
    check_run,
    feeds_of,
    open_session,
    twice_and_shift,
)


@pytest.fixture(params=["onnxruntime-cpu", "openvino-cpu"])
def engine(request: pytest.FixtureRequest, onnx_model: OnnxModel, tmp_path: Path) -> EngineFile:
    return build_engine(onnx_model, "student", targets.load(request.param), tmp_path)


def at(array: np.ndarray) -> int:
    return int(array.ctypes.data)


# ── ONNX Runtime and OpenVINO ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("batch", [1, 5])
def test_a_bound_run_gives_the_bits_of_a_plain_one(
    batch: int, engine: EngineFile, rng: np.random.Generator
) -> None:
    with find(engine.backend).open(engine) as session:
        assert can_bind(session)
        bound = session.bind(batch)
        x, y = bound.inputs["image"], bound.outputs["logits"]
        assert not x.any()
        for _ in range(3):
            x[...] = rng.normal(size=x.shape)
            bound.run()
            np.testing.assert_array_equal(y, session.run({"image": x})["logits"])


def test_the_runtime_has_the_very_addresses(engine: EngineFile) -> None:
    with find(engine.backend).open(engine) as session:
        bound: Any = session.bind(2)  # type: ignore[attr-defined]
        bound.run()
        if engine.backend == "openvino":
            inner = bound._request
            read = at(inner.get_input_tensor(0).data)
            written = at(inner.get_output_tensor(0).data)
        else:
            read = bound._bound._bound_inputs["image"].data_ptr()
            written = bound._bound.get_outputs()[0].data_ptr()
        assert (read, written) == (at(bound.inputs["image"]), at(bound.outputs["logits"]))


def test_a_binding_is_apart_from_its_session(engine: EngineFile, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(2, 1, 1, 8, 8)).astype(np.float32)
    with find(engine.backend).open(engine) as session:
        one, other = session.bind(1), session.bind(1)  # type: ignore[attr-defined]
        one.inputs["image"][...], other.inputs["image"][...] = x, y
        one.run()
        kept = one.outputs["logits"].copy()
        other.run()
        session.run({"image": y})
        np.testing.assert_array_equal(one.outputs["logits"], kept)
        assert not np.array_equal(other.outputs["logits"], kept)


def test_a_session_may_be_opened_once_more_and_outlive_the_first(
    engine: EngineFile, rng: np.random.Generator
) -> None:
    x = rng.normal(size=(1, 1, 8, 8)).astype(np.float32)
    with find(engine.backend).open(engine, streams=2) as session:
        assert can_share(session)
        expected = session.run({"image": x})["logits"]
        more = session.another()
    assert more.inputs == session.inputs
    np.testing.assert_array_equal(more.run({"image": x})["logits"], expected)


def test_openvino_copies_small_batches_and_reads_large_ones_in_place(
    onnx_model: OnnxModel, tmp_path: Path, rng: np.random.Generator
) -> None:
    engine = build_engine(onnx_model, "student", targets.load("openvino-cpu"), tmp_path)
    with find("openvino").open(engine) as session:
        for batch in (*range(1, 12), 400, 1):
            x = rng.normal(size=(batch, 1, 8, 8)).astype(np.float32)
            first, again = (session.run({"image": x})["logits"] for _ in range(2))
            np.testing.assert_array_equal(first, again)
            assert first.flags.owndata
        kept: Any = session._bound  # type: ignore[attr-defined]
        assert [each[0] for each in kept] == list(range(1, 9))
        with pytest.raises(StageError, match="OpenVINO cannot run the model"):
            session.run({"image": np.zeros((1, 1, 8, 8))})


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (("batch", 3, "height", 8), r"'x' has no fixed shape but \(batch, 3, height, 8\)"),
        ((4, 3), "a batch of 2 was asked for, and 'x' takes 4"),
    ],
)
def test_what_cannot_be_sized_is_refused(shape: tuple[int | str, ...], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        sized(TensorSpec("x", "float32", shape), 2)
    assert sized(TensorSpec("x", "float32", ("n", 3)), 2) == (2, 3)
    assert sized(TensorSpec("x", "float32", (2,)), 2) == (2,)


def test_a_device_is_known_in_either_case() -> None:
    require_device("it", None, [])
    require_device("it", "gpu.1", ["CPU", "GPU.1"])
    with pytest.raises(BackendUnavailable, match="it has no device 'gpu' here, only CPU, GPU.1"):
        require_device("it", "gpu", ["CPU", "GPU.1"])
    with pytest.raises(BackendUnavailable, match="it has no device 'cuda:0' here, none"):
        require_device("it", "cuda:0", [])


def openvino_with(monkeypatch: pytest.MonkeyPatch, *devices: str) -> list[tuple[str, Any]]:
    """Puts devices here, which compute on the CPU; gives what each compilation was told."""
    import openvino

    told: list[tuple[str, Any]] = []

    class Core(openvino.Core):  # type: ignore[misc]
        available_devices = devices

        def compile_model(self, model: Any, device: str, settings: Any) -> Any:
            told.append((device, settings))
            return super().compile_model(model, "CPU", {})

    monkeypatch.setattr(openvino, "Core", Core)
    return told


def test_openvino_is_told_the_device_and_what_it_knows(
    onnx_model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build_engine(onnx_model, "student", targets.load("openvino-cpu"), tmp_path)
    told = openvino_with(monkeypatch, "CPU", "GPU.0", "GPU.1", "NPU")
    opened = find("openvino").open
    for device in (None, "gpu", "GPU.1", "NPU"):
        with opened(engine, 3, device=device, streams=2) as session:
            assert session.run({"image": np.ones((1, 1, 8, 8), np.float32)})
    plain = {"PERFORMANCE_HINT": "LATENCY"}
    gpu = {**plain, "NUM_STREAMS": "2", "INFERENCE_PRECISION_HINT": "f32"}
    assert told == [
        ("CPU", {**gpu, "INFERENCE_NUM_THREADS": 6}),
        ("GPU", gpu),
        ("GPU.1", gpu),
        ("NPU", plain),
    ]
    with pytest.raises(BackendUnavailable, match=r"'GPU.2' here, only CPU, GPU.0, GPU.1, NPU, GPU"):
        opened(engine, device="GPU.2")


def test_onnx_runtime_gives_a_provider_the_gpu_by_its_number(
    onnx_model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build_engine(onnx_model, "student", targets.load("onnxruntime-cuda"), tmp_path)
    told: list[Any] = []

    def session(path: Path, options: Any, name: str, chosen: Any) -> Any:
        told.append((name, chosen["device_id"]))
        return ort.open_model(path)._session, {}

    monkeypatch.setattr(ort_providers, "require", lambda name: None)
    monkeypatch.setattr(ort_providers, "gpu_session", session)
    monkeypatch.setattr(cuda, "gpus", lambda: [cuda.Gpu("A", "sm_86", 1, 1)] * 2)
    with find("onnxruntime").open(engine, device="cuda:1"):
        assert told == [("CUDAExecutionProvider", "1")]
    with pytest.raises(BackendUnavailable, match="no device 'cuda:2' here, only cuda:0, cuda:1"):
        find("onnxruntime").open(engine, device="cuda:2")


# ── TensorRT, on a GPU of host memory ────────────────────────────────────────────────────


def fill(bound: Any, seed: int) -> dict[str, np.ndarray]:
    feeds = feeds_of(2, seed)
    for name, array in feeds.items():
        bound.inputs[name][...] = array
    return feeds


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_the_gpu_copies_from_and_to_a_binding(cuda_graph: bool) -> None:
    fake = FakeCuda()
    with open_session(fake, cuda_graph=cuda_graph) as session:
        bound, other = session.bind(2), session.bind(2)
        held = bound.outputs["y"]
        for seed in range(4):
            feeds, more = fill(bound, seed), fill(other, seed + 9)
            bound.run()
            other.run()
            check_run(session, seed=seed + 5)
            np.testing.assert_array_equal(held, twice_and_shift(feeds)["y"])
            np.testing.assert_array_equal(other.outputs["y"], twice_and_shift(more)["y"])
        assert session.graph_launched == cuda_graph  # one for all of them
        assert fake.live()["graphs"] == cuda_graph
        fake.log.clear()
        bound.run()
        wait = ["launch"] if cuda_graph else ["execute"]
        assert fake.log == ["upload", "upload", *wait, "download", "wait"]


def test_a_binding_s_memory_is_page_locked_as_long_as_somebody_holds_it() -> None:
    fake = FakeCuda()
    with open_session(fake) as session:
        bound = session.bind(2)
        assert fake.live() == {**OPEN, "pinned": OPEN["pinned"] + 3}
        feeds = fill(bound, 0)
        bound.run()
        row = bound.outputs["y"][1]
    assert fake.live() == {**NOTHING, "pinned": 3}
    with pytest.raises(StageError, match="is closed"):
        bound.run()
    del bound, session
    gc.collect()
    assert fake.live() == {**NOTHING, "pinned": 1}
    np.testing.assert_array_equal(row, twice_and_shift(feeds)["y"][1])
    del row
    gc.collect()
    assert fake.live() == NOTHING


@pytest.mark.parametrize("batch", [0, 5])
def test_a_batch_that_the_plan_does_not_take_is_refused(batch: int) -> None:
    fake = FakeCuda()
    with open_session(fake) as session:
        with pytest.raises(StageError, match=f"a batch of {batch} was given to an engine built"):
            session.bind(batch)
        assert fake.live() == OPEN


def test_a_bound_run_that_failed_leaves_the_next_one_whole() -> None:
    fake = FakeCuda()
    with open_session(fake) as session:
        bound = session.bind(2)
        feeds = fill(bound, 3)
        fake.fail("download")
        with pytest.raises(StageError, match="download failed"):
            bound.run()
        bound.run()
        np.testing.assert_array_equal(bound.outputs["y"], twice_and_shift(feeds)["y"])
        fake.fail("download", lost=True)
        with pytest.raises(StageError, match="the GPU failed"):
            bound.run()
        with pytest.raises(StageError, match="the GPU was lost in an earlier run"):
            bound.run()
