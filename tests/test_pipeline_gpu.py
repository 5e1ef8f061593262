"""A whole build on a machine with a GPU, which is played by a fake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd import pipeline, recipe_file
from edgekd.bundle import read
from edgekd.errors import BuildError
from edgekd.store import Store
from tests.backends import fake_tensorrt
from tests.backends.fake_cuda import FakeCuda
from tests.backends.fake_tensorrt import FakeTensorRt
from tests.bench.here import measure_here
from tests.conftest import TINY

PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "tiny.toml"
    path.write_text(TINY.replace('["onnxruntime-cpu"]', '["tensorrt", "jetson-orin-nano"]'))
    return path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    measure_here(monkeypatch)
    fake = FakeTensorRt(FakeCuda("sm_86"))
    fake_tensorrt.install(monkeypatch, fake)
    return fake


def _build(recipe: Path) -> tuple[Path, dict[str, Any]]:
    loaded = recipe_file.load(recipe)
    store = Store(recipe.parent / "store")
    result = pipeline.build(loaded, recipe.parent / "out", store=store)
    return result.bundle.root, json.loads(result.report.json.read_text())


def test_every_rung_is_run_and_the_best_measured_one_opens_first(
    recipe: Path, gpu: FakeTensorRt
) -> None:
    root, facts = _build(recipe)
    rows = {each["name"]: each for each in facts["engines"]}
    for precision in PRECISIONS:
        mine = rows[f"student/tensorrt/{precision}"]
        assert mine["executed"] and mine["latency_ns"] and not mine["emulated"]
        assert mine["top1"] == pytest.approx(rows["student/torch/fp32"]["top1"], abs=3)
        assert mine["device"] == "sm_86"
        waiting = rows[f"student/jetson-orin-nano/{precision}"]
        assert not waiting["executed"] and not waiting["built"]
    first = read(root).engines[0]
    assert f"student/{first['target']}/{first['precision']}" == facts["preferred"]
    fastest = min(
        (f"student/tensorrt/{each}" for each in PRECISIONS),
        key=lambda name: rows[name]["latency_ns"]["p50"],
    )
    assert facts["preferred"] == fastest
    assert not any(gpu.device.live().values())


def test_the_report_says_what_ran_in_int8_and_whether_it_helped(
    recipe: Path, gpu: FakeTensorRt
) -> None:
    _, facts = _build(recipe)
    rows = {each["name"]: each for each in facts["engines"]}
    int8 = rows["student/tensorrt/int8"]["layers"]
    assert int8["int8_share"] > 0.9
    assert rows["student/tensorrt/fp16"]["layers"]["by_precision"].keys() == {"fp16"}
    assert "layers" not in rows["student/jetson-orin-nano/int8"]
    assert any("student/tensorrt/int8: int8 runs in" in each for each in facts["notes"])
    assert any("on tensorrt" in each and "int8 is" in each for each in facts["notes"])
    assert any("jetson-orin-nano are built on the device alone" in each for each in facts["notes"])


def test_a_refusal_is_told_with_the_rule_that_foresees_it(
    recipe: Path, gpu: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.refused = {"Conv"}
    _build(recipe)  # from the store: the engines are there already
    text = recipe.read_text().replace('"tensorrt", ', '"tensorrt", "rtx-30", ')
    changed = recipe.with_name("changed.toml")
    changed.write_text(text.replace("[bench]", "[tensorrt]\nmax_batch = 64\n[bench]"))
    with pytest.raises(BuildError, match=r"tensorrt cannot parse model.onnx: node '.+' \(Conv\)"):
        _build(changed)
