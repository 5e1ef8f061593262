"""Lint against the runtimes themselves: what a rule says of one, that one is seen to do.

TensorRT for RTX parses and builds without a GPU; ONNX Runtime and OpenVINO run here.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import tensorrt_rtx
from onnx import defs, helper

from edgekd import targets
from edgekd.artifacts import OnnxModel
from edgekd.backends import ort
from edgekd.backends.base import find
from edgekd.errors import BuildError
from edgekd.quantize.lint import facts
from edgekd.quantize.lint.pay import FEW_CHANNELS
from edgekd.quantize.lint.rules import BY_ID
from tests.quantize.lint_cases import CASES, Case, concat, conv, gemm, plain, weight
from tests.quantize.lint_graphs import S8, U8, U8_POSITIVE, Net

RULED = ("torch", "onnxruntime-cpu", "openvino-cpu", "tensorrt", "tensorrt-rtx")
TARGETS = {each.backend: each for each in map(targets.load, RULED)}
RUNTIMES = ("tensorrt-rtx", "onnxruntime", "openvino")
X86 = platform.machine().lower() in ("x86_64", "amd64")

# What a runtime takes all the same; other tests here show what becomes of it, or the rule's reason
# is none that a parser could see.
TAKEN: Mapping[str, set[tuple[str, str]]] = {
    "tensorrt-rtx": {
        ("QDQ001", "uint8"),
        ("QDQ001", "no zero point"),
        ("QDQ004", "infinite"),
        ("QDQ005", "denormal"),
        ("QDQ010", "scale"),
        ("OPS004", "axis"),
        ("OPS004", "no axis"),
        ("OPS004", "int16"),
    },
    "onnxruntime": {
        *((each.rule, each.name) for each in CASES if each.rule in ("QDQ004", "QDQ008")),
    },
    "openvino": {
        *((each.rule, each.name) for each in CASES if each.rule in ("QDQ004", "QDQ008", "OVN001")),
        ("OPS004", "axis"),
        ("OPS004", "no axis"),
        ("OPS004", "int16"),
    },
}
REFUSED = [
    pytest.param(backend, case, id=f"{backend}-{case.rule}-{case.name}")
    for backend in RUNTIMES
    for case in CASES
    if BY_ID[case.rule].severity_for(TARGETS[backend]) == "error"
    and case.only in ("", backend)
    and (case.rule, case.name) not in TAKEN[backend]
]

INTEGER_KERNELS = ("QLinear", "QGemm", "MatMulInteger")
IN_FLOAT = [
    pytest.param(each, id=f"{each.rule}-{each.name}")
    for each in CASES
    if each.rule in ("QDQ006", "QDQ007", "QDQ010", "PLC006", "PLC007", "PLC011", "PAY003", "PAY006")
    or (each.rule, each.name) == ("PLC009", "after")
    or (each.rule == "PAY005" and X86)
]


def _build(backend: str, model: onnx.ModelProto, folder: Path, sm: tuple[str, ...] = ()) -> None:
    """Builds an engine as EdgeKD does.

    Raises:
        BuildError: the runtime refuses the model.
    """
    path = folder / "m.onnx"
    onnx.save(model, path)
    target = TARGETS[backend]
    options = {**target.options, "compute_capabilities": sm or ("8.9",)}
    given = OnnxModel(path=path, opset=0, model_inputs=(), model_outputs=(), parity=0.0)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    find(backend).build(given, replace(target, options=options), out)


def _x(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    sizes = [each.dim_value or 2 for each in model.graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(0).normal(size=sizes).astype(np.float32)}


def _run(model: onnx.ModelProto, folder: Path, optimise: bool) -> np.ndarray:
    """The first output in ONNX Runtime; not optimised, it is what the graph means."""
    onnx.save(model, folder / "m.onnx")
    with ort.open_model(folder / "m.onnx", optimise=optimise) as session:
        return np.asarray(session.run(_x(model))[session.outputs[0].name])


def _openvino(model: onnx.ModelProto, folder: Path) -> np.ndarray:
    onnx.save(model, folder / "m.onnx")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(folder / "m.onnx", "CPU", settings)
    return np.asarray(compiled(_x(model))[0])


def _db(reference: np.ndarray, other: np.ndarray) -> float:
    noise = float(((reference - other) ** 2).sum())
    return 10 * float(np.log10((reference**2).sum() / noise)) if noise else np.inf


def _kernels(model: onnx.ModelProto, folder: Path) -> list[str]:
    """The operators that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [each.op_type for each in onnx.load(folder / "optimised.onnx").graph.node]


