"""Sources that are folders of PNG and JPEG files: ``folder:PATH``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgekd.data import UNLABELLED, Labels, Look, Part, Shape, Source, pixels, workers
from edgekd.errors import DataError, RecipeError
from edgekd.progress import Progress, silent

_LAYOUT = "a folder for each class in it, or in its train and in its test folder"


def open_folder(path: str, field: str, labelled: bool) -> Source:
    """A folder with one of its own for each class, or images without labels at any depth.

    Raises:
        RecipeError: there is no such folder.
    """
    root = Path(path)
    if not path or not root.is_dir():
        raise RecipeError(
            f"there is no folder '{path}'",
            "a path in a recipe starts at the recipe's own folder, one on the command line here",
            field=field,
        )
    return Folder(root) if labelled else Loose(root)


@dataclass(frozen=True)
class Files:
    """Image files below a folder; see ``Part``.

    Attributes:
        root: the folder.
        files: relative to it.
        labels: one for each.
    """

    root: Path
    files: Sequence[str]
    labels: Labels

    def name(self, place: int) -> str:
        """See ``Part``; the path from the folder's own name on."""
        return _named(self.root, self.files[place])

    def look(self, sized: bool, progress: Progress = silent) -> Look:
        """See ``Part``."""
        size: tuple[int, ...] = ()
        first, channels = "", 1
        broken = {}
        for place, file in enumerate(self.files):
            progress(place, len(self.files), "looking at images")
            try:
                found, *extent = pixels.look(self.root / file, sized)
            except DataError as error:
                broken[place] = error.message
                continue
            channels = max(channels, found)
            if not size:
                size, first = tuple(extent), self.name(place)
            elif sized and size != tuple(extent):
                raise DataError(
                    f"{self.name(place)} is {extent[0]}×{extent[1]} and {first} is"
                    f" {size[0]}×{size[1]} (height×width)",
                    f"set data.size, such as data.size = [{size[0]}, {size[1]}]",
                )
        return Look(size if sized else (), channels, first, broken)

    def fill(
        self,
        target: Path,
        start: int,
        shape: Shape,
        crop: float,
        places: Sequence[int],
        processes: int,
    ) -> Iterator[tuple[int, str]]:
        """See ``Part``."""
        tasks = [(start + each, str(self.root / self.files[each])) for each in places]
        for row, reason in workers.decode(target, shape, crop, tasks, processes):
            yield row - start, reason


class Folder:
    """A folder for each class: ``train/CLASS`` and ``test/CLASS``, or ``CLASS`` alone.

    The classes are sorted by name. An image may lie at any depth below its class; a name that
    starts with a dot is passed over.
    """

    licence = "not stated"

    def __init__(self, root: Path) -> None:
        self.name = f"folder:{root.resolve().name}"
        self._root = root

    @property
    def classes(self) -> tuple[str, ...]:
        """See ``Source``."""
        return self._listed[0]

    @property
    def ignored(self) -> tuple[str, ...]:
        """See ``Source``."""
        return self._listed[2]

    def stamp(self) -> str:
        """sha256 of the paths, sizes and times of change of the files."""
        return _stamp(
            self._root, [each for part in self._listed[1].values() for each in part.files]
        )

    def parts(self, progress: Progress = silent) -> dict[str, Part]:
        """See ``Source``."""
        return dict(self._listed[1])

    @cached_property
    def _listed(self) -> tuple[tuple[str, ...], dict[str, Files], tuple[str, ...]]:
        """Classes, parts and ignored files."""
        places = self._places()
        names = {part: _folders(self._root / place) for part, place in places.items()}
        classes = tuple(names["train"])
        if not classes:
            raise DataError(f"{self._root} holds no folder of images", f"it needs {_LAYOUT}")
        for part, given in names.items():
            if odd := sorted({*given} ^ {*classes}):
                lacking = "train" if odd[0] in given else part
                raise DataError(
                    f"{self._root / places[lacking]} has no folder of class '{odd[0]}'",
                    "train and test need the same classes",
                )
        if len(classes) == 1:
            raise DataError(
                f"{self._root / places['train']} has one class only, '{classes[0]}'",
                f"to tell images apart takes two: data.source needs {_LAYOUT}",
            )
        parts = {}
        ignored = []
        if "test" in places:
            ignored = [f"{each}/" for each in _folders(self._root) if each not in places]
        for part, place in places.items():
            files: list[str] = []
            labels: list[int] = []
            for label, name in enumerate(classes):
                found, others = _images(self._root, f"{place}{name}")
                if not found:
                    raise DataError(
                        f"the class folder {self._root / place / name} holds no PNG or JPEG file",
                        f"convert {_shown(others[0])} and what else is in it"
                        if others
                        else "put images into it, or delete it",
                    )
                files += found
                labels += [label] * len(found)
                ignored += others
            parts[part] = Files(self._root, files, np.array(labels, np.int64))
        return classes, parts, tuple(_named(self._root, each) for each in ignored)

    def _places(self) -> dict[str, str]:
        """Where each part lies, relative to the root, with a slash where one is needed."""
        found = [part for part in ("train", "test") if (self._root / part).is_dir()]
        if len(found) == 2:
            return {"train": "train/", "test": "test/"}
        if found and any(_folders(self._root / found[0])):
            other = "test" if found[0] == "train" else "train"
            raise DataError(
                f"{self._root} has a folder {found[0]} with classes in it and no folder {other}",
                f"make one, or name folder:{self._root / found[0]}, of which a share becomes test",
            )
        return {"train": ""}


