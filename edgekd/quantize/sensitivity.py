"""Which layers int8 hurts most, and what it gains to keep the worst of them in float.

One layer at a time is made int8 while all others stay float, so that what is lost is its own.
Then layers are kept in float from the worst on: none, one, two, four and so on until the model
loses no more than it may, and between the last two counts by bisection. All of these mixes are
timed side by side, for a layer in float costs time, and so do the conversions around it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd import onnx_cost
from edgekd.artifacts import (
    CalibrationTable,
    LayerLoss,
    Mix,
    OnnxModel,
    QuantizedModel,
    Sensitivity,
)
from edgekd.calibration.feeds import Feeds
from edgekd.progress import Progress, silent
from edgekd.quantize.forms import FORMS
from edgekd.quantize.judge import Judge, Score, beaten
from edgekd.quantize.placement import PRODUCTS, place
from edgekd.quantize.qdq import quantize
from edgekd.recipe import QuantizeSettings

LAYER_SAMPLES = 512
MIX_SAMPLES = 3000
"""Half a point of top-1 is 15 of them."""

Latencies = Mapping[str, Sequence[Mapping[str, int]]]
"""By target, p50 and p99 of each model, in nanoseconds."""
Timer = Callable[[Sequence[OnnxModel | QuantizedModel]], Latencies]
"""Times models side by side on every target that can be run here."""


def untimed(models: Sequence[OnnxModel | QuantizedModel]) -> Latencies:
    """The timer where nothing can be run: accuracy decides alone."""
    return {}


def analyse(
    model: OnnxModel,
    table: CalibrationTable,
    form: str,
    feeds: Feeds,
    settings: QuantizeSettings,
    out_dir: Path,
    progress: Progress = silent,
    *,
    keep_float: Sequence[str] = (),
    original: OnnxModel | None = None,
    timer: Timer = untimed,
    deadline_ns: float | None = None,
) -> Sensitivity:
    """The stage ``sensitivity``: what each layer loses, the mixes, and which of them ships.

    Args:
        model: fp32.
        table: its ranges.
        form: the form to write, such as ``s8s8``.
        feeds: validation samples.
        settings: what a mix must reach: ``max_drop`` where samples have labels, else ``min_sqnr``.
        out_dir: for models on the way; none of them stays.
        progress: told how far it is.
        keep_float: names of nodes that stay in float throughout, and are not looked into.
        original: the fp32 model whose top-1 counts, where ``model`` was trained from it.
        timer: times the fp32 model and the mixes.
        deadline_ns: what the p99 latency may be; None where there is no such limit.

    Raises:
        QuantizeError: nothing in the model can be quantised.
    """
    judge = Judge(model, feeds, LAYER_SAMPLES)
    layers = losses(model, table, form, judge, out_dir, progress, keep_float=keep_float)
    several = Judge(model, feeds, MIX_SAMPLES)
    if original is not None:
        several.fp32 = Judge(original, feeds, MIX_SAMPLES).fp32

    def enough(lost: float | None, sqnr: float) -> bool:
        return sqnr >= settings.min_sqnr if lost is None else lost <= settings.max_drop

    def met(score: Score) -> bool:
        return enough(several.lost(score), score.sqnr)

    order = [each.name for each in layers]
    with tempfile.TemporaryDirectory(dir=out_dir) as name:

        def mix(kept: int) -> _Rung:
            folder = Path(name, str(kept))
            folder.mkdir()
            names = [*keep_float, *order[:kept]]
            mixed = quantize(model, table, form, folder, keep_float=names)
            return _Rung(kept, mixed, several.score(mixed.path))

        rungs = _ladder(mix, len(order) - 1, lambda rung: met(rung.score), progress)
        progress(1, 1, "timing")
        timed = timer([model, *(each.model for each in rungs)])
    mixes = [
        Mix(
            kept=tuple(order[: each.kept]),
            lost=several.lost(each.score),
            sqnr=each.score.sqnr,
            latency_ns={target: times[index] for target, times in timed.items()},
        )
        for index, each in enumerate(rungs, start=1)
    ]
    fp32_ns = {target: times[0] for target, times in timed.items()}
    return Sensitivity(
        form=form,
        layers=layers,
        layer_samples=judge.samples,
        mixes=tuple(mixes),
        mix_samples=several.samples,
        fp32_ns=fp32_ns,
        chosen=choose(mixes, fp32_ns, enough, deadline_ns),
    )


def losses(
    model: OnnxModel,
    table: CalibrationTable,
    form: str,
    judge: Judge,
    out_dir: Path,
    progress: Progress = silent,
    *,
    keep_float: Collection[str] = (),
) -> tuple[LayerLoss, ...]:
    """What each layer loses where it alone is int8, the worst first.

    The worst is the one that loses most top-1. Layers that lose no more than chance explains,
    and all of them where there is no top-1, are told apart by the SQNR of the outputs.
    """
    import onnx

    graph = onnx.load(model.path).graph
    placed = place(graph, FORMS[form], table.ranges.keys(), keep_float)
    everything = [node.name for node in graph.node]
    layers = [
        node
        for node in graph.node
        if node.op_type in PRODUCTS and node.name not in placed.kept_float
    ]
    products = {each.name: each.macs for each in onnx_cost.read(model.path).nodes}
    batch = model.model_inputs[0].shape[0]
    per_sample = batch if isinstance(batch, int) else 1
    found: list[tuple[float, float, LayerLoss]] = []
    for done, node in enumerate(layers, start=1):
        with tempfile.TemporaryDirectory(dir=out_dir) as name:
            others = [each for each in everything if each != node.name]
            alone = quantize(model, table, form, Path(name), keep_float=others)
            score = judge.score(alone.path)
        lost = judge.lost(score)
        count = products.get(node.name)
        macs = count // per_sample if count else None
        loss = LayerLoss(node.name, node.op_type, macs, lost, score.sqnr)
        told = lost is not None and beaten(score.right, judge.fp32.right)
        found.append((-lost if told and lost else 0.0, score.sqnr, loss))
        progress(done, len(layers), f"{node.name} {score.sqnr:.1f} dB")
    return tuple(loss for _, _, loss in sorted(found, key=lambda each: each[:2]))


@dataclass(frozen=True)
class _Rung:
    """A mix while its model is there: how many layers are kept in float, and its score."""

    kept: int
    model: QuantizedModel
    score: Score


def _ladder(
    mix: Callable[[int], _Rung], most: int, enough: Callable[[_Rung], bool], progress: Progress
) -> list[_Rung]:
    """Mixes by the number of layers kept, up to the fewest that is good enough.

    Args:
        mix: makes the one that keeps so many layers.
        most: the most layers to keep, so that one stays int8.
        enough: whether a mix will do.
        progress: told how far it is.
    """
    rungs: dict[int, _Rung] = {}

    def climb(kept: int) -> bool:
        rungs[kept] = mix(kept)
        progress(len(rungs), len(rungs) + 1, f"{kept} in float {rungs[kept].score.sqnr:.1f} dB")
        return enough(rungs[kept])

    kept, too_few = 0, -1
    while not climb(kept) and kept < most:
        kept, too_few = min(max(1, 2 * kept), most), kept
    while kept - too_few > 1 and enough(rungs[kept]):
        middle = (kept + too_few) // 2
        if climb(middle):
            kept = middle
        else:
            too_few = middle
    return [rungs[each] for each in sorted(rungs)]


def choose(
    mixes: Sequence[Mix],
    fp32_ns: Mapping[str, Mapping[str, int]],
    enough: Callable[[float | None, float], bool],
    deadline_ns: float | None,
) -> int:
    """The place of the first mix that is accurate enough, or else of the most accurate.

    Left out are mixes that latency does not allow on any target: those whose p99 misses the
    deadline, or, where there is none, whose p50 is no less than that of fp32. One that is no
    slower than int8 throughout is always allowed.
    """
    percentile = "p50" if deadline_ns is None else "p99"

    def allowed(mix: Mix) -> bool:
        return not mix.latency_ns or any(
            times[percentile] <= mixes[0].latency_ns[target][percentile]
            or times[percentile] < (deadline_ns or fp32_ns[target][percentile])
            for target, times in mix.latency_ns.items()
        )

    among = [index for index, mix in enumerate(mixes) if allowed(mix)]
    for index in among:
        if enough(mixes[index].lost, mixes[index].sqnr):
            return index
    return min(among, key=lambda index: (mixes[index].lost or 0.0, -mixes[index].sqnr, index))
