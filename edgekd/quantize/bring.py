"""Bring your own ONNX: from a user's file and samples to a form of it, and the proof."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgekd import preprocessing as pre
from edgekd.artifacts import CalibrationTable, OnnxModel, Proof, QuantizedModel, Sensitivity
from edgekd.calibration import sets
from edgekd.calibration import table as tables
from edgekd.calibration.collect import collect
from edgekd.calibration.feeds import Feeds
from edgekd.errors import CalibrationError, QuantizeError, near_matches
from edgekd.progress import Progress, Watcher
from edgekd.quantize import auto, proof, sensitivity
from edgekd.quantize.fp16 import emulate, to_fp16
from edgekd.quantize.graphs import tensors_of
from edgekd.quantize.judge import few
from edgekd.quantize.placement import PRODUCTS
from edgekd.quantize.prepare import compare, prepare
from edgekd.quantize.qdq import quantize
from edgekd.recipe import QuantizeSettings
from edgekd.store import hash_file

FP16 = "fp16"
TWINS = ("s8s8", "u8s8")
"""The forms that are compared with each other, since the same ranges make them."""
OVER_HALF = ("s8s8", "f8")
"""The forms whose biases are float, so that all of what is not quantised can be float16."""
PROVED_ON = 256
"""Samples at most."""

Method = Literal["auto", "minmax", "moving_average", "percentile", "entropy", "mse"]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a user asks for.

    Attributes:
        form: of ``forms.FORMS``, or ``fp16``.
        half: what is not quantised computes in float16, see ``OVER_HALF``.
        calibration: a set's manifest, or ``npz:FILE``.
        source: in place of the one that the manifest names.
        ranges: a table of ranges, or TensorRT's cache, in place of a pass over the samples.
        method: how ranges are found.
        percentile: for the method of that name.
        samples: take no more than so many of the set.
        least: dB that the form must stand above its difference to fp32.
        keep_float: names of nodes that stay in float.
        max_drop: points of top-1 that it may lose before layers are kept in float; None for no
            such limit.
        max_divergence: the same for what outputs may differ by, in percent of their own size.
    """

    form: str
    calibration: str
    half: bool = False
    source: str | None = None
    ranges: Path | None = None
    method: Method = "auto"
    percentile: float = 99.99
    samples: int | None = None
    least: float = 10.0
    keep_float: tuple[str, ...] = ()
    max_drop: float | None = None
    max_divergence: float | None = None


@dataclass(frozen=True, kw_only=True)
class Brought:
    """What came of it.

    Attributes:
        prepared: the fp32 model, see ``prepare``.
        made: its form; ``precision`` is int8, fp8 or fp16.
        table: the ranges; None for fp16.
        calibrated_on: how many samples.
        validated: the proof is on other samples than the ranges.
        proof: of the form and, where it is one of two, of its twin.
        products: nodes that could be quantised.
        kept_float: those that were not, and why.
        sensitivity: None where nobody asked what may be lost.
    """

    prepared: OnnxModel
    made: QuantizedModel | OnnxModel
    table: CalibrationTable | None
    calibrated_on: int
    validated: bool
    proof: Proof
    products: int
    kept_float: Mapping[str, str]
    sensitivity: Sensitivity | None


MakeTimer = Callable[[OnnxModel, Feeds], sensitivity.Timer]
"""A timer for the mixes of a model, with samples to run."""


