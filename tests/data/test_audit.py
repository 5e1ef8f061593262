"""The audit counts what a hand-made set was given, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekd.artifacts import Dataset
from edgekd.data import open_source
from edgekd.data.arrays import in_memory
from edgekd.data.audit import lines, survey
from edgekd.data.decode import Pool
from edgekd.data.splits import prepare, read
from edgekd.recipe import DataSettings

rng = np.random.default_rng(0)
DIFFERENT = rng.integers(0, 256, (60, 4, 4), np.uint8)
LABELS = np.arange(60) % 3


@pytest.fixture
def odd(tmp_path: Path) -> Dataset:
    """60 + 12 images of three classes with these oddities:

    train 50 and 51 repeat 5 and 6, of the same classes (2 and 0); train 52 repeats 0, of another
    class (1 and 0); test 0 and 3 repeat train 9 and 12, of the same classes; of three unlabelled
    images the first repeats test 1.
    """
    train, test = DIFFERENT.copy(), rng.integers(0, 256, (12, 4, 4), np.uint8)
    train[50], train[51], train[52] = train[5], train[6], train[0]
    test[0], test[3] = train[9], train[12]
    np.savez(
        tmp_path / "odd.npz",
        train_images=train,
        train_labels=LABELS,
        test_images=test,
        test_labels=LABELS[:12],
        classes=["a", "b", "c"],
    )
    more = rng.integers(0, 256, (3, 4, 4), np.uint8)
    more[0] = test[1]
    np.savez(tmp_path / "more.npz", images=more)
    settings = DataSettings(
        source=f"npz:{tmp_path / 'odd.npz'}",
        unlabelled=f"npz:{tmp_path / 'more.npz'}",
        validation=0.2,
    )
    return prepare(settings, open_source(settings.source), tmp_path)


def test_each_oddity_is_counted(odd: Dataset) -> None:
    audit = json.loads(json.dumps(odd.audit))
    for split in ("train", "validation", "test"):
        labels = read(odd, split).labels
        expected = [int((labels == label).sum()) for label in range(3)]
        assert audit["counts"][split] == dict(zip("abc", expected, strict=True))
    assert sum(map(len, (read(odd, split) for split in odd.sizes if split != "unlabelled"))) == 74
    assert audit["unlabelled"] == odd.sizes["unlabelled"] == 2
    assert audit["left_out"] == 1
    assert audit["contradictions"] == 2
    assert audit["examples"]["contradictions"] == [
        "odd.npz: train_images[0] (a)",
        "odd.npz: train_images[52] (b)",
    ]
    # Of the three pairs within the training part each is on one side of the cut.
    train = read(odd, "train").ids
    assert audit["duplicates"] == sum(int(each in train) for each in (5, 6, 0))
    assert audit["duplicates"] > 0
    assert audit["overlap"] == {"validation": 0, "test": sum(each in train for each in (9, 12))}
    assert audit["overlap"]["test"] > 0
    assert audit["examples"]["test"][0].startswith("odd.npz: test_images[")
    assert audit["skipped"] == audit["ignored"] == []


def test_it_reads_as_a_few_lines_and_warns_of_what_spoils_a_result(odd: Dataset) -> None:
    told = lines(odd.audit)
    assert told[0].startswith("3 classes; train ")
    assert "2 without), validation " in told[0]
    assert told[1:3] == [
        "1 unlabelled image left out, as validation or test has the same pixels",
        f"{odd.audit['duplicates']} images of train with the pixels of another one of train",
    ]
    warnings = [each for each in told if each.startswith("! ")]
    assert warnings == told[3:]
    assert " of test in train as well, so it flatters: odd.npz: test_images[" in warnings[0]
    assert warnings[1] == (
        "! 2 images with the pixels of one of another class: odd.npz: train_images[0] (a),"
        " odd.npz: train_images[52] (b)"
    )


def test_a_long_list_is_cut_short(odd: Dataset) -> None:
    skipped = [f"photos/{each}.png (truncated)" for each in range(1234)]
    last = lines({**odd.audit, "skipped": skipped})[-1]
    assert last.startswith("! 1,234 images skipped, not to be decoded: photos/0.png (truncated), ")
    assert last.endswith("photos/2.png (truncated) and 1,231 more")


def test_a_clean_set_is_one_line(dataset: Dataset) -> None:
    assert len(lines(dataset.audit)) == 1


@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 20), st.sampled_from([1, 3]), st.just(2), st.just(1)),
        elements=st.integers(0, 2),
    ),
    st.data(),
)
def test_a_survey_finds_equal_pixels_and_exact_sums(
    images: np.ndarray, data: st.DataObject
) -> None:
    """Against a plain loop over pairs."""
    cut = data.draw(st.integers(0, len(images)))
    labels = np.zeros(len(images), np.int64)
    usable = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)))
    )
    parts = {"train": in_memory("x", images, labels)}
    seen = survey(Pool((images[:cut], images[cut:]), labels, parts, usable))
    for place, image in enumerate(images):
        if usable[place]:
            same = [each for each in np.flatnonzero(usable) if (images[each] == image).all()]
            assert seen.first[place] == same[0]
    assert np.array_equal(seen.sums, images.sum((2, 3)))
    assert np.array_equal(seen.squares, (images.astype(np.int64) ** 2).sum((2, 3)))
