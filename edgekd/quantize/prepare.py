"""Any user's ONNX file, as quantisation wants it; the file itself is never touched.

What changes: local functions are inlined, old opsets upgraded, every node gets a name of its
own, and ONNX Runtime's basic optimiser folds constants and batch norm. Passes that rearrange a
graph are left out, so that layers keep the names and the order that their author gave them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekd.artifacts import OnnxModel, TensorSpec
from edgekd.backends import ort
from edgekd.calibration.feeds import Feeds
from edgekd.errors import BackendUnavailable, BuildError, QuantizeError
from edgekd.quantize.graphs import (
    is_large,
    name_nodes,
    nodes_of,
    opset,
    sort_nodes,
    tensors_of,
    title,
)
from edgekd.quantize.placement import PRODUCTS
from edgekd.quantize.proof import batches

if TYPE_CHECKING:
    import onnx

FILE = "model.onnx"
LEAST_OPSET = 13
"""The first in which DequantizeLinear has an axis."""

_REARRANGE = ("TransposeOptimizer", "MatMulAddFusion")
_WHOLE = {
    "Attention",
    "Gelu",
    "GroupNormalization",
    "HardSwish",
    "Mish",
    "RMSNormalization",
    "RotaryEmbedding",
    "SwiGLU",
    "Swish",
}
"""Operators that a runtime may have no kernel for and would write out as many small ones."""
_QUANTISED = {
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "MatMulBnb4",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QAttention",
    "QGemm",
    "QuantizeLinear",
}
_FUSED = re.compile(r"(/\w*Fusion/?)+$")
_TOLERANCE = 1e-3
_SAMPLES = 4


def prepare(path: Path, work: Path) -> OnnxModel:
    """Writes ``model.onnx`` into ``work``, and its tensors beside it where they are large.

    Inputs, outputs and all names that survive are the original's; ``parity`` is left at 0, see
    ``compare``.

    Raises:
        QuantizeError: the file cannot be read, is quantised already, is not float32, has nothing
            to quantise, or holds an operator that nobody knows.
        BackendUnavailable: onnx or ONNX Runtime is not installed.
    """
    proto = _read(path)
    import onnx
    from onnx.inliner import inline_local_functions

    if proto.functions:
        proto = inline_local_functions(proto)
    _refuse(proto.graph, path)
    _close(proto)
    if opset(proto) < LEAST_OPSET:
        proto = _upgrade(proto, path)
    name_nodes(proto.graph)
    _fold(proto, path, work)
    name_nodes(proto.graph)
    constants = {each.name for each in proto.graph.initializer}
    products = [each for each in proto.graph.node if each.op_type in PRODUCTS]
    if not any(name in constants for each in products for name in each.input[:2]):
        inner = any(each.op_type in PRODUCTS for each in nodes_of(proto.graph))
        within = " outside of If, Loop and Scan" if inner else ""
        raise QuantizeError(
            f"{path} has nothing to quantise: no convolution or product with constant"
            f" weights{within}"
        )
    out = work / FILE
    onnx.save(proto, out)
    return OnnxModel(
        path=out,
        opset=opset(proto),
        model_inputs=tuple(_spec(each, path) for each in proto.graph.input),
        model_outputs=tuple(_spec(each, path) for each in proto.graph.output),
        parity=0.0,
    )


def compare(path: Path, model: OnnxModel, feeds: Feeds) -> float:
    """The largest absolute difference of a file's outputs to those of its prepared model.

    Args:
        path: what the user gave.
        model: what ``prepare`` made of it.
        feeds: of which the first few samples are run.

    Raises:
        QuantizeError: it is more than a thousandth of an output's largest value.
    """
    x = feeds.take(next(batches(len(feeds), model.model_inputs, _SAMPLES)))
    with ort.open_model(path, optimise=False) as session:
        expected = session.run(x)
    with ort.open_model(model.path, optimise=False) as session:
        found = session.run(x)
    worst = 0.0
    for name, values in expected.items():
        if values.dtype.kind != "f" or not values.size:
            continue
        same = values == found[name]  # infinities too
        with np.errstate(invalid="ignore"):
            difference = float(np.where(same, 0, np.abs(values - found[name])).max())
        if not difference <= _TOLERANCE * max(1.0, float(np.abs(values).max())):
            raise QuantizeError(
                f"once its constants are folded, output '{name}' of {path} differs by"
                f" {difference:.2g}",
                "the model may draw random numbers, or ONNX Runtime's optimiser has a fault",
            )
        worst = max(worst, difference)
    return worst


def files(path: Path) -> list[Path]:
    """An ONNX file, and those beside it that hold its tensors.

    Raises:
        QuantizeError: it cannot be read, or one of them is missing.
    """
    names = {
        entry.value
        for tensor in tensors_of(_read(path).graph)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path, *(path.parent / name for name in sorted(names))]


def _read(path: Path) -> onnx.ModelProto:
    """The file without its external tensors, once it is clear that they are there."""
    try:
        import onnx
    except ImportError as error:
        raise BackendUnavailable("onnx", "quantize", "it is not installed") from error
    try:
        proto = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise QuantizeError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:  # the errors of protobuf, which differ by its version
        raise QuantizeError(f"{path} is not an ONNX file, or only a part of one") from error
    if not proto.graph.node or not proto.opset_import:
        raise QuantizeError(f"{path} is not an ONNX file, or only a part of one")
    for found, known, what in (
        (proto.ir_version, onnx.IR_VERSION, "IR version"),
        (opset(proto), onnx.defs.onnx_opset_version(), "opset"),
    ):
        if found > known:
            raise QuantizeError(
                f"{path} has {what} {found}, and onnx {onnx.__version__} knows them up to {known}",
                "install a newer onnx, or export the model with an older opset",
            )
    for tensor in tensors_of(proto.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _find_external(tensor, path)
    return proto


def _find_external(tensor: onnx.TensorProto, path: Path) -> None:
    """Whether a tensor's bytes are where the file says."""
    where = {each.key: each.value for each in tensor.external_data}
    name = where["location"]
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise QuantizeError(f"{path} keeps '{tensor.name}' in '{name}', outside its folder")
    beside = path.parent / name
    if not beside.is_file():
        raise QuantizeError(f"{path} keeps its tensors in {name}, which is not beside it")
    end = int(where.get("offset", 0)) + int(where.get("length", 0))
    if beside.stat().st_size < end:
        raise QuantizeError(f"{beside} is only a part of what {path.name} keeps there")


