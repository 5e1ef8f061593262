"""Placement: which inputs are quantised, shown on small graphs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd.quantize.forms import FORMS
from edgekd.quantize.placement import place, scales


def graph(*nodes: tuple[str, str, str], constants: tuple[str, ...] = ()) -> onnx.GraphProto:
    """A graph from (operator, inputs, output); constants are weights of 4 × 4 × 1 × 1."""
    return helper.make_graph(
        [
            helper.make_node(kind, inputs.split(), [output], f"{kind}_{output}")
            for kind, inputs, output in nodes
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 4, 8, 8])],
        [helper.make_tensor_value_info(nodes[-1][2], 1, None)],
        [numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), each) for each in constants],
    )


def read_through_qdq(found: onnx.GraphProto, form: str, unknown: tuple[str, ...] = ()) -> set[str]:
    """Edges as "output of the node < input"."""
    known = {name for node in found.node for name in (*node.input, *node.output)} - set(unknown)
    placement = place(found, FORMS[form], known)
    return {
        f"{found.node[index].output[0]}<{found.node[index].input[place_of_input]}"
        for index, place_of_input in placement.edges
    }


RESIDUAL = (
    ("Conv", "x w1", "a"),
    ("Relu", "a", "b"),
    ("Conv", "b w2", "c"),
    ("Add", "c x", "d"),
    ("Relu", "d", "e"),
    ("ReduceMean", "e", "f"),
    ("Flatten", "f", "g"),
    ("Gemm", "g w3", "h"),
)


def test_tensorrts_form_quantises_the_residual_and_not_the_branch_that_is_fused() -> None:
    found = read_through_qdq(graph(*RESIDUAL, constants=("w1", "w2", "w3")), "s8s8")
    assert found == {"a<x", "c<b", "d<x", "f<e", "h<g"}


def test_the_cpu_form_quantises_both_inputs_of_the_sum() -> None:
    found = read_through_qdq(graph(*RESIDUAL, constants=("w1", "w2", "w3")), "u8s8")
    assert found == {"a<x", "c<b", "d<x", "d<c", "f<e", "h<g"}


@pytest.mark.parametrize("form", ["s8s8", "f8"])
def test_fp8_quantises_products_alone(form: str) -> None:
    found = read_through_qdq(graph(*RESIDUAL, constants=("w1", "w2", "w3")), form)
    assert found >= {"a<x", "c<b", "h<g"}
    assert (len(found) == 3) == (form == "f8")


def test_of_two_convolutions_the_later_one_is_fused_with_the_sum() -> None:
    shortcut = (("Conv", "x w1", "a"), ("Conv", "x w2", "b"), ("Add", "a b", "c"))
    assert read_through_qdq(graph(*shortcut, constants=("w1", "w2")), "s8s8") == {
        "a<x",
        "b<x",
        "c<a",
    }
    swapped = (("Conv", "x w1", "a"), ("Conv", "x w2", "b"), ("Add", "b a", "c"))
    assert read_through_qdq(graph(*swapped, constants=("w1", "w2")), "s8s8") == {
        "a<x",
        "b<x",
        "c<a",
    }


def stored(found: onnx.GraphProto, form: str = "u8s8", keep: tuple[str, ...] = ()) -> set[str]:
    """What is read through Q/DQ by anything."""
    known = {name for node in found.node for name in (*node.input, *node.output)}
    edges = place(found, FORMS[form], known, keep).edges
    return {found.node[index].input[at] for index, at in edges}


def shared(
    found: onnx.GraphProto, form: str, lows: dict[str, float] | None = None
) -> set[frozenset[str]]:
    """Sets of activations that have one scale, where each has a range of its own."""
    names = sorted({name for node in found.node for name in (*node.input, *node.output)})
    ranges = {name: ((lows or {}).get(name, 0.0), 1.0 + place) for place, name in enumerate(names)}
    of_each = scales(place(found, FORMS[form], ranges), ranges, FORMS[form])
    sets = {frozenset(n for n in names if of_each[n] == of_each[name]) for name in names}
    return {each for each in sets if len(each) > 1}


@pytest.mark.parametrize("form", ["s8s8", "f8"])
def test_for_a_gpu_outputs_of_products_and_activations_stay_as_they_are(form: str) -> None:
    found = graph(("Conv", "x w", "a"), ("Relu", "a", "b"), constants=("w",))
    assert read_through_qdq(found, form) == {"a<x"}


@pytest.mark.parametrize("form", ["u8s8", "a8s8"])
def test_for_a_cpu_a_convolutions_output_is_stored_past_its_relu(form: str) -> None:
    """Or else ONNX Runtime computes it in float."""
    relu = (("Conv", "x w", "a"), ("Relu", "a", "b"), ("Softmax", "b", "c"))
    assert stored(graph(*relu, constants=("w",)), form) == {"x", "b"}
    swish = (("Conv", "x w", "a"), ("HardSwish", "a", "b"), ("Softmax", "b", "c"))
    assert stored(graph(*swish, constants=("w",)), form) == {"x", "a"}
    twice = (("Conv", "x w", "a"), ("Relu", "a", "b"), ("Softmax", "a", "c"))
    assert stored(graph(*twice, constants=("w",)), form) == {"x", "a"}


@pytest.mark.parametrize(("low", "folded"), [(0.0, True), (-1.0, False)])
def test_a_clip_is_folded_only_if_it_cuts_at_zero(low: float, folded: bool) -> None:
    found = graph(
        ("Conv", "x w", "a"), ("Clip", "a low", "b"), ("Softmax", "b", "c"), constants=("w",)
    )
    found.initializer.append(numpy_helper.from_array(np.array(low, np.float32), "low"))
    assert stored(found) == ({"x", "b"} if folded else {"x", "a"})


def test_on_a_cpu_every_reader_of_what_is_stored_reads_it_through_qdq() -> None:
    """A float reader of its own would keep a convolution from being int8."""
    found = graph(
        ("Conv", "x w", "a"), ("Softmax", "a", "b"), ("Conv", "a w", "c"), constants=("w",)
    )
    assert {"b<a", "c<a"} <= read_through_qdq(found, "u8s8")
    assert "b<a" not in read_through_qdq(found, "s8s8")


def test_a_convolution_that_is_an_output_is_written_through_qdq_on_a_cpu() -> None:
    found = graph(("Conv", "x w", "a"), constants=("w",))
    assert place(found, FORMS["u8s8"], {"x", "a"}).outputs == {"a"}
    assert place(found, FORMS["s8s8"], {"x", "a"}).outputs == set()
    gemm = graph(("Gemm", "x w", "a"), constants=("w",))
    assert place(gemm, FORMS["u8s8"], {"x", "a"}).outputs == set()
    total = graph(("Conv", "x w", "a"), ("Conv", "x w", "b"), ("Add", "a b", "c"), constants=("w",))
    assert place(total, FORMS["u8s8"], {"x", "a", "b", "c"}).outputs == set()


SQUEEZE = (
    ("Conv", "x w", "a"),
    ("Sigmoid", "a", "s"),
    ("Mul", "a s", "b"),  # SiLU
    ("GlobalAveragePool", "b", "c"),
    ("Conv", "c w", "d"),
    ("HardSigmoid", "d", "e"),
    ("Mul", "b e", "f"),
    ("Conv", "f w", "g"),
    ("Softmax", "g", "h"),
)


def test_a_gated_block_is_int8_throughout_on_a_cpu() -> None:
    """HardSigmoid has no int8 kernel, but what it is made of is at hand."""
    assert stored(graph(*SQUEEZE, constants=("w",))) == set("xasbcdefg")


def test_for_tensorrt_a_product_reads_what_is_stored_for_another_reader() -> None:
    """Nothing between a convolution and its SiLU; the gate, which is small, stays in float."""
    found = read_through_qdq(graph(*SQUEEZE, constants=("w",)), "s8s8")
    assert found == {"a<x", "c<b", "d<c", "f<b", "g<f"}


def test_a_residual_stream_that_layers_normalise_stays_in_float() -> None:
    block = graph(
        ("LayerNormalization", "x k", "a"),
        ("MatMul", "a w", "b"),
        ("Add", "b k", "c"),
        ("Add", "x c", "d"),
        ("LayerNormalization", "d k", "e"),
        constants=("w", "k"),
    )
    for form in FORMS:
        assert read_through_qdq(block, form) == {"b<a"}


def test_a_mean_over_what_is_no_image_stays_in_float_on_a_cpu() -> None:
    found = graph(("Conv", "x w", "a"), ("ReduceMean", "a", "b"), ("Gemm", "b w", "c"))
    found.initializer.append(numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w"))
    assert stored(found) == {"x", "a", "b"}


@pytest.mark.parametrize("form", FORMS)
def test_both_inputs_of_attentions_products_are_quantised(form: str) -> None:
    found = graph(("Softmax", "x", "p"), ("Transpose", "x", "v"), ("MatMul", "p v", "a"))
    known = {"x", "p", "v", "a"}
    placement = place(found, FORMS[form], known)
    assert placement.edges == {(2, 0), (2, 1)}
    assert placement.kept_float == ()
    assert placement.weights == {}


JOINED = (
    ("Conv", "x w", "a"),
    ("Conv", "x w", "b"),
    ("Concat", "a b", "c"),
    ("Conv", "c w", "d"),
    ("Softmax", "d", "e"),
)


@pytest.mark.parametrize("form", ["s8s8", "u8s8", "a8s8"])
def test_a_concat_and_its_branches_share_one_scale(form: str) -> None:
    found = graph(*JOINED, constants=("w",))
    assert {"c<a", "c<b", "d<c"} <= read_through_qdq(found, form)
    assert shared(found, form) == {frozenset("abc")}


def test_a_concat_that_no_int8_reads_is_left_alone_by_tensorrt() -> None:
    found = graph(*JOINED[:3], ("Softmax", "c", "e"), constants=("w",))
    assert read_through_qdq(found, "s8s8") == {"a<x", "b<x"}
    assert shared(found, "s8s8") == set()


def test_a_concat_with_what_is_float_stays_float_on_a_cpu() -> None:
    found = graph(
        ("Conv", "x w", "a"),
        ("Softmax", "x", "b"),
        ("Concat", "a b", "c"),
        ("Conv", "a w", "d"),
        constants=("w",),
    )
    assert stored(found) == {"x", "a"}
    assert shared(found, "u8s8") == set()


def test_a_convolution_that_serves_a_concat_in_float_alone_is_float_on_a_cpu() -> None:
    """OpenVINO would lose the zero point of its input."""
    found = graph(
        ("Conv", "x w", "a"),
        ("Transpose", "a", "b"),
        ("Concat", "token b", "c"),
        ("LayerNormalization", "c w", "d"),
        ("MatMul", "d w", "e"),
        constants=("token", "w"),
    )
    for form in FORMS:
        is_cpu = FORMS[form].kernels == "cpu"
        assert stored(found, form) == ({"d"} if is_cpu else {"x", "d"})
        placement = place(found, FORMS[form], set("xabcde"))
        assert placement.kept_float == (("Conv_a",) if is_cpu else ())
        assert (0 in placement.weights) != is_cpu


def test_concats_of_concats_share_one_scale_altogether() -> None:
    found = graph(
        *JOINED[:3],
        ("Concat", "c a", "d"),
        ("Conv", "d w", "e"),
        ("Softmax", "e", "f"),
        constants=("w",),
    )
    for form in ("s8s8", "u8s8"):
        assert shared(found, form) == {frozenset("abcd")}


def test_on_a_cpu_what_moves_values_does_so_in_int8_with_one_scale() -> None:
    found = graph(
        ("Conv", "x w", "a"),
        ("MaxPool", "a", "b"),
        ("Reshape", "b shape", "c"),
        ("Transpose", "c", "d"),
        ("MatMul", "d w", "e"),
        constants=("w",),
    )
    found.initializer.append(numpy_helper.from_array(np.array([0, 4, -1]), "shape"))
    assert stored(found) == set("xabcd")
    assert shared(found, "u8s8") == {frozenset("abcd")}
    assert stored(found, "s8s8") == {"x", "d"}  # TensorRT moves Q/DQ past them by itself


def test_what_float_operators_move_is_quantised_where_it_is_read() -> None:
    """Each part of what is cut has its own range."""
    found = graph(("Softmax", "x", "a"), ("Transpose", "a", "b"), ("MatMul", "b w", "c"))
    found.initializer.append(numpy_helper.from_array(np.ones((4, 4), np.float32), "w"))
    assert stored(found) == {"b"}


def test_on_a_cpu_what_is_never_negative_shares_no_scale_with_what_may_be() -> None:
    """At another zero point than the lowest its ReLU would not be folded."""
    found = graph(*JOINED, constants=("w",))
    lows = {"a": -0.5, "c": -0.5}
    assert shared(found, "u8s8", lows) == {frozenset("ac")}
    assert shared(found, "s8s8", lows) == {frozenset("abc")}


def test_a_shared_scale_is_that_of_all_ranges_together() -> None:
    ranges = {"x": (0.0, 1.0), "a": (0.0, 2.0), "b": (-1.0, 0.5), "c": (-1.0, 1.5), "d": (0.0, 1.0)}
    form = FORMS["s8s8"]
    found = scales(place(graph(*JOINED, constants=("w",)), form, ranges), ranges, form)
    assert found["a"] == found["b"] == found["c"] == form.activation(-1.0, 2.0)
    assert found["x"] == form.activation(0.0, 1.0)


@pytest.mark.parametrize("form", FORMS)
def test_sums_with_constants_and_of_what_no_product_made_stay_in_float(form: str) -> None:
    assert not read_through_qdq(graph(("Add", "x w", "a"), constants=("w",)), form)
    assert not read_through_qdq(graph(("Relu", "x", "a"), ("Add", "a x", "b")), form)


def test_what_has_no_range_or_no_constant_weight_is_named_as_kept_in_float() -> None:
    found = graph(
        ("Conv", "x w", "a"), ("MatMul", "w a", "b"), ("Conv", "x a", "c"), constants=("w",)
    )
    placement = place(found, FORMS["s8s8"], {"x", "a"})
    assert placement.kept_float == ("MatMul_b", "Conv_c")
    assert place(found, FORMS["s8s8"], {"a"}).kept_float == ("Conv_a", "MatMul_b", "Conv_c")


@pytest.mark.parametrize("form", FORMS)
def test_a_node_that_is_to_stay_in_float_does(form: str) -> None:
    found = graph(("Conv", "x w", "a"), ("Conv", "a w", "b"), ("Conv", "b w", "c"))
    found.initializer.append(numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w"))
    placement = place(found, FORMS[form], {"x", "a", "b", "c"}, ["Conv_b"])
    assert placement.kept_float == ("Conv_b",)
    assert placement.weights.keys() == {0, 2}
    assert (2, 0) in placement.edges


def test_an_operator_of_another_domain_is_none_of_these() -> None:
    found = graph(("Conv", "x w", "a"), constants=("w",))
    found.node[0].domain = "com.example"
    assert place(found, FORMS["s8s8"], {"x"}).kept_float == ("Conv_a",)


def test_what_a_subgraph_reads_is_not_folded_away() -> None:
    body = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["n"])],
        "b",
        [],
        [helper.make_tensor_value_info("n", 1, None)],
    )
    found = graph(("Conv", "x w", "a"), ("Relu", "a", "b"), ("Softmax", "b", "c"), constants=("w",))
    found.node.append(
        helper.make_node("If", ["on"], ["d"], "if", then_branch=body, else_branch=body)
    )
    assert stored(found) == {"x", "a"}


def test_the_channel_axis_is_the_operators() -> None:
    for kind, attributes, axis in (
        ("Gemm", {"transB": 1}, 0),
        ("Gemm", {}, 1),
        ("Conv", {}, 0),
        ("ConvTranspose", {}, 1),
        ("MatMul", {}, -1),
    ):
        found = graph(("Relu", "x", "y"), constants=("w",))
        del found.node[:]
        found.node.append(helper.make_node(kind, ["x", "w"], ["y"], **attributes))
        assert place(found, FORMS["s8s8"], {"x"}).weights[0].axis == axis
