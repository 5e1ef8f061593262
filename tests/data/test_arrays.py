"""Arrays: .npz files of any layout and what a user's function returns."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.artifacts import Dataset
from edgekd.data import arrays, open_source
from edgekd.data.arrays import channel_axis
from edgekd.data.splits import prepare, read, stage_key
from edgekd.errors import DataError, RecipeError
from edgekd.recipe import DataSettings
from tests.conftest import ROOT
from tests.data.conftest import some_digits

IMAGES, LABELS = some_digits(3, 20)
COLOUR = np.stack([IMAGES, IMAGES // 2, 255 - IMAGES], axis=1)
WHOLE = {"images": IMAGES, "labels": LABELS}


def _prepared(source: str, out: Path, **settings: object) -> Dataset:
    out.mkdir(exist_ok=True)
    chosen = DataSettings.model_validate({"source": source, "validation": 0.2, **settings})
    return prepare(chosen, open_source(source), out)


def _saved(folder: Path, **named: Any) -> str:
    np.savez(folder / "set.npz", **named)
    return f"npz:{folder / 'set.npz'}"


def _all(dataset: Dataset) -> np.ndarray:
    assert dataset.pixels is not None
    return np.asarray(np.load(dataset.pixels))


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (IMAGES, IMAGES[:, None]),
        (IMAGES[:, None], IMAGES[:, None]),
        (IMAGES[..., None], IMAGES[:, None]),
        (COLOUR, COLOUR),
        (COLOUR.transpose(0, 2, 3, 1), COLOUR),
        (np.asfortranarray(COLOUR), COLOUR),
    ],
)
def test_every_layout_becomes_channels_first(
    images: np.ndarray, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_CHUNK", 1000)  # a few images at a time
    dataset = _prepared(_saved(tmp_path, images=images, labels=LABELS), tmp_path / "out")
    assert dataset.source == "npz:set.npz"
    assert dataset.classes == ("0", "1", "2")
    assert dataset.shape == expected.shape[1:]
    assert np.array_equal(_all(dataset), expected)
    assert sum(dataset.sizes.values()) == 60
    for split in dataset.sizes:
        samples = read(dataset, split)
        assert np.array_equal(samples.labels, LABELS[samples.ids])


def test_train_and_test_parts_labels_in_a_column_and_class_names(tmp_path: Path) -> None:
    images, labels = some_digits(3, 5, "test")
    source = _saved(
        tmp_path,
        train_images=IMAGES,
        train_labels=LABELS.astype(np.uint8)[:, None],
        test_images=images[..., None],
        test_labels=labels.astype(">i4"),
        val_images=images,
        classes=np.array(["nil", "one", "två"]),
    )
    dataset = _prepared(source, tmp_path / "out")
    assert dataset.classes == ("nil", "one", "två")
    assert dataset.sizes == {"train": 48, "validation": 12, "test": 15}
    assert np.array_equal(read(dataset, "test").images[:][:, 0], images)
    assert np.array_equal(read(dataset, "test").labels, labels)
    assert dataset.audit["ignored"] == ["val_images"]
    assert _prepared(source, tmp_path / "b", size=[4, 6], channels=3).shape == (3, 4, 6)


@pytest.mark.parametrize("shape", [(5, 3, 64, 3), (5, 1, 8, 1)])
def test_channels_that_may_be_first_or_last_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="may have its channels first or last: pad them"):
        channel_axis(shape, "images")


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"images": IMAGES / 255.0, "labels": LABELS}, "images holds float64, not uint8"),
        ({"images": IMAGES[0], "labels": np.arange(8)}, r"images has shape \(8, 8\): images are"),
        ({"images": COLOUR[:, :2], "labels": LABELS}, r"images has shape \(60, 2, 8, 8\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "has one class only"),
        ({"images": IMAGES}, "npz:set.npz has no array 'labels': .*images"),
        ({"train_images": IMAGES}, " has no array 'train_labels'"),
        ({"imagse": IMAGES}, "has no array 'train_images'"),
        ({}, "has no array 'train_images': it holds no array at all"),
        (WHOLE | {"labels": LABELS[:-1]}, r"labels has shape \(59,\) and images \(60, 8, 8\)"),
        (WHOLE | {"labels": LABELS / 2}, "labels holds float64, not integers"),
        (WHOLE | {"labels": LABELS - 1}, "labels holds -1.*put images without labels into data.un"),
        (WHOLE | {"labels": LABELS * 0}, "has one class only"),
        (WHOLE | {"labels": LABELS * 2}, "the train part has no image of class '1'"),
        (WHOLE | {"classes": np.array(["a", "b"])}, "names 2 classes, and there is a label 2"),
        (WHOLE | {"classes": np.array(["a", "b", "a"])}, "names a class twice"),
        (WHOLE | {"labels": LABELS.astype(object)}, "labels holds pickled objects"),
        (WHOLE | {"images": IMAGES.astype(object)}, "images holds object, not uint8"),
        (WHOLE | {"classes": np.array(["a", 1, None], object)}, "classes holds pickled objects"),
    ],
)
def test_a_wrong_array_is_named(named: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        _prepared(_saved(tmp_path, **named), tmp_path / "out")


class _Bomb:
    """An object that would be noticed if it were unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (sys.exit, ("unpickled",))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    bombs = np.array([_Bomb()] * 60, object)
    for name in ("images", "labels", "classes"):
        with pytest.raises(DataError, match=name):
            _prepared(_saved(tmp_path, **(WHOLE | {name: bombs})), tmp_path / "out")
    extra = _saved(tmp_path, **WHOLE, notes=bombs)  # what is not used is not opened
    assert _prepared(extra, tmp_path / "out").audit["ignored"] == ["notes"]


