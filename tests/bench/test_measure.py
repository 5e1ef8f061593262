"""The bench stage on real engines: what is recorded, and where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd import targets
from edgekd.artifacts import Checkpoint, Dataset, EngineFile, OnnxModel
from edgekd.backends.base import Arrays, build_engine, find
from edgekd.bench import host, load
from edgekd.bench.measure import (
    bench,
    from_json,
    measure,
    peak_memory,
    side_by_side,
    to_json,
)
from edgekd.bench.stats import summary
from edgekd.errors import BenchError
from edgekd.recipe import BenchSettings

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
    assert seen[-1][0] == seen[-1][1]
    for each in found.items:
        latencies, starts = np.load(each.latencies_ns), np.load(each.starts_ns)
        assert latencies.dtype == starts.dtype == np.int64
        assert len(latencies) == len(starts) == each.samples <= 70
        assert dict(each.latency_ns) == summary(latencies)
        assert "p99" in each.untold  # 70 samples cannot tell it
        assert "p50" not in each.untold
        assert set(each.throughput_per_s) == {"1", "32"}
        assert each.throughput_per_s["1"] == pytest.approx(1e9 / latencies.mean())
        assert each.peak_memory_bytes is not None
        assert 10e6 < each.peak_memory_bytes < 3e9
    torch, ort, _ = found.items
    assert torch.peak_memory_bytes and ort.peak_memory_bytes
    assert torch.peak_memory_bytes > 1.5 * ort.peak_memory_bytes  # a process that never met torch


def test_few_images_make_whole_batches(
    engines: list[EngineFile], dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[int, int]] = []

    def count(session: object, feed: Arrays, batch: int, limit_ns: int) -> float:
        counted.append((len(feed["image"]), batch))
        return 1.0

    monkeypatch.setattr(load, "throughput", count)
    images = np.zeros((3, 1, 8, 8), np.uint8)
    measure(engines[1:2], images, dataset.preprocessing, SETTINGS, tmp_path)
    assert counted == [(32, 32)]


def test_an_engine_that_fails_in_its_own_process_is_named(engines: list[EngineFile]) -> None:
    with pytest.raises(BenchError, match="student/onnxruntime-cpu/fp32 does not run in a process"):
        peak_memory(replace(engines[1], path=Path("/nowhere.onnx")), 1)


def test_an_engine_survives_the_way_to_another_process(engines: list[EngineFile]) -> None:
    for each in engines:
        assert from_json(to_json(each)) == each


def test_the_host_is_described() -> None:
    facts = host.facts()
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 1e8
    assert facts["cpu"]
    assert isinstance(facts["flags"], list)
    assert host.load_average() >= 0
    assert host.facts() == facts  # what keys are made of does not flutter


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
