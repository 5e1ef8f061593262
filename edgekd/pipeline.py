"""The order of the stages: the only place that knows it.

data ─ teacher ─ student, control ─ export ─ calibrate ─ quantise ─ engines
     ─ evaluate ─ golden ─ bench ─ report ─ bundle
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgekd import data, preflight, targets
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
    Measurements,
    OnnxModel,
    QuantizedModel,
    Report,
)
from edgekd.backends.base import find
from edgekd.backends.cuda import sm_here
from edgekd.bench import host
from edgekd.bundle import SUFFIX, Bundle
from edgekd.errors import RecipeError
from edgekd.packing import pack
from edgekd.progress import Nobody, Progress, Watcher
from edgekd.recipe import Recipe, TrainSettings
from edgekd.store import Stage, Store, default_root, hash_file
from edgekd.targets import Target
from edgekd.verdict import BASELINE

A = TypeVar("A", bound=Artifact)

PORTABLE_FORM = "s8s8"


@dataclass(frozen=True)
class Result:
    """What a build leaves behind."""

    bundle: Bundle
    report: Report


def build(
    recipe: Recipe,
    out: Path,
    *,
    store: Store | None = None,
    watcher: Watcher | None = None,
    command: str = "edgekd.build(...)",
) -> Result:
    """From a recipe to a bundle, ``out/NAME.edgekd``; finished stages come from the store.

    Raises:
        RecipeError: the recipe names what does not exist.
        BackendUnavailable: a runtime that it needs is not installed; found out first.
        EdgekdError: a stage failed; the stages before it are kept.
    """
    chosen = preflight.check(recipe, out)
    return _Build(recipe, chosen, store or Store(default_root()), watcher or Nobody()).run(
        out, command
    )


class _Build:
    """One build: the recipe, and where results come from and go to."""

    def __init__(
        self, recipe: Recipe, chosen: list[Target], store: Store, watcher: Watcher
    ) -> None:
        self.recipe = recipe
        self.targets = chosen
        self.store = store
        self.watcher = watcher

    def run(self, out: Path, command: str) -> Result:
        """All the stages, in order."""
        dataset = self._data()
        checkpoints = {"teacher": self._teacher(dataset)}
        checkpoints["student"] = self._student("student", dataset, checkpoints["teacher"])
        if self.recipe.student.control:
            checkpoints["control"] = self._student("control", dataset, None)
        exports = {
            role: self._export(role, checkpoints[role], dataset) for role in ("teacher", "student")
        }
        chosen, table, quantized = self._quantise(exports["student"], dataset)

        baselines = [
            self._engine(role, each, targets.load(BASELINE)) for role, each in checkpoints.items()
        ]
        shipped: list[tuple[EngineFile, OnnxModel | QuantizedModel]] = []
        for target in self.targets:
            for precision in dict.fromkeys(self.recipe.engines.precisions):
                if precision in target.precisions:
                    model = exports["student"] if precision == "fp32" else quantized[target.form]
                    shipped.append((self._engine("student", model, target), model))
        runnable = {each.target for each, _ in shipped if each.executed}
        peers = [
            self._engine("teacher", exports["teacher"], target)
            for target in self.targets
            if target.name in runnable
        ]
        engines = [*baselines, *peers, *(each for each, _ in shipped)]
        executed = [each for each in engines if each.executed]

        evaluations: dict[str, Evaluation] = {}
        for engine in executed:  # the first is the teacher's baseline
            reference = evaluations.get(f"teacher/{BASELINE}/fp32")
            evaluations[engine.name] = self._evaluate(engine, dataset, reference)
        to_teacher, to_student = (
            self._differences(role, evaluations, dataset) for role in ("teacher", "student")
        )
        golden = self._golden(shipped, dataset)
        timed = [each for each in executed if each.role != "control"]
        measurements = self._bench(timed, dataset)

        inputs: dict[str, Artifact] = {
            "data": dataset,
            **{f"{role} checkpoint": each for role, each in checkpoints.items()},
            **{f"{role} export": each for role, each in exports.items()},
            **{f"form {form}": each for form, each in quantized.items()},
            **{f"engine {each.name}": each for each in engines},
            **{f"evaluation {name}": each for name, each in evaluations.items()},
            "to teacher": to_teacher,
            "to student": to_student,
            "measurements": measurements,
        }
        if table is not None and chosen is not None:
            inputs |= {"calibration set": chosen, "calibration table": table}
        budget = self.recipe.budget
        settings = {"name": self.recipe.name, "command": command, "budget": budget.canonical()}

        def draw(folder: Path, progress: Progress) -> Report:
            from edgekd.report.render import report
            from edgekd.report.summary import Findings

            found = Findings(
                name=self.recipe.name,
                command=command,
                dataset=dataset,
                checkpoints=checkpoints,
                exports=exports,
                calibration_set=chosen,
                table=table,
                quantized=quantized,
                engines={each.name: each for each in engines},
                evaluations=evaluations,
                to_teacher=to_teacher,
                to_student=to_student,
                measurements=measurements,
                budget=budget,
            )
            return report(found, folder, progress)

        packages = ("matplotlib", "jinja2")
        drawn = self._stage("report", Stage("report", 1, settings, packages), inputs, Report, draw)
        bundle = pack(
            out / f"{self.recipe.name}{SUFFIX}",
            name=self.recipe.name,
            report=drawn,
            dataset=dataset,
            student=exports["student"],
            portable=quantized.get(PORTABLE_FORM),
            teacher=exports["teacher"] if self.recipe.bundle.teacher else None,
            engines=[each for each, _ in shipped],
            golden=golden,
        )
        return Result(bundle, drawn)

    def _data(self) -> Dataset:
        settings = self.recipe.data
        source = data.open_source(settings.source)

        def produce(folder: Path, progress: Progress) -> Dataset:
            from edgekd.data.splits import prepare

            return prepare(settings, source, folder, progress)

        key = {**settings.canonical(), "fingerprint": source.fingerprint()}
        return self._stage("data", Stage("data", 1, key, ("numpy",)), {}, Dataset, produce)

    def _teacher(self, dataset: Dataset) -> Checkpoint:
        settings = self.recipe.teacher
        if not settings.weights:
            return self._train("teacher", dataset, settings.model, settings.train, None)
        given = Path(settings.weights)
        if not given.is_file():
            raise RecipeError(f"there is no file {given}", field="teacher.weights")

        def produce(folder: Path, progress: Progress) -> Checkpoint:
            from edgekd.distill.trainer import import_weights

            return import_weights(dataset, settings.model, given, settings.train, folder)

        key = {"model": settings.model, "weights": hash_file(given).sha256}
        stage = Stage("teacher", 1, key, ("torch",))
        return self._stage("teacher", stage, {"data": dataset}, Checkpoint, produce)

    def _student(self, role: str, dataset: Dataset, teacher: Checkpoint | None) -> Checkpoint:
        settings = self.recipe.student
        return self._train(role, dataset, settings.model, settings.train, teacher)

    def _train(
        self,
        role: str,
        dataset: Dataset,
        model: str,
        settings: TrainSettings,
        teacher: Checkpoint | None,
    ) -> Checkpoint:
        distill = self.recipe.distill if teacher is not None else None

        def produce(folder: Path, progress: Progress) -> Checkpoint:
            from edgekd.distill.trainer import train

            return train(
                dataset, model, settings, folder, progress, teacher=teacher, distill=distill
            )

        inputs: dict[str, Artifact] = {"data": dataset}
        if teacher is not None:
            inputs["teacher"] = teacher
        key = {
            "model": model,
            "train": settings.canonical(),
            "distill": distill.canonical() if distill else None,
        }
        return self._stage(role, Stage(role, 1, key, ("torch",)), inputs, Checkpoint, produce)

    def _export(self, role: str, checkpoint: Checkpoint, dataset: Dataset) -> OnnxModel:
        def produce(folder: Path, progress: Progress) -> OnnxModel:
            from edgekd.export import export

            return export(checkpoint, dataset, folder, progress)

        stage = Stage("export", 1, {}, ("torch", "onnx", "onnxscript", "onnxruntime"))
        inputs = {"checkpoint": checkpoint, "data": dataset}
        return self._stage(f"export {role}", stage, inputs, OnnxModel, produce)

    def _quantise(
        self, model: OnnxModel, dataset: Dataset
    ) -> tuple[CalibrationSet | None, CalibrationTable | None, dict[str, QuantizedModel]]:
        """The calibration set, the ranges, and a model for each form that a target wants."""
        if "int8" not in self.recipe.engines.precisions:
            return None, None, {}
        settings = self.recipe.calibration

        def choose(folder: Path, progress: Progress) -> CalibrationSet:
            from edgekd.calibration.sets import choose

            return choose(dataset, settings, folder, progress)

        def calibrate(folder: Path, progress: Progress) -> CalibrationTable:
            from edgekd.calibration.table import calibrate

            return calibrate(model, chosen, dataset, settings, folder, progress)

        key: dict[str, Any] = {"samples": settings.samples, "seed": settings.seed}
        stage = Stage("calibration-set", 1, key, ("numpy",))
        chosen = self._stage("calibration set", stage, {"data": dataset}, CalibrationSet, choose)
        key = {"method": settings.method, "percentile": settings.percentile}
        stage = Stage("calibrate", 1, key, ("onnxruntime", "onnx"))
        inputs: dict[str, Artifact] = {"model": model, "set": chosen, "data": dataset}
        table = self._stage("calibrate", stage, inputs, CalibrationTable, calibrate)

        quantized = {}
        for form in sorted({PORTABLE_FORM, *(each.form for each in self.targets if each.form)}):

            def quantise(folder: Path, progress: Progress, form: str = form) -> QuantizedModel:
                from edgekd.quantize.qdq import quantize

                return quantize(model, table, form, folder, progress)

            stage = Stage("quantise", 1, {"form": form}, ("onnx", "numpy"))
            inputs = {"model": model, "table": table}
            quantized[form] = self._stage(
                f"quantise {form}", stage, inputs, QuantizedModel, quantise
            )
        return chosen, table, quantized

    def _engine(
        self, role: str, model: Checkpoint | OnnxModel | QuantizedModel, target: Target
    ) -> EngineFile:
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
        return self._stage(label, stage, {"model": model}, EngineFile, produce)

    def _evaluate(
        self, engine: EngineFile, dataset: Dataset, teacher: Evaluation | None
    ) -> Evaluation:
        def produce(folder: Path, progress: Progress) -> Evaluation:
            from edgekd.evaluate import evaluate

            return evaluate(engine, dataset, teacher, folder, progress)

        inputs: dict[str, Artifact] = {"engine": engine, "data": dataset}
        if teacher is not None:
            inputs["teacher"] = teacher
        stage = Stage("evaluate", 1, {"host": host.processor()}, find(engine.backend).packages)
        return self._stage(f"evaluate {engine.name}", stage, inputs, Evaluation, produce)

    def _differences(
        self, role: str, evaluations: Mapping[str, Evaluation], dataset: Dataset
    ) -> Difference:
        reference = evaluations[f"{role}/{BASELINE}/fp32"]
        others = [each for each in evaluations.values() if each is not reference]

        def produce(folder: Path, progress: Progress) -> Difference:
            from edgekd.evaluate import differences

            return differences(reference, others, dataset, folder, progress)

        inputs: dict[str, Artifact] = {"data": dataset, "reference": reference}
        inputs |= {each.engine: each for each in others}
        stage = Stage("differences", 1, {}, ("numpy",))
        return self._stage(f"differences to {role}", stage, inputs, Difference, produce)

    def _golden(
        self, shipped: list[tuple[EngineFile, OnnxModel | QuantizedModel]], dataset: Dataset
    ) -> Golden:
        def produce(folder: Path, progress: Progress) -> Golden:
            from edgekd.evaluate import golden

            return golden(shipped, dataset, folder, progress)

        inputs: dict[str, Artifact] = {"data": dataset}
        for engine, model in shipped:
            inputs |= {engine.name: engine, f"{engine.name} model": model}
        stage = Stage("golden", 1, {"host": host.processor()}, ())
        return self._stage("golden", stage, inputs, Golden, produce)

    def _bench(self, engines: list[EngineFile], dataset: Dataset) -> Measurements:
        settings = self.recipe.bench

        def produce(folder: Path, progress: Progress) -> Measurements:
            from edgekd.bench.measure import bench

            return bench(engines, dataset, settings, folder, progress)

        inputs: dict[str, Artifact] = {"data": dataset, **{each.name: each for each in engines}}
        packages = sorted({name for each in engines for name in find(each.backend).packages})
        key = {"bench": settings.canonical(), "host": host.facts()}
        stage = Stage("bench", 2, key, packages)
        return self._stage("bench", stage, inputs, Measurements, produce)

    def _stage(
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
