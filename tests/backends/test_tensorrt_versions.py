"""One backend for TensorRT 10, TensorRT 11 and TensorRT for RTX, on libraries played by a fake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import preflight, recipe_file, targets
from edgekd.artifacts import EngineFile, OnnxModel
from edgekd.backends.base import GpuOptions, find
from edgekd.backends.tensorrt import TensorRt, is_elsewhere, library, sidecar
from edgekd.bench.measure import side_by_side
from edgekd.errors import (
    BackendUnavailable,
    BuildError,
    CorruptBundle,
    EngineIncompatible,
    RecipeError,
    StageError,
)
from edgekd.recipe import BenchSettings
from edgekd.targets import Target, options
from tests.backends import fake_tensorrt
from tests.backends.fake_cuda import FakeCuda
from tests.backends.fake_tensorrt import FakeTensorRt

FLAVOURS = {
    "10": ("tensorrt", "10.3.0.30", False),
    "11": ("tensorrt", "11.4.1.5", False),
    "rtx": ("tensorrt-rtx", "1.7.1.116", True),
}


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("EDGEKD_HOST_CODE", raising=False)


@pytest.fixture(params=FLAVOURS)
def flavour(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Target, FakeTensorRt]:
    name, version, rtx = FLAVOURS[request.param]
    fake = FakeTensorRt(FakeCuda("sm_86"), version, rtx)
    fake_tensorrt.install(monkeypatch, fake)
    return targets.load(name), fake


@pytest.fixture
def ten(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    fake = FakeTensorRt(FakeCuda("sm_86"))
    fake_tensorrt.install(monkeypatch, fake)
    return fake


def _build(model: OnnxModel, target: Target, folder: Path) -> EngineFile:
    folder.mkdir(exist_ok=True)
    return find(target.backend).build(model, target, folder)


def _images(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    return {"image": rng.normal(size=(count, 1, 8, 8)).astype(np.float32)}


def test_a_plan_is_built_opened_and_gives_the_models_outputs(
    flavour: tuple[Target, FakeTensorRt], onnx_model: OnnxModel, tmp_path: Path
) -> None:
    from edgekd.backends import ort

    target, fake = flavour
    engine = _build(onnx_model, target, tmp_path)
    assert engine.executed
    assert engine.backend_version == fake.__version__
    with find(target.backend).open(engine) as session:
        with ort.open_model(onnx_model.path) as expected:
            for count in (1, 7, 32, 1):
                feeds = _images(count)
                np.testing.assert_allclose(
                    session.run(feeds)["logits"], expected.run(feeds)["logits"], atol=1e-5
                )
    assert not any(fake.device.live().values())


def test_it_runs_on_the_gpu_that_cuda_uses_and_on_no_other(
    flavour: tuple[Target, FakeTensorRt], onnx_model: OnnxModel, tmp_path: Path
) -> None:
    target, _ = flavour
    engine = _build(onnx_model, target, tmp_path)
    for device in ("cuda", "cuda:0"):
        with find(target.backend).open(engine, device=device) as session:
            assert session.run(_images(1))
    with pytest.raises(BackendUnavailable, match="no device 'cuda:1' here, only cuda, cuda:0"):
        find(target.backend).open(engine, device="cuda:1")


def test_what_differs_between_the_libraries_is_read_from_them(
    flavour: tuple[Target, FakeTensorRt],
) -> None:
    _, fake = flavour
    can = library.capabilities(fake)
    assert can.names_gpus is can.compiles_later is can.own_graphs is fake.rtx
    assert can.times_kernels is not fake.rtx
    assert bool(can.network_flags) is not fake.__version__.startswith("11")


def test_the_real_library_is_what_the_fake_says_it_is() -> None:
    import tensorrt_rtx

    fake = FakeTensorRt(FakeCuda(), "1.7.1.116", rtx=True)
    real = library.capabilities(tensorrt_rtx)
    assert replace(real, network_flags=1) == replace(library.capabilities(fake), network_flags=1)
    assert real.network_flags == 1 << int(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_rtx_keeps_what_it_compiled_beside_the_plan_and_uses_it_where_it_fits(
    onnx_model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt(FakeCuda("sm_86"), "1.7", rtx=True)
    fake_tensorrt.install(monkeypatch, fake)
    engine = _build(onnx_model, targets.load("tensorrt-rtx"), tmp_path)
    assert [each.name for each in engine.parts] == ["model.engine.json", "model.jit"]
    with find("tensorrt-rtx").open(engine) as session:
        config = session.context.get_runtime_config()
        assert config.cuda_graph_strategy is fake.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        session.run(_images(1))
    with find("tensorrt-rtx").open(engine, gpu=GpuOptions(cuda_graph=False)) as session:
        assert session.context.get_runtime_config().cuda_graph_strategy is None
    assert fake.log["reused"] == 2
    fake_tensorrt.use(monkeypatch, device := FakeCuda("sm_89"))
    fake.device = device
    with find("tensorrt-rtx").open(engine) as session:
        session.run(_images(1))
    assert fake.log["stale"] == 1


def test_tensorrt_leaves_the_graph_to_the_session(
    ten: FakeTensorRt, onnx_model: OnnxModel, tmp_path: Path
) -> None:
    engine = _build(onnx_model, targets.load("tensorrt"), tmp_path)
    for gpu, launches in ((None, 3), (GpuOptions(cuda_graph=False), 0)):
        before = ten.device.calls["launch"]
        with find("tensorrt").open(engine, gpu=gpu) as session:
            for _ in range(4):
                session.run(_images(2))
        assert (ten.device.calls["launch"] - before > 0) is bool(launches)


# ── Options ──────────────────────────────────────────────────────────────────────────────


def test_options_reach_the_builder(
    ten: FakeTensorRt, onnx_model: OnnxModel, tmp_path: Path
) -> None:
    target = options.apply(
        targets.load("tensorrt"),
        {
            "min_batch": 1,
            "opt_batch": 4,
            "max_batch": 16,
            "workspace_mib": 256,
            "optimization_level": 5,
            "version_compatible": True,
            "hardware_compatible": "ampere+",
            "sparse": True,
            "timing_cache": True,
            "cuda_graph": False,
        },
    )
    engine = _build(onnx_model, target, tmp_path)
    (built,) = ten.built
    assert built["profiles"] == [{"image": ((1, 1, 8, 8), (4, 1, 8, 8), (16, 1, 8, 8))}]
    assert built["pools"] == {"WORKSPACE": 256 << 20}
    assert built["builder_optimization_level"] == 5
    assert built["flags"] == {"VERSION_COMPATIBLE", "SPARSE_WEIGHTS"}
    assert built["hardware_compatibility_level"].name == "AMPERE_PLUS"
    assert built["profiling_verbosity"].name == "DETAILED"
    assert engine.options == {
        "min_batch": "1",
        "opt_batch": "4",
        "max_batch": "16",
        "workspace_mib": "256",
        "optimization_level": "5",
        "version_compatible": "true",
        "sparse": "true",
        "hardware_compatible": "ampere+",
        "cuda_graph": "false",
        "timing_cache": "true",
    }
    facts = sidecar.read(engine.parts[0])
    assert facts.version_compatible
    assert facts.hardware == "ampere+"


def test_nothing_is_set_that_was_not_asked_for(
    ten: FakeTensorRt, onnx_model: OnnxModel, tmp_path: Path
) -> None:
    _build(onnx_model, targets.load("tensorrt"), tmp_path)
    (built,) = ten.built
    assert built["flags"] == set()
    assert built["pools"] == {}
    for name in ("builder_optimization_level", "hardware_compatibility_level", "DLA_core"):
        assert name not in built


def test_kernel_times_are_kept_for_one_version_and_one_kind_of_gpu(
    ten: FakeTensorRt, onnx_model: OnnxModel, tmp_path: Path
) -> None:
    target = targets.load("tensorrt")
    for number in range(3):
        _build(onnx_model, target, tmp_path / str(number))
    assert [each["timed"].content for each in ten.built] == [b"", b"10.3.0.26+", b"10.3.0.26++"]
    (kept,) = (tmp_path / "store" / "timing").iterdir()
    assert kept.name.startswith("tensorrt-10.3.0.26-sm_86-")
    kept.write_bytes(b"rubbish")
    _build(onnx_model, target, tmp_path / "3")  # what does not fit is left
    assert ten.built[-1]["timed"].content == b""
    without = options.apply(target, {"timing_cache": False})
    _build(onnx_model, without, tmp_path / "4")
    assert ten.built[-1]["timed"] is None


def test_a_layer_of_a_jetson_goes_to_its_accelerator(
    onnx_model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt(FakeCuda("sm_87"))
    fake_tensorrt.install(monkeypatch, fake)
    target = options.apply(targets.load("jetson-agx-orin"), {"dla_core": 1})
    engine = _build(onnx_model, target, tmp_path)
    assert fake.built[0]["flags"] == {"GPU_FALLBACK"}
    assert fake.built[0]["DLA_core"] == 1
    assert fake.built[0]["default_device_type"].name == "DLA"
    assert fake.log["ADJUST_FOR_DLA"] == 1
    assert engine.options["dla_core"] == "1"
    assert {engine.options[f"{each}_batch"] for each in ("min", "opt", "max")} == {"1"}


# ── Refusals ─────────────────────────────────────────────────────────────────────────────


def test_every_node_that_the_parser_does_not_take_is_named(
    flavour: tuple[Target, FakeTensorRt], onnx_model: OnnxModel, tmp_path: Path
) -> None:
    target, fake = flavour
    fake.refused = {"Conv"}
    with pytest.raises(BuildError, match=r"cannot parse .*: node '.+' \(Conv\): no importer") as e:
        _build(onnx_model, target, tmp_path)
    assert len(e.value.nodes) > 1
    assert all(f"node '{each}'" in e.value.message for each in e.value.nodes)


@pytest.mark.parametrize(
    ("told", "hint"),
    [
        ("Error Code 2: OutOfMemory (Requested size was 4 GiB)", "lower tensorrt.workspace_mib"),
        ("Unable to load library: libnvinfer_lean.so.11", "TensorRT's lean runtime"),
        ("Cannot compile operation 'fc': FP32 GEMM is not supported", "build fp16"),
        ("something new", ""),
    ],
)
def test_a_build_that_fails_says_why_and_what_to_do(
    told: str, hint: str, ten: FakeTensorRt, onnx_model: OnnxModel, tmp_path: Path
) -> None:
    ten.fails = told
    with pytest.raises(BuildError) as caught:
        _build(onnx_model, targets.load("tensorrt"), tmp_path / "out")
    assert told in caught.value.message
    assert hint in caught.value.hint
    assert not list((tmp_path / "out").iterdir())
    ten.fails = ""
    _build(onnx_model, targets.load("tensorrt"), tmp_path / "next")


def test_a_plan_that_its_side_car_refuses_never_reaches_the_library(
    ten: FakeTensorRt, onnx_model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _build(onnx_model, targets.load("tensorrt"), tmp_path)
    plan = engine.path.read_bytes()
    facts = sidecar.read(engine.parts[0])

    engine.path.write_bytes(plan[:-1])
    with pytest.raises(CorruptBundle, match="is not the file that its side-car names"):
        find("tensorrt").open(engine)
    engine.path.write_bytes(plan[:-1] + b"x")
    with pytest.raises(CorruptBundle):
        find("tensorrt").open(engine)
    engine.path.write_bytes(plan)

    sidecar.write(engine.path, replace(facts, version="10.3.0.27"))
    with pytest.raises(EngineIncompatible, match=r"0\.27, and this is tensorrt 10\.3\.0\.26"):
        find("tensorrt").open(engine)
    sidecar.write(engine.path, replace(facts, system="linux-riscv64"))
    with pytest.raises(EngineIncompatible, match="linux-riscv64"):
        find("tensorrt").open(engine)
    sidecar.write(engine.path, facts)

    fake_tensorrt.use(monkeypatch, FakeCuda("sm_75"))
    with pytest.raises(EngineIncompatible, match="is for sm_86, and this is a GPU of sm_75"):
        find("tensorrt").open(engine)
    assert not ten.loaded
    fake_tensorrt.use(monkeypatch, ten.device)
    with find("tensorrt").open(engine):
        assert ten.loaded == [plan]


def test_a_plan_that_the_library_refuses_all_the_same_is_an_error_with_its_words(
    ten: FakeTensorRt, onnx_model: OnnxModel, tmp_path: Path
) -> None:
    engine = _build(onnx_model, targets.load("tensorrt"), tmp_path)
    facts = sidecar.read(engine.parts[0])
    engine.path.write_bytes(b"nonsense")
    import hashlib

    changed = replace(facts, bytes=8, sha256=hashlib.sha256(b"nonsense").hexdigest())
    sidecar.write(engine.path, changed)
    with pytest.raises(BuildError, match="cannot load model.engine: the plan has a wrong magic"):
        find("tensorrt").open(engine)


def test_host_code_is_let_in_by_the_user_alone(
    ten: FakeTensorRt, onnx_model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = options.apply(targets.load("tensorrt"), {"version_compatible": True})
    engine = _build(onnx_model, target, tmp_path)
    with pytest.raises(EngineIncompatible, match="EDGEKD_HOST_CODE=1"):
        find("tensorrt").open(engine)
    assert not ten.loaded
    with find("tensorrt").open(engine, gpu=GpuOptions(host_code=True)) as session:
        session.run(_images(1))
    monkeypatch.setenv("EDGEKD_HOST_CODE", "1")
    with find("tensorrt").open(engine):
        pass


def test_no_execution_context_names_the_memory_that_is_free(
    ten: FakeTensorRt, onnx_model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _build(onnx_model, targets.load("tensorrt"), tmp_path)
    monkeypatch.setattr(
        fake_tensorrt._Engine, "create_execution_context", lambda self, *given: None
    )
    with pytest.raises(StageError, match=r"cannot make an execution context .* MiB of the GPU are"):
        find("tensorrt").open(engine)
    assert not any(ten.device.live().values())


# ── Where a plan is built ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "here", "elsewhere"),
    [
        ("jetson-orin-nano", "", True),
        ("jetson-orin-nano", "sm_86", True),
        ("jetson-orin-nano", "sm_87", False),
        ("h100", "sm_90", False),
        ("rtx-40", "", False),
        ("tensorrt", "", False),
    ],
)
def test_which_targets_are_built_elsewhere(name: str, here: str, elsewhere: bool) -> None:
    assert is_elsewhere(targets.load(name), here) is elsewhere


def test_an_engine_for_a_jetson_waits_for_it_as_onnx(onnx_model: OnnxModel, tmp_path: Path) -> None:
    target = targets.load("jetson-orin-nano")
    engine = _build(onnx_model, target, tmp_path)
    assert engine.path.read_bytes() == onnx_model.path.read_bytes()
    assert (engine.backend_version, engine.device, engine.parts) == ("", "sm_87", ())
    assert not engine.executed
    with pytest.raises(EngineIncompatible, match="is for sm_87, and this is its ONNX, not built y"):
        find("tensorrt").open(engine)


def test_the_gpu_that_is_here_is_built_for(
    ten: FakeTensorRt, onnx_model: OnnxModel, tmp_path: Path
) -> None:
    assert _build(onnx_model, targets.load("tensorrt"), tmp_path).device == "sm_86"


def test_without_a_gpu_the_generic_target_says_what_is_missing(
    onnx_model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt(FakeCuda())
    real = library.load
    monkeypatch.setattr(library, "load", lambda name, *more: fake)
    if TensorRt().probe().devices:
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendUnavailable):
        _build(onnx_model, targets.load("tensorrt"), tmp_path)
    monkeypatch.setattr(library, "load", real)


def test_type_stubs_are_not_taken_for_the_library() -> None:
    """The package tensorrt-stubs makes ``import tensorrt`` succeed, and brings nothing."""
    found: Any = TensorRt().probe()
    assert not found.installed
    assert "tensorrt is not installed" in found.reason or "cannot be imported" in found.reason


# ── What waits beside a plan, and what is not for this device ────────────────────────────


def test_compiled_code_that_was_altered_never_reaches_the_library(
    onnx_model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt(FakeCuda("sm_86"), "1.7", rtx=True)
    fake_tensorrt.install(monkeypatch, fake)
    engine = _build(onnx_model, targets.load("tensorrt-rtx"), tmp_path)
    engine.parts[1].write_bytes(b"JIT sm_86 and more")
    with pytest.raises(CorruptBundle, match=r"model\.jit is not the file that its side-car names"):
        find("tensorrt-rtx").open(engine)
    assert not fake.log["reused"] and not fake.log["stale"]


def test_kernel_times_that_could_not_be_kept_are_not_begun(
    ten: FakeTensorRt, onnx_model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "file"))  # where no folder can be made
    assert _build(onnx_model, targets.load("tensorrt"), tmp_path / "out").executed
    assert ten.built[-1]["timed"] is None


def test_models_are_timed_on_the_targets_that_are_here_and_in_batches_that_they_take(
    ten: FakeTensorRt, onnx_model: OnnxModel, tmp_path: Path
) -> None:
    batched = options.apply(targets.load("tensorrt"), {"min_batch": 4, "max_batch": 8})
    found = side_by_side(
        [onnx_model, onnx_model],
        [targets.load("jetson-orin-nano"), replace(targets.load("l4"), name="another"), batched],
        [_images(1)],
        BenchSettings(samples=5, seconds=0.5, blocks=1),
        tmp_path,
    )
    assert list(found) == ["tensorrt"]
    assert len(found["tensorrt"]) == 2


def test_plans_with_host_code_are_not_begun_where_they_may_not_run(
    ten: FakeTensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"data.source": "digits", "engines.targets": ["tensorrt"]}
    recipe = recipe_file.load(None, {**wanted, "tensorrt.version_compatible": True})
    with pytest.raises(RecipeError, match=r"tensorrt\.version_compatible: .* set EDGEKD_HOST_CODE"):
        preflight.check(recipe, tmp_path)
    monkeypatch.setenv("EDGEKD_HOST_CODE", "1")
    preflight.check(recipe, tmp_path)