def bring(
    path: Path, wishes: Wishes, work: Path, watcher: Watcher, make_timer: MakeTimer
) -> Brought:
    """Prepares, calibrates, quantises and proves; all that is written lies in ``work``.

    Raises:
        RecipeError: there is no such set or source.
        CalibrationError: samples or ranges are not what the model takes.
        QuantizeError: the model cannot be quantised, or what came out is wrong.
        BackendUnavailable: ONNX Runtime is not installed.
    """
    with _step(watcher, "prepare"):
        prepared = prepare(path, _folder(work, "prepared"))
    if wishes.keep_float:
        _check_names(prepared, wishes.keep_float)
    with _step(watcher, "samples") as progress:
        chosen, feeds, validation = sets.open_given(
            wishes.calibration, wishes.source, prepared.model_inputs, progress
        )
        if wishes.samples is not None:
            feeds = few(feeds, wishes.samples)
        prepared = replace(prepared, parity=compare(path, prepared, feeds))
    judged = feeds if validation is None else validation
    proved_on = few(judged, PROVED_ON)
    made: dict[str, QuantizedModel | OnnxModel] = {}
    table, found, kept = None, None, list(wishes.keep_float)
    if wishes.form == FP16:
        with _step(watcher, "fp16"):
            folder = _folder(work, FP16)
            half = to_fp16(prepared, folder, keep_float=kept)
            made[FP16] = half
            # ONNX Runtime would not let anything overflow: see ``emulate``.
            compared = {FP16: emulate(prepared, folder, keep_float=kept), "fp16 file": half}
        proven = _measure(prepared, compared, proved_on, watcher)
    else:
        table = _ranges(path, prepared, wishes, feeds, chosen.sha256, judged, work, watcher)
        limit = _limit(wishes, judged)
        if limit is not None:
            with _step(watcher, "sensitivity") as progress:
                mixed, samples = limit
                found = sensitivity.analyse(
                    prepared, table, wishes.form, samples, mixed, work, progress,
                    keep_float=kept, timer=make_timer(prepared, samples),
                )  # fmt: skip
            kept += found.mixes[found.chosen].kept
        twins = TWINS if wishes.form in TWINS else ()
        for form in dict.fromkeys((wishes.form, *twins)):
            with _step(watcher, f"quantise {form}") as progress:
                made[form] = quantize(
                    prepared, table, form, _folder(work, form), progress, keep_float=kept
                )
        shown = dict(made)
        if wishes.half:
            with _step(watcher, "float16"):
                exact = made[wishes.form]
                made[wishes.form] = to_fp16(exact, _folder(work, f"{wishes.form}.fp16"))
                shown[wishes.form] = emulate(exact, _folder(work, f"{wishes.form}.emulated"))
        proven = _measure(prepared, shown, proved_on, watcher)
    proof.hold(proven, [wishes.form], wishes.least, path.name)
    form = made[wishes.form]
    products, reasons = _reasons(prepared, form, table, wishes.keep_float, kept)
    return Brought(
        prepared=prepared,
        made=form,
        table=table,
        calibrated_on=len(feeds),
        validated=validation is not None,
        proof=proven,
        products=products,
        kept_float=reasons,
        sensitivity=found,
    )


def _measure(
    model: OnnxModel,
    forms: Mapping[str, QuantizedModel | OnnxModel],
    feeds: Feeds,
    watcher: Watcher,
) -> Proof:
    with _step(watcher, "proof") as progress:
        return proof.measure(model, forms, feeds, progress)


def publish(brought: Brought, out: Path) -> list[Path]:
    """Puts the form and its table where the user wants them, each by one rename.

    Args:
        out: the ONNX file, in a folder on the same disk as the work was done on. The table goes
            to ``<stem>.table.json`` beside it; tensors that are large, to ``<out>.data``.

    Returns:
        the files, the ONNX file last, as it is the last to be written.
    """
    import onnx

    made, written = brought.made.path, []
    if brought.table is not None:
        draft = made.with_name("table.json")
        tables.save(brought.table, draft)
        written.append(draft.replace(places(out)[1]))
    data = made.with_name(f"{made.name}.data")
    if data.exists():
        proto = onnx.load(made, load_external_data=False)
        for tensor in tensors_of(proto.graph):
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = places(out)[2].name
        onnx.save(proto, made)
        written.append(data.replace(places(out)[2]))
    return [*written, made.replace(out)]


def places(out: Path) -> tuple[Path, Path, Path]:
    """Where ``publish`` writes: the model, the table, and tensors that are large."""
    return out, out.with_name(f"{out.stem}.table.json"), out.with_name(f"{out.name}.data")


