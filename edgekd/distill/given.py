"""The stage ``teacher`` where the teacher is given: it is read, checked, kept and measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekd import bundle, models
from edgekd.artifacts import Checkpoint, Dataset, Member
from edgekd.data import splits
from edgekd.distill.validation import accuracy
from edgekd.errors import RecipeError, TrainError, near_matches
from edgekd.models import external, members, onnx_file, weights
from edgekd.models.ensemble import Reader
from edgekd.preprocessing import normalise
from edgekd.progress import Progress, silent
from edgekd.recipe import PRETRAINED, MemberSettings, TeacherSettings

_SAMPLES = 128
_SUM_TOLERANCE = 1e-3


def given(
    dataset: Dataset, settings: TeacherSettings, out_dir: Path, progress: Progress = silent
) -> Checkpoint:
    """Reads every member, and keeps its weights as safetensors or its ONNX file.

    One torch network that takes the data's images and names its classes in their order becomes
    a plain checkpoint; anything else becomes members.

    Raises:
        RecipeError: classes, channels or sizes do not fit the data's.
        TrainError: a file cannot be read, or does not fit its network.
        DataError: a library's own weights cannot be had.
        BundleError: a bundle is none, or damaged.
    """
    tables = members.tables(settings)
    validation = splits.read(dataset, "validation")
    x = torch.from_numpy(normalise(validation.images[:_SAMPLES], dataset.preprocessing))
    found, params, macs = [], 0, 0
    for number, (field, table) in enumerate(tables):
        taken = _take(dataset, table, field, out_dir / f"member{number}", x)
        found.append(taken.member)
        costs = _cost(taken, dataset)
        params, macs = params + costs[0], macs + costs[1]
        progress(number + 1, len(tables) + 1, _in_words(taken.member))
    known = {each for member in found for each in member.outputs}
    unknown = [name for index, name in enumerate(dataset.classes) if index not in known]
    if unknown:
        raise RecipeError(
            f"no teacher knows class '{unknown[0]}'"
            + (f" nor {len(unknown) - 1} more" if len(unknown) > 1 else ""),
            "name it in the classes of the teacher that does, or take it out of the data",
            field="teacher.classes",
        )
    checkpoint = Checkpoint(
        weights=found[0].weights,
        model=" + ".join(each.model for each in found),
        classes=len(dataset.classes),
        shape=dataset.shape,
        params=params,
        macs=macs,
        metrics={},
        members=() if len(found) == 1 and _is_plain(found[0], dataset) else tuple(found),
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    exact = settings.train.model_copy(update={"autocast": "off"})
    loaded = weights.load(checkpoint).to(device)
    top1 = accuracy(loaded, validation, dataset.preprocessing, exact, device)
    progress(len(tables) + 1, len(tables) + 1, f"validation {top1:.2f} %")
    return replace(checkpoint, metrics={"validation_top1": top1})


def _take(
    dataset: Dataset, table: MemberSettings, field: str, stem: Path, x: torch.Tensor
) -> Reader:
    """One member, its outputs told from validation images ``x`` and named."""
    kind, path = members.place(table.model)
    labels = table.classes
    if kind:
        taken = _from_file(dataset, kind, path, table, field, stem.with_suffix(".onnx"))
        if kind == "bundle":
            labels = labels or bundle.read(path).classes
    else:
        taken = _from_torch(dataset, table, field, stem.with_suffix(".safetensors"))
    member = taken.member
    with torch.inference_mode():
        raw = taken(x)
    if raw.ndim != 2 or len(raw) != len(x):
        raise TrainError(
            f"{member.model} gives {tuple(raw.shape)} for {len(x)} images",
            "a teacher's first output is one row of class scores an image",
        )
    if not raw.isfinite().all():
        raise TrainError(f"{member.model} gives outputs that are not finite")
    outputs = _outputs(labels, raw.shape[1], dataset.classes, member.model, field)
    taken.member = replace(member, outputs=outputs, log=is_probabilities(raw))
    return taken


def _from_file(
    dataset: Dataset, kind: str, path: Path, table: MemberSettings, field: str, kept: Path
) -> Reader:
    """An ONNX file, or a bundle's with the bundle's preprocessing."""
    mean, std = table.mean, table.std
    if kind == "bundle":
        held = bundle.read(path)
        onnx_file.copy(held.file(members.STUDENT), kept)
        mean, std = mean or held.preprocessing.mean, std or held.preprocessing.std
    else:
        onnx_file.copy(path, kept)
    face = onnx_file.interface(kept, dataset.shape[0])
    if table.size and face.size and table.size != face.size:
        raise RecipeError(
            f"{path.name} takes {face.size[0]}×{face.size[1]} and no other size",
            "leave size out",
            field=f"{field}.size",
        )
    member = _member(
        dataset, f"{kind}:{path.name}", kept, table, field, face.channels, mean, std,
        table.size or face.size,
    )  # fmt: skip
    member = replace(member, channels_last=face.channels_last)
    return Reader(member, onnx_file.OnnxNetwork(kept, face.channels_last)).eval()


def _from_torch(dataset: Dataset, table: MemberSettings, field: str, kept: Path) -> Reader:
    """A network by its name, with the weights of a file or its library's own."""
    classes, channels = len(table.classes) or len(dataset.classes), dataset.shape[0]
    mean, std = table.mean, table.std
    size = table.size or dataset.shape[1:]
    if table.weights == PRETRAINED:
        own = external.pretrained(table.model)
        channels, mean, std = own.channels, mean or own.mean, std or own.std
        classes = models.try_on(own.network, table.model, (channels, *size))[-1]
        network = models.create(table.model, classes, channels)
        weights.fill_from(network, own.network.state_dict(), Path(PRETRAINED))
        _check_rebuilt(own.network, network, table.model, (channels, *size))
    else:
        network = models.create(table.model, classes, channels)
        state = weights.read(Path(table.weights), network)
        if (count := weights.classes_of(network, state, classes)) != classes:
            raise _miscounted(table.model, count, len(dataset.classes), table.classes, field)
        weights.fill_from(network, state, Path(table.weights))
    models.try_on(network, table.model, (channels, *size))
    weights.save(network, kept)
    member = _member(dataset, table.model, kept, table, field, channels, mean, std, table.size)
    return Reader(member, network).eval()


