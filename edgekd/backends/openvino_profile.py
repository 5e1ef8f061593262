"""OpenVINO's own profile: what the runtime model of a compiled model says of each operation.

The runtime model is that of docs.openvino.ai, "OpenVINO Runtime API", ``get_runtime_model``. It
tells the mean over all inferences so far, of times that are cut to whole microseconds each: what
takes less than one takes none.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgekd.measurements import LayerTime

ROUNDS = 5
"""How often a model is compiled, so that there is a median, of as many means."""

Row = Mapping[str, str]
"""What is told of one operation, and its ``name``."""

_COMPUTE = re.compile(r"Convolution|FullyConnected|MatMul|Attention|RNN|LSTM|GRU")
_ROLES = {
    **dict.fromkeys(("FakeQuantize", "Quantize"), "convert"),
    **dict.fromkeys(("Reorder", "Convert", "Transpose"), "reformat"),
}
_DATA = ("Const", "Input", "Output")
_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
_UNTIMED = "not_executed"
_NOTHING = re.compile("unknown|undef")  # implements what is done in place
# What the plugin adds, as in "conv/WithoutBiases/DequantizationMultiply".
_ADDED = re.compile(r"/(WithoutBiases|DequantizationMultiply)\b.*$")


class _Stack(ctypes.Structure):
    """``stack_t`` of sigaltstack(2)."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Gives this thread the signal stack back that it had.

    A model that is compiled with PERF_COUNT puts one of its own there and frees it; since Python's
    handlers run on that stack, the next Ctrl-C would be a segmentation fault (seen with OpenVINO
    2026.4).
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def rows(runtime_model: Any) -> list[Row]:
    """The operations of a runtime model in the order in which they run."""
    found = [
        {name: str(value.astype(str)) for name, value in each.get_rt_info().items()}
        | {"name": str(each.get_friendly_name())}
        for each in runtime_model.get_ordered_ops()
    ]
    return sorted(
        (each for each in found if each["layerType"] not in _DATA),
        key=lambda each: int(each["execOrder"]),
    )


def times(before: Sequence[Row], after: Sequence[Row], runs: tuple[int, int]) -> list[float]:
    """The mean of each operation in microseconds, without the first runs.

    Args:
        before: the rows after the runs that do not count.
        after: and after all.
        runs: how many there were by then.
    """
    few, all_ = runs
    pairs = zip(before, after, strict=True)
    return [(all_ * _mean(late) - few * _mean(early)) / (all_ - few) for early, late in pairs]


def layers(told: Sequence[Row], means: Sequence[Sequence[float]]) -> tuple[LayerTime, ...]:
    """The layers, each with the median.

    Args:
        told: the rows of a model that ran.
        means: of each time that it was compiled the time of each row, in microseconds.
    """
    medians = np.median(means, axis=0)
    return tuple(
        _layer(row, max(0, int(1000 * time)))
        for row, time in zip(told, medians, strict=True)
        if time > 0 or not _NOTHING.match(row["primitiveType"])
    )


def _mean(row: Row) -> int:
    return 0 if row["execTimeMcs"] == _UNTIMED else int(row["execTimeMcs"])


def _layer(row: Row, ns: int) -> LayerTime:
    kind = row["layerType"]
    what, _, precision = row["primitiveType"].rpartition("_")
    names = (_ADDED.sub("", each) for each in row["originalLayersNames"].split(","))
    return LayerTime(
        name=row["name"],
        kind=f"{kind} {what}_{precision}",
        precision=_PRECISIONS.get(precision.lower(), "unknown"),
        role="compute" if _COMPUTE.search(kind) else _ROLES.get(kind, "other"),
        ns=ns,
        nodes=tuple(dict.fromkeys(each for each in names if each)),
    )