class Loose:
    """Images without labels, at any depth of a folder."""

    licence = "not stated"
    classes: tuple[str, ...] = ()

    def __init__(self, root: Path) -> None:
        self.name = f"folder:{root.resolve().name}"
        self._root = root

    @cached_property
    def _listed(self) -> tuple[list[str], list[str]]:
        found, others = _images(self._root, "")
        if not found:
            raise DataError(
                f"{self._root} holds no PNG or JPEG file", "name another folder in data.unlabelled"
            )
        return found, others

    @property
    def ignored(self) -> tuple[str, ...]:
        """See ``Source``."""
        return tuple(_named(self._root, each) for each in self._listed[1])

    def stamp(self) -> str:
        """As that of ``Folder``."""
        return _stamp(self._root, self._listed[0])

    def parts(self, progress: Progress = silent) -> dict[str, Part]:
        """See ``Source``."""
        files = self._listed[0]
        return {"unlabelled": Files(self._root, files, np.full(len(files), UNLABELLED))}


def _folders(root: Path) -> list[str]:
    """The names of the folders in a folder, sorted.

    Raises:
        DataError: it cannot be listed, or a name is not text.
    """
    try:
        with os.scandir(root) as found:
            names = sorted(each.name for each in found if each.is_dir() and each.name[0] != ".")
    except OSError as error:
        raise _unlisted(error) from error
    for name in names:
        if _shown(name) != name:
            raise DataError(f"the folder's name {root / _shown(name)} is not UTF-8", "rename it")
    return names


def _images(root: Path, below: str) -> tuple[list[str], list[str]]:
    """The image files and the other ones at any depth of ``root / below``, relative to ``root``.

    Raises:
        DataError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise _unlisted(error) from error

    found: list[str] = []
    others: list[str] = []
    for folder, inner, files in os.walk(root / below, onerror=refuse):
        inner[:] = [each for each in inner if each[0] != "."]
        for file in files:
            if file[0] != ".":
                path = Path(folder, file)
                kind = found if path.suffix.lower() in pixels.SUFFIXES else others
                kind.append(path.relative_to(root).as_posix())
    return sorted(found), sorted(others)


def _unlisted(error: OSError) -> DataError:
    return DataError(f"{error.filename} cannot be listed ({error.strerror})", "make it readable")


def _stamp(root: Path, files: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for file in files:
        path = root / file
        found = path.stat(follow_symlinks=path.exists())  # a link to nowhere has a stamp as well
        digest.update(os.fsencode(f"{file}\0{found.st_size} {found.st_mtime_ns}\0"))
    return digest.hexdigest()


def _named(root: Path, file: str) -> str:
    """A file's path from the folder's own name on."""
    return _shown(f"{root.resolve().name}/{file}")


def _shown(name: str) -> str:
    """A file's name that can be printed, whatever its bytes are."""
    return os.fsencode(name).decode(errors="replace")