def _member(
    dataset: Dataset,
    model: str,
    kept: Path,
    table: MemberSettings,
    field: str,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    size: tuple[int, ...],
) -> Member:
    """The member as far as it is known before it has been run."""
    if channels not in (dataset.shape[0], 3) or channels < dataset.shape[0]:
        raise RecipeError(
            f"{model} takes {channels} channels and the data has {dataset.shape[0]}",
            "set data.channels",
            field=f"{field}.model",
        )
    if mean and len(mean) != channels:
        raise RecipeError(
            f"{len(mean)} figures are not one for each of the {channels} channels of {model}",
            field=f"{field}.mean",
        )
    scale, shift = change(dataset, mean, std)
    return Member(
        model=model,
        weights=kept,
        weight=table.weight,
        outputs=(),
        channels=channels,
        size=size if size != dataset.shape[1:] else (),
        scale=scale,
        shift=shift,
    )


def change(
    dataset: Dataset, mean: Sequence[float], std: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """``x * scale + shift`` takes the data's normalised images to another mean and deviation.

    Both are empty where that changes nothing.
    """
    own, n = dataset.preprocessing, len(mean)
    if not mean or (tuple(mean), tuple(std)) == (own.mean, own.std):
        return (), ()
    means, stds = (np.broadcast_to(each, n).tolist() for each in (own.mean, own.std))
    scale = tuple(data / member for data, member in zip(stds, std, strict=True))
    return scale, tuple((d - m) / s for d, m, s in zip(means, mean, std, strict=True))


def is_probabilities(raw: torch.Tensor) -> bool:
    """Whether every row is non-negative and sums to one: nobody's logits do."""
    near = (raw.sum(1) - 1).abs() <= _SUM_TOLERANCE
    return bool((raw >= 0).all()) and bool(near.all())


def _outputs(
    labels: Sequence[str], count: int, classes: Sequence[str], model: str, field: str
) -> tuple[int, ...]:
    """For each output the index of the data's class, -1 where it is not used.

    Raises:
        RecipeError: their number, or a name, does not fit.
    """
    if count != (len(labels) or len(classes)):
        raise _miscounted(model, count, len(classes), labels, field)
    if not labels:
        return tuple(range(count))
    places = {name: index for index, name in enumerate(classes)}
    for name in labels:
        if name and name not in places:
            raise RecipeError(
                f"{model} has a class '{name}', and the data has none",
                f"{near_matches(name, classes)} an output that is not used is named ''",
                field=f"{field}.classes",
            )
    if not any(labels):
        raise RecipeError(f"no output of {model} is used", field=f"{field}.classes")
    return tuple(places[name] if name else -1 for name in labels)


def _miscounted(
    model: str, count: int, classes: int, labels: Sequence[str], field: str
) -> RecipeError:
    if labels:
        message = f"teacher {model} has {count} classes, and {len(labels)} are named"
        return RecipeError(
            message, "name each output, '' for one not used", field=f"{field}.classes"
        )
    message = f"teacher {model} has {count} classes and the data {classes}"
    return RecipeError(message, f"name them in {field}.classes", field=f"{field}.classes")


def _is_plain(member: Member, dataset: Dataset) -> bool:
    return (
        not (member.onnx or member.size or member.scale or member.log)
        and member.channels == dataset.shape[0]
        and member.outputs == tuple(range(len(dataset.classes)))
    )


def _check_rebuilt(
    original: nn.Module, rebuilt: nn.Module, model: str, shape: tuple[int, ...]
) -> None:
    """Refuses a library's network that does more with its own weights than the same one with them.

    Raises:
        TrainError: both differ on the same image.
    """
    x = torch.linspace(-2, 2, math.prod(shape)).reshape(1, *shape)
    with torch.inference_mode():
        a, b = original.eval()(x), rebuilt.eval()(x)
    if not torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max())):
        raise TrainError(
            f"{model} is another network with its own weights than without",
            "write a module:function that makes it",
        )


def _cost(taken: Reader, dataset: Dataset) -> tuple[int, int]:
    member = taken.member
    height, width = member.size or dataset.shape[1:]
    if not member.onnx:
        return models.cost(taken.network, (member.channels, height, width))
    last = (height, width, member.channels)
    first = (member.channels, height, width)
    return onnx_file.cost(member.weights, last if member.channels_last else first)


def _in_words(member: Member) -> str:
    notes = [member.model]
    if member.channels_last:
        notes.append("takes (n, height, width, channels)")
    if member.log:
        notes.append("gives probabilities, whose logarithm is taken")
    if member.size:
        notes.append(f"gets images resized to {member.size[0]}×{member.size[1]}")
    return ", ".join(notes)
