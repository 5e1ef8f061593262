"""``benchmarks/gpu/run.py``: here, and with a GPU and libraries of host memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as rt
import pytest

from edgekd import ladder, targets
from edgekd.artifacts import Dataset, OnnxModel
from edgekd.backends import cuda, ort_providers
from edgekd.bench import load as load_generator
from edgekd.errors import BackendUnavailable, DeviceError
from edgekd.int8 import Int8Stages
from edgekd.progress import Nobody
from edgekd.recipe_file import load
from edgekd.stages import Stages
from edgekd.store import Store
from tests.backends import fake_tensorrt
from tests.backends.fake_cuda import FakeCuda
from tests.backends.fake_tensorrt import FakeTensorRt
from tests.backends.test_ort import on_a_gpu
from tests.conftest import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu" / "run.py"
sys.path.insert(0, str(SCRIPT.parent))
job, part, networks, plans, providers, layers = map(
    import_module, ("job", "part", "networks", "plans", "providers", "layers")
)

# ── Here ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Any]:
    """The script's process, the folder that it wrote to, and its JSON."""
    out = tmp_path_factory.mktemp("out")
    only = ["machine", "providers", "layers"]
    command = [sys.executable, SCRIPT, "--quick", "--out", out, "--only", *only]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done, out, json.loads((out / "gpu.json").read_text())


def test_without_a_gpu_each_part_says_why_it_could_not_run(told: Any) -> None:
    done, _, document = told
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert set(document["parts"]) == {"machine", "providers", "layers"}
    for name, each in document["parts"].items():
        assert each["rows"], name
        for row in each["rows"]:
            assert row["outcome"] in job.OUTCOMES
            if row["outcome"] == "skipped":
                assert row["reason"], row
                assert "\n" not in row["reason"]


