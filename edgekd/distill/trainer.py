"""The stage that trains: a teacher or a control on labels, a student on a teacher as well."""

from __future__ import annotations

import json
from pathlib import Path

from edgekd import models
from edgekd.artifacts import Checkpoint, Dataset, TeacherLogits
from edgekd.distill import checkpoint, ranks
from edgekd.distill.fit import fit
from edgekd.models import weights
from edgekd.progress import Progress, silent
from edgekd.recipe import DistillSettings, TrainSettings


def train(
    dataset: Dataset,
    model_name: str,
    settings: TrainSettings,
    out_dir: Path,
    progress: Progress = silent,
    *,
    teacher: Checkpoint | None = None,
    distill: DistillSettings | None = None,
    logits: TeacherLogits | None = None,
    work: Path | None = None,
) -> Checkpoint:
    """The stage ``teacher``, ``student`` or ``control``.

    With a teacher the loss is the recipe's sum of weight × term; without one it is
    cross-entropy. The last epoch's weights are kept unless the recipe asks for the best by
    validation; the test split is never read. Under ``torchrun`` every rank calls this, and
    rank 0 writes.

    Args:
        dataset: trained on ``train``, validated on ``validation``.
        model_name: the architecture.
        settings: how to train.
        out_dir: for weights and history.
        progress: told of every step, and of every epoch's figures.
        teacher: whom to learn from.
        distill: which losses; with a teacher.
        logits: the teacher's, recorded; then it is not asked again.
        work: a folder for checkpoints, from which a training that was stopped goes on bit by
            bit; None to keep none.

    Raises:
        TrainError: the loss is not finite, the split is smaller than a batch, or the
            checkpoint in ``work`` belongs to another recipe.
        RecipeError: a layer that a loss names does not exist.
    """
    checkpoint.seed(settings.seed)
    student = models.fitting(model_name, len(dataset.classes), dataset.shape)
    top1, history = fit(
        student,
        dataset,
        settings,
        progress,
        name=model_name,
        teacher=teacher,
        distill=distill,
        logits=logits,
        work=work,
    )
    params, macs = models.cost(student, dataset.shape)
    kept, record = out_dir / "weights.safetensors", out_dir / "history.json"
    if not ranks.rank():
        weights.save(student, kept)
        record.write_text(json.dumps(history, indent=1))
    return Checkpoint(
        weights=kept,
        model=model_name,
        classes=len(dataset.classes),
        shape=dataset.shape,
        params=params,
        macs=macs,
        metrics=top1,
        history=record,
    )
