"""Lint: each rule finds what it names and nothing else, in files of any size."""

from __future__ import annotations

import os
import re
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgekd import targets
from edgekd.artifacts import CalibrationTable, OnnxModel
from edgekd.backends.base import BACKENDS
from edgekd.errors import BuildError, QuantizeError, RecipeError
from edgekd.quantize.forms import FORMS
from edgekd.quantize.lint import Finding, capabilities_of, explain, foresee, lint
from edgekd.quantize.lint.facts import CUSTOM
from edgekd.quantize.lint.rule import GROUPS, SEVERITIES
from edgekd.quantize.lint.rules import BY_ID, RULES
from edgekd.quantize.qdq import quantize
from edgekd.targets import Target
from tests.quantize.lint_cases import CASES, Case, conv, gemm, shared
from tests.quantize.lint_graphs import S8, Net

RULED = ("torch", "onnxruntime-cpu", "openvino-cpu", "tensorrt", "tensorrt-rtx")
TARGETS = {each.backend: each for each in map(targets.load, RULED)}
RTX, CPU = TARGETS["tensorrt-rtx"], TARGETS["onnxruntime"]
CONCERNED = [
    pytest.param(case, backend, id=f"{case.rule}-{case.name}-{backend}")
    for case in CASES
    for backend in sorted({each.split(":")[0] for each in BY_ID[case.rule].severity})
    if case.only in ("", backend)
]


def _lint(
    model: onnx.ModelProto, folder: Path, target: Target, capabilities: tuple[str, ...] = ()
) -> tuple[Finding, ...]:
    path = folder / "m.onnx"
    onnx.save(model, path)
    return lint(path, target, capabilities)


def test_each_rule_has_a_model_that_breaks_it_and_one_that_does_not() -> None:
    assert {each.rule for each in CASES} == set(BY_ID)


def test_ids_are_unique_and_grouped_and_severities_and_backends_are_known() -> None:
    assert len(BY_ID) == len(RULES)
    for rule in RULES:
        assert re.fullmatch(r"[A-Z]{3}\d{3}", rule.id)
        assert rule.id[:3] in GROUPS
        assert set(rule.severity.values()) <= set(SEVERITIES)
        assert {each.split(":")[0] for each in rule.severity} <= set(BACKENDS)
        forms = {form for each in rule.severity for form in each.split(":")[1:]}
        assert forms <= {each.form for each in TARGETS.values()}


@pytest.mark.parametrize(("case", "backend"), CONCERNED)
def test_a_rule_finds_what_breaks_it_and_passes_what_does_not(
    case: Case, backend: str, tmp_path: Path
) -> None:
    target = TARGETS[backend]
    broken, sound = case.fails(), case.passes()
    found = [
        each for each in _lint(broken, tmp_path, target, case.capabilities) if each.id == case.rule
    ]
    assert found
    rule = BY_ID[case.rule]
    inner = [
        *broken.graph.node,
        *(n for e in broken.graph.node for a in e.attribute for n in a.g.node),
    ]
    ops = set()
    for each in found:
        assert each.severity == rule.severity_for(target)
        assert each.reason == rule.why
        assert each.mend
        assert "{" not in each.mend
        assert each.detail
        named = [node.op_type for node in inner if node.name == each.node]
        assert len(named) == bool(each.node)
        ops |= {*named} or {""}
    assert case.op in ops
    after = _lint(sound, tmp_path, target, case.capabilities)
    assert case.rule not in {each.id for each in after}


def test_a_rule_is_silent_for_targets_that_it_does_not_concern(tmp_path: Path) -> None:
    twin = conv((128, np.uint8))
    assert "QDQ002" not in {each.id for each in _lint(twin, tmp_path, CPU)}
    arm = replace(CPU, form="a8s8")
    both = [{each.id for each in _lint(shared(S8, True), tmp_path, each)} for each in (CPU, arm)]
    assert both[0] - both[1] == {"PAY005"}


def test_the_worst_comes_first(tmp_path: Path) -> None:
    found = _lint(gemm(axis=1, stored_bias=False), tmp_path, CPU)
    assert [each.severity for each in found] == sorted(
        (each.severity for each in found), key=SEVERITIES.index
    )
    assert len({each.severity for each in found}) == 3


