"""A calibration set is an artefact: which samples, from where, and their hash."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekd.artifacts import CalibrationSet, Dataset, Preprocessing, TensorSpec
from edgekd.calibration import draw, features, feeds, manifest, pool
from edgekd.calibration.feeds import Feeds
from edgekd.calibration.manifest import Manifest
from edgekd.calibration.pool import Part, Pool
from edgekd.data import UNLABELLED, Images, splits
from edgekd.errors import CalibrationError, RecipeError
from edgekd.progress import Progress, silent
from edgekd.recipe import CalibrationSettings, DataSettings
from edgekd.store import hash_file

FILE = "calibration-set.json"


@dataclass(frozen=True)
class Opened:
    """A set with its samples.

    Attributes:
        places: of the samples, in train.
        feeds: the samples.
        validation: other samples of the same source; None where there are none.
    """

    manifest: Manifest
    chosen: CalibrationSet
    pool: Pool
    places: splits.Ids
    feeds: Feeds
    validation: Feeds | None


def choose(
    dataset: Dataset, settings: CalibrationSettings, out_dir: Path, progress: Progress = silent
) -> CalibrationSet:
    """The stage ``calibration-set``: a draw from train, ``stratified`` by class if not told else.

    Where images with a label are too few, a stratified draw takes all of them, and the rest
    from those without. Validation and test are other images by construction; the manifest says
    which split the ids belong to.

    Raises:
        CalibrationError: more samples are asked for than train has.
    """
    found = pool.of_dataset(dataset, progress)
    places = _draw(found.parts["train"], settings, dataset.preprocessing, None, progress)
    made = _manifest(found, places, settings, dataset.source, dataset.preprocessing)
    path = out_dir / FILE
    manifest.write(made, path)
    return CalibrationSet(manifest=path, sha256=made.sha256, samples=len(made.ids))


def images(chosen: CalibrationSet, dataset: Dataset, progress: Progress = silent) -> Images:
    """The images of a set that was chosen from a dataset, in order.

    Raises:
        CalibrationError: they are not the ones that the set was made from.
    """
    train = pool.of_dataset(dataset, progress).parts["train"]
    places = _places(manifest.read(chosen.manifest), train, dataset.source)
    found = train.arrays[pool.IMAGE][places]
    if feeds.sha256(Feeds({pool.IMAGE: found})) != chosen.sha256:
        raise _changed(dataset.source)
    return found


def create(
    data: DataSettings,
    settings: CalibrationSettings,
    path: Path,
    *,
    at_most: bool = False,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    layout: str = "NCHW",
    model: Path | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Draws a set from a source's training part, and writes its manifest.

    Args:
        data: the source, and how it is cut.
        path: where the manifest goes; a path in it starts there.
        at_most: take all of train where that has fewer samples than ``settings.samples``.
        mean: of what the images are normalised by; empty: measured on train.
        std: see ``mean``.
        layout: what the model takes.
        model: whose outputs tell samples apart in ``coverage``; None: pixels do.

    Raises:
        RecipeError: there is no such source, or a file already; or the arguments do not fit.
        DataError: the source is damaged, or too small to be cut.
        CalibrationError: it holds what cannot be used, or too few samples.
    """
    manifest.check_place(path)
    if manifest.is_function(data.unlabelled):
        raise RecipeError(
            "a set names images that lie in files, and this is a function",
            "write them into a folder or a .npz",
            field="data.unlabelled",
        )
    if model is not None and settings.draw != "coverage":
        raise RecipeError(
            f"a {settings.draw} draw asks no model", "add --draw coverage", path="--model"
        )
    with pool.scratch() as work:
        found = pool.open_pool(data, work, progress)
        made = _preprocessing(found, mean, std, layout)
        train = found.parts["train"]
        if at_most:
            fewer = min(settings.samples, len(train))
            settings = settings.model_copy(update={"samples": fewer})
        places = _draw(train, settings, made, model, progress)
        source = manifest.relative(data.source, path.parent)
        compared = hash_file(model).sha256 if model else "pixels"
        told = _manifest(found, places, settings, source, made, compared)
        more = {"unlabelled": manifest.relative(data.unlabelled, path.parent)}
        told = replace(told, data={**told.data, **more})
        manifest.check_place(path)
        manifest.write(told, path)
    return told


def open_set(
    path: Path,
    source: str | None = None,
    inputs: Sequence[TensorSpec] = (),
    progress: Progress = silent,
) -> tuple[CalibrationSet, Feeds, Feeds | None]:
    """Reads a set's samples again, and holds them to its sha256.

    Args:
        path: the manifest.
        source: in place of the one that the manifest names, such as a folder that was moved.
        inputs: of the model that takes the samples, which are then named and checked.

    Returns:
        the set, its samples, and the source's validation samples, if there are.

    Raises:
        RecipeError: there is no such file or source.
        CalibrationError: the file is no manifest; samples are gone or changed; or they are not
            what the model takes.
    """
    opened = open_whole(path, source, progress)
    found, validation = opened.feeds, opened.validation
    if inputs:
        found = pool.for_model(found, inputs)
        if validation is not None:
            validation = pool.for_model(validation, inputs, checked=True)
    return opened.chosen, found, validation


