"""The machine's roof: the most that it computes and moves, measured, and who reaches it.

Williams, Waterman, Patterson, "Roofline" (2009): a kernel of so many operations on so many bytes
takes at least as long as the slower of the two, at the rates that the machine has at best.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.artifacts import EngineFile
from edgekd.backends.base import find
from edgekd.measurements import LayerTime, Roof

if TYPE_CHECKING:
    import onnx

RUNTIMES = ("onnxruntime", "openvino")
"""The backends on the CPU, and so the engines that have a roof."""
_SIZES = (256, 512, 1024)  # of square matrices: on a small machine the caches hold few
_COPIED = 64 << 20  # bytes, more than caches hold
_LIMIT_NS = 60_000_000  # for each size, runtime and precision


@cache
def roof(threads: int) -> Roof | None:
    """Measures the CPU with products of large matrices, and a copy; it takes about a second.

    Products are those of the runtimes that are here, whichever is the faster.

    Args:
        threads: for one product, or one copy.

    Returns:
        None without a runtime, or without the package ``onnx`` that writes the products.
    """
    runtimes = [each for each in RUNTIMES if find(each).probe().installed]
    if not runtimes or not find_spec("onnx"):
        return None
    return Roof(
        macs_per_s={name: _products(name, runtimes, threads) for name in ("fp32", "int8")},
        bytes_per_s=_copy(threads),
        threads=threads,
    )


def bound_by(layer: LayerTime, roof: Roof) -> tuple[str, float] | None:
    """What keeps a layer from being faster: ``compute`` or ``memory``.

    Returns:
        That, and the share of the attainable rate that the layer reached, above 1 where its data
        lay in caches; None where its time, its cost or the peak of its precision is not known.
    """
    if not layer.ns or layer.macs is None or layer.bytes is None:
        return None
    computing_s = 0.0
    if layer.macs:
        if layer.precision not in roof.macs_per_s:
            return None
        computing_s = layer.macs / roof.macs_per_s[layer.precision]
    moving_s = layer.bytes / roof.bytes_per_s
    least_s = max(computing_s, moving_s)
    return "memory" if moving_s > computing_s else "compute", least_s / (layer.ns / 1e9)


def _products(precision: str, runtimes: list[str], threads: int) -> float:
    """The most multiply-accumulates a second of any runtime, at any size."""
    best = 0.0
    with TemporaryDirectory() as folder:
        for size in _SIZES:
            path = Path(folder, f"{size}.onnx")
            path.write_bytes(_product(precision, size).SerializeToString())
            feeds = {"x": np.ones((size, size), _DTYPES[precision])}
            for name in runtimes:
                with find(name).open(_engine(name, path), threads) as session:
                    ns = _fastest_ns(lambda: session.run(feeds))  # noqa: B023 - it runs at once
                best = max(best, size**3 / (ns / 1e9))
    return best


def _engine(runtime: str, path: Path) -> EngineFile:
    """An ONNX file as an engine, which both runtimes open as it is."""
    return EngineFile(
        role="",
        target="",
        backend=runtime,
        backend_version="",
        device="cpu",
        precision="",
        path=path,
        model_inputs=(),
        model_outputs=(),
        executed=True,
    )


def _copy(threads: int) -> float:
    """Bytes a second, read and written, of memory that no cache holds."""
    source, copied = np.ones((2, _COPIED), np.uint8)
    parts = list(zip(np.array_split(source, threads), np.array_split(copied, threads), strict=True))

    def move(part: tuple[Any, Any]) -> None:
        np.copyto(part[1], part[0])  # without the interpreter's lock

    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        ns = _fastest_ns(lambda: list(pool.map(move, parts)))
    return 2 * _COPIED / (ns / 1e9)


def _fastest_ns(work: Callable[[], Any]) -> int:
    """The shortest of several goes, the first left out."""
    work()
    times: list[int] = []
    while len(times) < 3 or (sum(times) < _LIMIT_NS and len(times) < 100):
        begin = perf_counter_ns()
        work()
        times.append(perf_counter_ns() - begin)
    return min(times)


_DTYPES = {"fp32": np.float32, "int8": np.uint8}


def _product(precision: str, size: int) -> onnx.ModelProto:
    """A product of square matrices, the second one stored: float, or u8s8 between Q and DQ."""
    from onnx import TensorProto, helper, numpy_helper

    shape = (size, size)
    quantised = precision == "int8"
    stored = {"w": np.ones(shape, np.int8 if quantised else np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if quantised:
        scales = {"s": np.float32(0.01), "z": np.uint8(0), "wz": np.int8(0)}
        stored |= {name: np.array(value) for name, value in scales.items()}
        nodes = [
            helper.make_node("DequantizeLinear", ["x", "s", "z"], ["xf"]),
            helper.make_node("DequantizeLinear", ["w", "s", "wz"], ["wf"]),
            helper.make_node("MatMul", ["xf", "wf"], ["yf"]),
            helper.make_node("QuantizeLinear", ["yf", "s", "z"], ["y"]),
        ]
    kind = TensorProto.UINT8 if quantised else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9)
