"""TensorRT, built for real by the library for RTX, which needs no GPU to build."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import helper

from edgekd import targets
from edgekd.artifacts import (
    CalibrationTable,
    EngineFile,
    OnnxModel,
    QuantizedModel,
    TensorSpec,
)
from edgekd.backends.base import build_engine, find
from edgekd.backends.tensorrt import TensorRt, sidecar
from edgekd.errors import BackendUnavailable, BuildError, CorruptBundle, EngineIncompatible
from edgekd.quantize.fp16 import to_fp16
from edgekd.quantize.qdq import quantize
from edgekd.store import hash_file

Model = OnnxModel | QuantizedModel
RTX = targets.load("tensorrt-rtx")


@pytest.fixture
def engine(onnx_model: OnnxModel, tmp_path: Path) -> EngineFile:
    return build_engine(onnx_model, "student", RTX, tmp_path)


def test_an_engine_is_built_without_a_gpu_and_marked_as_not_executed(engine: EngineFile) -> None:
    assert engine.path.read_bytes()[:4] != b"\x08\x0a"  # a plan, not the ONNX
    assert engine.path.stat().st_size > 10_000
    assert engine.executed is bool(find("tensorrt-rtx").probe().devices)
    assert engine.device == "sm_80+sm_86+sm_89+sm_120"
    assert engine.options == {"min_batch": "1", "opt_batch": "1", "max_batch": "32"}


def test_its_side_car_says_what_it_is(engine: EngineFile, onnx_model: OnnxModel) -> None:
    assert engine.parts == (sidecar.path_of(engine.path),)
    facts = sidecar.read(engine.parts[0])
    assert facts.sha256 == hash_file(engine.path).sha256
    assert facts.bytes == engine.path.stat().st_size
    assert (facts.library, facts.version) == ("tensorrt_rtx", engine.backend_version)
    assert facts.device == engine.device
    assert facts.onnx_sha256 == hash_file(onnx_model.path).sha256
    assert facts.calibration_sha256 == ""
    assert facts.flags == engine.options


@pytest.fixture(scope="module")
def forms(onnx_model: OnnxModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """The model in every precision and form, by name; ``+`` is over float16."""
    folder = tmp_path_factory.mktemp("forms")
    ranges = {
        name: (-4.0, 4.0) if name in ("image", "logits") else (0.0, 8.0)
        for node in onnx.load(onnx_model.path).graph.node
        for name in (*node.input, *node.output)
    }
    table = CalibrationTable(method="minmax", ranges=ranges, set_sha256="", samples=1)
    made: dict[str, Model] = {"fp32": onnx_model}
    for form in ("s8s8", "u8s8", "f8"):
        (folder / form).mkdir()
        made[form] = quantize(onnx_model, table, form, folder / form)
    for name in ("fp32", "s8s8", "f8"):
        (folder / f"{name}+").mkdir()
        made[f"{name}+"] = to_fp16(made[name], folder / f"{name}+")
    return made


@pytest.mark.parametrize(
    ("form", "target", "precision", "refusal"),
    [
        ("fp32", "rtx-30", "fp32", ""),
        ("fp32+", "rtx-30", "fp16", ""),
        ("s8s8", "rtx-30", "int8", ""),
        ("s8s8+", "rtx-30", "int8", ""),
        ("s8s8+", "turing", "int8", ""),
        ("fp32+", "turing", "fp16", ""),
        ("s8s8+", "tensorrt-rtx", "int8", ""),
        ("s8s8+", "rtx-50", "int8", ""),
        ("f8+", "rtx-40", "fp8", ""),
        ("f8+", "rtx-50", "fp8", ""),
        ("f8+", "rtx-30", "fp8", "fp8 needs a GPU of compute capability 8.9 or later"),
        ("fp32", "turing", "fp32", "build fp16, or int8 over fp16"),
        ("u8s8", "rtx-30", "int8", "cannot parse"),
    ],
)
def test_the_ladder_is_built_as_far_as_a_gpu_goes(
    form: str,
    target: str,
    precision: str,
    refusal: str,
    forms: dict[str, Model],
    tmp_path: Path,
) -> None:
    """The library is the judge of our forms: float16 between int8, and TensorRT's Q/DQ alone."""
    chosen = targets.load(target)
    if refusal:
        with pytest.raises(BuildError, match=refusal):
            build_engine(forms[form], "student", chosen, tmp_path)
        return
    assert precision in chosen.precisions
    engine = build_engine(forms[form], "student", chosen, tmp_path)
    assert engine.precision == precision
    assert engine.device == chosen.device
    facts = sidecar.read(engine.parts[0])
    assert bool(facts.calibration_sha256) is (precision in ("int8", "fp8"))


def test_the_gemm_that_turing_refuses_is_named(forms: dict[str, Model], tmp_path: Path) -> None:
    gemm = next(n.name for n in onnx.load(forms["fp32"].path).graph.node if n.op_type == "Gemm")
    with pytest.raises(BuildError) as caught:
        build_engine(forms["fp32"], "student", targets.load("turing"), tmp_path)
    assert caught.value.nodes == (gemm,)


