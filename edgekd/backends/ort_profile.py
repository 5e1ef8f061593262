"""ONNX Runtime's own profile: a trace of each kernel, in Chrome's tracing format.

The trace is that of onnxruntime.ai, "Profiling Tools". Its clock counts whole microseconds, so
that a kernel's time is up to one less than it took.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.backends.base import WARM_UP, Arrays, Session, run_times
from edgekd.backends.ort_providers import COMPUTE
from edgekd.measurements import LayerTime

Event = Mapping[str, Any]

_ENDING = "_kernel_time"
_COMPUTE = COMPUTE | {
    *("Attention", "MultiHeadAttention", "QAttention", "LSTM", "GRU", "RNN"),
    *("DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits"),
}
_ROLES = {
    **dict.fromkeys(_COMPUTE, "compute"),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"), "convert"),
    **dict.fromkeys(("ReorderInput", "ReorderOutput", "Transpose", "Cast"), "reformat"),
}
_HOLDERS = ("If", "Loop", "Scan")
_INT8 = re.compile(r"^Q(Linear|Gemm|Attention)|Integer|^DynamicQuantize(LSTM|MatMul)")
_PRECISIONS = {
    "float": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "int8": "int8",
    "uint8": "int8",
    "float8e4m3fn": "fp8",
    "float8e5m2": "fp8",
}
# What the optimiser adds to the name of a node, or of the tensor that a fused one gives.
_ADDED = re.compile(r"(_token_\d+)?(_nchwc|_nhwc)?(_token_\d+)?$")


def total(session: Session, feeds: Arrays, runs: int) -> int:
    """The median nanoseconds of a run, the first ``WARM_UP`` left out."""
    return int(np.median(run_times(session, feeds, WARM_UP + runs)[WARM_UP:]))


def read(trace: Path, runs: int) -> tuple[LayerTime, ...]:
    """The layers of a trace's last runs, each with its median.

    Args:
        trace: the file that ``end_profiling`` names.
        runs: how many of them count.
    """
    kernels = [list(_kernels(each)) for each in _runs(json.loads(trace.read_text()))]
    counted = kernels[-runs:]
    same = [each for each in counted if len(each) == len(counted[-1])]  # a loop may run less often
    times = np.median([[event["dur"] for event in each] for each in same], axis=0)
    return tuple(
        _layer(event, int(1000 * time)) for event, time in zip(counted[-1], times, strict=True)
    )


def _runs(events: Sequence[Event]) -> Iterator[list[Event]]:
    """The events of each inference: the one of the whole comes after those of its nodes."""
    nodes: list[Event] = []
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_ENDING):
            nodes.append(event)
        elif event["name"] == "model_run":
            yield nodes
            nodes = []


def _kernels(events: Sequence[Event]) -> Iterator[Event]:
    """Those in the order in which they began, without what ran within another, as in a Loop."""
    outer = [_span(each) for each in events if each["args"]["op_name"] in _HOLDERS]
    for event in sorted(events, key=lambda each: int(each["ts"])):
        begin, end = _span(event)
        if not any(a <= begin < b and end <= b and (a, b) != (begin, end) for a, b in outer):
            yield event


def _span(event: Event) -> tuple[int, int]:
    return event["ts"], event["ts"] + event["dur"]


def _layer(event: Event, ns: int) -> LayerTime:
    name = event["name"].removesuffix(_ENDING)
    given = event["args"]
    kind = given["op_name"]
    role = _ROLES.get(kind, "other")
    types = [word for tensor in given.get("input_type_shape", []) for word in tensor]
    known = [_PRECISIONS[each] for each in types if each in _PRECISIONS]
    # Weights that were packed before the first run are no inputs any more, and not counted.
    counted = ("activation_size", "parameter_size", "output_size")
    nbytes = None if role == "compute" else sum(int(given[each]) for each in counted)
    return LayerTime(
        name=name,
        kind=kind,
        precision="int8" if _INT8.search(kind) else next(iter(known), "unknown"),
        role=role,
        ns=ns,
        bytes=nbytes,
        nodes=(_ADDED.sub("", name),),
    )
