"""A frozen teacher: asked for each batch, or asked once and its logits kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekd.artifacts import Checkpoint, Dataset, TeacherLogits
from edgekd.data import UNLABELLED, splits
from edgekd.distill import ranks, sampling
from edgekd.distill.optim import bf16_autocast
from edgekd.distill.taps import Tap
from edgekd.errors import TrainError
from edgekd.models import weights
from edgekd.progress import Progress, silent
from edgekd.recipe import DistillSettings, TrainSettings

_BATCH = 256
_FLOOR = 10.0
"""How far below the least known logit that of a class lies which a teacher cannot tell."""


class Teacher:
    """Logits and features of a network in eval mode, without gradients; nothing of it ever moves.

    Args:
        model: the network.
        device: where it runs.
        layers: module path by name of the features to keep.
        autocast: ``auto`` for bf16 where the processor has it, or ``off``.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        layers: Mapping[str, str] | None = None,
        autocast: str = "auto",
    ) -> None:
        self._model = model.eval().requires_grad_(False)
        self._model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        self._layers = dict(layers or {})
        self._autocast = bf16_autocast(device) if autocast == "auto" else contextlib.nullcontext()
        self._hash = state_hash(model)

    def ask(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits, float32 (n, classes), and one feature a layer, of the batch the student sees."""
        inner = weights.network(self._model) if self._layers else self._model
        with torch.no_grad(), self._autocast, Tap(inner, self._layers) as tap:
            logits: torch.Tensor = self._model(x)
            features = list(tap.features().values())
        return logits.float(), features

    def check_frozen(self) -> None:
        """Holds weights and buffers against what they were.

        Raises:
            TrainError: something moved.
        """
        if state_hash(self._model) != self._hash:
            raise TrainError(
                "the teacher's weights or buffers changed while the student learnt",
                "its forward pass must not write to them in eval mode",
            )


def state_hash(model: nn.Module) -> str:
    """sha256 of a network's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def within_reach(
    logits: torch.Tensor, labels: torch.Tensor, knows: torch.Tensor | None
) -> torch.Tensor:
    """Logits of teachers with different label sets, without those that do not know the label.

    A class that no teacher who knows the image's label can tell gets a logit well below the
    others. Images without a label keep every logit.

    Args:
        logits: the merged teachers', shape (n, classes).
        labels: int64, shape (n,).
        knows: (classes, classes) bool: whether some teacher knows both; None: all know all.
    """
    if knows is None:
        return logits
    told = knows.to(logits.device)[labels.clamp(min=0)] | (labels == UNLABELLED)[:, None]
    least = logits.masked_fill(~told, torch.inf).amin(1, keepdim=True)
    return torch.where(told, logits, least - _FLOOR)


def record(
    dataset: Dataset,
    teacher: Checkpoint,
    train: TrainSettings,
    settings: DistillSettings,
    out_dir: Path,
    progress: Progress = silent,
) -> TeacherLogits:
    """The stage ``teacher-logits``: the teacher's answers to every view that the student will see.

    They are written as one array (views, n, classes) and read memory-mapped. The stage's key
    holds what they depend on: teacher, data, augmentation, its seed, and the type of number.

    Raises:
        TrainError: a logit is not finite, or too large for the type.
    """
    device = ranks.device()
    asked = Teacher(weights.load(teacher), device, autocast=settings.autocast)
    samples = splits.read(dataset, "train", progress)
    views, n = train.distinct_views(), len(samples)
    path = out_dir / "logits.npy"
    kept = np.lib.format.open_memmap(
        path, "w+", np.dtype(settings.cache_dtype), (views, n, teacher.classes)
    )
    for view in range(views):
        parts = sampling.whole(samples, train, dataset.preprocessing, view, _BATCH)
        for part, x in sampling.ahead(parts):
            logits, _ = asked.ask(x.to(device))
            answers = logits.cpu().numpy()
            if not (np.abs(answers) <= np.finfo(kept.dtype).max).all():  # nor is NaN
                raise TrainError(
                    f"the teacher gives logits that {settings.cache_dtype} cannot hold",
                    "use distill.cache_dtype = 'float32', or another teacher",
                )
            kept[view, part] = answers
            progress(view * n + part.stop, views * n, f"view {view + 1}/{views}")
    kept.flush()
    asked.check_frozen()
    return TeacherLogits(path=path, views=views, classes=teacher.classes)


class Kept:
    """Logits that ``record`` wrote, read as they are needed.

    Raises:
        TrainError: they are of another split or other classes.
    """

    def __init__(self, found: TeacherLogits, n: int, classes: int) -> None:
        self._logits = np.load(found.path, mmap_mode="r", allow_pickle=False)
        if self._logits.shape != (found.views, n, classes):
            raise TrainError(
                f"the kept logits have shape {self._logits.shape}, and the training split wants"
                f" {(found.views, n, classes)}",
                "build again: they will be recorded anew",
            )

    def logits(self, view: int, ids: torch.Tensor) -> torch.Tensor:
        """float32 (n, classes) of a view's images by their places in the split."""
        return torch.from_numpy(self._logits[view, ids.numpy()].astype(np.float32))