@pytest.mark.parametrize(
    ("option", "value"),
    [("workspace_mib", 64), ("optimization_level", 1), ("sparse", True)],
)
def test_options_are_taken_and_written_down(
    option: str, value: object, onnx_model: OnnxModel, tmp_path: Path
) -> None:
    target = replace(RTX, options={**RTX.options, option: value})
    engine = build_engine(onnx_model, "student", target, tmp_path)
    assert engine.options[option] == str(value).lower()
    assert sidecar.read(engine.parts[0]).flags[option] == str(value).lower()


def test_the_library_reports_how_far_it_is(onnx_model: OnnxModel, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []

    def progress(done: int, total: int, note: str = "", scalars: object = None) -> None:
        seen.append((done, total, note))

    find("tensorrt-rtx").build(onnx_model, RTX, tmp_path, progress)
    done = [each[0] for each in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1][1] > 1
    assert {each[2] for each in seen} == {"Building engine"}


@pytest.mark.parametrize("how", ["raised", "signalled"])
def test_ctrl_c_stops_the_library_and_is_raised(
    how: str, onnx_model: OnnxModel, tmp_path: Path
) -> None:
    def progress(done: int, total: int, note: str = "", scalars: object = None) -> None:
        if how == "raised":
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        find("tensorrt-rtx").build(onnx_model, RTX, tmp_path, progress)
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.iterdir())
    build_engine(onnx_model, "student", RTX, tmp_path)  # the next one works


def test_weights_beside_the_file_are_found(
    onnx_model: OnnxModel, engine: EngineFile, tmp_path: Path
) -> None:
    proto = onnx.load(onnx_model.path)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "built").mkdir()
    model = replace(onnx_model, path=path)
    beside = build_engine(model, "student", RTX, tmp_path / "built")
    assert abs(beside.path.stat().st_size - engine.path.stat().st_size) < 2000


def _one_node(tmp_path: Path, operator: str, shape: list[int | str]) -> OnnxModel:
    graph = helper.make_graph(
        [helper.make_node(operator, ["image"], ["logits"], "the_node")],
        "g",
        [helper.make_tensor_value_info("image", 1, shape)],
        [helper.make_tensor_value_info("logits", 1, None)],
    )
    path = tmp_path / "m.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )
    spec = TensorSpec("image", "float32", tuple(shape))
    return OnnxModel(path=path, opset=18, model_inputs=(spec,), model_outputs=(), parity=0.0)


def test_a_node_that_tensorrt_does_not_know_is_named(tmp_path: Path) -> None:
    model = _one_node(tmp_path, "Det", ["batch", 3, 3])
    with pytest.raises(BuildError, match=r"cannot parse m.onnx: node 'the_node' \(Det\)"):
        build_engine(model, "student", RTX, tmp_path)


def test_more_than_the_batch_left_free_is_an_error(tmp_path: Path) -> None:
    model = _one_node(tmp_path, "Relu", ["batch", 3, "height", "width"])
    with pytest.raises(BuildError, match="input 'image' leaves more than the batch free"):
        build_engine(model, "student", RTX, tmp_path)


def test_a_batch_that_is_fixed_stays_as_it_is(tmp_path: Path) -> None:
    engine = build_engine(_one_node(tmp_path, "Relu", [3, 1, 4, 4]), "student", RTX, tmp_path)
    assert {engine.options[f"{each}_batch"] for each in ("min", "opt", "max")} == {"3"}


def test_a_capability_that_the_library_lacks_is_named(
    onnx_model: OnnxModel, tmp_path: Path
) -> None:
    target = replace(RTX, options={**RTX.options, "compute_capabilities": ("3.5",)})
    with pytest.raises(BuildError, match=r"does not build for SM35: it knows .*SM86"):
        build_engine(onnx_model, "student", target, tmp_path)


def test_without_a_driver_an_engine_is_refused_before_the_library_sees_it(
    engine: EngineFile,
) -> None:
    if find("tensorrt-rtx").probe().devices:
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU with a working driver"):
        find("tensorrt-rtx").open(engine)


def test_an_engine_of_another_version_is_refused_though_there_is_no_gpu(
    engine: EngineFile,
) -> None:
    facts = sidecar.read(engine.parts[0])
    sidecar.write(engine.path, replace(facts, version="1.0"))
    with pytest.raises(EngineIncompatible, match=r"is for tensorrt_rtx 1\.0, and this is tensorr"):
        find("tensorrt-rtx").open(engine)


def test_a_plan_without_a_side_car_is_not_opened(engine: EngineFile) -> None:
    with pytest.raises(CorruptBundle, match="has no side-car, so nobody knows what it is"):
        find("tensorrt-rtx").open(replace(engine, parts=()))


def test_type_stubs_are_not_taken_for_the_library() -> None:
    """The package tensorrt-stubs makes ``import tensorrt`` succeed, and brings nothing."""
    found = TensorRt().probe()
    assert not found.installed
    assert "tensorrt is not installed" in found.reason or "cannot be imported" in found.reason
