"""Folders of images: real PNG and JPEG files, whole and damaged."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd import recipe_file
from edgekd.artifacts import Dataset
from edgekd.data import open_source, open_unlabelled
from edgekd.data.splits import prepare, read
from edgekd.errors import DataError, RecipeError
from edgekd.progress import Nobody
from edgekd.recipe import DataSettings
from edgekd.stages import Stages
from edgekd.store import Store
from tests.data.conftest import N_TEST, N_TRAIN, save_digits, some_digits


def _prepared(folder: Path, out: Path, **settings: object) -> Dataset:
    out.mkdir(exist_ok=True)
    chosen = DataSettings.model_validate(
        {"source": f"folder:{folder}", "validation": 0.25, **settings}
    )
    return prepare(chosen, open_source(chosen.source), out)


def _by_class(dataset: Dataset, split: str) -> dict[str, set[bytes]]:
    samples = read(dataset, split)
    return {
        name: {each.tobytes() for each in samples.images[samples.labels == label]}
        for label, name in enumerate(dataset.classes)
    }


def _pixels(images: np.ndarray) -> set[bytes]:
    return {each.tobytes() for each in images}


def test_a_class_is_a_folder_and_its_images_come_back_pixel_by_pixel(
    photos: Path, tmp_path: Path
) -> None:
    dataset = _prepared(photos, tmp_path / "out")
    assert dataset.source == "folder:photos"
    assert dataset.classes == ("one", "two", "zero")  # by name
    assert dataset.shape == (1, 8, 8)
    assert dataset.sizes == {"train": 27, "validation": 9, "test": 3 * N_TEST}
    names = ["zero", "one", "two"]
    for part, splits, each in (
        ("train", ("train", "validation"), N_TRAIN),
        ("test", ("test",), N_TEST),
    ):
        images, labels = some_digits(3, each, part)
        found = [_by_class(dataset, split) for split in splits]
        for label, name in enumerate(names):
            assert set().union(*(each[name] for each in found)) == _pixels(images[labels == label])
    pixels = read(dataset, "train").images[:] / 255
    assert dataset.preprocessing.mean[0] == pytest.approx(pixels.mean(), abs=1e-6)
    assert dataset.preprocessing.std[0] == pytest.approx(pixels.std(), abs=1e-6)


def test_without_a_test_part_a_stratified_share_becomes_it(flat: Path, tmp_path: Path) -> None:
    dataset = _prepared(flat, tmp_path / "out", test=0.25)
    test = read(dataset, "test")
    assert np.bincount(test.labels).tolist() == [5, 5, 5]
    others = [read(dataset, split) for split in ("train", "validation")]
    assert sum(map(len, others)) + len(test) == 60
    assert not _pixels(test.images[:]) & _pixels(
        np.concatenate([each.images[:] for each in others])
    )
    again = _prepared(flat, tmp_path / "again", test=0.25, seed=7)
    assert np.array_equal(read(again, "test").ids, test.ids)  # the seed moves validation alone
    assert not np.array_equal(read(again, "validation").ids, read(dataset, "validation").ids)


def test_images_below_a_class_folder_count_and_hidden_and_other_files_do_not(
    flat: Path, tmp_path: Path
) -> None:
    deep = flat / "one" / "a" / "b"
    deep.mkdir(parents=True)
    next((flat / "one").glob("*.png")).rename(deep / "moved.PNG")
    (flat / "one" / ".hidden.png").write_bytes(b"")
    (flat / ".git").mkdir()
    (flat / "two" / "notes.txt").write_text("")
    dataset = _prepared(flat, tmp_path / "out")
    assert sum(dataset.sizes.values()) == 60
    assert dataset.audit["ignored"] == ["flat/two/notes.txt"]


def test_several_processes_decode_the_same(photos: Path, tmp_path: Path) -> None:
    alone, together = (
        _prepared(photos, tmp_path / str(workers), workers=workers, size=[6, 5], channels=3)
        for workers in (0, 2)
    )
    assert alone.pixels is not None and together.pixels is not None
    assert alone.pixels.read_bytes() == together.pixels.read_bytes()
    assert alone.fingerprint == together.fingerprint
    (photos / "test" / "two" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="photos/test/two/a.png cannot be decoded"):
        _prepared(photos, tmp_path / "2", workers=2, size=[6, 5], channels=3)


def test_images_are_resized_to_height_and_width(flat: Path, tmp_path: Path) -> None:
    wide = np.zeros((8, 40), np.uint8)
    wide[:, 20:] = 240
    Image.fromarray(wide).save(flat / "one" / "wide.png")
    with pytest.raises(
        DataError, match=r"one/wide.png is 8×40 and flat/one/.* is 8×8.*data.size = \[8, 8\]"
    ):
        _prepared(flat, tmp_path / "out")
    dataset = _prepared(flat, tmp_path / "out", size=[4, 10])
    assert dataset.shape == (1, 4, 10)
    expected = np.zeros((4, 10), np.uint8)
    expected[:, 5:] = 240
    found = np.load(dataset.pixels)  # type: ignore[arg-type]
    # Only the columns next to the edge are blended by the antialias.
    assert any(np.abs(each[0].astype(int) - expected)[:, [0, 1, 8, 9]].max() == 0 for each in found)


def test_the_middle_is_cut_out_before_the_size_is_changed(flat: Path, tmp_path: Path) -> None:
    """Half of 8 pixels are rows 2 to 5: the frame around them is gone, and nothing is blended."""
    for path in flat.rglob("*.png"):
        path.unlink()
    rng = np.random.default_rng(0)
    middles = rng.integers(0, 256, (60, 4, 4), np.uint8)
    for number, middle in enumerate(middles):
        tall = np.full((14, 8), 255, np.uint8)  # the largest square lies in its middle
        tall[5:9, 2:6] = middle
        Image.fromarray(tall).save(flat / ("one", "two", "zero")[number % 3] / f"{number}.png")
    found = []
    for workers in (0, 1):
        dataset = _prepared(flat, tmp_path / str(workers), size=[4, 4], crop=0.5, workers=workers)
        assert dataset.preprocessing.crop == 0.5
        found.append(_pixels(np.load(dataset.pixels)))  # type: ignore[arg-type]
    assert found == [_pixels(middles[:, None])] * 2
    whole = _prepared(flat, tmp_path / "whole", size=[4, 4])
    assert whole.preprocessing.crop is None
    assert not _pixels(np.load(whole.pixels)) & found[0]  # type: ignore[arg-type]


def test_grey_and_colour_together_are_colour(flat: Path, tmp_path: Path) -> None:
    assert _prepared(flat, tmp_path / "grey").shape[0] == 1
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    Image.fromarray(red).save(flat / "one" / "red.png")
    dataset = _prepared(flat, tmp_path / "out")
    assert dataset.shape == (3, 8, 8)
    images = np.load(dataset.pixels)  # type: ignore[arg-type]
    coloured = [each for each in images if (each[0] != each[1]).any()]
    assert len(coloured) == 1
    assert np.array_equal(coloured[0], red.transpose(2, 0, 1))
    assert _prepared(flat, tmp_path / "forced", channels=1).shape == (1, 8, 8)


def test_a_photo_is_turned_as_its_exif_says(flat: Path, tmp_path: Path) -> None:
    """Taken upright by a camera that stores lying images: 8 rows of 16, to be shown as 16 of 8."""
    for path in flat.rglob("*.png"):
        with Image.open(path) as image:
            image.resize((8, 16)).save(path)
    lying = np.zeros((8, 16), np.uint8)
    lying[:, :8] = 255  # left half white; turned by 90° clockwise, the upper half
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(lying).save(flat / "one" / "turned.jpeg", exif=exif, quality=95)
    dataset = _prepared(flat, tmp_path / "out")
    assert dataset.shape == (1, 16, 8)
    images = np.load(dataset.pixels)[:, 0].astype(int)  # type: ignore[arg-type]
    upright = [each for each in images if each[:8].min() > 250 and each[8:].max() < 5]
    assert len(upright) == 1


def _sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(path)


def _truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 40])


def _bomb(path: Path) -> None:
    """A PNG header that announces 400 million pixels, and no more."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


