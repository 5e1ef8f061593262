"""The loop that trains any network: alone or from a teacher, in one process or in several."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.artifacts import Checkpoint, Dataset, TeacherLogits
from edgekd.data import splits
from edgekd.data.splits import Samples
from edgekd.distill import checkpoint, optim, ranks, sampling
from edgekd.distill.distiller import Distiller
from edgekd.distill.mixing import mix
from edgekd.distill.objectives import Lesson, Objective, pairs
from edgekd.distill.sampling import Batch
from edgekd.distill.taps import Tap
from edgekd.distill.teachers import Kept, Teacher, within_reach
from edgekd.distill.validation import accuracy
from edgekd.errors import TrainError
from edgekd.models import weights
from edgekd.progress import Progress, silent
from edgekd.recipe import DistillSettings, TrainSettings

_RANK_SEED = 1_000_003
_PROBE = 2
"""Images whose features tell the adaptors their shapes."""


def fit(
    student: nn.Module,
    dataset: Dataset,
    settings: TrainSettings,
    progress: Progress = silent,
    *,
    name: str,
    teacher: Checkpoint | None = None,
    distill: DistillSettings | None = None,
    logits: TeacherLogits | None = None,
    work: Path | None = None,
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Trains any network in place, and leaves it on the CPU; see ``train`` for the arguments.

    Args:
        student: made after ``checkpoint.seed``, alike on every rank.
        name: for messages, and so that a checkpoint is not taken for another network's.

    Returns:
        The validation accuracy of the weights that were kept with their epoch, and the history,
        one record an epoch.
    """
    ranks.join()
    with ExitStack() as stack:
        training = _Training(
            student, name, dataset, settings, teacher, distill, logits, work, stack
        )
        training.run(progress)
        return training.finish(), training.at.history


@dataclass
class _Position:
    """Where a training stands, beside tensors.

    Attributes:
        step: optimizer steps done.
        sums: of each term over the steps of the epoch so far.
        history: one record an epoch.
        best: the best validation accuracy so far, and its epoch from 1.
    """

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    best: tuple[float, int] = (-1.0, 0)


