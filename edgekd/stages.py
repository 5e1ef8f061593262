"""Each stage of a build: what it is made from, what its key holds, and which function makes it.

Nothing here knows the order; results come from the store where they are there already.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from edgekd import data, models
from edgekd.artifacts import (
    Artifact,
    CalibrationSet,
    CalibrationTable,
    Checkpoint,
    Dataset,
    Difference,
    EngineFile,
    Evaluation,
    Golden,
    Int8,
    Int8Check,
    Measurements,
    OnnxModel,
    QuantizedModel,
    TeacherLogits,
)
from edgekd.backends.base import find
from edgekd.backends.cuda import sm_here
from edgekd.bench import host
from edgekd.data import audit
from edgekd.data.splits import prepare, stage_key
from edgekd.models import members
from edgekd.progress import Progress, Watcher
from edgekd.recipe import Recipe, TrainSettings
from edgekd.store import Stage, Store
from edgekd.targets import Target
from edgekd.verdict import BASELINE

A = TypeVar("A", bound=Artifact)

PORTABLE_FORM = "s8s8"


class Stages:
    """The stages of one recipe.

    Args:
        recipe: what to build.
        chosen: its targets.
        store: where results come from and go to.
        watcher: told when a stage begins and ends.
    """

    def __init__(
        self, recipe: Recipe, chosen: list[Target], store: Store, watcher: Watcher
    ) -> None:
        self.recipe = recipe
        self.targets = chosen
        self.store = store
        self.watcher = watcher

    def data(self) -> Dataset:
        """The source, cut into splits."""
        settings = self.recipe.data
        source = data.open_source(settings.source)
        unlabelled = data.open_unlabelled(settings.unlabelled) if settings.unlabelled else None

        def produce(folder: Path, progress: Progress) -> Dataset:
            return prepare(settings, source, folder, progress, unlabelled)

        key = stage_key(settings, source, unlabelled)
        stage = Stage("data", 2, key, ("numpy", "pillow"))
        dataset = self.run("data", stage, {}, Dataset, produce)
        for line in audit.lines(dataset.audit):
            self.watcher.note(line)
        return dataset

    def teacher(self, dataset: Dataset) -> Checkpoint:
        """The teacher: trained, or the ones that are given."""
        settings = self.recipe.teacher
        if not members.given(settings):
            return self._train("teacher", dataset, settings.model, settings.train, None)

        def produce(folder: Path, progress: Progress) -> Checkpoint:
            from edgekd.distill.given import given

            return given(dataset, settings, folder, progress)

        key = {"members": members.identity(settings)}
        stage = Stage("teacher", 1, key, ("torch", "onnx", "onnxruntime"))
        return self.run("teacher", stage, {"data": dataset}, Checkpoint, produce)

    def student(self, role: str, dataset: Dataset, teacher: Checkpoint | None) -> Checkpoint:
        """The student; without a teacher its control."""
        own = self.recipe.student
        return self._train(role, dataset, own.model, own.train, teacher)

    def _train(
        self,
        role: str,
        dataset: Dataset,
        model: str,
        settings: TrainSettings,
        teacher: Checkpoint | None,
    ) -> Checkpoint:
        distill = self.recipe.distill if teacher is not None else None
        inputs: dict[str, Artifact] = {"data": dataset}
        if teacher is not None:
            inputs["teacher"] = teacher
        key = {
            **models.identity(model),
            "train": settings.canonical(),
            "distill": distill.canonical() if distill else None,
        }
        stage = Stage(role, 2, key, ("torch",))
        work = self.store.unfinished(stage, inputs)
        logits = None
        if self.store.find(stage, inputs, Checkpoint) is None:
            self._tell_of_others(role, work)
            if teacher is not None:
                logits = self._logits(dataset, teacher, settings)

        def produce(folder: Path, progress: Progress) -> Checkpoint:
            from edgekd.distill import ranks
            from edgekd.distill.trainer import train

            arguments: dict[str, Any] = {
                "dataset": dataset, "model_name": model, "settings": settings,
                "out_dir": folder, "teacher": teacher, "distill": distill, "logits": logits,
                "work": work,
            }  # fmt: skip
            with ranks.together("train", arguments):
                return train(progress=progress, **arguments)

        return self.run(role, stage, inputs, Checkpoint, produce)

    def _tell_of_others(self, role: str, work: Path) -> None:
        """Says where trainings wait that were stopped and whose recipe has changed since."""
        others = {path.parent for path in work.parent.glob("*/step-*.pt")}
        if others and not work.exists():
            self.watcher.note(
                f"! {len(others)} unfinished training of a {role} by another recipe is kept in"
                f" {work.parent}; that recipe goes on from there"
            )

    def _logits(
        self, dataset: Dataset, teacher: Checkpoint, settings: TrainSettings
    ) -> TeacherLogits | None:
        """The teacher's answers to every view, where they are worth keeping."""
        distill = self.recipe.distill
        if not distill.caches(settings):
            return None

        def produce(folder: Path, progress: Progress) -> TeacherLogits:
            from edgekd.distill.teachers import record

            return record(dataset, teacher, settings, distill, folder, progress)

        key = {
            "flip": settings.flip,
            "shift": settings.shift,
            "views": settings.distinct_views(),
            "seed": settings.seed if settings.flip or settings.shift else 0,
            "dtype": distill.cache_dtype,
            "autocast": distill.autocast,
        }
        inputs = {"data": dataset, "teacher": teacher}
        stage = Stage("teacher-logits", 1, key, ("torch",))
        return self.run("teacher's logits", stage, inputs, TeacherLogits, produce)

    def export(self, role: str, checkpoint: Checkpoint, dataset: Dataset) -> OnnxModel:
        """A network as ONNX."""

        def produce(folder: Path, progress: Progress) -> OnnxModel:
            from edgekd.export import export

            return export(checkpoint, dataset, folder, progress)

        stage = Stage("export", 1, {}, ("torch", "onnx", "onnxscript", "onnxruntime"))
        inputs = {"checkpoint": checkpoint, "data": dataset}
        return self.run(f"export {role}", stage, inputs, OnnxModel, produce)

    def quantise(
        self, model: OnnxModel, dataset: Dataset, checkpoints: Mapping[str, Checkpoint]
    ) -> Int8 | None:
        """A model for each form that a target wants, fine-tuned where int8 loses too much."""
        if "int8" not in self.recipe.engines.precisions:
            return None
        chosen, table = self._calibrate(model, dataset)
        wanted = sorted({PORTABLE_FORM, *(each.form for each in self.targets if each.form)})
        forms = self._forms(model, table, wanted)
        settings = self.recipe.qat
        if settings.when == "never":
            return Int8(chosen, table, forms, None, None)
        before = self._check(dataset, model, forms)
        allowed = settings.max_loss if settings.when == "auto" else -math.inf
        tuned: dict[str, QuantizedModel] = {}
        for form, top1 in before.forms.items():
            if before.fp32 - top1 > allowed:
                trained = self._tune(dataset, model, table, form, checkpoints[settings.teacher])
                tuned |= self._forms(trained, table, [form])
        if not tuned:
            return Int8(chosen, table, forms, before, None)
        after = self._check(dataset, model, tuned)
        helped = {
            form: tuned[form] for form, top1 in after.forms.items() if top1 > before.forms[form]
        }
        return Int8(chosen, table, {**forms, **helped}, before, after)

    def _calibrate(
        self, model: OnnxModel, dataset: Dataset
    ) -> tuple[CalibrationSet, CalibrationTable]:
        settings = self.recipe.calibration

        def choose(folder: Path, progress: Progress) -> CalibrationSet:
            from edgekd.calibration.sets import choose

            return choose(dataset, settings, folder, progress)

        def calibrate(folder: Path, progress: Progress) -> CalibrationTable:
            from edgekd.calibration.table import calibrate

            return calibrate(model, chosen, dataset, settings, folder, progress)

        key: dict[str, Any] = {"samples": settings.samples, "seed": settings.seed}
        stage = Stage("calibration-set", 1, key, ("numpy",))
        chosen = self.run("calibration set", stage, {"data": dataset}, CalibrationSet, choose)
        key = {"method": settings.method, "percentile": settings.percentile}
        stage = Stage("calibrate", 1, key, ("onnxruntime", "onnx"))
        inputs: dict[str, Artifact] = {"model": model, "set": chosen, "data": dataset}
        return chosen, self.run("calibrate", stage, inputs, CalibrationTable, calibrate)

    def _forms(
        self, model: OnnxModel, table: CalibrationTable, wanted: Sequence[str]
    ) -> dict[str, QuantizedModel]:
        forms = {}
        for form in wanted:

            def quantise(folder: Path, progress: Progress, form: str = form) -> QuantizedModel:
                from edgekd.quantize.qdq import quantize

                return quantize(model, table, form, folder, progress)

            stage = Stage("quantise", 1, {"form": form}, ("onnx", "numpy"))
            inputs = {"model": model, "table": table}
            forms[form] = self.run(f"quantise {form}", stage, inputs, QuantizedModel, quantise)
        return forms

    def _check(
        self, dataset: Dataset, model: OnnxModel, forms: Mapping[str, QuantizedModel]
    ) -> Int8Check:
        def produce(folder: Path, progress: Progress) -> Int8Check:
            from edgekd.qat import check

            return check(dataset, model, forms, folder, progress)

        inputs: dict[str, Artifact] = {"data": dataset, "model": model, **forms}
        stage = Stage("int8-check", 1, {"host": host.processor()}, ("onnxruntime",))
        return self.run("check int8", stage, inputs, Int8Check, produce)

    def _tune(
        self,
        dataset: Dataset,
        model: OnnxModel,
        table: CalibrationTable,
        form: str,
        teacher: Checkpoint,
    ) -> OnnxModel:
        settings, train = self.recipe.qat, self.recipe.student.train
        inputs = {"data": dataset, "model": model, "table": table, "teacher": teacher}
        key = {"qat": settings.canonical(), "form": form, "train": train.canonical()}
        stage = Stage("qat", 1, key, ("torch", "onnx", "numpy"))
        work = self.store.unfinished(stage, inputs)

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

        return self.run(f"fine-tune {form}", stage, inputs, OnnxModel, produce)

    def engine(
        self, role: str, model: Checkpoint | OnnxModel | QuantizedModel, target: Target
    ) -> EngineFile:
        """One model for one target."""
        backend = find(target.backend)

        def produce(folder: Path, progress: Progress) -> EngineFile:
            from edgekd.backends.base import build_engine

            return build_engine(model, role, target, folder)

        key: dict[str, Any] = {"role": role, "target": dataclasses.asdict(target)}
        if target.device != "cpu":  # whether it can run here, and what "cuda" means here
            key["gpu"] = sm_here()
        precision = "fp32" if isinstance(model, Checkpoint) else model.precision
        label = f"engine {role}/{target.name}/{precision}"
        stage = Stage("engine", 1, key, backend.packages)
        return self.run(label, stage, {"model": model}, EngineFile, produce)

    def evaluate(
        self, engine: EngineFile, dataset: Dataset, teacher: Evaluation | None
    ) -> Evaluation:
        """An engine over the test split."""

        def produce(folder: Path, progress: Progress) -> Evaluation:
            from edgekd.evaluate import evaluate

            return evaluate(engine, dataset, teacher, folder, progress)

        inputs: dict[str, Artifact] = {"engine": engine, "data": dataset}
        if teacher is not None:
            inputs["teacher"] = teacher
        stage = Stage("evaluate", 1, {"host": host.processor()}, find(engine.backend).packages)
        return self.run(f"evaluate {engine.name}", stage, inputs, Evaluation, produce)

    def differences(
        self, role: str, evaluations: Mapping[str, Evaluation], dataset: Dataset
    ) -> Difference:
        """How far every engine's accuracy lies from a role's baseline, by sample."""
        reference = evaluations[f"{role}/{BASELINE}/fp32"]
        others = [each for each in evaluations.values() if each is not reference]

        def produce(folder: Path, progress: Progress) -> Difference:
            from edgekd.evaluate import differences

            return differences(reference, others, dataset, folder, progress)

        inputs: dict[str, Artifact] = {"data": dataset, "reference": reference}
        inputs |= {each.engine: each for each in others}
        stage = Stage("differences", 1, {}, ("numpy",))
        return self.run(f"differences to {role}", stage, inputs, Difference, produce)

    def golden(
        self, shipped: list[tuple[EngineFile, OnnxModel | QuantizedModel]], dataset: Dataset
    ) -> Golden:
        """A few images and what each engine gives for them."""

        def produce(folder: Path, progress: Progress) -> Golden:
            from edgekd.evaluate import golden

            return golden(shipped, dataset, folder, progress)

        inputs: dict[str, Artifact] = {"data": dataset}
        for engine, model in shipped:
            inputs |= {engine.name: engine, f"{engine.name} model": model}
        stage = Stage("golden", 1, {"host": host.processor()}, ())
        return self.run("golden", stage, inputs, Golden, produce)

    def bench(self, engines: list[EngineFile], dataset: Dataset) -> Measurements:
        """Engines timed side by side."""
        settings = self.recipe.bench

        def produce(folder: Path, progress: Progress) -> Measurements:
            from edgekd.bench.measure import bench

            return bench(engines, dataset, settings, folder, progress)

        inputs: dict[str, Artifact] = {"data": dataset, **{each.name: each for each in engines}}
        packages = sorted({name for each in engines for name in find(each.backend).packages})
        key = {"bench": settings.canonical(), "host": host.facts()}
        stage = Stage("bench", 2, key, packages)
        return self.run("bench", stage, inputs, Measurements, produce)

    def run(
        self,
        label: str,
        stage: Stage,
        inputs: Mapping[str, Artifact],
        kind: type[A],
        produce: Callable[[Path, Progress], A],
    ) -> A:
        """One stage: its result from the store, or made, with whoever watches told."""
        begin = time.monotonic()
        worked = False

        def make(folder: Path) -> A:
            nonlocal worked
            worked = True
            return produce(folder, self.watcher.begin(label))

        artifact = self.store.make(stage, inputs, kind, make)
        self.watcher.end(label, not worked, time.monotonic() - begin)
        return artifact
