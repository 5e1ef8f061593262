"""One pass of the samples through a model, and the statistics of every float tensor."""

from __future__ import annotations

import copy
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekd import preprocessing as pre
from edgekd.backends import ort
from edgekd.backends.base import usable_cores
from edgekd.calibration import feeds as samples
from edgekd.calibration.feeds import Array, Feeds
from edgekd.calibration.statistics import Statistics
from edgekd.data.batches import slices
from edgekd.errors import CalibrationError
from edgekd.progress import Progress, silent
from edgekd.store import hash_file

if TYPE_CHECKING:
    import onnx

_BATCH_BYTES = 2**23  # of the tensors that one batch makes

# What need not be looked at: how its statistics follow from those of the first input.
_FOLLOWS: Mapping[str, Callable[[Statistics], Statistics]] = {
    "Relu": Statistics.rectified,
    **dict.fromkeys(
        ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"), copy.deepcopy
    ),
}


@dataclass(frozen=True)
class Collected:
    """What one pass found.

    Attributes:
        statistics: of every float tensor outside of subgraphs, the inputs among them.
        half: the same after the first half of the samples.
        samples: how many there were.
        model_sha256: of the model's file.
        preprocessing_sha256: empty where the samples were taken as they are.
    """

    statistics: Mapping[str, Statistics]
    half: Mapping[str, Statistics]
    samples: int
    model_sha256: str
    preprocessing_sha256: str


def collect(
    path: Path, feeds: Feeds, work: Path, progress: Progress = silent, batch: int = 32
) -> Collected:
    """Runs an fp32 model with every tensor as an output, batch by batch.

    Memory is two batches of tensors and two sets of statistics, however many samples there are.

    Args:
        path: the model.
        feeds: what to run it on.
        work: a folder for a copy of the model, which is gone afterwards.
        batch: the most samples at a time; fewer where their tensors are large, and always as
            many as the model asks for if it does.

    Raises:
        CalibrationError: the samples do not fit the model; a tensor is NaN or infinite.
    """
    with tempfile.TemporaryDirectory(dir=work, prefix="exposed-") as name:
        exposed, follow = _expose(path, Path(name))
        with ort.open_model(exposed, max(1, usable_cores() - 1)) as session:
            samples.check(feeds, session.inputs)
            tensors = [
                each.name
                for each in session.outputs
                if each.dtype == "float32" and each.name not in follow
            ]
            fixed = _fixed_batch(session)
            if not fixed:
                made = session.run(feeds.take(slice(0, 1)))
                of_one = sum(np.asarray(made[each]).nbytes for each in tensors)
                batch = max(1, min(batch, _BATCH_BYTES // max(1, of_one)))
                del made
            statistics: dict[str, Statistics] = {}
            half: dict[str, Statistics] = {}
            for part, values in _batches(session, tensors, feeds, fixed, batch):
                for each in [*feeds.arrays, *tensors]:
                    if values[each].dtype == np.float32:
                        _see(statistics.setdefault(each, Statistics()), values[each], each)
                del values  # before the next batch is waited for
                if part.stop == len(feeds) // 2:
                    half = copy.deepcopy(statistics)
                progress(part.stop, len(feeds), "")
    for tensor, (source, op) in follow.items():
        if source in statistics:  # those of other types are not
            statistics[tensor] = _FOLLOWS[op](statistics[source])
            half[tensor] = _FOLLOWS[op](half[source])
    made_by = feeds.preprocessing
    return Collected(
        statistics=statistics,
        half=half,
        samples=len(feeds),
        model_sha256=hash_file(path).sha256,
        preprocessing_sha256=pre.sha256(made_by) if made_by else "",
    )


def _see(statistics: Statistics, values: Array, name: str) -> None:
    statistics.see(values)
    if math.isnan(statistics.high):
        raise CalibrationError(
            f"tensor '{name}' holds NaN or infinity on the calibration set",
            "the model's own weights or operators make it of finite samples: mend the model",
        )


def _batches(
    session: ort.OrtSession, tensors: Sequence[str], feeds: Feeds, fixed: int, batch: int
) -> Iterator[tuple[slice, dict[str, Array]]]:
    """Inputs and tensors of each batch; one runs while the one before is looked at."""
    parts = list(_parts(len(feeds), fixed or batch))
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(_run, session, tensors, feeds, parts[0], fixed)
        for part, following in zip(parts, [*parts[1:], None], strict=True):
            values = coming.result()
            if following is not None:
                coming = thread.submit(_run, session, tensors, feeds, following, fixed)
            yield part, values
            del values


def _run(
    session: ort.OrtSession, tensors: Sequence[str], feeds: Feeds, part: slice, fixed: int
) -> dict[str, Array]:
    """Inputs and tensors of one batch.

    Where the model takes so many samples and no fewer, neighbours fill the batch; their rows
    are left out of whatever has one a sample.
    """
    start = min(part.start, len(feeds) - fixed) if fixed else part.start
    batch = feeds.take(slice(start, start + fixed) if fixed else part)
    found = session.run(batch)
    values = {**batch, **{name: np.asarray(found[name]) for name in tensors}}
    if part.stop - part.start == fixed or not fixed:
        return values
    rows = slice(part.start - start, part.stop - start)
    return {
        name: each[rows] if each.ndim and len(each) == fixed else each
        for name, each in values.items()
    }


def _fixed_batch(session: ort.OrtSession) -> int:
    """How many samples the model takes at a time; 0 where it takes any number."""
    sizes = [each.shape[0] for each in session.inputs if each.shape]
    return max((each for each in sizes if isinstance(each, int)), default=0)


def _parts(count: int, batch: int) -> Iterator[slice]:
    """Batches that cover the samples, one of which ends in the middle."""
    middle = count // 2
    yield from slices(middle, batch)
    for part in slices(count - middle, batch):
        yield slice(middle + part.start, middle + part.stop)


def _expose(path: Path, folder: Path) -> tuple[Path, dict[str, tuple[str, str]]]:
    """A copy of a model whose outputs are all tensors that must be looked at.

    ONNX Runtime finds their types, those of operators that onnx does not know included.

    Returns:
        the copy, beside the same external data; and each tensor that follows from another:
        that one's name, and the operator between them, in the order of the graph.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    shown = {each.name for each in graph.output}
    seen = {each.name for each in graph.input} - {each.name for each in graph.initializer}
    follow = {}
    for node in graph.node:
        if node.op_type == "Constant":
            continue  # it is no activation
        if node.op_type in _FOLLOWS and not node.domain and node.input[0] in seen:
            follow[node.output[0]] = node.input[0], node.op_type
        else:
            graph.output.extend(
                onnx.ValueInfoProto(name=each) for each in node.output if each not in {"", *shown}
            )
        seen.update(node.output)
    for name in _external(graph):
        target = (folder / name).resolve()
        # ONNX Runtime refuses what lies outside of a model's folder.
        if target.is_relative_to(folder.resolve()) and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _put(path.parent / name, target)
    exposed = folder / "exposed.onnx"
    onnx.save(model, exposed)
    return exposed, follow


def _external(graph: onnx.GraphProto) -> set[str]:
    """The files that hold a graph's constants, as it names them."""
    inside = [each for node in graph.node for each in node.attribute]
    tensors = [*graph.initializer, *(each.t for each in inside if each.HasField("t"))]
    found = {
        entry.value
        for tensor in tensors
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return found.union(*(_external(each.g) for each in inside if each.HasField("g")))


def _put(source: Path, target: Path) -> None:
    """The same file in another place: by a link where the disk allows it."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
