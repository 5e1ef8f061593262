"""Each stage of a build: what it is made from, what its key holds, and which function makes it.

Those that quantise are in ``int8``. Nothing here knows the order; results come from the store
where they are there already.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgekd import data, models
from edgekd.artifacts import (
    Artifact,
    Checkpoint,
    Dataset,
    Difference,
    EngineFile,
    Evaluation,
    Golden,
    OnnxModel,
    QuantizedModel,
    TeacherLogits,
)
from edgekd.backends import cuda
from edgekd.backends.base import can_profile, find
from edgekd.backends.tensorrt import BACKENDS as TENSORRT
from edgekd.backends.tensorrt import UNBUILT, TensorRt
from edgekd.backends.tensorrt.inspector import Inspected
from edgekd.bench import host
from edgekd.data import audit
from edgekd.data.splits import prepare, stage_key
from edgekd.errors import BuildError
from edgekd.measurements import Measurements, Profile
from edgekd.models import members
from edgekd.progress import Progress, Watcher
from edgekd.recipe import Recipe, TrainSettings
from edgekd.store import Stage, Store
from edgekd.targets import Target
from edgekd.verdict import BASELINE

A = TypeVar("A", bound=Artifact)


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
        stage = Stage("data", 3, key, ("numpy", "pillow"))
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

    def engine(
        self, role: str, model: Checkpoint | OnnxModel | QuantizedModel, target: Target
    ) -> EngineFile:
        """One model for one target."""
        backend = find(target.backend)

        def produce(folder: Path, progress: Progress) -> EngineFile:
            from edgekd.backends.base import build_engine

            try:
                engine = build_engine(model, role, target, folder, progress)
            except BuildError as error:
                if isinstance(model, Checkpoint) or not error.nodes:
                    raise
                from edgekd.quantize import lint

                raise lint.explain(error, model.path, target) from error
            if engine.path.suffix == UNBUILT and engine.backend in TENSORRT:
                from edgekd.quantize import lint

                lint.foresee(engine.path, target)
            return engine

        key: dict[str, Any] = {"role": role, "target": dataclasses.asdict(target)}
        if target.device != "cpu":  # whether it can run here, and what "cuda" means here
            found = cuda.here()
            key["gpu"] = found and dataclasses.asdict(found)
        precision = "fp32" if isinstance(model, Checkpoint) else model.precision
        label = f"engine {role}/{target.name}/{precision}"
        stage = Stage("engine", 2, key, backend.packages)
        return self.run(label, stage, {"model": model}, EngineFile, produce)

    def inspect(self, engine: EngineFile) -> Inspected:
        """What the layers of an engine that can run here compute in."""

        def produce(folder: Path, progress: Progress) -> Inspected:
            backend = find(engine.backend)
            assert isinstance(backend, TensorRt)
            return Inspected(inspection=backend.inspect(engine))

        stage = Stage("inspect", 1, {}, find(engine.backend).packages)
        return self.run(f"inspect {engine.name}", stage, {"engine": engine}, Inspected, produce)

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
        stage = Stage("evaluate", 2, {"host": host.processor()}, find(engine.backend).packages)
        return self.run(f"evaluate {engine.name}", stage, inputs, Evaluation, produce)

    def preview(
        self,
        engine: EngineFile,
        model: OnnxModel | QuantizedModel,
        dataset: Dataset,
        teacher: Evaluation,
    ) -> Evaluation:
        """An engine that cannot run here, emulated over the test split."""

        def produce(folder: Path, progress: Progress) -> Evaluation:
            from edgekd.evaluate import preview

            return preview(engine, model, dataset, teacher, folder, progress)

        inputs: dict[str, Artifact] = {"model": model, "data": dataset, "teacher": teacher}
        stage = Stage("preview", 1, {"engine": engine.name}, ("onnxruntime",))
        return self.run(f"preview {engine.name}", stage, inputs, Evaluation, produce)

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
        stage = Stage("differences", 2, {}, ("numpy",))
        return self.run(f"differences to {role}", stage, inputs, Difference, produce)

    def golden(
        self,
        shipped: list[EngineFile],
        emulations: Mapping[str, OnnxModel | QuantizedModel],
        dataset: Dataset,
    ) -> Golden:
        """A few images and what each engine gives for them."""

        def produce(folder: Path, progress: Progress) -> Golden:
            from edgekd.evaluate import golden

            return golden(shipped, emulations, dataset, folder, progress)

        inputs: dict[str, Artifact] = {"data": dataset, **{each.name: each for each in shipped}}
        inputs |= {f"{name} model": each for name, each in emulations.items()}
        stage = Stage("golden", 2, {"host": host.processor()}, ())
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
        stage = Stage("bench", 4, key, packages)
        return self.run("bench", stage, inputs, Measurements, produce)

    def camera(self, engine: EngineFile, dataset: Dataset) -> Measurements | None:
        """A camera's frames for one engine; None where the recipe asks for none."""
        settings, budget = self.recipe.bench, self.recipe.budget
        if budget.fps is None or not settings.camera:
            return None

        def produce(folder: Path, progress: Progress) -> Measurements:
            from edgekd.bench.measure import camera

            return camera(engine, dataset, settings, budget, folder, progress)

        inputs: dict[str, Artifact] = {"data": dataset, engine.name: engine}
        key = {
            "bench": settings.canonical(),
            "host": host.facts(),
            "budget": {
                name: budget.canonical()[name] for name in ("fps", "miss_rate", "confidence")
            },
        }
        stage = Stage("camera", 1, key, find(engine.backend).packages)
        return self.run("camera", stage, inputs, Measurements, produce)

    def profile(
        self, engine: EngineFile, model: OnnxModel | QuantizedModel, dataset: Dataset
    ) -> Profile | None:
        """Where an engine's time goes; None where its runtime does not tell, or nobody asked."""
        settings = self.recipe.bench
        if not settings.profile or not can_profile(find(engine.backend)):
            return None

        def produce(folder: Path, progress: Progress) -> Profile:
            from edgekd.bench.measure import profile

            return profile(engine, model, dataset, settings, progress)

        inputs: dict[str, Artifact] = {"data": dataset, "engine": engine, "model": model}
        key = {"threads": settings.threads, "host": host.facts()}
        stage = Stage("profile", 1, key, find(engine.backend).packages)
        return self.run("profile", stage, inputs, Profile, produce)

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
