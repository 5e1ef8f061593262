"""Cutting a source into train, validation and test, and reading a split back.

Validation is drawn from the source's training part with a recorded seed; test is the
source's own, or a share of it that no setting but its size moves, and is read only to report.

In a source that is not built in, copies stay together: validation (and test, where it is
drawn) is drawn from the images that differ in their pixels, and each copy goes to the side of
the first one. A source's own test part is left as it is, whatever it shares with train.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import Dataset, Preprocessing
from edgekd.data import (
    UNLABELLED,
    BuiltIn,
    Images,
    Labels,
    Shape,
    Source,
    is_built_in,
    open_built_in,
    open_unlabelled,
)
from edgekd.data.arrays import in_memory
from edgekd.data.audit import Survey, audit, survey
from edgekd.data.decode import IMAGES, Pool, decode
from edgekd.data.rows import Rows
from edgekd.errors import DataError
from edgekd.progress import Progress, silent
from edgekd.recipe import DataSettings
from edgekd.store import canonical_json

Ids = npt.NDArray[np.int64]

_TEST_SEED = 0


@dataclass(frozen=True)
class Samples:
    """Images with their labels.

    Attributes:
        images: an array, or rows that stay on disk until they are asked for.
        labels: ``UNLABELLED`` where there is none, which happens in train alone.
        ids: where the images come from: places in a built-in source's part, or rows of the
            file of decoded images.
    """

    images: Images | Rows
    labels: Labels
    ids: Ids

    def __len__(self) -> int:
        return len(self.ids)

    def labelled(self) -> Samples:
        """Those that have a label."""
        places = np.flatnonzero(self.labels != UNLABELLED)
        if len(places) == len(self):
            return self
        rows = self.images
        images = rows.only(places) if isinstance(rows, Rows) else rows[places]
        return Samples(images, self.labels[places], self.ids[places])


def stratified(labels: Labels, n: int, seed: int) -> Ids:
    """``n`` sorted ids in which each class has its share, to within an image or so.

    Of K classes, one that is a part p of all images is off by 1/2 + p (K - 2) / 2 at most: by less
    than one image where no class is larger than the mean.

    Raises:
        DataError: fewer than ``n`` images.
    """
    if n > len(labels):
        raise DataError(f"{n} samples were asked for, and there are {len(labels)}")
    return np.sort(by_share(labels, seed)[:n])


def by_share(labels: Labels, seed: int) -> Ids:
    """All ids in a drawn order of which any beginning holds the same share of every class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    # Give each image its rank within its class, as a share of the class: the n lowest shares
    # then hold the same share of every class.
    share = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    ordered: Ids = order[np.argsort(share[order], kind="stable")]
    return ordered


def stage_key(settings: DataSettings, source: Source, unlabelled: Source | None) -> dict[str, Any]:
    """What the prepared data depend on: neither where they lie nor how many processes decode.

    Raises:
        DataError: a source is not usable.
    """
    return {
        **lasting(settings),
        "source": [source.name, source.stamp()],
        "unlabelled": [unlabelled.name, unlabelled.stamp()] if unlabelled else None,
    }


def lasting(settings: DataSettings) -> dict[str, Any]:
    """The settings that splits and pixels depend on, but for where the images lie."""
    passing = ("source", "unlabelled", "workers")
    return {name: each for name, each in settings.canonical().items() if name not in passing}