def _ranges(
    path: Path,
    model: OnnxModel,
    wishes: Wishes,
    feeds: Feeds,
    set_sha256: str,
    judged: Feeds,
    work: Path,
    watcher: Watcher,
) -> CalibrationTable:
    """The ranges that a table holds, or that a pass over the samples finds.

    They are keyed by the user's own file, of which the prepared model is but a copy.
    """
    sha256 = hash_file(path).sha256
    if wishes.ranges is not None:
        table = tables.load(wishes.ranges)
        _check_table(table, wishes.ranges, path, sha256, model, feeds)
        return table
    with _step(watcher, "calibrate") as progress:
        collected = collect(model.path, feeds, work, progress)
    collected = replace(collected, model_sha256=sha256)
    if wishes.method != "auto":
        return tables.tabulate(collected, wishes.method, wishes.percentile, set_sha256)
    with _step(watcher, "methods") as progress:
        return auto.choose(
            model, collected, judged, [wishes.form], work, progress, set_sha256=set_sha256
        )


def _check_table(
    table: CalibrationTable,
    given: Path,
    path: Path,
    sha256: str,
    model: OnnxModel,
    feeds: Feeds,
) -> None:
    """Raises CalibrationError where ranges are of another model, or of other inputs."""
    import onnx

    if table.model_sha256 not in ("", sha256):
        raise CalibrationError(
            f"the ranges of {given} are of another model than {path} (its sha256 differs)",
            "calibrate this one, without --ranges",
        )
    made = pre.sha256(feeds.preprocessing) if feeds.preprocessing else ""
    if table.model_sha256 and table.preprocessing_sha256 != made:
        raise CalibrationError(
            f"the ranges of {given} were found with another preprocessing than the samples have",
            "calibrate anew, without --ranges",
        )
    graph = onnx.load(model.path, load_external_data=False).graph
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    if not names.intersection(table.ranges):
        raise CalibrationError(
            f"none of the {len(table.ranges)} tensors that {given} names is in {path}",
            "give the ranges of this model, or leave out --ranges",
        )


def _limit(wishes: Wishes, judged: Feeds) -> tuple[QuantizeSettings, Feeds] | None:
    """What may be lost, and the samples to tell it on; None where nobody asked."""
    if wishes.max_drop is not None:
        if judged.labels is None:
            raise CalibrationError(
                "points of top-1 need labels, and the samples have none",
                "say --max-divergence instead, in percent of the outputs",
            )
        return QuantizeSettings(max_drop=wishes.max_drop), judged
    if wishes.max_divergence is not None:
        return QuantizeSettings(min_sqnr=decibels(wishes.max_divergence)), replace(
            judged, labels=None
        )
    return None


def decibels(percent: float) -> float:
    """A difference in percent of what differs, as signal to noise: 10 % are 20 dB."""
    from math import log10

    return -20 * log10(percent / 100)


def _reasons(
    model: OnnxModel,
    made: QuantizedModel | OnnxModel,
    table: CalibrationTable | None,
    asked: Collection[str],
    kept: Collection[str],
) -> tuple[int, dict[str, str]]:
    """How many products there are, and why some stay in float."""
    import onnx

    graph = onnx.load(model.path, load_external_data=False).graph
    constants = {each.name for each in graph.initializer}
    products = {each.name: each for each in graph.node if each.op_type in PRODUCTS}
    found = {}
    for name in made.kept_float if isinstance(made, QuantizedModel) else asked:
        node = products.get(name)
        if name in asked:
            found[name] = "asked for"
        elif name in kept:
            found[name] = "int8 costs it most"
        elif node is None:
            found[name] = "has no int8 form here"
        elif node.input[0] in constants:
            found[name] = "its first input is a constant"
        elif table is not None and not set(node.input[:2]) - constants <= table.ranges.keys():
            found[name] = "an input of it has no range"
        elif node.input[1] not in constants:
            found[name] = "its weight is no constant"
        else:
            found[name] = "has no int8 form here"
    return len(products), found


def _check_names(model: OnnxModel, names: Collection[str]) -> None:
    import onnx

    graph = onnx.load(model.path, load_external_data=False).graph
    known = {each.name for each in graph.node}
    for each in names:
        if each not in known:
            raise QuantizeError(
                f"no node to keep in float is called '{each}'", near_matches(each, known)
            )


@contextmanager
def _step(watcher: Watcher, name: str) -> Iterator[Progress]:
    begin = time.monotonic()
    yield watcher.begin(name)
    watcher.end(name, False, time.monotonic() - begin)


def _folder(work: Path, name: str) -> Path:
    folder = work / name
    folder.mkdir()
    return folder
