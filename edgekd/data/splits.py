"""Cutting a source into train, validation and test, and reading a split back.

Validation is drawn from the source's training part with a recorded seed; test is the
source's own and is read only to report.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import Dataset, Preprocessing
from edgekd.data import Images, Labels, Source, open_source
from edgekd.errors import DataError
from edgekd.progress import Progress, silent
from edgekd.recipe import DataSettings

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """Images with their labels; ``ids`` index the source's part that they come from."""

    images: Images
    labels: Labels
    ids: Ids

    def __len__(self) -> int:
        return len(self.ids)


def stratified(labels: Labels, n: int, seed: int) -> Ids:
    """``n`` sorted ids in which each class has its share, to within one image.

    Raises:
        DataError: fewer than ``n`` images.
    """
    if n > len(labels):
        raise DataError(f"{n} samples were asked for, and there are {len(labels)}")
    order = np.random.default_rng(seed).permutation(len(labels))
    # Give each image its rank within its class, as a share of the class: the n lowest shares
    # then hold the same share of every class.
    share = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = order[np.argsort(share[order], kind="stable")][:n]
    return np.sort(chosen)


def prepare(
    settings: DataSettings, source: Source, out_dir: Path, progress: Progress = silent
) -> Dataset:
    """The stage ``data``: draws the validation split and measures mean and deviation on train.

    Raises:
        DataError: the source's files are missing or damaged, or too few for a split.
    """
    images, labels = source.read("train", progress)
    test_images, test_labels = source.read("test", progress)
    for part, found in (("train", labels), ("test", test_labels)):
        missing = sorted(set(range(len(source.classes))) - set(np.unique(found).tolist()))
        if missing:
            raise DataError(
                f"{source.name}: the {part} part has no image of class"
                f" '{source.classes[missing[0]]}'",
            )
    held_out = stratified(labels, max(1, round(settings.validation * len(labels))), settings.seed)
    train = np.setdiff1d(np.arange(len(labels)), held_out)
    if not len(train):
        raise DataError(
            f"validation = {settings.validation} leaves no image of {source.name} to train on",
            "lower data.validation",
        )
    pixels = images[train].astype(np.float64).transpose(1, 0, 2, 3).reshape(source.shape[0], -1)
    splits = out_dir / "splits.npz"
    np.savez(splits, train=train, validation=held_out)
    return Dataset(
        source=settings.source,
        fingerprint=source.fingerprint(),
        classes=source.classes,
        shape=source.shape,
        splits=splits,
        sizes={"train": len(train), "validation": len(held_out), "test": len(test_images)},
        seed=settings.seed,
        preprocessing=Preprocessing(
            mean=tuple(round(float(each) / 255, 6) for each in pixels.mean(1)),
            std=tuple(max(round(float(each) / 255, 6), 1e-6) for each in pixels.std(1)),
        ),
    )


def read(dataset: Dataset, split: str, progress: Progress = silent) -> Samples:
    """The images of ``train``, ``validation`` or ``test``.

    Raises:
        DataError: the source is gone or has changed since the splits were cut.
    """
    source = open_source(dataset.source)
    if source.fingerprint() != dataset.fingerprint:
        raise DataError(
            f"{dataset.source} is not the one that the splits were cut from",
            "build again: the splits will be cut anew",
        )
    images, labels = source.read("test" if split == "test" else "train", progress)
    if split == "test":
        return Samples(images, labels, np.arange(len(labels)))
    with np.load(dataset.splits) as splits:
        ids: Ids = splits[split]
    return Samples(images[ids], labels[ids], ids)