def _refuse(graph: onnx.GraphProto, path: Path) -> None:
    """Raises QuantizeError for what has no float32 form to start from."""
    from onnx import TensorProto

    for node in nodes_of(graph):
        if node.op_type in _QUANTISED or node.op_type.startswith("QLinear"):
            raise QuantizeError(
                f"{path} is quantised already: node '{title(node)}' is {node.op_type}",
                "give the float32 model that it was made from",
            )
    kinds = {each.name: each.data_type for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            kinds[node.output[0]] = node.attribute[0].t.data_type or TensorProto.FLOAT
    for node in graph.node:
        for name in node.input[:2] if node.op_type in PRODUCTS else ():
            kind = kinds.get(name, TensorProto.FLOAT)
            if kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE):
                raise QuantizeError(
                    f"{path} is {TensorProto.DataType.Name(kind).lower()}: so are the weights of"
                    f" node '{title(node)}'",
                    "give the float32 model that it was made from, or export it as float32",
                )
    for value in graph.input:
        if not value.type.HasField("tensor_type"):
            raise QuantizeError(f"input '{value.name}' of {path} is not a tensor")


def _close(proto: onnx.ModelProto) -> None:
    """Makes constants of weights that are inputs with a default, as they were up to IR 3."""
    constants = {each.name for each in proto.graph.initializer}
    inputs = [each for each in proto.graph.input if each.name not in constants]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = max(proto.ir_version, 8)


