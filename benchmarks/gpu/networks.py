"""A teacher, a student, and every precision of them: by EdgeKD's own stages, made once a run.

Digits of 28² in place of Fashion-MNIST, which would have to be downloaded. Two short epochs: what
is shown is that engines compute what their graph says, and how fast; nothing of accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from job import Job
from timing import SAMPLES

from edgekd import ladder, targets
from edgekd.artifacts import Checkpoint, Dataset, EngineFile, OnnxModel, QuantizedModel
from edgekd.backends import ort
from edgekd.backends.base import Arrays, Session, run_any, usable_cores
from edgekd.data import splits
from edgekd.errors import QuantizeError
from edgekd.int8 import Int8Stages
from edgekd.ladder import Model, Rung
from edgekd.preprocessing import normalise
from edgekd.progress import Nobody
from edgekd.recipe_file import load
from edgekd.stages import Stages
from edgekd.store import Store
from edgekd.targets import Target

PRECISIONS = ("fp32", "fp16", "int8", "fp8")
WIDEST = "rtx-40"
"""A target that has all of them, so that every form is made."""
TEACHER, STUDENT = "resnet20", "dscnn-s"


@dataclass(frozen=True)
class Network:
    """A network in every precision, with what makes engines of it.

    Attributes:
        role: ``teacher`` or ``student``.
        stages: those of the run.
        dataset: whose validation images are run.
        model: in fp32.
        forms: quantised, by form.
    """

    role: str
    stages: Stages
    dataset: Dataset
    model: OnnxModel
    forms: dict[str, QuantizedModel]

    @cached_property
    def x(self) -> npt.NDArray[np.float32]:
        """Images that nothing was calibrated on, as the network takes them."""
        images = splits.read(self.dataset, "validation").images
        return normalise(images[np.arange(SAMPLES) % len(images)], self.dataset.preprocessing)

    def rungs(self, target: Target, precisions: Iterable[str]) -> list[Rung]:
        """Of the ladder on a target, those that it lists among these."""
        return ladder.rungs([target], tuple(precisions), self.model, self.forms)

    def source(self, rung: Rung) -> Model:
        """What the engine of a rung is built from."""
        (found,) = ladder.models(self.stages, [rung])
        return found

    def engine(self, rung: Rung) -> EngineFile:
        """The engine of a rung; made once a run."""
        return self.stages.engine(self.role, self.source(rung), rung.target)

    def plain(self, rung: Rung) -> Arrays:
        """What the graph of a rung says, step by step and nothing fused, on a CPU."""
        (found,) = ladder.emulations(self.stages, [rung])
        return self._run(found)

    @cached_property
    def exact(self) -> Arrays:
        """What fp32 gives."""
        return self._run(self.model)

    def outputs(self, session: Session, engine: EngineFile) -> Arrays:
        """What an engine gives for the images."""
        return run_any(session, engine, {session.inputs[0].name: self.x})

    def _run(self, model: Model) -> Arrays:
        with ort.open_model(model.path, usable_cores(), optimise=False) as session:
            return session.run({session.inputs[0].name: self.x})


class Networks:
    """Both networks of a run; what another part of it has made is used again."""

    def __init__(self, job: Job) -> None:
        self._quick = job.quick
        self._stages = Stages(
            load(None, _settings(job.quick)),
            [targets.load(WIDEST)],
            Store(job.work / "store"),
            Nobody(),
        )

    @cached_property
    def dataset(self) -> Dataset:
        """The digits."""
        return self._stages.data()

    @cached_property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """Both, trained on whatever torch finds."""
        teacher = self._stages.teacher(self.dataset)
        return {
            "teacher": teacher,
            "student": self._stages.student("student", self.dataset, teacher),
        }

    def network(self, role: str) -> Network:
        """``teacher`` or ``student``, quantised."""
        model = self._stages.export(role, self.checkpoints[role], self.dataset)
        found = Int8Stages(self._stages).quantise(model, self.dataset, {})
        if found is None:
            raise QuantizeError("nothing was to be quantised")
        return Network(role, self._stages, self.dataset, model, dict(found.forms))


def _settings(quick: bool) -> dict[str, object]:
    """The recipe: one pass, and no stage that would look for something better."""
    common = {
        "data.source": "digits",
        "data.validation": 0.15,
        "data.size": () if quick else (28, 28),
        "teacher.model": "resnet8" if quick else TEACHER,
        "student.model": STUDENT,
        "calibration.method": "minmax",
        "calibration.samples": 64,
        "quantize.mixed": "never",
        "quantize.min_sqnr": 5.0,
        "qat.when": "never",
    }
    each = {"epochs": 1 if quick else 2, "batch": 64, "learning_rate": 0.05}
    trained = {f"{role}.train.{k}": v for role in ("teacher", "student") for k, v in each.items()}
    return common | trained
