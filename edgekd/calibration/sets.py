"""A calibration set is an artefact: which samples, from where, and their hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edgekd.artifacts import CalibrationSet, Dataset
from edgekd.data import Images, open_source, splits
from edgekd.errors import CalibrationError
from edgekd.progress import Progress, silent
from edgekd.recipe import CalibrationSettings

SCHEMA = 1


def choose(
    dataset: Dataset, settings: CalibrationSettings, out_dir: Path, progress: Progress = silent
) -> CalibrationSet:
    """The stage ``calibration-set``: a stratified draw from train.

    Validation and test are other images by construction; the manifest says which split the
    ids belong to, and ids are those of the source's training part.

    Raises:
        CalibrationError: more samples are asked for than train has.
    """
    train = splits.read(dataset, "train", progress)
    if settings.samples > len(train):
        raise CalibrationError(
            f"{settings.samples} calibration samples were asked for, and train has {len(train)}",
            "lower calibration.samples",
        )
    places = splits.stratified(train.labels, settings.samples, settings.seed)
    images = train.images[places]
    counts = np.bincount(train.labels[places], minlength=len(dataset.classes))
    sha256 = hashlib.sha256(images.tobytes()).hexdigest()
    manifest = out_dir / "calibration-set.json"
    record = {
        "schema": SCHEMA,
        "source": dataset.source,
        "licence": open_source(dataset.source).licence,
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
    ids = json.loads(chosen.manifest.read_text())["ids"]
    found, _ = open_source(dataset.source).read("train", progress)
    picked: Images = found[ids]
    if hashlib.sha256(picked.tobytes()).hexdigest() != chosen.sha256:
        raise CalibrationError(
            f"the samples of {dataset.source} are not those that the calibration set names",
            "build again: the set will be chosen anew",
        )
    return picked
