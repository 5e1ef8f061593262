"""The stages that quantise: calibration, forms, what mends those that lose too much, the proof."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import ladder
from edgekd.artifacts import (
    Artifact,
    CalibrationSet,
    CalibrationTable,
    Checkpoint,
    Dataset,
    Int8,
    Int8Check,
    OnnxModel,
    Proof,
    QuantizedModel,
    Sensitivity,
)
from edgekd.backends.base import find
from edgekd.bench import host
from edgekd.data import splits
from edgekd.progress import Progress
from edgekd.stages import Stages
from edgekd.store import Stage

if TYPE_CHECKING:
    from edgekd.calibration.feeds import Feeds

PORTABLE_FORM = "s8s8"
_PROVED_ON = 256
"""Validation images that the forms are compared on."""
_TIMED_ON = 64
"""Validation images that mixes are timed with, in turn."""


class Int8Stages:
    """The stages of one recipe that quantise.

    Args:
        stages: the others, which run these too.
    """

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._recipe = stages.recipe
        self._targets = stages.targets

    def quantise(
        self, model: OnnxModel, dataset: Dataset, checkpoints: Mapping[str, Checkpoint]
    ) -> Int8 | None:
        """A model for each form that a target wants; None where the recipe wants no int8.

        A form that loses more than ``qat.max_loss`` on validation is fine-tuned, and ships so
        where that helps. Where what ships would still lose more than ``quantize.max_drop``, or
        there is no fine-tuning, its most sensitive layers stay in float. Training comes first:
        its int8 is as fast as any, and layers in float cost latency. What ships must stand
        ``quantize.min_sqnr`` above its difference to the fp32 model that it was made of.
        """
        precisions = self._recipe.engines.precisions
        fp8 = ladder.wants_fp8(self._targets, precisions)
        if "int8" not in precisions and not fp8:
            return None
        wanted = sorted({PORTABLE_FORM, *(each.form for each in self._targets if each.form)})
        chosen, table = self._calibrate(model, dataset, wanted)
        sources = dict.fromkeys(wanted, model)
        forms = {form: self._form(model, table, form) for form in wanted}
        before = after = None
        if self._recipe.qat.when != "never" or self._recipe.quantize.mixed != "never":
            before = self._check(dataset, model, forms)
        if before is not None and self._recipe.qat.when != "never":
            teacher = checkpoints[self._recipe.qat.teacher]
            trained = self._fine_tune(dataset, model, table, before, teacher)
            tuned = {form: self._form(each, table, form) for form, each in trained.items()}
            if tuned:
                after = self._check(dataset, model, tuned)
                helped = [form for form in tuned if after.lost(form) < before.lost(form)]
                sources |= {form: trained[form] for form in helped}
                forms |= {form: tuned[form] for form in helped}
        found = {}
        for form in self._to_mix(before, after):
            found[form] = self._sensitivity(dataset, model, sources[form], table, form)
            kept = found[form].mixes[found[form].chosen].kept
            if kept:
                forms[form] = self._form(sources[form], table, form, kept)
        if fp8:  # its range is so wide that no layer needs mending
            sources[ladder.FP8_FORM] = model
            forms[ladder.FP8_FORM] = self._form(model, table, ladder.FP8_FORM)
        proofs = tuple(
            self._prove(dataset, source, {form: forms[form] for form in made})
            for source, made in _by_source(sources)
        )
        return Int8(chosen, table, forms, before, after, found, proofs)

    def _calibrate(
        self, model: OnnxModel, dataset: Dataset, wanted: Sequence[str]
    ) -> tuple[CalibrationSet, CalibrationTable]:
        settings = self._recipe.calibration

        def choose(folder: Path, progress: Progress) -> CalibrationSet:
            from edgekd.calibration.sets import choose

            return choose(dataset, settings, folder, progress)

        def calibrate(folder: Path, progress: Progress) -> CalibrationTable:
            from edgekd.calibration import feeds, sets, table
            from edgekd.calibration.collect import collect
            from edgekd.quantize import auto

            images = sets.images(chosen, dataset, progress)
            samples = feeds.of_images(model.model_inputs[0].name, images, dataset.preprocessing)
            if settings.method != "auto":
                return table.calibrate(model, samples, settings, chosen, folder, progress)
            collected = collect(model.path, samples, folder, progress)
            judged = _validation(dataset, model, auto.SAMPLES, progress)
            return auto.choose(
                model, collected, judged, wanted, folder, progress, set_sha256=chosen.sha256
            )

        key: dict[str, Any] = {
            name: getattr(settings, name) for name in ("samples", "draw", "seed")
        }
        stage = Stage("calibration-set", 2, key, ("numpy",))
        chosen = self._stages.run(
            "calibration set", stage, {"data": dataset}, CalibrationSet, choose
        )
        key = {
            "method": settings.method,
            "percentile": settings.percentile if settings.method == "percentile" else None,
            "judged on": list(wanted) if settings.method == "auto" else None,
        }
        stage = Stage("calibrate", 2, key, ("onnxruntime", "onnx"))
        inputs: dict[str, Artifact] = {"model": model, "set": chosen, "data": dataset}
        return chosen, self._stages.run("calibrate", stage, inputs, CalibrationTable, calibrate)

    def _form(
        self, model: OnnxModel, table: CalibrationTable, form: str, kept: Sequence[str] = ()
    ) -> QuantizedModel:
        def quantise(folder: Path, progress: Progress) -> QuantizedModel:
            from edgekd.quantize.qdq import quantize

            return quantize(model, table, form, folder, progress, keep_float=kept)

        stage = Stage("quantise", 2, {"form": form, "float": sorted(kept)}, ("onnx", "numpy"))
        inputs = {"model": model, "table": table}
        return self._stages.run(f"quantise {form}", stage, inputs, QuantizedModel, quantise)

    def _check(
        self, dataset: Dataset, model: OnnxModel, forms: Mapping[str, QuantizedModel]
    ) -> Int8Check:
        def produce(folder: Path, progress: Progress) -> Int8Check:
            from edgekd.qat import check

            return check(dataset, model, forms, folder, progress)

        inputs: dict[str, Artifact] = {"data": dataset, "model": model, **forms}
        stage = Stage("int8-check", 1, {"host": host.processor()}, ("onnxruntime",))
        return self._stages.run("check int8", stage, inputs, Int8Check, produce)

    def _fine_tune(
        self,
        dataset: Dataset,
        model: OnnxModel,
        table: CalibrationTable,
        before: Int8Check,
        teacher: Checkpoint,
    ) -> dict[str, OnnxModel]:
        """The fp32 model trained to be rounded, for each form that loses too much."""
        settings = self._recipe.qat
        allowed = settings.max_loss if settings.when == "auto" else -math.inf
        return {
            form: self._tune(dataset, model, table, form, teacher)
            for form in before.forms
            if before.lost(form) > allowed
        }

    def _tune(
        self,
        dataset: Dataset,
        model: OnnxModel,
        table: CalibrationTable,
        form: str,
        teacher: Checkpoint,
    ) -> OnnxModel:
        settings, train = self._recipe.qat, self._recipe.student.train
        inputs = {"data": dataset, "model": model, "table": table, "teacher": teacher}
        key = {"qat": settings.canonical(), "form": form, "train": train.canonical()}
        stage = Stage("qat", 1, key, ("torch", "onnx", "numpy"))
        work = self._stages.store.unfinished(stage, inputs)

        def produce(folder: Path, progress: Progress) -> OnnxModel:
            from edgekd.distill import ranks
            from edgekd.qat import tune

            arguments: dict[str, Any] = {
                "dataset": dataset, "model": model, "table": table, "form": form,
                "settings": settings, "train": train, "teacher": teacher, "out_dir": folder,
                "work": work,
            }  # fmt: skip
            with ranks.together("tune", arguments):
                return tune(progress=progress, **arguments)

        return self._stages.run(f"fine-tune {form}", stage, inputs, OnnxModel, produce)

    def _to_mix(self, before: Int8Check | None, after: Int8Check | None) -> list[str]:
        """The forms whose layers are to be looked into."""
        settings = self._recipe.quantize
        if before is None or settings.mixed == "never":
            return []
        allowed = settings.max_drop if settings.mixed == "auto" else -math.inf
        tuned = {} if after is None else {form: after.lost(form) for form in after.forms}
        return [
            form
            for form in before.forms
            if min(before.lost(form), tuned.get(form, math.inf)) > allowed
        ]

    def _sensitivity(
        self,
        dataset: Dataset,
        model: OnnxModel,
        source: OnnxModel,
        table: CalibrationTable,
        form: str,
    ) -> Sensitivity:
        """Which layers of a model int8 hurts, and which of them stay in float."""
        settings, budget, bench = (
            self._recipe.quantize, self._recipe.budget, self._recipe.bench
        )  # fmt: skip
        takers = [each for each in self._targets if each.form == form]

        def produce(folder: Path, progress: Progress) -> Sensitivity:
            from edgekd.bench.measure import side_by_side
            from edgekd.quantize import sensitivity

            samples = _validation(dataset, model, sensitivity.MIX_SAMPLES, progress)
            singly = [
                samples.take(slice(each, each + 1)) for each in range(min(_TIMED_ON, len(samples)))
            ]
            with tempfile.TemporaryDirectory(dir=folder) as place:
                return sensitivity.analyse(
                    source,
                    table,
                    form,
                    samples,
                    settings,
                    folder,
                    progress,
                    original=None if source is model else model,
                    timer=partial(
                        side_by_side,
                        targets=takers,
                        feeds=singly,
                        settings=bench,
                        folder=Path(place),
                    ),
                    deadline_ns=None if budget.fps is None else 1e9 / budget.fps,
                )

        packages = {"onnx", "onnxruntime"}.union(*(find(each.backend).packages for each in takers))
        key = {
            "form": form,
            "quantize": settings.canonical(),
            "targets": [each.name for each in takers],
            "bench": bench.canonical(),
            "fps": budget.fps,
            "host": host.facts(),
        }
        inputs: dict[str, Artifact] = {
            "data": dataset, "original": model, "model": source, "table": table
        }  # fmt: skip
        stage = Stage("sensitivity", 1, key, sorted(packages))
        return self._stages.run(f"sensitivity {form}", stage, inputs, Sensitivity, produce)

    def _prove(
        self, dataset: Dataset, model: OnnxModel, forms: Mapping[str, QuantizedModel]
    ) -> Proof:
        least = self._recipe.quantize.min_sqnr

        def produce(folder: Path, progress: Progress) -> Proof:
            from edgekd.quantize import proof

            samples = _validation(dataset, model, _PROVED_ON, progress)
            return proof.prove(model, forms, samples, least, folder, progress)

        inputs: dict[str, Artifact] = {"data": dataset, "model": model, **forms}
        key = {"least": least, "host": host.processor()}
        stage = Stage("prove", 1, key, ("onnxruntime",))
        return self._stages.run(f"prove {', '.join(forms)}", stage, inputs, Proof, produce)


def _by_source(sources: Mapping[str, OnnxModel]) -> list[tuple[OnnxModel, list[str]]]:
    """The fp32 models that forms are made of, and the forms of each."""
    found: dict[Path, tuple[OnnxModel, list[str]]] = {}
    for form, source in sources.items():
        found.setdefault(source.path, (source, []))[1].append(form)
    return list(found.values())


def _validation(dataset: Dataset, model: OnnxModel, most: int, progress: Progress) -> Feeds:
    """At most so many validation images, in which each class has its share."""
    from edgekd.calibration.feeds import of_images

    samples = splits.read(dataset, "validation", progress)
    places = splits.stratified(samples.labels, min(most, len(samples)), seed=0)
    return of_images(
        model.model_inputs[0].name,
        samples.images[places],
        dataset.preprocessing,
        samples.labels[places],
    )