def test_a_rule_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(conv((3, np.int8)), path)
    assert {each.id for each in lint(path, RTX)} - {
        each.id for each in lint(path, RTX, ignore=["QDQ002"])
    } == {"QDQ002"}
    with pytest.raises(RecipeError, match=r"no rule is called 'QDQ02': did you mean 'QDQ0"):
        lint(path, RTX, ignore=["QDQ02"])


def test_the_targets_own_capabilities_count_if_none_are_given(tmp_path: Path) -> None:
    from tests.quantize.lint_graphs import float8

    model = float8(Net())
    assert "OPS006" in {each.id for each in _lint(model, tmp_path, RTX)}
    assert "OPS006" not in {each.id for each in _lint(model, tmp_path, RTX, ("8.9", "12.0"))}


def test_a_target_that_takes_no_onnx_is_refused(tmp_path: Path) -> None:
    assert set(CUSTOM) == set(BACKENDS) - {"torch"}
    with pytest.raises(RecipeError, match="the target 'torch' takes no ONNX file"):
        _lint(conv(), tmp_path, TARGETS["torch"])


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a"], ids=["", "text", "empty"])
def test_what_is_no_onnx_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(QuantizeError, match="is not an ONNX file, or only a part of one"):
        lint(path, RTX)


def test_half_a_file_and_no_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(conv().SerializeToString()[:-300])
    with pytest.raises(QuantizeError, match="is not an ONNX file, or only a part of one"):
        lint(path, RTX)
    for missing in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(RecipeError, match="there is no such file"):
            lint(missing, RTX)


def test_the_file_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(conv((3, np.int8)), path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    lint(path, RTX)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


def test_weights_of_three_gigabytes_in_another_file_are_not_read(tmp_path: Path) -> None:
    net = Net("batch", 16384)
    weight = TensorProto(data_type=TensorProto.INT8, dims=[16384, 180_000])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="m.data")
    weight.external_data.add(key="length", value=str(16384 * 180_000))
    stored = net.constant(weight)
    scales = net.grid(np.full(16384, 0.05), S8)
    real = net.node("DequantizeLinear", stored, *scales, axis=0)
    model = net.model(net.node("MatMul", net.qdq("x"), real))
    with (tmp_path / "m.data").open("wb") as file:
        os.truncate(file.fileno(), 16384 * 180_000)
    tracemalloc.start()
    found = _lint(model, tmp_path, CPU)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "QDQ008" in {each.id for each in found}
    assert peak < 20e6


def test_scales_in_another_file_are_read_and_missed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(
        conv(scale=0.0), path, save_as_external_data=True, location="m.data", size_threshold=0
    )
    assert "QDQ004" in {each.id for each in lint(path, RTX)}
    (tmp_path / "m.data").unlink()
    with pytest.raises(QuantizeError, match="in another file, which cannot be read"):
        lint(path, RTX)


