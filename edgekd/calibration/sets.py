"""A calibration set is an artefact: which samples, from where, and their hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edgekd.artifacts import CalibrationSet, Dataset
from edgekd.data import UNLABELLED, Images, splits
from edgekd.data.splits import Ids, Samples
from edgekd.errors import CalibrationError
from edgekd.progress import Progress, silent
from edgekd.recipe import CalibrationSettings

SCHEMA = 1


def choose(
    dataset: Dataset, settings: CalibrationSettings, out_dir: Path, progress: Progress = silent
) -> CalibrationSet:
    """The stage ``calibration-set``: a stratified draw from train's images with a label.

    Where those are too few, all of them are taken and the rest is drawn from the images
    without a label. Validation and test are other images by construction; the manifest says
    which split the ids belong to.

    Raises:
        CalibrationError: more samples are asked for than train has.
    """
    train = splits.read(dataset, "train", progress)
    if settings.samples > len(train):
        raise CalibrationError(
            f"{settings.samples} calibration samples were asked for, and train has {len(train)}",
            "lower calibration.samples",
        )
    places = _draw(train, settings)
    images = train.images[places]
    labels = train.labels[places]
    counts = np.bincount(labels[labels != UNLABELLED], minlength=len(dataset.classes))
    sha256 = hashlib.sha256(images.tobytes()).hexdigest()
    manifest = out_dir / "calibration-set.json"
    record = {
        "schema": SCHEMA,
        "source": dataset.source,
        "licence": dataset.licence,
        "fingerprint": dataset.fingerprint,
        "split": "train",
        "ids": train.ids[places].tolist(),
        "per_class": dict(zip(dataset.classes, counts.tolist(), strict=True)),
        "sha256": sha256,
        "preprocessing": asdict(dataset.preprocessing),
        "seed": settings.seed,
    }
    manifest.write_text(json.dumps(record, indent=1))
    return CalibrationSet(manifest=manifest, sha256=sha256, samples=len(images))


def images(chosen: CalibrationSet, dataset: Dataset, progress: Progress = silent) -> Images:
    """The set's images, in order.

    Raises:
        CalibrationError: they are not the ones that the set was made from.
    """
    ids: Ids = np.array(json.loads(chosen.manifest.read_text())["ids"], np.int64)
    train = splits.read(dataset, "train", progress)
    places = np.minimum(np.searchsorted(train.ids, ids), len(train) - 1)
    picked = train.images[places]
    same = np.array_equal(train.ids[places], ids)
    if not same or hashlib.sha256(picked.tobytes()).hexdigest() != chosen.sha256:
        raise CalibrationError(
            f"the samples of {dataset.source} are not those that the calibration set names",
            "build again: the set will be chosen anew",
        )
    return picked


def _draw(train: Samples, settings: CalibrationSettings) -> Ids:
    known = np.flatnonzero(train.labels != UNLABELLED)
    n = min(settings.samples, len(known))
    places = known[splits.stratified(train.labels[known], n, settings.seed)]
    if n < settings.samples:
        others = np.flatnonzero(train.labels == UNLABELLED)
        more = np.random.default_rng(settings.seed).permutation(others)[: settings.samples - n]
        places = np.sort(np.concatenate([places, more]))
    return places