BROKEN = {
    "truncated": (_truncated, "truncated"),
    "text": (lambda path: path.write_text("no image"), "neither PNG nor JPEG"),
    "empty": (lambda path: path.write_bytes(b""), "neither PNG nor JPEG"),
    "gif": (lambda path: Image.new("L", (8, 8)).save(path, "GIF"), "neither PNG nor JPEG"),
    "bomb": (_bomb, "decompression bomb"),
    "deep": (_sixteen_bits, "16 bits a pixel, which would be clipped"),
    "link": (lambda path: path.symlink_to("nowhere"), "No such file"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_an_image_that_cannot_be_decoded_is_named_and_stops_the_build(
    flat: Path, tmp_path: Path, fault: str
) -> None:
    spoil, words = BROKEN[fault]
    spoil(flat / "two" / "bad.png")
    with pytest.raises(DataError, match=rf"flat/two/bad.png cannot be decoded \(.*{words}") as told:
        _prepared(flat, tmp_path / "out")
    assert 'data.corrupt = "skip"' in str(told.value)


@pytest.mark.parametrize("size", [[], [8, 8]])
def test_or_all_of_them_are_skipped_and_named(flat: Path, tmp_path: Path, size: list[int]) -> None:
    clean = _prepared(flat, tmp_path / "clean", size=size, channels=1)
    for fault, (spoil, _) in BROKEN.items():
        spoil(flat / "two" / f"{fault}.png")
    dataset = _prepared(flat, tmp_path / "out", corrupt="skip", size=size, channels=1)
    skipped = dataset.audit["skipped"]
    assert [each.split(" ")[0] for each in skipped] == [
        f"flat/two/{fault}.png" for fault in sorted(BROKEN)
    ]
    assert dataset.sizes == clean.sizes
    assert dataset.fingerprint == clean.fingerprint  # nothing of them is left
    for split in dataset.sizes:
        assert _by_class(dataset, split) == _by_class(clean, split)


def test_if_nothing_can_be_decoded_that_is_an_error(flat: Path, tmp_path: Path) -> None:
    for path in flat.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no training image can be decoded"):
        _prepared(flat, tmp_path / "out", corrupt="skip")


def _without_test(photos: Path) -> None:
    (photos / "test").rename(photos / "val")


def _other_class(photos: Path) -> None:
    (photos / "test" / "two").rename(photos / "test" / "three")


def _empty_class(photos: Path) -> None:
    (photos / "train" / "empty").mkdir()
    save_digits(photos / "test" / "empty", 1, "test", classes=1)


def _other_files(photos: Path) -> None:
    for part in ("train", "test"):
        (photos / part / "gif").mkdir()
        (photos / part / "gif" / "a.gif").write_bytes(b"")


def _one_class(photos: Path) -> None:
    for part in ("train", "test"):
        for name in ("one", "two"):
            (photos / part / name).rename(photos.parent / f"{part}-{name}")


def _no_class(photos: Path) -> None:
    (photos / "train").rename(photos.parent / "gone")
    (photos / "test").rename(photos.parent / "gone too")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            _without_test,
            "has a folder train with classes in it and no folder test.*folder:.*/train",
        ),
        (_other_class, "photos/train has no folder of class 'three'.*need the same classes"),
        (_empty_class, "photos/train/empty holds no PNG or JPEG file: put images into it, or"),
        (_other_files, "photos/train/gif holds no PNG or JPEG file: convert train/gif/a.gif"),
        (_one_class, "photos/train has one class only, 'zero'.*data.source needs a folder for"),
        (_no_class, "photos holds no folder of images: it needs a folder for each class"),
    ],
)
def test_a_layout_that_makes_no_sense(
    photos: Path, tmp_path: Path, change: object, words: str
) -> None:
    assert callable(change)
    change(photos)
    with pytest.raises(DataError, match=words):
        _prepared(photos, tmp_path / "out")