# ── Errors: the runtime refuses the one and takes the other ──────────────────────────────────


@pytest.mark.parametrize(("backend", "case"), REFUSED)
def test_what_an_error_names_is_refused_and_what_it_passes_is_taken(
    backend: str, case: Case, tmp_path: Path
) -> None:
    with pytest.raises(BuildError):
        _build(backend, case.fails(), tmp_path, case.capabilities)
    _build(backend, case.passes(), tmp_path, case.capabilities)


# ── TensorRT: what it takes, and gets wrong ──────────────────────────────────────────────────


class _Log(tensorrt_rtx.ILogger):  # type: ignore[misc]
    def log(self, severity: object, text: str) -> None:
        """Says nothing."""


LOG = _Log()


def _parser() -> tuple[tensorrt_rtx.INetworkDefinition, tensorrt_rtx.OnnxParser]:
    network = tensorrt_rtx.Builder(LOG).create_network(0)
    return network, tensorrt_rtx.OnnxParser(network, LOG)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(each, id=each.name)
        for each in CASES
        if each.rule == "QDQ001" and (each.rule, each.name) in TAKEN["tensorrt-rtx"]
    ],
)
def test_uint8_activations_become_int8(case: Case) -> None:
    network, parser = _parser()
    assert parser.parse(case.fails().SerializeToString())
    layers = [network.get_layer(each) for each in range(network.num_layers)]
    types = {
        each.get_output(0).dtype for each in layers if each.type == tensorrt_rtx.LayerType.QUANTIZE
    }
    assert types == {tensorrt_rtx.int8}


@pytest.mark.parametrize("scale", [np.inf, 1e-40])
def test_scales_that_tensorrt_does_not_see_through_are_taken(scale: float, tmp_path: Path) -> None:
    _build("tensorrt-rtx", conv(scale=scale), tmp_path)


_BUILD = """
import sys
from pathlib import Path
from edgekd import targets
from edgekd.artifacts import OnnxModel
from edgekd.backends.base import find
path = Path(sys.argv[1])
model = OnnxModel(path=path, opset=19, model_inputs=(), model_outputs=(), parity=0.0)
find("tensorrt-rtx").build(model, targets.load("tensorrt-rtx"), path.parent)
"""


def test_a_computed_scale_ends_tensorrts_builder_and_its_process(tmp_path: Path) -> None:
    case = next(each for each in CASES if each.rule == "QDQ010")
    _build("tensorrt-rtx", case.passes(), tmp_path)
    onnx.save(case.fails(), tmp_path / "m.onnx")
    command = [sys.executable, "-c", _BUILD, str(tmp_path / "m.onnx")]
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


def test_tensorrts_operators_are_those_of_its_parser() -> None:
    _, parser = _parser()
    names = {each.name for each in defs.get_all_schemas_with_history() if not each.domain}
    lacking = {each for each in names if not parser.supports_operator(each)}
    assert lacking == facts.UNKNOWN["tensorrt"] | facts.QOPERATORS
    takes = facts.CUSTOM["tensorrt-rtx"]["com.microsoft"]
    assert takes is not None
    assert all(map(parser.supports_operator, takes))


def test_tensorrt_for_rtx_lacks_what_tensorrt_has_as_a_plugin(tmp_path: Path) -> None:
    more = facts.UNKNOWN["tensorrt-rtx"] - facts.UNKNOWN["tensorrt"]
    assert "NonZero" in more
    net = Net()
    model = net.model(net.node("NonZero", "x"), kind=onnx.TensorProto.INT64)
    _, parser = _parser()
    assert not parser.parse(model.SerializeToString())
    assert "plugin" in parser.get_error(0).desc()


# ── ONNX Runtime: what it takes, and computes in float or wrong ──────────────────────────────


@pytest.mark.parametrize("case", IN_FLOAT)
def test_what_is_found_costs_onnx_runtime_its_integer_kernels(case: Case, tmp_path: Path) -> None:
    broken, sound = (
        sum(each.startswith(INTEGER_KERNELS) for each in _kernels(model, tmp_path))
        for model in (case.fails(), case.passes())
    )
    assert broken < sound