def prepare(
    settings: DataSettings,
    source: Source,
    out_dir: Path,
    progress: Progress = silent,
    unlabelled: Source | None = None,
) -> Dataset:
    """The stage ``data``: decodes, cuts, measures mean and deviation on train, and audits.

    A built-in source that is taken as it is stays where it is; any other is decoded into
    ``out_dir``, and from then on the artefact is all that is needed.

    Args:
        settings: the recipe's.
        source: what ``settings.source`` names.
        out_dir: the stage's folder.
        progress: told how far it is.
        unlabelled: what ``settings.unlabelled`` names, if that is open already.

    Raises:
        DataError: the source's files are missing or damaged, or too few for a split.
    """
    if unlabelled is None and settings.unlabelled:
        unlabelled = open_unlabelled(settings.unlabelled)
    changed = bool(unlabelled or settings.size or settings.channels)
    if is_built_in(source) and not changed:
        pool = _as_it_is(source, progress)
        fingerprint, pixels = source.fingerprint(), None
    else:
        more = unlabelled.parts(progress) if unlabelled else {}
        pool = decode(settings, {**source.parts(progress), **more}, out_dir, progress)
        fingerprint, pixels = "", out_dir / IMAGES
    seen = survey(pool, progress)
    together = np.arange(len(pool.labels)) if is_built_in(source) else seen.first
    splits = _cut(settings, pool, together, seen.first)
    _check(settings, source, pool, splits)
    labelled = _with_label(settings, source, pool, splits["train"])
    known = np.full(len(pool.labels), UNLABELLED)
    for ids in (labelled, splits["validation"], splits["test"]):
        known[ids] = pool.labels[ids]
    kept = out_dir / "splits.npz"
    np.savez(
        kept,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        labelled=labelled,
        labels=pool.labels,
    )
    shape: Shape = pool.blocks[0].shape[1:]
    sizes = {split: len(ids) for split, ids in splits.items()}
    if hidden := len(splits["train"]) - len(labelled):
        sizes["unlabelled"] = hidden
    ignored = (*source.ignored, *(unlabelled.ignored if unlabelled else ()))
    return Dataset(
        source=source.name,
        licence=source.licence,
        fingerprint=fingerprint or _fingerprint(source, pool, seen),
        classes=source.classes,
        shape=shape,
        splits=kept,
        pixels=pixels,
        sizes=sizes,
        seed=settings.seed,
        settings={**lasting(settings), "unlabelled": unlabelled.name if unlabelled else ""},
        preprocessing=_preprocessing(settings, seen, splits["train"], shape),
        audit=audit(source.classes, pool, splits, known, seen.first, ignored),
    )


def prepare_unlabelled(
    settings: DataSettings, source: Source, out_dir: Path, progress: Progress = silent
) -> Dataset:
    """As ``prepare``, for images that have no label: a share validates, and none tests.

    Raises:
        DataError: the source's files are missing or damaged, or too few.
    """
    (part,) = source.parts(progress).values()
    pool = decode(settings, {"train": part}, out_dir, progress)
    seen = survey(pool, progress)
    ids = pool.ids("train")
    validation = hold_out(ids, pool.labels, seen.first, settings.validation, settings.seed)
    none = np.zeros(0, np.int64)
    splits = {"train": np.setdiff1d(ids, validation), "validation": validation, "test": none}
    if not len(splits["train"]):
        raise DataError(
            f"{source.name} has too few images that differ: all of them validate",
            "give more, a few hundred if there are",
        )
    kept = out_dir / "splits.npz"
    np.savez(
        kept,
        train=splits["train"],
        validation=validation,
        test=none,
        labelled=none,
        labels=pool.labels,
    )
    shape: Shape = pool.blocks[0].shape[1:]
    return Dataset(
        source=source.name,
        licence=source.licence,
        fingerprint=_fingerprint(source, pool, seen),
        classes=(),
        shape=shape,
        splits=kept,
        pixels=out_dir / IMAGES,
        sizes={split: len(ids) for split, ids in splits.items()},
        seed=settings.seed,
        settings={**lasting(settings), "unlabelled": ""},
        preprocessing=_preprocessing(settings, seen, splits["train"], shape),
        audit=audit((), pool, splits, pool.labels, seen.first, source.ignored),
    )


def read(dataset: Dataset, split: str, progress: Progress = silent) -> Samples:
    """The images of ``train``, ``validation`` or ``test``.

    In train the label is ``UNLABELLED`` where there is none or where it is hidden.

    Raises:
        DataError: the decoded images are missing or damaged, or the built-in source is gone or
            has changed since the splits were cut.
    """
    try:
        with dataset.splits.open("rb") as file:
            kept = np.load(file)
            if isinstance(kept, np.ndarray):
                raise ValueError(f"{dataset.splits.name} is a single array")
            ids, labelled, labels = (kept[name] for name in (split, "labelled", "labels"))
        base = None if dataset.pixels is None else np.load(dataset.pixels, mmap_mode="r")
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise _damaged(dataset, str(error)) from error
    known: Labels = labels[ids]
    if split == "train":
        known = np.where(np.isin(ids, labelled), known, UNLABELLED)
    if base is not None:
        if base.shape != (len(labels), *dataset.shape) or base.dtype != np.uint8:
            raise _damaged(dataset, f"it holds {base.dtype} {base.shape}")
        return Samples(Rows(base, ids), known, ids)
    source = open_built_in(dataset.source)
    if source.fingerprint() != dataset.fingerprint:
        raise DataError(
            f"{dataset.source} is not the one that the splits were cut from",
            "build again: the splits will be cut anew",
        )
    images, found = source.read("test" if split == "test" else "train", progress)
    if split == "test":
        return Samples(images, found, np.arange(len(found)))
    return Samples(images[ids], known, ids)