def test_a_folder_beside_train_and_test_is_told_of(photos: Path, tmp_path: Path) -> None:
    (photos / "val").mkdir()
    assert _prepared(photos, tmp_path / "out").audit["ignored"] == ["photos/val/"]


@pytest.mark.parametrize("path", ["", "none"])
def test_there_is_no_such_folder(path: str) -> None:
    with pytest.raises(RecipeError, match=rf"data.source: there is no folder '{path}'"):
        open_source(f"folder:{path}")
    with pytest.raises(RecipeError, match=rf"data.unlabelled: there is no folder '{path}'"):
        open_unlabelled(f"folder:{path}")


def test_a_folder_that_cannot_be_listed(photos: Path, tmp_path: Path) -> None:
    if not os.getuid():
        pytest.skip("root may list every folder")
    (photos / "train" / "one").chmod(0)
    with pytest.raises(DataError, match="train/one cannot be listed"):
        _prepared(photos, tmp_path / "out")


class _Watching(Nobody):
    def __init__(self) -> None:
        self.reused: list[bool] = []
        self.notes: list[str] = []

    def end(self, stage: str, reused: bool, seconds: float) -> None:
        self.reused.append(reused)

    def note(self, line: str) -> None:
        self.notes.append(line)


def test_it_is_decoded_once_and_again_when_the_folder_changes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(folder: Path, **settings: object) -> Dataset:
        flags = {"data.source": f"folder:{folder}", **settings}
        return Stages(recipe_file.load(None, flags), [], Store(tmp_path / "store"), watching).data()

    watching = _Watching()
    first = made(photos)
    monkeypatch.chdir(photos.parent)
    again = made(Path("photos"), **{"data.workers": 1})  # named otherwise, and decoded otherwise
    assert again == first
    assert watching.reused == [False, True]
    assert watching.notes[0].startswith("3 classes; train 34 (11 to 12 a class)")
    assert watching.notes == [watching.notes[0]] * 2

    path = next((photos / "train" / "one").iterdir())
    Image.new("L", (8, 8), 77).save(path)
    changed = made(photos)
    assert not watching.reused[-1]
    assert changed.content != first.content
    path.touch()  # the same pixels at another time: decoded again, and nothing else is made anew
    touched = made(photos)
    assert not watching.reused[-1]
    assert touched.content == changed.content

    assert touched.pixels is not None
    touched.pixels.write_bytes(touched.pixels.read_bytes()[:-1])  # the store makes it again
    assert made(photos).content == changed.content
    assert not watching.reused[-1]
