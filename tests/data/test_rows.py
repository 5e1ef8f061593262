"""Rows on disk are indexed as the array of them would be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekd.data.rows import Rows

BASE = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 5), np.uint8)


@given(
    arrays.arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 19)),
    st.data(),
)
def test_they_are_the_array_of_those_rows(ids: np.ndarray, data: st.DataObject) -> None:
    rows, plain = Rows(BASE, ids), BASE[ids]
    assert (len(rows), rows.shape, rows.dtype) == (len(plain), plain.shape, plain.dtype)
    places = data.draw(arrays.arrays(np.int64, 7, elements=st.integers(0, len(ids) - 1)))
    for index in (places, data.draw(st.slices(len(ids))), int(places[0]), -1):
        assert np.array_equal(rows[index], plain[index])
    assert np.array_equal(rows.only(places)[:], plain[places])
    assert np.array_equal(np.stack(list(rows)), plain)


def test_what_comes_is_an_array_of_its_own(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", BASE)
    rows = Rows(np.load(tmp_path / "images.npy", mmap_mode="r"), np.arange(20))
    for taken in (rows[3], rows[2:5], rows[np.array([1, 2])]):
        assert type(taken) is np.ndarray
        taken[...] = 0
    assert np.array_equal(rows[:], BASE)
    with pytest.raises(IndexError):
        rows[20]