def open_given(
    given: str,
    source: str | None = None,
    inputs: Sequence[TensorSpec] = (),
    progress: Progress = silent,
) -> tuple[CalibrationSet, Feeds, Feeds | None]:
    """What ``--calibration`` names: a manifest, see ``open_set``; or ``npz:FILE``.

    The arrays of a file are named after the model's inputs, and all of them calibrate as they
    are; integers called ``labels`` are labels.

    Raises:
        RecipeError: there is no such file.
        DataError: it cannot be read.
        CalibrationError: see ``open_set``.
    """
    kind, _, place = given.partition(":")
    if kind != "npz":
        return open_set(Path(given), source, inputs, progress)
    path = Path(place)
    if not path.is_file():
        raise RecipeError(f"there is no file '{place}'", path="--calibration")
    with pool.scratch() as work:
        arrays, labels, _ = pool.read_arrays(path, work, progress)
    found = Feeds(arrays, None, labels if (labels != UNLABELLED).any() else None)
    if inputs:
        found = pool.for_model(found, inputs)
    chosen = CalibrationSet(manifest=path, sha256=feeds.sha256(found), samples=len(found))
    return chosen, found, None


def open_whole(path: Path, source: str | None = None, progress: Progress = silent) -> Opened:
    """As ``open_set``, with all that the source holds.

    Raises:
        RecipeError: see ``open_set``.
        CalibrationError: see ``open_set``.
    """
    told = manifest.read(path)
    settings = manifest.settings(told, path.parent, source)
    with pool.scratch() as work:
        found = pool.open_pool(settings, work, progress)
        train = found.parts["train"]
        if found.kind != told.kind:
            raise CalibrationError(
                f"{path} is a set of {told.kind}, and {found.name} holds {found.kind}",
                "name its own source with --data",
            )
        places = _places(told, train, found.name)
        made = told.preprocessing
        if made is not None and len(made.mean) != train.arrays[pool.IMAGE].shape[1]:
            raise CalibrationError(
                f"the preprocessing of {path} is of {len(made.mean)} channels, and the images of"
                f" {found.name} have {train.arrays[pool.IMAGE].shape[1]}",
                "name its own source with --data",
            )
        held = _part(found.parts["validation"], None, made, work / "validation")
        samples = _part(train, places, made, work / "train")
    if feeds.sha256(samples) != told.sha256:
        raise _changed(found.name)
    chosen = CalibrationSet(manifest=path, sha256=told.sha256, samples=len(places))
    return Opened(told, chosen, found, places, samples, held if len(held) else None)


def _part(part: Part, places: splits.Ids | None, made: Preprocessing | None, work: Path) -> Feeds:
    work.mkdir()
    return pool.feeds(part, np.arange(len(part)) if places is None else places, made, work)


def _draw(
    train: Part,
    settings: CalibrationSettings,
    made: Preprocessing | None,
    model: Path | None,
    progress: Progress,
) -> splits.Ids:
    n = settings.samples
    if n > len(train):
        raise CalibrationError(
            f"{n} calibration samples were asked for, and train has {len(train)}",
            "lower calibration.samples",
        )
    if settings.draw == "stratified":
        return draw.stratified(train.labels, n, settings.seed)
    if settings.draw == "random":
        return draw.at_random(len(train), n, settings.seed)
    if model is None:
        return draw.coverage(features.of_pixels(train), n, progress)
    return draw.coverage(features.of_outputs(train, made, model, progress), n, progress)


def _manifest(
    found: Pool,
    places: splits.Ids,
    settings: CalibrationSettings,
    source: str,
    made: Preprocessing | None,
    compared: str = "pixels",
) -> Manifest:
    train = found.parts["train"]
    with pool.scratch() as work:
        sha256 = feeds.sha256(pool.feeds(train, places, made, work))
    return Manifest(
        kind=found.kind,
        source=source,
        licence=found.licence,
        fingerprint=found.fingerprint,
        data=found.settings,
        draw=settings.draw,
        features=compared if settings.draw == "coverage" else "",
        seed=settings.seed,
        ids=tuple(train.ids[places].tolist()),
        per_class=pool.per_class(found, train.labels[places]),
        sha256=sha256,
        preprocessing=made,
    )


def _places(told: Manifest, train: Part, name: str) -> splits.Ids:
    """Where a set's samples lie in train."""
    ids = np.array(told.ids, np.int64)
    places = np.minimum(np.searchsorted(train.ids, ids), len(train) - 1)
    gone = ids[train.ids[places] != ids]
    if len(gone):
        raise CalibrationError(
            f"{len(gone)} of the {len(ids)} samples that the calibration set names are not in train"
            f" of {name}, the first of them {gone[0]}",
            "the source has changed, or was cut otherwise: make the set anew",
        )
    return places


def _changed(name: str) -> CalibrationError:
    return CalibrationError(
        f"the samples of {name} are not those that the calibration set names (sha256 differs)",
        "name the source that it was made from, or make the set anew",
    )


def _preprocessing(
    found: Pool, mean: Sequence[float], std: Sequence[float], layout: str
) -> Preprocessing | None:
    """Measured on train, or what is given.

    Raises:
        RecipeError: it does not fit.
    """
    measured = found.preprocessing
    if measured is None:
        if mean or std or layout != "NCHW":
            raise RecipeError(
                f"the arrays of {found.name} are what the model takes, as they are",
                "leave out --mean, --std and --layout",
                path="--mean",
            )
        return None
    for name, values in (("--mean", mean), ("--std", std)):
        if values and len(values) != len(measured.mean):
            raise RecipeError(
                f"{len(values)} figures for images with {len(measured.mean)} channels",
                "give one a channel",
                path=name,
            )
        if not all(math.isfinite(each) for each in values):
            raise RecipeError("is no number", path=name)
    if bool(mean) != bool(std):
        raise RecipeError("the one makes no sense without the other", path="--mean and --std")
    if any(each <= 0 for each in std):
        raise RecipeError("must be greater than 0", path="--std")
    return replace(
        measured, mean=tuple(mean) or measured.mean, std=tuple(std) or measured.std, layout=layout
    )