def _as_it_is(source: BuiltIn, progress: Progress) -> Pool:
    """A built-in source's arrays, which need no decoding."""
    found = {part: source.read(part, progress) for part in ("train", "test")}
    return Pool(
        blocks=tuple(images for images, _ in found.values()),
        labels=np.concatenate([labels for _, labels in found.values()]),
        parts={part: in_memory(f"{source.name}: {part}", *each) for part, each in found.items()},
        usable=np.ones(sum(len(labels) for _, labels in found.values()), np.bool_),
    )


def _cut(settings: DataSettings, pool: Pool, together: Ids, first: Ids) -> dict[str, Ids]:
    """The ids of each split.

    Args:
        settings: the shares and the seed.
        pool: all images.
        together: images with the same number here go to the same side.
        first: images with the same number here have the same pixels.
    """
    rest, test = pool.ids("train"), pool.ids("test")
    if "test" not in pool.parts:
        test = hold_out(rest, pool.labels, together, settings.test, _TEST_SEED)
        rest = np.setdiff1d(rest, test)
    validation = hold_out(rest, pool.labels, together, settings.validation, settings.seed)
    more = pool.ids("unlabelled")
    more = more[~np.isin(first[more], first[np.concatenate([validation, test])])]
    train = np.concatenate([np.setdiff1d(rest, validation), more])
    return {"train": train, "validation": validation, "test": test}


def hold_out(ids: Ids, labels: Labels, together: Ids, share: float, seed: int) -> Ids:
    """A stratified share of the groups of ``together``, and all that belongs to them."""
    groups, places = np.unique(together[ids], return_index=True)
    leaders = ids[places]
    drawn = stratified(labels[leaders], max(1, round(share * len(leaders))), seed)
    held: Ids = ids[np.isin(together[ids], groups[drawn])]
    return held


def _check(settings: DataSettings, source: Source, pool: Pool, splits: dict[str, Ids]) -> None:
    """Refuses splits that no network can be trained on or judged by."""
    train = splits["train"][pool.labels[splits["train"]] != UNLABELLED]
    if not len(train):
        raise DataError(
            f"validation = {settings.validation} leaves no image of {source.name} to train on",
            "lower data.validation",
        )
    for part, ids in (("train", train), ("test", splits["test"])):
        if missing := np.setdiff1d(np.arange(len(source.classes)), pool.labels[ids]).tolist():
            raise DataError(
                f"{source.name}: the {part} part has no image of class"
                f" '{source.classes[missing[0]]}'",
                "train, validation and test each take some of every class",
            )


def _with_label(settings: DataSettings, source: Source, pool: Pool, train: Ids) -> Ids:
    """The images of train whose label is used."""
    ids: Ids = train[pool.labels[train] != UNLABELLED]
    if settings.labelled < 1:
        n = max(1, round(settings.labelled * len(ids)))
        ids = ids[stratified(pool.labels[ids], n, settings.seed)]
        if missing := np.setdiff1d(np.arange(len(source.classes)), pool.labels[ids]).tolist():
            raise DataError(
                f"labelled = {settings.labelled} leaves no label of class"
                f" '{source.classes[missing[0]]}'",
                "raise data.labelled",
            )
    return ids


def _preprocessing(settings: DataSettings, seen: Survey, train: Ids, shape: Shape) -> Preprocessing:
    """What ``pixels`` did, and mean and deviation by channel over train, from exact sums."""
    n = len(train) * shape[1] * shape[2]
    mean, std = [], []
    for total, squares in zip(
        seen.sums[train].sum(0).tolist(), seen.squares[train].sum(0).tolist(), strict=True
    ):
        mean.append(round(total / n / 255, 6))
        std.append(max(round(math.sqrt(n * squares - total * total) / n / 255, 6), 1e-6))
    return Preprocessing(mean=tuple(mean), std=tuple(std), crop=settings.crop or None)


def _fingerprint(source: Source, pool: Pool, seen: Survey) -> str:
    about = canonical_json([list(source.classes), list(pool.blocks[0].shape[1:]), seen.sha256])
    return hashlib.sha256(about.encode() + pool.labels[pool.usable].tobytes()).hexdigest()


def _damaged(dataset: Dataset, why: str) -> DataError:
    return DataError(
        f"what was prepared of {dataset.source} is missing or damaged in"
        f" {dataset.splits.parent} ({why})",
        "build again: it will be made anew",
    )