def _upgrade(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    from onnx import version_converter

    try:
        return version_converter.convert_version(proto, LEAST_OPSET)
    except (version_converter.ConvertError, RuntimeError) as error:
        first_line = str(error).splitlines()[0]
        raise QuantizeError(
            f"{path} has opset {opset(proto)}, and onnx cannot upgrade it: {first_line}",
            f"export it with opset {LEAST_OPSET} or later",
        ) from error


def _fold(proto: onnx.ModelProto, path: Path, work: Path) -> None:
    """Replaces the graph's nodes and constants by those of the optimised graph.

    Operators of ``_WHOLE`` are taken out first, with what they read and write as outputs and
    inputs of the graph, and put back when it is done.
    """
    import onnx

    graph = proto.graph
    inputs, outputs = list(graph.input), list(graph.output)
    kept = _cut(proto)
    folded = work / FILE
    try:
        ort.simplify(proto.SerializeToString(), path.parent, folded, _REARRANGE)
    except BuildError as error:
        raise _told(error, graph, path) from error
    model = onnx.load(folded, load_external_data=False)
    if not is_large(model.graph):
        onnx.load_external_data_for_model(model, str(work))
        (work / f"{FILE}.data").unlink(missing_ok=True)
    made = [each for each in graph.input if each.name in {n for node in kept for n in node.output}]
    for name in ("node", "initializer", "sparse_initializer", "value_info", "input", "output"):
        del getattr(graph, name)[:]
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    for node in model.graph.node:  # a fused node is the one that its author named
        node.name = _FUSED.sub("", node.name)
    graph.node.extend([*model.graph.node, *kept])
    graph.initializer.extend(model.graph.initializer)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    given = {each.name for each in (*inputs, *outputs)}
    infos = {each.name: each for each in (*model.graph.value_info, *model.graph.output, *made)}
    graph.value_info.extend(each for name, each in infos.items() if name not in given)
    known = {each.domain for each in proto.opset_import}
    proto.opset_import.extend(each for each in model.opset_import if each.domain not in known)
    used = {each.domain for each in nodes_of(graph)} | {"", "ai.onnx"}
    imports = [each for each in proto.opset_import if each.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(imports)
    sort_nodes(graph)


def _cut(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Takes the nodes of ``_WHOLE`` out of the graph, and returns them."""
    import onnx

    graph = proto.graph
    cut = [each for each in graph.node if each.op_type in _WHOLE and not each.domain]
    if not cut:
        return []
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    known = {each.name: each for each in (*inferred.value_info, *inferred.output, *inferred.input)}
    constants = {each.name: each for each in graph.initializer}
    for node in cut:  # onnx does not infer all of them: they give what they take
        like = known.get(node.input[0]) or onnx.helper.make_tensor_value_info(
            "", onnx.TensorProto.FLOAT, None
        )
        for name in node.output:
            known.setdefault(name, onnx.ValueInfoProto(name=name, type=like.type))
    made = {name for node in cut for name in node.output if name}
    names = [name for node in cut for name in node.input if name]
    there = {each.name for each in graph.input} | made
    outputs = {each.name: each for each in graph.output if each.name not in there}
    for name in names:
        if name in there or name in outputs:
            continue
        outputs[name] = (
            onnx.helper.make_tensor_value_info(name, constants[name].data_type, None)
            if name in constants
            else known.get(name, onnx.ValueInfoProto(name=name))
        )
    rest = [each for each in graph.node if each not in cut]
    del graph.node[:], graph.output[:]
    graph.node.extend(rest)
    graph.output.extend(outputs.values())
    graph.input.extend(known[name] for name in sorted(made))
    return cut


def _told(error: BuildError, graph: onnx.GraphProto, path: Path) -> QuantizeError:
    """What ONNX Runtime refuses, in terms of the model; an operator by its node."""
    for node in nodes_of(graph):
        if node.domain and f"{node.domain}:{node.op_type}" in error.message:
            return QuantizeError(
                f"node '{title(node)}' of {path} is the custom operator {node.op_type} of"
                f" '{node.domain}', which ONNX Runtime does not have",
                "write it with standard operators, or as a function of the model",
            )
    reason = error.message.removeprefix("ONNX Runtime refuses the model: ")
    return QuantizeError(f"ONNX Runtime refuses {path}: {reason}")


def _spec(value: onnx.ValueInfoProto, path: Path) -> TensorSpec:
    from onnx import helper

    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        raise QuantizeError(
            f"'{value.name}' of {path} declares no shape", "name its dimensions, free or fixed"
        )
    shape = tuple(
        each.dim_value if each.HasField("dim_value") else each.dim_param or "?"
        for each in kind.shape.dim
    )
    return TensorSpec(value.name, str(helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape)