def test_float16_makes_onnx_runtime_cast(tmp_path: Path) -> None:
    case = next(each for each in CASES if each.rule == "QDQ012")
    assert "Cast" in _kernels(case.fails(), tmp_path)
    assert "Cast" not in _kernels(case.passes(), tmp_path)


def test_onnx_runtime_takes_scales_along_any_axis_for_those_of_channels(tmp_path: Path) -> None:
    """A convolution is wrong, and a MatMul fails; a Gemm alone runs, in float."""
    decibels = []
    for axis in (1, 0):
        model = weight(axis, data=U8)
        decibels.append(_db(*(_run(model, tmp_path, each) for each in (False, True))))
    assert decibels[0] < 20 < 40 < decibels[1]
    case = next(each for each in CASES if (each.rule, each.name) == ("QDQ008", "MatMul"))
    _run(case.passes(), tmp_path, optimise=True)
    with pytest.raises(Exception, match="zero point"):
        _run(case.fails(), tmp_path, optimise=True)


@pytest.mark.parametrize("scale", [np.nan, np.inf, 0.0])
def test_scales_that_are_no_number_leave_no_result(scale: float, tmp_path: Path) -> None:
    net = Net()
    found = _run(net.model(net.qdq("x", scale=scale)), tmp_path, optimise=False)
    assert not np.isfinite(found).all() or not found.any()


# ── OpenVINO: what it takes, and computes wrong ──────────────────────────────────────────────


def _lost(model: onnx.ModelProto, folder: Path) -> float:
    """Decibels between what a graph means and what OpenVINO makes of it."""
    return _db(_run(model, folder, optimise=False), _openvino(model, folder))


@pytest.mark.skipif(not X86, reason="seen on x86-64")
@pytest.mark.parametrize(
    "case", [pytest.param(each, id=each.name) for each in CASES if each.rule == "OVN001"]
)
def test_openvino_computes_noise_from_an_int8_concat(case: Case, tmp_path: Path) -> None:
    assert _lost(case.fails(), tmp_path) < 26
    assert _lost(case.passes(), tmp_path) > 50


@pytest.mark.skipif(not X86, reason="seen on x86-64")
def test_int8_without_a_concat_is_right_in_openvino(tmp_path: Path) -> None:
    assert _lost(conv(S8), tmp_path) > 50
    assert _lost(concat(0.05, 0.05, U8_POSITIVE), tmp_path) > 50


def test_a_negative_scale_means_something_else_to_openvino(tmp_path: Path) -> None:
    assert _lost(conv(scale=-0.05), tmp_path) < 10
    assert _lost(conv(scale=0.05), tmp_path) > 50


def test_openvino_takes_scales_along_any_axis_for_those_of_channels(tmp_path: Path) -> None:
    assert _lost(gemm(axis=1), tmp_path) < 26
    assert _lost(gemm(axis=0), tmp_path) > 50


def test_openvinos_operators_are_those_that_it_can_convert(tmp_path: Path) -> None:
    core = openvino.Core()
    lacking = set()
    schemas = {each.name for each in defs.get_all_schemas_with_history() if not each.domain}
    for name in sorted(schemas):
        schema = defs.get_schema(name)
        if schema.deprecated:
            continue
        reads = [f"i{each}" for each in range(schema.min_input)]
        gives = [f"o{each}" for each in range(max(1, schema.min_output))]
        graph = helper.make_graph(
            [helper.make_node(name, reads, gives)],
            "g",
            [helper.make_tensor_value_info(each, 1, [1]) for each in reads],
            [helper.make_tensor_value_info("o0", 1, None)],
        )
        path = tmp_path / "m.onnx"
        opsets = [helper.make_opsetid("", defs.onnx_opset_version())]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        try:
            core.read_model(path)
        except RuntimeError as error:
            if "No conversion rule" in str(error):
                lacking.add(name)
    assert lacking == facts.UNKNOWN["openvino"]


# ── Figures ──────────────────────────────────────────────────────────────────────────────────


def test_the_newest_opset_and_ir_are_onnx_runtimes(tmp_path: Path) -> None:
    opset, ir = facts.NEWEST["onnxruntime"]
    _build("onnxruntime", plain("Relu", opset=opset, ir=ir), tmp_path)
    assert FEW_CHANNELS == 16
