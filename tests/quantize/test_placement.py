"""Placement: which inputs are quantised, shown on small graphs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd.quantize.forms import FORMS
from edgekd.quantize.placement import place


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


@pytest.mark.parametrize("form", FORMS)
def test_outputs_of_products_and_activations_stay_as_they_are(form: str) -> None:
    found = read_through_qdq(
        graph(("Conv", "x w", "a"), ("Relu", "a", "b"), constants=("w",)), form
    )
    assert found == {"a<x"}


@pytest.mark.parametrize("form", FORMS)
def test_sums_with_constants_and_of_what_no_product_made_stay_in_float(form: str) -> None:
    assert not read_through_qdq(graph(("Add", "x w", "a"), constants=("w",)), form)
    assert not read_through_qdq(graph(("Relu", "x", "a"), ("Add", "a x", "b")), form)


def test_what_has_no_range_or_no_constant_weight_is_named_as_kept_in_float() -> None:
    found = graph(("Conv", "x w", "a"), ("MatMul", "a x", "b"), constants=("w",))
    placement = place(found, FORMS["s8s8"], {"x", "a"})
    assert placement.kept_float == ("MatMul_b",)
    assert place(found, FORMS["s8s8"], {"a"}).kept_float == ("Conv_a", "MatMul_b")


def test_the_channel_axis_is_the_operators() -> None:
    gemm = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    plain = helper.make_node("Gemm", ["x", "w"], ["y"])
    for node, axis in ((gemm, 0), (plain, 1)):
        found = graph(("Relu", "x", "y"), constants=("w",))
        del found.node[:]
        found.node.append(node)
        assert place(found, FORMS["s8s8"], {"x"}).weights[0].axis == axis