class _Training:
    """Everything that one training holds; all that changes is in ``_state``."""

    def __init__(
        self,
        student: nn.Module,
        name: str,
        dataset: Dataset,
        settings: TrainSettings,
        teacher: Checkpoint | None,
        distill: DistillSettings | None,
        logits: TeacherLogits | None,
        work: Path | None,
        stack: ExitStack,
    ) -> None:
        self.name, self.settings, self.dataset, self.work = name, settings, dataset, work
        self.device = ranks.device()
        self.samples = splits.read(dataset, "train")
        self.validation = splits.read(dataset, "validation")
        self.steps = _steps(self.samples, settings)
        self.student = student.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = optim.average(student, settings)  # a copy, made before the tap is opened
        self.teacher: Teacher | None = None
        self.kept: Kept | None = None
        self.knows: torch.Tensor | None = None
        objective, tap, terms = None, Tap(student, {}), {"ce": 1.0}
        if teacher is not None and distill is not None:
            terms = {name: weight for name, weight in distill.weights.items() if weight}
            network = weights.load(teacher)
            self.knows = getattr(network, "knows", None)
            if logits is not None:
                self.kept = Kept(logits, len(self.samples), len(dataset.classes))
                objective = Objective(distill)
            else:
                objective, tap = self._objective(network, distill)
        distiller = Distiller(student, objective, stack.enter_context(tap), terms, settings)
        self.distiller = distiller.to(self.device)
        self.model: nn.Module = self.distiller
        if ranks.size() > 1:
            self.model = _parallel(self.distiller, self.device)
            if ranks.rank():
                checkpoint.seed(settings.seed + _RANK_SEED * ranks.rank())
        self.optimizer = optim.optimizer(self.distiller, settings)
        self.scheduler = optim.scheduler(self.optimizer, settings, self.steps * settings.epochs)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.autocast == "fp16")
        self.at = _Position()
        self.best: dict[str, torch.Tensor] = {}
        self.recipe = {
            "model": name,
            "train": settings.canonical(),
            "distill": distill.canonical() if distill and teacher else None,
            "teacher": teacher.content if teacher else "",
            "data": dataset.fingerprint,
            "processes": ranks.size(),
        }

    def _objective(self, network: nn.Module, distill: DistillSettings) -> tuple[Objective, Tap]:
        """The losses for a teacher that is asked for each batch, and the tap that they need."""
        if not distill.features():
            self.teacher = Teacher(network, self.device, autocast=distill.autocast)
            return Objective(distill), Tap(self.student, {})
        theirs, ours = pairs(distill, weights.network(network), self.student)
        asked = dict(zip(theirs, theirs, strict=True))
        self.teacher = Teacher(network, self.device, asked, distill.autocast)
        tap = Tap(self.student, {f"{i} {place}": place for i, place in enumerate(ours)})
        batch = next(self._batches(0, 0))
        probe = batch.x[:_PROBE].to(self.device)
        with tap, torch.no_grad():
            self.student.eval()(probe)
            features = list(tap.features().values())
        _, known = self.teacher.ask(probe)
        labels = torch.from_numpy(self.samples.labels)
        return Objective(distill, features, known, labels), tap

    def run(self, progress: Progress) -> None:
        """All epochs that are left, from the last checkpoint if there is one."""
        self._resume()
        while len(self.at.history) < self.settings.epochs and not self._patience_is_over():
            epoch = len(self.at.history)
            first = self.at.step - epoch * self.steps
            for step, batch in enumerate(sampling.ahead(self._batches(epoch, first)), first):
                self._step(batch, epoch, step)
                self._tell(progress, epoch)
                every = self.settings.checkpoint_steps
                if every and self.at.step % every == 0 and step + 1 < self.steps:
                    self._save()
            self._end_epoch(epoch)
            self._save()
            self._tell(progress, epoch, self.at.history[-1])
        if self.teacher is not None:
            self.teacher.check_frozen()

    def finish(self) -> dict[str, float]:
        """Puts the weights that are kept into the student; returns their accuracy and epoch."""
        top1, epoch = self.at.history[-1]["validation_top1"], len(self.at.history)
        if self.settings.keep == "best":
            self.student.load_state_dict(self.best)
            top1, epoch = self.at.best
        elif self.average is not None:
            self.student.load_state_dict(self.average.module.state_dict())
        self.student.cpu()
        return {"validation_top1": top1, "epoch": epoch}

    def _batches(self, epoch: int, first: int) -> Any:
        return sampling.batches(
            self.samples,
            self.settings,
            self.dataset.preprocessing,
            epoch,
            taught=self.teacher is not None or self.kept is not None,
            first=first,
            rank=ranks.rank(),
            ranks=ranks.size(),
        )

    def _step(self, batch: Batch, epoch: int, step: int) -> None:
        """One step of the optimizer."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, epoch, step, ranks.rank()])
        x, partner, share = mix(batch.x.to(self.device), settings.mixup, settings.cutmix, rng)
        labels = [(batch.labels.to(self.device), share)]
        if share < 1:
            labels.append((batch.labels[partner].to(self.device), 1 - share))
            labels.sort(key=lambda each: -each[1])
        lesson = self._lesson(x, [each for each, _ in labels], batch)
        self.model.train()
        terms = self.model(x, labels, lesson)
        values = {name: term.item() for name, term in terms.items()}
        if not math.isfinite(ranks.mean({"loss": values["loss"]})["loss"]):
            kept = f"; the last good checkpoint is in {self.work}" if self.work else ""
            raise TrainError(
                f"the loss of {self.name} is {values['loss']} in epoch {epoch + 1}, batch"
                f" {step + 1}{kept}",
                "lower learning_rate or the weights of the losses, or set clip = 1.0",
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(terms["loss"]).backward()
        if settings.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.distiller.parameters(), settings.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.student)
        for name, value in values.items():
            self.at.sums[name] = self.at.sums.get(name, 0.0) + value
        self.at.step += 1

    def _lesson(self, x: torch.Tensor, labels: list[torch.Tensor], batch: Batch) -> Lesson | None:
        """What the teacher says of exactly the images that the student is about to see."""
        features: list[torch.Tensor] = []
        if self.kept is not None:
            logits = self.kept.logits(batch.view, batch.ids).to(self.device)
        elif self.teacher is not None:
            logits, features = self.teacher.ask(x)
        else:
            return None
        return Lesson(
            within_reach(logits, labels[0], self.knows), features, batch.ids.to(self.device)
        )

    def _end_epoch(self, epoch: int) -> None:
        """Validates, and remembers the best."""
        validated: nn.Module = self.student if self.average is None else self.average.module
        top1 = 0.0
        if not ranks.rank():  # the others' batch-norm statistics are of their own images
            top1 = accuracy(
                validated, self.validation, self.dataset.preprocessing, self.settings, self.device
            )
        top1 = ranks.share(top1)
        parts = ranks.mean({name: each / self.steps for name, each in self.at.sums.items()})
        self.at.sums = {}
        rate = self.optimizer.param_groups[0]["lr"]
        self.at.history.append(
            {"epoch": epoch + 1, **parts, "learning_rate": rate, "validation_top1": top1}
        )
        if top1 > self.at.best[0]:
            self.at.best = top1, epoch + 1
            if self.settings.keep == "best":
                state = validated.state_dict()
                self.best = {name: each.detach().cpu().clone() for name, each in state.items()}

    def _patience_is_over(self) -> bool:
        waited = len(self.at.history) - self.at.best[1]
        return 0 < self.settings.patience <= waited

    def _tell(
        self, progress: Progress, epoch: int, scalars: Mapping[str, float] | None = None
    ) -> None:
        total = self.settings.epochs * self.steps
        done = total if scalars and self._patience_is_over() else self.at.step
        in_epoch = self.at.step - epoch * self.steps
        loss = scalars["loss"] if scalars else self.at.sums["loss"] / in_epoch
        note = f"epoch {epoch + 1}/{self.settings.epochs}, loss {loss:.3f}"
        if self.at.history:
            note += f", validation {self.at.history[-1]['validation_top1']:.2f} %"
        progress(done, total, note, scalars)

    def _save(self) -> None:
        """A checkpoint, by rank 0, with every rank's generators."""
        if self.work is None:
            return
        states = ranks.collect(checkpoint.random_states())
        if ranks.rank():
            return
        state = {
            "distiller": self.distiller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "best": self.best,
            "position": vars(self.at),
            "sampler": {"seed": self.settings.seed, "epoch": len(self.at.history)},
            "random": states,
        }
        checkpoint.save(self.work, self.at.step, self.recipe, state)

    def _resume(self) -> None:
        if self.work is None or (found := checkpoint.load(self.work, self.recipe)) is None:
            return
        _, state = found
        self.distiller.load_state_dict(state["distiller"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best = state["best"]
        self.at = _Position(**state["position"])
        checkpoint.set_random_states(state["random"][ranks.rank()])


def _steps(samples: Samples, settings: TrainSettings) -> int:
    """Steps an epoch.

    Raises:
        TrainError: the split is smaller than a batch, or processes cannot share one.
    """
    steps = len(samples) // settings.batch
    if not steps:
        raise TrainError(
            f"{len(samples)} training images are fewer than one batch of {settings.batch}",
            "lower the batch size",
        )
    if settings.batch % ranks.size() or settings.batch // ranks.size() < 2:
        raise TrainError(
            f"a batch of {settings.batch} cannot be shared by {ranks.size()} processes",
            "make it a multiple of their number, with two images or more for each",
        )
    return steps


def _parallel(distiller: Distiller, device: torch.device) -> nn.Module:
    """The distiller, its gradients averaged over the ranks.

    Adaptors' memories are the same on every rank by themselves, and too large to be sent round
    at each step as batch-norm statistics are.
    """
    wrap = nn.parallel.DistributedDataParallel
    # Kernels of 1×1 have the same bytes in either memory format, and torch minds the strides.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    memories = (
        [f"objective.{n}" for n, _ in distiller.objective.named_buffers()]
        if distiller.objective
        else []
    )
    wrap._set_params_and_buffers_to_ignore_for_model(distiller, memories)  # type: ignore[no-untyped-call]
    return wrap(distiller, device_ids=[device.index] if device.type == "cuda" else None)