@pytest.mark.parametrize("fault", ["flipped", "cut", "text", "short", "long", "npy"])
def test_a_damaged_file_is_an_error(fault: str, tmp_path: Path) -> None:
    source = _saved(tmp_path, **WHOLE)
    path = tmp_path / "set.npz"
    content = bytearray(path.read_bytes())
    match fault:
        case "flipped":
            content[400] ^= 1
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "text":
            path.write_text("no arrays")
        case "npy":
            np.save(path.with_suffix(".npy"), IMAGES)
            path.with_suffix(".npy").rename(path)
        case "short" | "long":
            with zipfile.ZipFile(path) as archive:
                parts = {name: archive.read(name) for name in archive.namelist()}
            images = parts["images.npy"]
            parts["images.npy"] = images[:-1] if fault == "short" else images + b"!"
            with zipfile.ZipFile(path, "w") as archive:
                for name, part in parts.items():
                    archive.writestr(name, part)
    with pytest.raises(DataError, match="set.npz.* cannot be read .*: write it anew"):
        _prepared(source, tmp_path / "out")


def test_there_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="data.source: there is no file"):
        open_source(f"npz:{tmp_path}")


FUNCTION = """
import numpy as np
calls = 0

def load():
    global calls
    calls += 1
    with np.load("set.npz") as arrays:
        return {"images": arrays["images"] + SHIFT, "labels": arrays["labels"].tolist()}

def broken():
    return {"images": np.zeros((3, 0))[5]}

def number():
    return 7

def ragged():
    return {"images": [[1], [2, 3]], "labels": [0, 1]}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with the function ``load``, in the working directory."""
    _saved(tmp_path, **WHOLE)
    (tmp_path / "loader_of_arrays.py").write_text("SHIFT = 0\n" + FUNCTION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "loader_of_arrays", raising=False)
    return "loader_of_arrays"


def test_a_function_gives_the_arrays_and_is_asked_once(module: str, tmp_path: Path) -> None:
    settings = DataSettings(source=f"{module}:load")
    source = open_source(settings.source)
    stage_key(settings, source, None)
    (tmp_path / "out").mkdir()
    dataset = prepare(settings, source, tmp_path / "out")
    assert dataset.source == f"{module}:load"
    assert np.array_equal(_all(dataset)[:, 0], IMAGES)
    assert sys.modules[module].calls == 1


def test_the_key_changes_with_what_it_returns(module: str, tmp_path: Path) -> None:
    settings = DataSettings(source=f"{module}:load")
    keys = [stage_key(settings, open_source(settings.source), None) for _ in range(2)]
    sys.modules[module].SHIFT = np.uint8(1)
    keys.append(stage_key(settings, open_source(settings.source), None))
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", r"loader_of_arrays:broken failed: IndexError: .*loader_of_arrays.py:13\)"),
        ("number", "returned a int, not a mapping of arrays by name"),
        ("ragged", "loader_of_arrays:ragged returned what is no array"),
    ],
)
def test_a_function_that_fails_is_told_in_one_line(
    module: str, tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        _prepared(f"{module}:{name}", tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("foldr:photos/x", "no kind of data source is called 'foldr:': did you mean 'folder'"),
        ("https://host/set.npz", "no kind of data source is called 'https:'"),
        ("loader_of_arrays:laod", "loader_of_arrays has no 'laod': did you mean 'load'"),
        ("no_such_module:load", "no module is called 'no_such_module'"),
    ],
)
def test_what_is_no_source(module: str, source: str, words: str) -> None:
    with pytest.raises(RecipeError, match=f"data.source: {words}"):
        open_source(source)


def test_the_function_that_the_documents_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    (snippet,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "mydata.py").write_text(snippet)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    dataset = _prepared("mydata:load", tmp_path / "out")
    assert dataset.classes == ("top", "middle", "bottom")
    assert dataset.audit["contradictions"] == 0
    assert sum(dataset.sizes.values()) == 300
