"""The stage that trains: a teacher or a control on labels, a student on a teacher as well."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from edgekd import models
from edgekd.artifacts import Checkpoint, Dataset, Preprocessing
from edgekd.data import Images, splits
from edgekd.data.batches import draw_view, slices
from edgekd.data.splits import Samples
from edgekd.distill.objectives import objective
from edgekd.distill.teachers import Teacher, bf16_autocast
from edgekd.errors import TrainError
from edgekd.models import weights
from edgekd.preprocessing import normalise
from edgekd.progress import Progress, silent
from edgekd.recipe import DistillSettings, TrainSettings

_EVAL_BATCH = 500


def train(
    dataset: Dataset,
    model_name: str,
    settings: TrainSettings,
    out_dir: Path,
    progress: Progress = silent,
    *,
    teacher: Checkpoint | None = None,
    distill: DistillSettings | None = None,
) -> Checkpoint:
    """The stage ``teacher``, ``student`` or ``control``.

    With a teacher the loss is ``ce_weight · CE + weight ·`` the recipe's; without one it is CE.
    The last epoch's weights are kept; validation accuracy is recorded and chooses nothing.

    Raises:
        TrainError: the loss is not finite, or the split is smaller than a batch.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.seed)
    model = models.create(model_name, len(dataset.classes), dataset.shape[0])
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    samples = splits.read(dataset, "train", progress)
    validation = splits.read(dataset, "validation", progress)
    steps = len(samples) // settings.batch
    if not steps:
        raise TrainError(
            f"{len(samples)} training images are fewer than one batch of {settings.batch}",
            "lower the batch size",
        )
    frozen = None
    if teacher is not None:
        frozen = Teacher(
            weights.load(teacher), device, len(samples), 0 < settings.views < settings.epochs
        )
    optimizer = _optimizer(model, settings)
    scheduler = _scheduler(optimizer, settings, steps * settings.epochs)
    history: list[dict[str, float]] = []
    for epoch in range(settings.epochs):
        parts: dict[str, float] = {}
        for step, batch in enumerate(_batches(samples, settings, epoch, dataset.preprocessing)):
            x, labels = batch.x.to(device), batch.labels.to(device)
            model.train()
            with _autocast(settings, device):
                logits = model(x)
            logits = logits.float()
            hard = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
            loss, terms = hard, {"ce": hard}
            if frozen is not None and distill is not None:
                known = frozen.logits(x, batch.view, batch.ids)
                soft = objective(distill)(logits, known, labels)
                loss = distill.ce_weight * hard + distill.weight * soft
                terms[distill.loss] = soft
            if not math.isfinite(loss.item()):
                raise TrainError(
                    f"the loss of {model_name} is {loss.item()} in epoch {epoch + 1},"
                    f" batch {step + 1}",
                    "lower learning_rate",
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            for name, term in terms.items():
                parts[name] = parts.get(name, 0.0) + term.item() / steps
            progress(
                epoch * steps + step + 1,
                settings.epochs * steps,
                f"epoch {epoch + 1}/{settings.epochs}, loss {loss.item():.3f}"
                + (f", validation {history[-1]['validation_top1']:.2f} %" if history else ""),
            )
        top1 = accuracy(model, validation, dataset.preprocessing, settings)
        history.append({"epoch": epoch + 1, **parts, "validation_top1": top1})
    params, macs = models.cost(model.cpu(), dataset.shape)
    kept, record = out_dir / "weights.safetensors", out_dir / "history.json"
    weights.save(model, kept)
    record.write_text(json.dumps(history, indent=1))
    return Checkpoint(
        weights=kept,
        model=model_name,
        classes=len(dataset.classes),
        shape=dataset.shape,
        params=params,
        macs=macs,
        metrics={"validation_top1": history[-1]["validation_top1"]},
        history=record,
    )


def import_weights(
    dataset: Dataset, model_name: str, given: Path, settings: TrainSettings, out_dir: Path
) -> Checkpoint:
    """The stage ``teacher`` where its weights are given: they are checked and copied.

    Raises:
        TrainError: the file cannot be read, or its tensors are not this network's.
    """
    model = models.create(model_name, len(dataset.classes), dataset.shape[0])
    weights.fill(model, given)
    validation = splits.read(dataset, "validation")
    top1 = accuracy(model, validation, dataset.preprocessing, settings)
    params, macs = models.cost(model, dataset.shape)
    kept = out_dir / "weights.safetensors"
    weights.save(model, kept)
    return Checkpoint(
        weights=kept,
        model=model_name,
        classes=len(dataset.classes),
        shape=dataset.shape,
        params=params,
        macs=macs,
        metrics={"validation_top1": top1},
    )


def accuracy(
    model: nn.Module, samples: Samples, preprocessing: Preprocessing, settings: TrainSettings
) -> float:
    """Top-1 in percent; leaves the network in eval mode."""
    device = next(model.parameters()).device
    model.eval()
    correct = 0
    with torch.inference_mode(), _autocast(settings, device):
        for part in slices(len(samples), _EVAL_BATCH):
            x = _tensor(samples.images[part], preprocessing).to(device)
            predicted = model(x).argmax(1).cpu().numpy()
            correct += int((predicted == samples.labels[part]).sum())
    return 100 * correct / len(samples)


class Batch(NamedTuple):
    """One batch of one view of the training split; ``ids`` are places in the split."""

    x: torch.Tensor
    labels: torch.Tensor
    view: int
    ids: torch.Tensor


def _batches(
    samples: Samples, settings: TrainSettings, epoch: int, preprocessing: Preprocessing
) -> Iterator[Batch]:
    """One epoch in an order drawn for it; a last batch that is short is left out."""
    n = len(samples)
    index = epoch % settings.views if settings.views else epoch
    view = draw_view(n, flip=settings.flip, shift=settings.shift, seed=settings.seed, index=index)
    order = np.random.default_rng([settings.seed, epoch, n]).permutation(n)
    for part in slices(n - n % settings.batch, settings.batch):
        ids = order[part]
        images = view.apply(samples.images[ids], ids)
        labels = torch.from_numpy(samples.labels[ids])
        yield Batch(_tensor(images, preprocessing), labels, index, torch.from_numpy(ids))


def _tensor(images: Images, preprocessing: Preprocessing) -> torch.Tensor:
    x = torch.from_numpy(normalise(images, preprocessing))
    return x.contiguous(memory_format=torch.channels_last)


def _autocast(
    settings: TrainSettings, device: torch.device
) -> contextlib.AbstractContextManager[None]:
    return bf16_autocast(device) if settings.autocast == "auto" else contextlib.nullcontext()


def _optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD; weight decay on matrices and kernels, not on biases and batch norm."""
    groups = [
        {
            "params": [p for p in model.parameters() if p.ndim > 1],
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0
    )


def _scheduler(
    optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR

    if settings.schedule == "one-cycle":
        return OneCycleLR(
            optimizer,
            settings.learning_rate,
            total_steps=steps + 1,
            pct_start=max(settings.warmup, 2 / (steps + 1)),  # its rise may not be of 0 steps
            cycle_momentum=False,
        )
    rising = min(max(1, round(settings.warmup * steps)), steps)
    return SequentialLR(
        optimizer,
        [
            LinearLR(optimizer, 1 / rising, total_iters=rising),
            CosineAnnealingLR(optimizer, max(1, steps - rising)),
        ],
        [rising],
    )