@pytest.mark.skipif(bool(cuda.gpus()), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_claimed_of_one(told: Any) -> None:
    done, out, document = told
    outcomes = {
        name: {row["outcome"] for row in each["rows"]} for name, each in document["parts"].items()
    }
    assert outcomes["layers"] == {"skipped"}
    assert "No GPU could be had" in done.stdout
    assert (out / "gpu.md").read_text() in done.stdout


def test_the_table_has_every_row(told: Any) -> None:
    _, out, document = told
    lines = [each for each in (out / "gpu.md").read_text().splitlines() if each.startswith("| ")]
    rows = [row for each in document["parts"].values() for row in each["rows"]]
    assert len(lines) == 2 + len(rows)
    for line, row in zip(lines[2:], rows, strict=True):
        assert [each.strip() for each in line.split("|")][2] == row["what"]


def test_what_is_installed_is_told(told: Any) -> None:
    rows = {row["what"]: row for row in told[2]["parts"]["machine"]["rows"]}
    assert rows["packages"]["figures"]["onnxruntime"] == rt.__version__
    assert {f"backend {name}" for name in ("torch", "tensorrt", "tensorrt-rtx")} <= rows.keys()


def test_without_a_gpu_training_says_why() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    (row,) = import_module("training").rows(job.Job(Path()))
    assert row.outcome == "skipped"
    assert row.reason.startswith(f"torch {torch.__version__} ")


def test_every_way_of_training_takes_the_same_first_step() -> None:
    training = import_module("training")
    told = list(training._pair("resnet8", "dscnn-s", job.Job(Path(), quick=True, device="cpu")))
    ran = [each for each in told if each.outcome == "ran"]
    assert len(ran) == 4  # fp32 and bf16, in either layout
    assert all(each.figures["images_per_s"] > 0 for each in ran)
    assert all(each.reason for each in told if each not in ran)
    assert len(told) == 12


# ── A part that goes wrong ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (BackendUnavailable("CUDA", "", "there is none"), "skipped", "there is none"),
        (ModuleNotFoundError(name="torch"), "skipped", "torch is not installed"),
        (DeviceError("cudaMalloc failed"), "failed", "cudaMalloc failed"),
    ],
)
def test_what_stops_a_part_is_its_last_row(
    error: Exception, outcome: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(told: Any) -> Iterator[Any]:
        yield job.Row("first")
        raise error

    monkeypatch.setitem(sys.modules, "stops", SimpleNamespace(rows=rows))
    first, last = part.rows("stops", job.Job(Path()))
    assert first.outcome == "ran"
    assert last.outcome == outcome
    assert reason in last.reason


def test_a_process_that_dies_fails_its_part_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.path.insert(1, str(SCRIPT.parent.parent))
    run = import_module("run")
    (tmp_path / "part.py").write_text(
        "import os, sys\n"
        "open(sys.argv[2], 'w').write("
        '\'{"what": "first", "figures": {}, "outcome": "ran", "reason": ""}\\n\')\n'
        "os.abort()\n"
    )
    monkeypatch.setattr(run, "HERE", tmp_path)
    chosen = SimpleNamespace(quick=True, device="cpu")
    first, last = run.run("machine", tmp_path, chosen)["rows"]
    assert first["what"] == "first"
    assert (last["outcome"], last["reason"]) == (
        "failed",
        "its process ended with code -6; the last lines say why",
    )


# ── With a GPU of host memory ────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def network(
    onnx_model: OnnxModel, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A network in all precisions, by the stages that the script uses."""
    stages = Stages(
        load(None, networks._settings(True)),
        [targets.load(networks.WIDEST)],
        Store(tmp_path_factory.mktemp("store")),
        Nobody(),
    )
    forms = Int8Stages(stages).quantise(onnx_model, dataset, {})
    assert forms is not None
    return networks.Network("student", stages, dataset, onnx_model, dict(forms.forms))


@pytest.fixture
def fresh(network: Any, tmp_path: Path) -> Any:
    """The same, of which no engine is kept yet."""
    stages = Stages(network.stages.recipe, network.stages.targets, Store(tmp_path), Nobody())
    return replace(network, stages=stages)


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(load_generator, "quiet_collector", nullcontext)  # a second each time
    return job.Job(tmp_path, quick=True)


LAYERS = [
    {"Name": "stem", "LayerType": "CaskConvolution", "Inputs": [{"Datatype": kind}], "Outputs": []}
    for kind in ("Half", "Int8")
]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """TensorRT 10 on a GPU that has no FP8, with one device layer."""
    found = FakeTensorRt(FakeCuda(memory_bytes=1 << 29))
    fake_tensorrt.install(monkeypatch, found)

    def open_device(layer: str, extra: str) -> FakeCuda:
        if layer == "pycuda":
            raise BackendUnavailable("PyCUDA", "pycuda", "PyCUDA cannot be imported")
        return found.device

    monkeypatch.setattr(cuda, "open_device", open_device)
    found.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=1)
    found.TensorIOMode = SimpleNamespace(INPUT=1)
    found.LayerInformationFormat = SimpleNamespace(JSON=1)
    asked = SimpleNamespace(get_engine_information=lambda kind: json.dumps({"Layers": LAYERS}))
    for name, value in {
        "num_io_tensors": 0,
        "create_engine_inspector": lambda engine: asked,
    }.items():
        monkeypatch.setattr(fake_tensorrt._Engine, name, value, raising=False)
    return found


def _by_name(rows: Any) -> dict[str, Any]:
    return {each.what: each for each in rows}


def test_a_plan_is_built_run_compared_timed_and_looked_into(
    network: Any, quick: Any, library: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "PRECISIONS", ("fp16", "int8"))
    found = _by_name(plans.here("tensorrt", "sm_86", network, quick))
    for precision in plans.PRECISIONS:
        what = f"tensorrt, {precision}"
        assert found[what].outcome == "ran", found[what]
        assert found[what].figures["sqnr_db"] > 30
        graphed, plain = (
            found[f"{what}, cuda-python, {each}"] for each in ("CUDA graph", "no graph")
        )
        assert graphed.figures["graph"] == "launched"
        assert plain.figures["graph"] == "none of ours"
        assert {
            "p50_us",
            "images_per_s_at_32",
            "h2d_us",
            "gpu_us",
            "d2h_us",
        } <= plain.figures.keys()
        assert plain.figures["gpu_us"] == 1  # the fake takes a microsecond
        assert found[f"{what}, pycuda"].outcome == "skipped"
        assert found[f"{what}, inside 1"].figures[""].startswith(f"{precision} runs in")
    assert "tensorrt, advice" in found
    assert not any(library.device.live().values())


def test_a_plan_that_computes_something_else_fails(
    network: Any, quick: Any, library: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "PRECISIONS", ("int8",))
    library.wrong = 1.0
    found = _by_name(plans.here("tensorrt", "sm_86", network, quick))
    assert found["tensorrt, int8"].outcome == "failed"
    assert "further than 0.05 from its graph" in found["tensorrt, int8"].reason


def test_what_the_profiles_have_must_be_built_and_the_rest_may_be_refused(
    fresh: Any, quick: Any, library: FakeTensorRt
) -> None:
    library.fails = "no kernel"
    found = {each.what: each.outcome for each in plans.here("tensorrt", "sm_86", fresh, quick)}
    assert found == {
        "tensorrt, fp32": "failed",
        "tensorrt, fp16": "failed",
        "tensorrt, int8": "failed",
        "tensorrt, fp8": "refused",
    }


def test_the_profiles_say_what_a_gpu_has() -> None:
    assert plans.expected("tensorrt-rtx", "sm_75") == {"fp16", "int8"}
    assert plans.expected("tensorrt-rtx", "sm_86") == {"fp32", "fp16", "int8"}
    assert plans.expected("tensorrt-rtx", "sm_89") == {"fp32", "fp16", "int8", "fp8"}
    assert "fp8" in plans.expected("tensorrt", "sm_90")
    assert plans.aimed("tensorrt-rtx", "sm_120").options["compute_capabilities"] == ("12.0",)


@pytest.mark.skipif(bool(cuda.gpus()), reason="there is a GPU here")
def test_without_a_gpu_tensorrt_for_rtx_builds_what_the_profiles_have(
    network: Any, quick: Any
) -> None:
    found = list(plans.ahead("tensorrt-rtx", network, quick))
    assert [each.what for each in found] == [
        f"tensorrt-rtx, sm_89, {each}" for each in networks.PRECISIONS
    ]
    assert {(each.outcome, each.reason) for each in found} == {("built", "not run: no GPU")}


def test_sessions_of_an_engine_are_checked_too(
    network: Any, quick: Any, library: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    (rung,) = network.rungs(plans.aimed("tensorrt", "sm_86"), ["fp16"])
    monkeypatch.setattr(layers, "_engine", lambda *_: network.engine(rung))
    monkeypatch.setattr(layers, "QUICK_RUNS", 20)
    monkeypatch.setattr(layers, "BACKENDS", ("tensorrt",))
    found = _by_name(layers.rows(quick))
    assert found["pycuda"].outcome == "skipped"
    others = [each for what, each in found.items() if what.startswith("cuda-python")]
    assert not [each for each in others if each.outcome != "ran"]
    assert len(others) == sum(
        len(import_module(each).CHECKS) * times
        for each, times in (("device_checks", 1), ("session_checks", 2))
    )


def test_a_provider_is_run_compared_and_timed(
    network: Any, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "CUDAExecutionProvider"
    monkeypatch.setattr(rt, "InferenceSession", on_a_gpu(name, []))
    monkeypatch.setattr(rt, "get_available_providers", lambda: [name, ort_providers.CPU])
    monkeypatch.setattr(ort_providers, "_no_gpu", lambda: "")
    found = _by_name(providers.on(targets.load("onnxruntime-cuda"), [network], quick))
    for precision in ("fp32", "fp16"):
        row = found[f"onnxruntime-cuda, student, {precision}"]
        assert row.outcome == "ran", row
        assert row.figures["p50_us"] > 0
        assert name in row.figures["nodes"]
    refused = found["onnxruntime-cuda, student, int8"]
    assert (refused.outcome, refused.reason) == ("skipped", "the target has no int8")
    assert "onnxruntime-cuda, advice" in found


def test_a_part_that_has_had_its_time_begins_nothing_more(network: Any, tmp_path: Path) -> None:
    late = job.Job(tmp_path, limit_s=-1.0)
    rows = [
        *plans.ahead("tensorrt-rtx", network, late),
        *providers.on(targets.load("onnxruntime-rtx"), [network], late),
    ]
    assert {each.outcome for each in rows} == {"skipped"}
    assert len([each for each in rows if "had its" in each.reason]) == 5 * 4 + 2


def test_every_form_that_the_ladder_asks_for_is_there(network: Any) -> None:
    target = targets.load(networks.WIDEST)
    assert {ladder.form_of(target, each) for each in ("int8", "fp8")} <= network.forms.keys()
