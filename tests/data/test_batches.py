"""Views: the same for teacher and student, in any order of the batches, and as often as wanted."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgekd.data.batches import draw_view, slices

shifts, seeds = st.integers(0, 3), st.integers(0, 5)


@given(st.integers(0, 200), st.integers(1, 50))
def test_slices_cover_everything_once(n: int, batch: int) -> None:
    covered = [index for part in slices(n, batch) for index in range(n)[part]]
    assert covered == list(range(n))
    assert all(part.stop - part.start <= batch for part in slices(n, batch))


@given(shifts, seeds, st.booleans())
def test_a_view_is_an_images_own_whatever_its_batch(shift: int, seed: int, flip: bool) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (20, 2, 6, 5), np.uint8)
    view = draw_view(20, flip=flip, shift=shift, seed=seed, index=3)
    whole = view.apply(images, np.arange(20))
    order = np.random.default_rng(seed + 1).permutation(20)
    assert np.array_equal(view.apply(images[order], order), whole[order])
    again = draw_view(20, flip=flip, shift=shift, seed=seed, index=3)
    assert np.array_equal(again.apply(images, np.arange(20)), whole)


@given(shifts, seeds, st.booleans())
def test_each_image_is_mirrored_and_moved_as_drawn(shift: int, seed: int, flip: bool) -> None:
    """Against a plain loop over pixels."""
    n, height, width = 6, 5, 4
    images = np.random.default_rng(seed).integers(1, 256, (n, 1, height, width), np.uint8)
    view = draw_view(n, flip=flip, shift=shift, seed=seed, index=0)
    out = view.apply(images, np.arange(n))
    for i in range(n):
        for y in range(height):
            for x in range(width):
                from_y, from_x = y - view.down[i], x - view.right[i]
                inside = 0 <= from_y < height and 0 <= from_x < width
                if view.mirrored[i]:
                    from_x = width - 1 - from_x
                assert out[i, 0, y, x] == (images[i, 0, from_y, from_x] if inside else 0)


def test_other_views_are_other() -> None:
    views = [draw_view(500, flip=True, shift=2, seed=0, index=index) for index in range(2)]
    assert not np.array_equal(views[0].mirrored, views[1].mirrored)
    assert 0.4 < views[0].mirrored.mean() < 0.6
    assert set(views[0].down) == {-2, -1, 0, 1, 2}


def test_without_augmentation_a_view_is_the_images() -> None:
    images = np.arange(48, dtype=np.uint8).reshape(3, 1, 4, 4)
    view = draw_view(3, flip=False, shift=0, seed=0, index=0)
    assert np.array_equal(view.apply(images, np.arange(3)), images)