def test_scales_may_be_constant_nodes_and_lie_within_functions(tmp_path: Path) -> None:
    value = helper.make_tensor("v", TensorProto.FLOAT, [], [-1.0])
    body = [
        helper.make_node("Constant", [], ["s"], value=value),
        helper.make_node("QuantizeLinear", ["a", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["b"]),
    ]
    net = Net()
    imports = [helper.make_opsetid("", 19)]
    net.functions.append(helper.make_function("local", "Pair", ["a"], ["b"], body, imports))
    found = _lint(net.model(net.node("Pair", "x", domain="local")), tmp_path, CPU)
    assert [each.detail for each in found if each.id == "QDQ004"] == ["scale -1"]


# ── What EdgeKD writes itself ────────────────────────────────────────────────────────────────


def _block(net: Net, *, concat: bool) -> str:
    """Convolutions with a skip, a depthwise one among them, or branches side by side."""

    def layer(name: str, group: int = 1) -> str:
        weight = net.real(16, 16 // group, 3, 3)
        return net.node("Conv", name, weight, net.real(16), pads=[1, 1, 1, 1], group=group)

    first = net.node("Relu", layer("x"))
    second = net.node("HardSwish", layer(first, 16))
    if concat:
        both = net.node("Concat", first, second, axis=1)
        return net.node("Conv", both, net.real(16, 32, 1, 1))
    return net.node("Relu", net.node("Add", first, layer(second)))


def _network(concat: bool) -> onnx.ModelProto:
    net = Net(opset=21)
    pooled = net.node("Flatten", net.node("GlobalAveragePool", _block(net, concat=concat)))
    hidden = net.node("MatMul", pooled, net.real(16, 32))
    model = net.model(net.node("Gemm", hidden, net.real(10, 32), net.real(10), transB=1))
    shape = helper.make_tensor_type_proto(TensorProto.FLOAT, ["batch", 10])
    model.graph.output[0].type.CopyFrom(shape)
    return model


OWN: Mapping[str, tuple[Target, ...]] = {
    "s8s8": (RTX, TARGETS["tensorrt"]),
    "u8s8": (CPU, TARGETS["openvino"]),
    "a8s8": (replace(CPU, form="a8s8"),),
    "f8": (targets.load("rtx-40"), targets.load("rtx-50"), targets.load("jetson-thor")),
}
BOUND = st.floats(0, 2.0**99, allow_subnormal=False) | st.sampled_from([0.0, 1e-45, 1e-38, 6.0])


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=12, deadline=None)
@given(concat=st.booleans(), bounds=st.lists(st.tuples(BOUND, BOUND), min_size=4, max_size=4))
def test_what_quantize_writes_has_no_errors_for_its_own_targets(
    form: str,
    concat: bool,
    bounds: list[tuple[float, float]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp(form)
    model = _network(concat)
    onnx.save(model, folder / "fp32.onnx")
    names = ["x", *(name for node in model.graph.node for name in node.output)]
    positive = {name for name in names if name.startswith("relu")}
    ranges = {
        name: (0.0 if name in positive else -bounds[at % 4][0], bounds[at % 4][1])
        for at, name in enumerate(names)
    }
    table = CalibrationTable(method="minmax", ranges=ranges, set_sha256="", samples=1)
    fp32 = OnnxModel(
        path=folder / "fp32.onnx", opset=21, model_inputs=(), model_outputs=(), parity=0.0
    )
    (folder / "out").mkdir()
    made = quantize(fp32, table, form, folder / "out")
    for target in OWN[form]:
        errors = [each for each in lint(made.path, target) if each.severity == "error"]
        assert not errors


# ── What a runtime says, explained, and foreseen where none can be asked ─────────────────


@pytest.mark.parametrize("case", [each for each in CASES if each.rule in ("QDQ001", "OPS001")])
def test_tensorrt_within_onnx_runtime_is_judged_by_tensorrts_rules(
    case: Case, tmp_path: Path
) -> None:
    for name, rules in (("onnxruntime-tensorrt", "tensorrt"), ("onnxruntime-cuda", "onnxruntime")):
        found = _lint(case.fails(), tmp_path, targets.load(name))
        as_ruled = replace(TARGETS[rules], form=targets.load(name).form)
        expected = _lint(case.fails(), tmp_path, as_ruled)
        assert [(each.id, each.node) for each in found] == [
            (each.id, each.node) for each in expected
        ]


def _float_gemm(folder: Path) -> Path:
    case = next(each for each in CASES if each.rule == "OPS005")
    onnx.save(case.fails(), folder / "m.onnx")
    return folder / "m.onnx"


def test_a_refusal_is_explained_by_the_rule_that_foresees_it(tmp_path: Path) -> None:
    path, turing = _float_gemm(tmp_path), targets.load("turing")
    (found,) = (each for each in lint(path, turing, ("7.5",)) if each.id == "OPS005")
    said = BuildError("tensorrt_rtx cannot build it", nodes=[found.node])
    explained = explain(said, path, turing)
    assert explained.message.startswith("tensorrt_rtx cannot build it; rule OPS005: ")
    assert explained.hint == found.mend
    other = BuildError("tensorrt_rtx cannot build it", nodes=["another"])
    assert explain(other, path, turing) is other


def test_what_nothing_here_can_build_is_held_against_the_rules(tmp_path: Path) -> None:
    path = _float_gemm(tmp_path)
    with pytest.raises(BuildError, match="turing would refuse node .* rule OPS005: a Gemm|MatMul"):
        foresee(path, targets.load("turing"))
    foresee(path, targets.load("jetson-orin-nano"))


@pytest.mark.parametrize(
    ("name", "capabilities"),
    [
        ("jetson-thor", ("11.0",)),
        ("turing", ("7.5",)),
        ("tensorrt-rtx", ("8.0", "8.6", "8.9", "12.0")),
        ("tensorrt", ()),
        ("openvino-cpu", ()),
    ],
)
def test_a_devices_capabilities(name: str, capabilities: tuple[str, ...]) -> None:
    assert capabilities_of(targets.load(name)) == capabilities
