"""What a runtime has at all: operators, opsets, types, shapes. See ``rules`` for the table.

Each function yields a node and what is odd about it; no node where it is about the whole model.
"""

from __future__ import annotations

from edgekd.quantize.graphs import nodes_of, subgraphs
from edgekd.quantize.lint.facts import (
    AXES,
    CHANNELS_SINCE,
    CUSTOM,
    FP8,
    FP8_CAPABILITY,
    NEWEST,
    QOPERATORS,
    SINCE,
    UNKNOWN,
)
from edgekd.quantize.lint.forms import Odd
from edgekd.quantize.lint.view import PRODUCTS, View

_STANDARD = ("", "ai.onnx")


def unknown_operator(view: View) -> Odd:
    """Standard operators that the runtime does not have, and some that nobody has."""
    from onnx import defs

    lacking = UNKNOWN[view.target.backend]
    more = CUSTOM[view.target.backend][""] or ()
    for node in view.everything:
        if node.domain in _STANDARD and node.op_type not in more:
            if node.op_type in lacking:
                yield node, str(node.op_type)
            elif not defs.has(node.op_type):
                yield node, f"{node.op_type}, which ONNX does not have either"


def custom_operator(view: View) -> Odd:
    """Operators of other domains that the runtime does not have."""
    domains = CUSTOM[view.target.backend]
    for node in view.everything:
        if node.domain in _STANDARD:
            continue
        known = domains.get(node.domain, frozenset())
        if known is not None and node.op_type not in known:
            yield node, f"{node.op_type} of '{node.domain}'"


def newer_than_runtime(view: View) -> Odd:
    """An opset or IR version that the runtime does not read."""
    newest_opset, newest_ir = NEWEST[view.target.backend]
    if view.opset > newest_opset:
        yield None, f"opset {view.opset}, and it reads opsets up to {newest_opset}"
    if view.model.ir_version > newest_ir:
        yield None, f"IR version {view.model.ir_version}, and it reads those up to {newest_ir}"


def older_than_qdq(view: View) -> Odd:
    """Q/DQ with what its opset does not have."""
    for each in view.grids:
        if each.node.domain not in _STANDARD:
            continue
        since = SINCE.get(each.stored, 0)
        if view.opset < since:
            yield each.node, f"{each.stored} came with opset {since}, and this is {view.opset}"
        elif each.axis is not None and view.opset < CHANNELS_SINCE:
            came = f"scales by channel came with opset {CHANNELS_SINCE}"
            yield each.node, f"{came}, and this is {view.opset}"


def invalid(view: View) -> Odd:
    """Shapes or types that contradict each other."""
    if view.fault:
        yield None, view.fault


def float_gemm(view: View) -> Odd:
    """Products of matrices in float32 on a GPU of capability 7.5; int8 ones give float32 too."""
    if "7.5" in view.capabilities:
        for node in view.nodes:
            if node.op_type in ("Gemm", "MatMul") and view.kind(node.output[0]) == "float":
                yield node, f"a {node.op_type} of float32"


def float8_capability(view: View) -> Odd:
    """FP8 on GPUs that came before it."""
    older = [each for each in view.capabilities if _version(each) < FP8_CAPABILITY]
    if older:
        for linear in view.grids:
            if linear.stored in FP8:
                yield linear.node, f"FP8 on {', '.join(older)}"


def float8_cpu(view: View) -> Odd:
    """FP8 on a processor."""
    for each in view.grids:
        if each.stored in FP8:
            yield each.node, each.stored


def qoperator(view: View) -> Odd:
    """Operators on integers."""
    for node in view.everything:
        if node.domain in _STANDARD and node.op_type in QOPERATORS:
            yield node, str(node.op_type)


def control_flow(view: View) -> Odd:
    """Products within If, Loop and Scan."""
    for node in view.nodes:
        inner = sum(
            each.op_type in PRODUCTS for graph in subgraphs(node) for each in nodes_of(graph)
        )
        if inner:
            yield node, f"{inner} product{'s' if inner > 1 else ''} within the {node.op_type}"


def computed_axes(view: View) -> Odd:
    """Axes that are not constant."""
    for node in view.nodes:
        axes = node.input[1] if node.op_type in AXES and len(node.input) > 1 else ""
        if axes and axes not in view.constants:
            yield node, f"axes '{axes}'"


def free_input(view: View) -> Odd:
    """Inputs that leave more than the batch free."""
    for each in view.inputs:
        shape = view.shape(each.name)
        if shape and any(isinstance(size, str) for size in shape[1:]):
            yield None, f"input '{each.name}' is {_text(shape)}"


def rankless_input(view: View) -> Odd:
    """Inputs that declare no shape."""
    for each in view.inputs:
        if each.type.HasField("tensor_type") and view.shape(each.name) is None:
            yield None, f"input '{each.name}' declares no shape"


def free_output(view: View) -> Odd:
    """Outputs that leave more than the batch free, where no input does."""
    if any(free_input(view)) or any(rankless_input(view)):
        return
    for each in view.graph.output:
        shape = view.shape(each.name)
        if shape and any(isinstance(size, str) for size in shape[1:]):
            yield None, f"output '{each.name}' is {_text(shape)}"


def fixed_batch(view: View) -> Odd:
    """Inputs whose batch is a number."""
    for each in view.inputs:
        shape = view.shape(each.name)
        if shape and isinstance(shape[0], int):
            yield None, f"input '{each.name}' is {_text(shape)}"


def _version(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


def _text(shape: tuple[int | str, ...]) -> str:
    return "×".join(str(size) for size in shape)
