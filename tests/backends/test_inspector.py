"""The engine inspector's JSON, of TensorRT 10 and 11 and with layer names alone.

The documents are written after docs.nvidia.com, "Engine Inspector" (TensorRT 10.16.1) and
"Migrating IEngineInspector Usage from TensorRT 10.x to 11.x", and what TensorRT's issues 4020,
3583 and 4397 print of engines of 9 and 10.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
import tensorrt_rtx
from hypothesis import given
from hypothesis import strategies as st

from edgekd.backends.tensorrt.inspector import Inspection, inspect, parse, summary
from edgekd.errors import StageError

INT8 = "Thirty-two wide channel vectorized row major Int8 format"
FP16 = "Channel major FP16 format where channel % 8 == 0"
FP32 = "Row major linear FP32 format (kLINEAR)"


def tensor(described: str, major: int = 10) -> dict[str, Any]:
    """A layer's tensor; from 11 on the layout and the type are two fields."""
    shape = {"Name": "t", "Location": "Device", "Dimensions": [1, 32, 28, 28]}
    if major == 10:
        return {**shape, "Format/Datatype": described}
    word = next(each for each in ("Int8", "FP16", "FP32") if each in described)
    names = {"Int8": "Int8", "FP16": "Half", "FP32": "Float"}
    return {**shape, "Format": described.replace(word, ""), "DataType": names[word]}


def layer(
    name: str, kind: str, reads: list[str], gives: str, major: int = 10, **more: str
) -> dict[str, Any]:
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [tensor(each, major) for each in reads],
        "Outputs": [tensor(gives, major)],
        **more,
    }


def document(major: int) -> str:
    """Three convolutions of which one is not int8, a pooling, a reformat and a fused region."""
    nodes = "[ONNX Layer: /head/Gemm]\x1f[ONNX Layer: /head/Relu]"
    layers = [
        layer("Reformatting CopyNode for Input Tensor 0", "Reformat", [FP32], INT8, major),
        layer("stem + relu", "CaskConvolution", [INT8], INT8, major, TacticName="sm80_i8i8"),
        layer("body + add", "CaskGemmConvolution", [INT8, FP16], INT8, major),
        layer("pool", "CaskPooling", [INT8], INT8, major),
        layer("__myl_Fc_myl0_1", "gemm", [FP16], FP32, major, Metadata=nodes),
        layer("__myl_AddMul_myl0_2", "kgen", [INT8], FP16, major),
    ]
    ends = {"Bindings": ["x", "y"]} if major == 10 else {"I/O Tensors": [{"Name": "x"}]}
    return json.dumps({"Layers": layers, **ends})


@pytest.mark.parametrize("major", [10, 11])
def test_both_forms_give_the_same_facts(major: int) -> None:
    found = parse(document(major))
    assert found.detailed
    assert found.by_precision == {"int8": 2, "fp16": 1}
    assert found.int8_share == pytest.approx(2 / 3)
    assert (found.reformats, found.opaque) == (1, 1)
    roles = ["reformat", "compute", "compute", "other", "compute", "opaque"]
    assert [each.role for each in found.layers] == roles
    assert found.layers[2].inputs == ("int8", "fp16")
    assert found.layers[4].nodes == ("/head/Gemm", "/head/Relu")
    assert found == parse(document(21 - major))
    assert json.loads(json.dumps(asdict(found)))["reformats"] == 1


def test_a_summary_says_where_int8_runs_and_where_it_does_not() -> None:
    assert summary(parse(document(10))) == [
        "int8 runs in 2 of 3 compute layers; 1 reformat; fp16 in: /head/Gemm + /head/Relu",
        "1 fused region beside them, of which the ends alone are known; int8 enters 1",
    ]
    assert summary(parse(document(10)), "fp16")[0].startswith("fp16 runs in 1 of 3 compute layers")


