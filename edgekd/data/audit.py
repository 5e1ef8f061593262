"""What is odd about a data set, told before anything is trained on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.data import UNLABELLED, Labels
from edgekd.data.decode import Pool
from edgekd.progress import Progress, silent

Ids = npt.NDArray[np.int64]

_CHUNK = 1 << 23
"""Bytes of pixels that are looked at together."""
_EXAMPLES = 3
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Survey:
    """What one pass over the pixels tells.

    Attributes:
        first: for each image the first one that has the same pixels, often itself.
        sums: of each image's pixels, (n, channels).
        squares: of the squares of each image's pixels, (n, channels).
        sha256: of all pixels, in order.
    """

    first: Ids
    sums: Ids
    squares: Ids
    sha256: str


def survey(pool: Pool, progress: Progress = silent) -> Survey:
    """Looks at every pixel once, some megabytes at a time."""
    n, channels = len(pool.labels), pool.blocks[0].shape[1]
    first = np.arange(n)
    sums, squares = np.zeros((2, n, channels), np.int64)
    seen: dict[bytes, int] = {}
    digest = hashlib.sha256()
    start = 0
    for block in pool.blocks:
        rows = max(1, _CHUNK // max(1, block[:1].nbytes))
        for offset in range(0, len(block), rows):
            chunk = np.ascontiguousarray(block[offset : offset + rows])
            flat = chunk.reshape(len(chunk), channels, -1).astype(np.float64)  # exact: < 2^53
            ids = slice(start, start + len(chunk))
            sums[ids] = flat.sum(2)
            squares[ids] = np.einsum("ncp,ncp->nc", flat, flat)
            for place, image in enumerate(chunk, start):
                if pool.usable[place]:
                    key = hashlib.blake2b(image, digest_size=16).digest()
                    first[place] = seen.setdefault(key, place)
                    digest.update(image)
            start += len(chunk)
            progress(start, n, "auditing")
    return Survey(first, sums, squares, digest.hexdigest())


def audit(
    classes: Sequence[str],
    pool: Pool,
    splits: Mapping[str, Ids],
    known: Labels,
    first: Ids,
    ignored: Sequence[str],
) -> dict[str, Any]:
    """What is to be told of a data set, as JSON holds it.

    Args:
        classes: their names.
        pool: all images.
        splits: the ids of ``train``, ``validation`` and ``test``.
        known: the labels that training sees.
        first: ``Survey.first``.
        ignored: what lies in the source and is not used.

    Returns:
        ``counts``: by split and class. ``unlabelled``: images of train without a label.
        ``left_out``: unlabelled images with the pixels of one of validation or test.
        ``duplicates``: images of train that repeat another one of train. ``overlap``: images
        of validation, and of test, whose pixels are also in train. ``contradictions``: images
        whose pixels occur under several classes. ``skipped`` and ``ignored``: by name.
        ``examples``: a few images for each of ``overlap`` and ``contradictions``.
    """
    train = splits["train"]
    used = pool.ids("unlabelled")
    overlap = {
        split: splits[split][np.isin(first[splits[split]], first[train])]
        for split in ("validation", "test")
    }
    odd = _contradictions(pool, first)
    return {
        "counts": {
            split: dict(zip(classes, _counts(known[ids], len(classes)), strict=True))
            for split, ids in splits.items()
        },
        "unlabelled": int((known[train] == UNLABELLED).sum()),
        "left_out": int((~np.isin(used, train)).sum()),
        "duplicates": len(train) - len(np.unique(first[train])),
        "overlap": {split: len(ids) for split, ids in overlap.items()},
        "contradictions": len(odd),
        "skipped": list(pool.skipped),
        "ignored": list(ignored),
        "examples": {
            **{
                split: [
                    f"{pool.name(each)} = {pool.name(_twin(each, train, first))}"
                    for each in ids[:_EXAMPLES].tolist()
                ]
                for split, ids in overlap.items()
            },
            "contradictions": [
                f"{pool.name(each)} ({classes[pool.labels[each]]})"
                for each in odd[:_EXAMPLES].tolist()
            ],
        },
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """An audit in a few lines; one that starts with ``! `` is a warning."""
    return list(_lines(found))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    counts, hidden = found["counts"], found["unlabelled"]
    parts = []
    for split in SPLITS:
        by_class = counts[split]
        n, note = sum(by_class.values()), "a class"
        if split == "train" and hidden:
            n, note = n + hidden, f"a class with a label, {hidden:,} without"
        fewest, most = min(by_class.values()), max(by_class.values())
        each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        parts.append(f"{split} {n:,} ({each} {note})")
    yield f"{len(counts['train'])} classes; {', '.join(parts)}"
    if n := found["left_out"]:
        yield f"{_n(n, 'unlabelled image')} left out, as validation or test has the same pixels"
    if n := found["duplicates"]:
        yield f"{_n(n, 'image')} of train with the pixels of another one of train"
    if found["ignored"]:
        yield f"not used: {_some(found['ignored'])}"
    for split in ("test", "validation"):
        if n := found["overlap"][split]:
            examples = _some(found["examples"][split], n)
            yield f"! {_n(n, 'image')} of {split} in train as well, so it flatters: {examples}"
    if n := found["contradictions"]:
        examples = _some(found["examples"]["contradictions"], n)
        yield f"! {_n(n, 'image')} with the pixels of one of another class: {examples}"
    if found["skipped"]:
        n = len(found["skipped"])
        yield f"! {_n(n, 'image')} skipped, not to be decoded: {_some(found['skipped'])}"


def _n(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' if n > 1 else ''}"


def _counts(labels: Labels, classes: int) -> list[int]:
    counts: list[int] = np.bincount(labels[labels >= 0], minlength=classes).tolist()
    return counts


def _contradictions(pool: Pool, first: Ids) -> Ids:
    ids = np.concatenate([pool.ids("train"), pool.ids("test")])
    pairs = np.unique(np.stack([first[ids], pool.labels[ids]]), axis=1)
    groups, labels = np.unique(pairs[0], return_counts=True)
    odd: Ids = ids[np.isin(first[ids], groups[labels > 1])]
    return odd[np.argsort(first[odd], kind="stable")]


def _twin(image: int, among: Ids, first: Ids) -> int:
    return int(among[np.argmax(first[among] == first[image])])


def _some(names: Sequence[str], n: int = 0) -> str:
    """The first few names, and how many more there are."""
    more = max(n, len(names)) - len(names[:_EXAMPLES])
    return ", ".join(names[:_EXAMPLES]) + (f" and {more:,} more" if more else "")
