"""The order of the stages: the only place that knows it.

data ─ teacher ─ student, control ─ export ─ calibrate ─ quantise ─ engines
     ─ evaluate ─ golden ─ bench ─ report ─ bundle
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edgekd import ladder, preflight, targets
from edgekd.artifacts import Artifact, Evaluation, Report
from edgekd.backends.tensorrt import BACKENDS as TENSORRT
from edgekd.bundle import SUFFIX, Bundle
from edgekd.errors import StageError
from edgekd.int8 import PORTABLE_FORM, Int8Stages
from edgekd.measurements import Profile
from edgekd.packing import pack
from edgekd.progress import Nobody, Progress, Watcher
from edgekd.recipe import Recipe
from edgekd.stages import Stages
from edgekd.store import Stage, Store, default_root
from edgekd.targets import Target
from edgekd.verdict import BASELINE, accuracy, for_each, prefer, row


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

    Under ``torchrun`` every process calls this; they train together, rank 0 does everything
    else, and each gets the result.

    Raises:
        RecipeError: the recipe names what does not exist.
        BackendUnavailable: a runtime that it needs is not installed; found out first.
        EdgekdError: a stage failed; the stages before it are kept.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return _lead(recipe, out, store, watcher, command)
    from edgekd.distill import ranks  # torchrun started this: rank 0 builds, the others help

    result = None
    if ranks.rank():
        result = ranks.follow()
    else:
        try:
            result = _lead(recipe, out, store, watcher, command)
        finally:
            ranks.dismiss(result)
    if result is None:
        raise StageError("rank 0 could not build; it says why")
    return result


def _lead(
    recipe: Recipe, out: Path, store: Store | None, watcher: Watcher | None, command: str
) -> Result:
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
        self.stages = Stages(recipe, chosen, store, watcher)

    def run(self, out: Path, command: str) -> Result:
        """All the stages, in order."""
        budget = self.recipe.budget
        dataset = self.stages.data()
        checkpoints = {"teacher": self.stages.teacher(dataset)}
        checkpoints["student"] = self.stages.student("student", dataset, checkpoints["teacher"])
        if self.recipe.student.control:
            checkpoints["control"] = self.stages.student("control", dataset, None)
        exports = {
            role: self.stages.export(role, checkpoints[role], dataset)
            for role in ("teacher", "student")
            if not checkpoints[role].onnx
        }
        int8 = Int8Stages(self.stages).quantise(exports["student"], dataset, checkpoints)
        quantized = {} if int8 is None else int8.forms

        baselines = [
            self.stages.engine(role, each, targets.load(BASELINE))
            for role, each in checkpoints.items()
        ]
        rungs = ladder.rungs(
            self.targets, self.recipe.engines.precisions, exports["student"], quantized
        )
        models = ladder.models(self.stages, rungs)
        shipped = [
            self.stages.engine("student", model, rung.target)
            for rung, model in zip(rungs, models, strict=True)
        ]
        unrun = [place for place, each in enumerate(shipped) if not each.executed]
        emulated = ladder.emulations(self.stages, [rungs[place] for place in unrun])
        emulations = {
            shipped[place].name: each for place, each in zip(unrun, emulated, strict=True)
        }
        runnable = {each.target for each in shipped if each.executed}
        peers = [
            self.stages.engine("teacher", exports["teacher"], target)
            for target in self.targets
            if target.name in runnable and "teacher" in exports and "fp32" in target.precisions
        ]
        engines = [*baselines, *peers, *shipped]
        executed = [each for each in engines if each.executed]

        inspected = {
            each.name: self.stages.inspect(each)
            for each in shipped
            if each.executed and each.backend in TENSORRT
        }

        evaluations: dict[str, Evaluation] = {}
        for engine in executed:  # the first is the teacher's baseline
            reference = evaluations.get(f"teacher/{BASELINE}/fp32")
            evaluations[engine.name] = self.stages.evaluate(engine, dataset, reference)
        for engine in shipped:
            if engine.name in emulations and engine.precision != "fp32":
                model = emulations[engine.name]
                teacher = evaluations[f"teacher/{BASELINE}/fp32"]
                evaluations[engine.name] = self.stages.preview(engine, model, dataset, teacher)
        to_teacher, to_student = (
            self.stages.differences(role, evaluations, dataset) for role in ("teacher", "student")
        )
        golden = self.stages.golden(shipped, emulations, dataset)
        timed = [each for each in executed if each.role != "control"]
        measurements = self.stages.bench(timed, dataset)
        measured = {each.engine: each for each in measurements.items}
        own = for_each(budget, engines)
        lines = [
            row(each, measured, own) | accuracy(evaluations.get(each.name), to_teacher, to_student)
            for each in engines
        ]
        best, _ = prefer(lines, own)
        camera = None
        profiles: dict[str, Profile] = {}
        for engine, model in zip(shipped, models, strict=True):
            if engine.name == best and engine.executed:
                camera = self.stages.camera(engine, dataset)
                timed_layers = self.stages.profile(engine, model, dataset)
                profiles = {} if timed_layers is None else {best: timed_layers}

        inputs: dict[str, Artifact] = {
            "data": dataset,
            **{f"{role} checkpoint": each for role, each in checkpoints.items()},
            **{f"{role} export": each for role, each in exports.items()},
            **{f"form {form}": each for form, each in quantized.items()},
            **{f"engine {each.name}": each for each in engines},
            **{f"inspection {name}": each for name, each in inspected.items()},
            **{f"evaluation {name}": each for name, each in evaluations.items()},
            "to teacher": to_teacher,
            "to student": to_student,
            "measurements": measurements,
        }
        if int8 is not None:
            inputs |= {"calibration set": int8.chosen, "calibration table": int8.table}
            for name, found in (("before", int8.before), ("after", int8.after)):
                if found is not None:
                    inputs[f"int8 {name} fine-tuning"] = found
            inputs |= {f"sensitivity of {form}": each for form, each in int8.sensitivity.items()}
            inputs |= {f"proof {place}": each for place, each in enumerate(int8.proofs)}
        if camera is not None:
            inputs["camera"] = camera
        inputs |= {f"profile {name}": each for name, each in profiles.items()}
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
                int8=int8,
                quantized=quantized,
                engines={each.name: each for each in engines},
                inspections={name: each.inspection for name, each in inspected.items()},
                evaluations=evaluations,
                to_teacher=to_teacher,
                to_student=to_student,
                measurements=measurements,
                budget=budget,
                camera=camera,
                profiles=profiles,
            )
            return report(found, folder, progress)

        packages = ("matplotlib", "jinja2", "pillow")
        drawn = self.stages.run(
            "report", Stage("report", 4, settings, packages), inputs, Report, draw
        )
        bundle = pack(
            out / f"{self.recipe.name}{SUFFIX}",
            name=self.recipe.name,
            report=drawn,
            dataset=dataset,
            student=exports["student"],
            portable=quantized.get(PORTABLE_FORM),
            teacher=exports.get("teacher") if self.recipe.bundle.teacher else None,
            engines=shipped,
            sources={
                engine.name: (name, model.path)
                for rung, model, engine in zip(rungs, models, shipped, strict=True)
                if (name := ladder.source_name(rung))
            },
            golden=golden,
        )
        return Result(bundle, drawn)
