"""The bench stage on real engines: what is recorded, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd import targets, trace, verdict
from edgekd.artifacts import Checkpoint, Dataset, EngineFile, OnnxModel
from edgekd.backends.base import Arrays, build_engine, find
from edgekd.bench import supervise
from edgekd.bench.measure import (
    ALLOWED,
    bench,
    camera,
    camera_load,
    cold_start,
    complete,
    from_images,
    measure,
    profile,
    side_by_side,
    single_stream,
)
from edgekd.bench.scenarios import Load
from edgekd.bench.worker import Request, from_json, request, to_json
from edgekd.errors import BenchError
from edgekd.recipe import BenchSettings, BudgetSettings
from edgekd.stats import misses
from edgekd.stats.percentiles import summary
from tests.bench.planted import backend  # noqa: F401

SETTINGS = BenchSettings(samples=70, seconds=0.5, blocks=7)


@pytest.fixture(scope="module")
def engines(
    checkpoint: Checkpoint, onnx_model: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> list[EngineFile]:
    return [
        build_engine(model, role, targets.load(name), tmp_path_factory.mktemp("engine"))
        for model, role, name in (
            (checkpoint, "teacher", "torch"),
            (onnx_model, "student", "onnxruntime-cpu"),
            (onnx_model, "student", "openvino-cpu"),
        )
    ]


def test_everything_is_recorded(
    engines: list[EngineFile], dataset: Dataset, tmp_path: Path
) -> None:
    seen: list[tuple[int, int, str]] = []
    found = bench(engines, dataset, SETTINGS, tmp_path, lambda *each: seen.append(each))
    assert [each.engine for each in found.items] == [each.name for each in engines]
    assert (found.scenario, found.threads, found.clock) == (
        "single-stream",
        1,
        "time.perf_counter_ns",
    )
    assert found.host["cpu"]
    assert found.load["frames"] == 70
    assert "disturbances" in found.watch
    assert seen[-1][0] == seen[-1][1]
    for each in found.items:
        record = np.load(each.trace)
        latencies = trace.service(record)
        assert record.dtype == np.int64
        assert len(record) == each.samples <= 70
        assert each.blocks == tuple(range(0, 70, 10))
        assert dict(each.latency_ns) == summary(latencies)
        assert "p99" in each.untold  # 70 samples cannot tell it
        assert "p50" not in each.untold
        assert each.early_ns["p99"] is None
        assert each.early_ns["p90"] is not None
        assert set(each.throughput_per_s) == {"1", "32"}
        assert each.throughput_per_s["1"] == pytest.approx(1e9 / latencies.mean())
        assert each.start is not None
        assert each.start.import_ns > each.start.second_ns
        assert each.start.peak_memory_bytes is not None
        assert 10e6 < each.start.peak_memory_bytes < 3e9
        assert not each.lateness_ns
        assert not each.partial
    torch, ort, _ = (each.start for each in found.items)
    assert torch and ort and torch.peak_memory_bytes and ort.peak_memory_bytes
    assert torch.peak_memory_bytes > 1.5 * ort.peak_memory_bytes  # a process that never met torch


def test_a_camera_gives_as_many_frames_as_the_budget_needs(
    engines: list[EngineFile], dataset: Dataset, tmp_path: Path
) -> None:
    budget = BudgetSettings(fps=200, miss_rate=0.1, confidence=0.9)
    found = camera(engines[1], dataset, SETTINGS, budget, tmp_path)
    (only,) = found.items
    record = np.load(only.trace)
    assert len(record) == misses.frames_needed(0.1, 0.9, ALLOWED)
    assert (np.diff(record[:, trace.DUE]) == 5_000_000).all()
    assert found.load["policy"] == "drop-oldest"
    assert set(only.lateness_ns) == {"p50", "p99", "max"}
    assert {"idle", "pause"} <= set(only.starts_ns) <= {"warm", "idle", "pause"}
    assert dict(only.latency_ns) == summary(trace.response(record))


def test_a_camera_is_given_no_more_time_than_it_may_take() -> None:
    budget = BudgetSettings(fps=10)
    assert camera_load(SETTINGS, budget, None).frames == misses.frames_needed(0.01, 0.99, ALLOWED)
    assert camera_load(SETTINGS, budget, 3.0).frames == 30
    assert camera_load(SETTINGS, budget, 3.0, 7).frames == 7
    assert camera_load(SETTINGS, budget, None, 10_000).seconds > 1000


def test_layers_are_timed_on_validation_images(
    engines: list[EngineFile], onnx_model: OnnxModel, dataset: Dataset
) -> None:
    found = profile(engines[1], onnx_model, dataset, SETTINGS)
    assert found.engine == engines[1].name
    assert any(each.role == "compute" and each.macs for each in found.layers)


def test_few_images_make_whole_batches(engines: list[EngineFile], dataset: Dataset) -> None:
    images = np.zeros((3, 1, 8, 8), np.uint8)
    one, other = from_images(engines[:2], images, dataset.preprocessing, SETTINGS)
    assert one["image"].shape == (64, 1, 8, 8)
    assert one["image"] is other["image"]  # written once, however many engines take it


def test_one_that_fails_is_kept_as_far_as_it_got_and_refused_by_a_build(
    backend: Callable[..., EngineFile],  # noqa: F811
    tmp_path: Path,
) -> None:
    feeds = {"x": np.zeros((8, 4), np.float32)}
    load = replace(single_stream(SETTINGS), blocks=1)
    engines = [
        backend("student"),
        backend("teacher", what="raise", at=100),
        backend("control", what="raise", at=0),
    ]
    found = measure(engines, [feeds] * 3, load, SETTINGS, tmp_path)
    good, bad, worse = found.items
    assert good.start is not None
    assert bad.start is None
    assert 0 < bad.samples < 60
    assert len(trace.service(np.load(bad.trace))) == bad.samples
    assert (worse.samples, dict(worse.latency_ns)) == (0, {})
    assert verdict.timed(worse, BudgetSettings(fps=1))["latency_ns"] is None
    with pytest.raises(BenchError, match="teacher/planted/fp32: frame .*out of luck"):
        complete(found)
    with pytest.raises(BenchError, match="student/planted/fp32.*frame 0: RuntimeError"):
        measure([backend(what="raise", at=0)], [feeds], load, SETTINGS, tmp_path)


def test_streams_that_an_engine_takes_one_by_one_are_counted(
    backend: Callable[..., EngineFile],  # noqa: F811
    tmp_path: Path,
) -> None:
    feeds = {"x": np.zeros((8, 4), np.float32)}
    asked = Load(scenario="multi-stream", streams=4, frames=30, seconds=5, blocks=2)
    (found,) = measure([backend(max_batch=1)], [feeds], asked, SETTINGS, tmp_path).items
    mean_ns = trace.service(np.load(found.trace)).mean()
    assert found.batch == 4
    assert dict(found.throughput_per_s) == {"4": pytest.approx(4e9 / mean_ns)}


def test_a_cold_start_is_given_one_batch_alone(
    backend: Callable[..., EngineFile],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[dict[str, np.ndarray]] = []

    def ask(what: str, engine: EngineFile, feeds: Path, threads: int) -> dict[str, object]:
        with np.load(feeds) as arrays:
            given.append(dict(arrays))
        return {"imported_ns": 10**18, "spans_ns": [3, 2, 1], "peak_memory_bytes": 7}

    monkeypatch.setattr(supervise, "_ask", ask)
    x = np.arange(64, dtype=np.float32).reshape(16, 4)
    found = cold_start(backend(min_batch=2), {"x": x}, 1)
    assert (found.open_ns, found.first_ns, found.second_ns, found.peak_memory_bytes) == (3, 2, 1, 7)
    assert [each["x"].tolist() for each in given] == [x[:2].tolist()]


def test_what_cannot_be_kept_is_said(
    backend: Callable[..., EngineFile],  # noqa: F811
    tmp_path: Path,
) -> None:
    feeds = {"x": np.zeros((8, 4), np.float32)}
    nowhere = tmp_path / "nowhere"
    with pytest.raises(BenchError, match="cannot be written"):
        measure([backend()], [feeds], Load(frames=5, blocks=1), SETTINGS, nowhere)


def test_a_slow_start_and_likeness_are_warned_of(
    backend: Callable[..., EngineFile],  # noqa: F811
    tmp_path: Path,
) -> None:
    from edgekd.bench.measure import _warnings

    rng = np.random.default_rng(0)
    begun = np.arange(4000) * 10**6

    def record(took: np.ndarray) -> np.ndarray:
        return np.stack([begun, begun, begun + took.astype(np.int64)], 1)

    steady = 100_000 + rng.exponential(5000, 4000)
    none = np.empty(0, np.int64)
    assert _warnings(record(steady), none, Load()) == []
    slow = steady + 200_000 * (np.arange(4000) < 600)
    assert "still warming up" in _warnings(record(slow), none, Load())[0]
    waves = steady + 50_000 * (np.arange(4000) // 200 % 2)
    assert "resemble each other" in " ".join(_warnings(record(waves), none, Load()))
    waves[rng.random(4000) < 0.01] *= 100  # outliers hide it from all but the ranks
    assert "resemble each other" in " ".join(_warnings(record(waves), none, Load()))
    load = Load(scenario="camera", period_ns=10**6)
    assert "load generator itself was late" in " ".join(
        _warnings(record(steady), np.full(100, 20_000), load)
    )
    assert not _warnings(record(steady), np.full(100, 5_000), load)


def test_an_engine_and_a_request_survive_the_way_to_another_process(
    engines: list[EngineFile],
) -> None:
    for each in engines:
        assert from_json(to_json(each)) == each
    asked = Request(
        engines=tuple((each, Path("feeds.npz")) for each in engines),
        load=Load(batches=(1, 2)),
        threads=2,
        timeout_s=1.5,
        folder=Path("folder"),
    )
    assert request(asked.to_json()) == asked


def test_models_side_by_side_on_the_targets_that_are_here(
    onnx_model: OnnxModel, tmp_path: Path
) -> None:
    names = ["openvino-cpu", "tensorrt-rtx", "onnxruntime-cpu"]
    chosen = [targets.load(name) for name in names]
    here = [each.name for each in chosen if find(each.backend).probe().devices]
    feeds: list[Arrays] = [{onnx_model.model_inputs[0].name: np.zeros((1, 1, 8, 8), np.float32)}]
    found = side_by_side([onnx_model, onnx_model], chosen, feeds, SETTINGS, tmp_path)
    assert list(found) == here
    assert "onnxruntime-cpu" in found
    for each in found.values():
        assert len(each) == 2
        for times in each:
            assert 0 < times["p50"] <= times["p99"]