@pytest.mark.parametrize("layers", [["conv + relu", "Reformatting CopyNode"], []])
def test_layer_names_alone_say_nothing_of_precision(layers: list[str]) -> None:
    found = parse(json.dumps({"Layers": layers, "Bindings": ["x"]}))
    assert [each.name for each in found.layers] == layers
    assert not found.detailed
    assert found.int8_share is None
    assert summary(found) == [
        "the engine was built without layer details: nothing is known of its precisions"
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Int8", "int8"),
        ("Int8 NC/32HW32", "int8"),
        (INT8, "int8"),
        ("Row major INT8 format where column stride % 64 == 0", "int8"),
        ("Half", "fp16"),
        ("FP16 NHWC8", "fp16"),
        (FP16, "fp16"),
        ("Thirty-two wide channel vectorized row major FP16 format (kCHW32)", "fp16"),
        ("Float", "fp32"),
        (FP32, "fp32"),
        ("Row major linear FP32", "fp32"),
        ("BFloat16", "bf16"),
        ("Row major linear BF16 format (kLINEAR)", "bf16"),
        ("FP8", "fp8"),
        ("E4M3", "fp8"),
        ("Row major linear UINT8 format (kLINEAR)", "uint8"),
        ("Row major linear INT4 format (kLINEAR)", "int4"),
        ("Row major linear INT64 format (kLINEAR)", "int64"),
        ("Row major linear BOOL format (kLINEAR)", "bool"),
        ("N/A due to dynamic shapes", "unknown"),
        ("Format not available due to dynamic shapes", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_words_for_a_type(words: str, expected: str) -> None:
    found = parse(json.dumps({"Layers": [layer("a", "Convolution", [words], words)]}))
    assert found.layers[0].inputs == found.layers[0].outputs == (expected,)


@pytest.mark.parametrize(
    ("given_layer", "role"),
    [
        (layer("a", "CaskConvActPool", [INT8], INT8), "compute"),
        (layer("a", "CaskDeconvolutionV2", [INT8], INT8), "compute"),
        (layer("a", "MatrixMultiply", [FP16], FP16), "compute"),
        (layer("a", "conv", [FP16], FP16), "compute"),
        (layer("a", "fusion", [FP16], FP16, TacticName="sm80_xmma_gemm_f16_by_fusion"), "compute"),
        (layer("a", "fusion", [FP16], FP16, TacticName="__myl_Add"), "opaque"),
        (layer("_gemm_mha_v2", "kgen", [INT8], INT8, TacticName="_gemm_mha_v2"), "opaque"),
        (layer("{ForeignNode[a...b]}", "Myelin", [FP16], FP16), "opaque"),
        (layer("a", "NoOp", [FP16], FP16, Origin="REFORMAT"), "reformat"),
        (layer("a", "PointWiseV2", [FP16], FP16), "other"),
        (layer("a", "Converter", [FP16], FP16), "other"),
    ],
)
def test_what_counts_as_computing(given_layer: dict[str, Any], role: str) -> None:
    assert parse(json.dumps({"Layers": [given_layer]})).layers[0].role == role


def test_int8_weights_alone_are_not_int8() -> None:
    """A product of fp16 with int8 weights computes in fp16; its first input says so."""
    found = parse(json.dumps({"Layers": [layer("fc", "gemm", [FP16, INT8], FP16)]}))
    assert found.by_precision == {"fp16": 1}
    assert found.int8_share == 0


def test_an_index_or_a_mask_is_not_what_a_layer_computes_in() -> None:
    bools = layer("fc", "gemm", ["Bool", "Int32", INT8], INT8)
    assert parse(json.dumps({"Layers": [bools]})).by_precision == {"int8": 1}


def test_what_is_not_known_is_neither_int8_nor_not() -> None:
    unknown = layer("b", "Convolution", ["N/A due to dynamic shapes"], "")
    found = parse(json.dumps({"Layers": [layer("a", "Convolution", [INT8], INT8), unknown]}))
    assert found.int8_share == 1
    assert summary(found) == ["int8 runs in 1 of 2 compute layers; not known in: b"]
    assert parse(json.dumps({"Layers": [unknown]})).int8_share is None


def test_long_lists_of_layers_are_cut() -> None:
    layers = [layer(f"c{each}", "Convolution", [FP32], FP32) for each in range(7)]
    assert summary(parse(json.dumps({"Layers": layers}))) == [
        "int8 runs in 0 of 7 compute layers; fp32 in: c0, c1, c2, c3, c4 and 2 more"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        '{"Layers": 3}',
        '{"Layers": [3]}',
        '{"Layers": [{"Name": "a", "Inputs": "none"}]}',
        '{"Layers": [{"Name": "a", "Inputs": [], "Outputs": [1]}]}',
        "[" * 100_000,
    ],
)
def test_what_is_not_of_the_form_is_one_error(text: str) -> None:
    with pytest.raises(StageError, match="inspector|list of tensors"):
        parse(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from([INT8, FP16, "kgen"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
keys = st.sampled_from(["Name", "LayerType", "Inputs", "Outputs", "Metadata", "TacticName"])
layer_like = st.dictionaries(keys, json_values | st.lists(st.dictionaries(keys, json_values)))


@given(json_values | st.fixed_dictionaries({"Layers": st.lists(layer_like | json_values)}))
def test_any_json_is_read_or_refused(value: Any) -> None:
    try:
        found = parse(json.dumps(value))
    except StageError:
        return
    assert isinstance(found, Inspection)
    assert len(found.layers) == len(value["Layers"])
    assert found.int8_share is None or 0 <= found.int8_share <= 1
    assert summary(found)


class Engine:
    """A loaded engine; there is no GPU to load one on. Its library's words are the real ones."""

    num_io_tensors = 2

    def __init__(self, context: Any) -> None:
        self.context = context
        self.asked = SimpleNamespace(execution_context=None, get_engine_information=self._tell)

    def create_engine_inspector(self) -> Any:
        return self.asked

    def create_execution_context(self, strategy: Any) -> Any:
        assert strategy == tensorrt_rtx.ExecutionContextAllocationStrategy.USER_MANAGED
        return self.context

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = tensorrt_rtx.TensorIOMode
        return modes.INPUT if name == "x" else modes.OUTPUT

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        assert (name, profile) == ("x", 0)
        return [(1, 3), (4, 3), (8, 3)]

    def _tell(self, form: Any) -> str:
        assert form == tensorrt_rtx.LayerInformationFormat.JSON
        assert self.asked.execution_context is self.context
        return document(11)


def test_an_engine_is_asked_for_the_shapes_that_it_was_tuned_for() -> None:
    shapes: dict[str, Any] = {}
    context = SimpleNamespace(set_input_shape=shapes.__setitem__)
    found = inspect(tensorrt_rtx, Engine(context))  # type: ignore[arg-type]
    assert found == parse(document(11))
    assert shapes == {"x": (4, 3)}


def test_no_context_is_one_error() -> None:
    with pytest.raises(StageError, match="no execution context"):
        inspect(tensorrt_rtx, Engine(None))  # type: ignore[arg-type]
