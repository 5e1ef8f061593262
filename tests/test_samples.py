"""Samples for a model that comes without any: of the right shape and type, or a line why not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd import samples
from edgekd.artifacts import TensorSpec
from edgekd.errors import RecipeError

X = TensorSpec("x", "float32", ("batch", 3, 4))
IDS = TensorSpec("ids", "int64", ("batch", 5))


# what a model takes


def test_the_first_dimension_is_the_batch_and_the_others_are_known() -> None:
    assert samples.shaped(X, {}) == X
    fixed = TensorSpec("x", "float32", (8, 3, 4))
    assert samples.shaped(fixed, {}).shape == ("batch", 3, 4)
    free = TensorSpec("x", "float32", ("n", 3, "height"))
    assert samples.shaped(free, {"x": (3, 9), "y": (1,)}).shape == ("batch", 3, 9)
    assert samples.shaped(TensorSpec("x", "float32", ("n",)), {}).shape == ("batch",)


@pytest.mark.parametrize("shape", [("n", 3, "height"), ("n", "any"), ()])
def test_a_dimension_that_nobody_knows(shape: Any) -> None:
    with pytest.raises(RecipeError, match="--shape: input 'x' has shape .*--shape x=3,224,224"):
        samples.shaped(TensorSpec("x", "float32", shape), {"y": (3, 9)})


@pytest.mark.parametrize("given", [(3,), (3, 9, 9), (4, 9)])
def test_a_shape_that_does_not_go_into_the_model_s(given: tuple[int, ...]) -> None:
    spec = TensorSpec("x", "float32", ("n", 3, "width"))
    with pytest.raises(RecipeError, match="--shape: input 'x' has shape .* does not go into it"):
        samples.shaped(spec, {"x": given})


@pytest.mark.parametrize("kind", ["tensor(string)", "tensor(bfloat16)", "seq(tensor(float))"])
def test_a_type_of_which_no_samples_can_be_made(kind: str) -> None:
    with pytest.raises(RecipeError, match="input 'x' takes .*, of which no samples can be made"):
        samples.shaped(TensorSpec("x", kind, ("batch", 3)), {})


@pytest.mark.parametrize(
    ("shapes", "fixed"),
    [
        ([("n", 3)], None),
        ([("n", 3), ("m", 4)], None),
        ([(8, 3), (8, 2)], 8),
        ([("n", 3), (1, 2)], 1),
        ([(4,), ()], 4),
    ],
)
def test_a_batch_is_fixed_or_free(shapes: list[Any], fixed: int | None) -> None:
    specs = [TensorSpec(f"x{n}", "float32", shape) for n, shape in enumerate(shapes)]
    assert samples.batch(specs) == fixed


@pytest.mark.parametrize("shapes", [[("n", 3), (3,)], [(2, 3), (4, 3)]])
def test_inputs_of_several_batches_cannot_be_cut_into_samples(shapes: list[Any]) -> None:
    specs = [TensorSpec(f"x{n}", "float32", shape) for n, shape in enumerate(shapes)]
    with pytest.raises(RecipeError, match="the inputs are not of one batch: 'x0' .*, 'x1' "):
        samples.batch(specs)


# drawn


@given(
    st.sampled_from(["float16", "float32", "float64", "uint8", "int8", "int32", "int64", "bool"]),
    st.lists(st.integers(1, 5), max_size=3),
)
def test_samples_are_drawn_as_the_model_takes_them(dtype: str, shape: list[int]) -> None:
    spec = TensorSpec("x", dtype, ("batch", *shape))
    found = samples.drawn([spec])["x"]
    assert found.dtype == dtype
    assert found.shape == (64, *shape)
    again = samples.drawn([spec])["x"]
    assert np.array_equal(found, again)
    if dtype.startswith("float"):
        assert found.std() > 0
    elif dtype != "uint8":
        assert not found.any()  # nought is a place in every table


def test_large_samples_are_few_and_of_all_inputs_as_many() -> None:
    large = TensorSpec("large", "uint8", ("batch", 3, 2000, 2000))
    found = samples.drawn([X, large])
    assert {name: len(each) for name, each in found.items()} == {"x": 2, "large": 2}


# from a file


def kept(path: Path, arrays: Mapping[str, np.ndarray] | np.ndarray) -> Path:
    if isinstance(arrays, np.ndarray):
        np.save(path, arrays)
    else:
        np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_samples_are_read_by_input(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(7, 3, 4)).astype(np.float32)
    ids = rng.integers(0, 9, (7, 5))
    one = samples.read(kept(tmp_path / "x.npy", x), [X])
    assert np.array_equal(one["x"], x)
    both = samples.read(kept(tmp_path / "b.npz", {"x": x, "ids": ids, "more": x}), [X, IDS])
    assert list(both) == ["x", "ids"]
    assert np.array_equal(both["ids"], ids)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": np.zeros((7, 3, 4), np.float32)}, "there is no array 'x': the known ones are y"),
        ({"x": np.zeros((7, 3, 4))}, "'x' is float64 (7, 3, 4): the model takes float32 ("),
        ({"x": np.zeros((7, 4, 3), np.float32)}, "'x' is float32 (7, 4, 3)"),
        ({"x": np.zeros((3, 4), np.float32)}, "'x' is float32 (3, 4)"),
        ({"x": np.zeros((), np.float32)}, "'x' is float32 ()"),
        ({"x": np.zeros((0, 3, 4), np.float32)}, "it holds 0 of 'x'"),
        ({"x": np.array([print], object)}, "holds no arrays: give .npy or .npz"),
    ],
)
def test_samples_that_are_none(
    arrays: Mapping[str, np.ndarray], words: str, tmp_path: Path
) -> None:
    for path, held in (("x.npz", arrays), ("x.npy", arrays.get("x"))):
        if held is None:
            continue
        with pytest.raises(RecipeError) as told:
            samples.read(kept(tmp_path / path, held), [X])
        assert str(told.value).startswith(str(tmp_path / path))
        assert words in str(told.value)


def test_every_input_has_as_many(tmp_path: Path) -> None:
    arrays = {"x": np.zeros((7, 3, 4), np.float32), "ids": np.zeros((6, 5), np.int64)}
    with pytest.raises(RecipeError, match="it holds 7 of 'x', 6 of 'ids': give one and the same"):
        samples.read(kept(tmp_path / "x.npz", arrays), [X, IDS])
    one = kept(tmp_path / "x.npy", arrays["x"])
    with pytest.raises(RecipeError, match="there is no array 'ids'"):
        samples.read(one, [X, IDS])


def test_a_file_that_holds_nothing_to_read(tmp_path: Path) -> None:
    whole = kept(tmp_path / "whole.npz", {"x": np.zeros((7, 3, 4), np.float32)}).read_bytes()
    for name, content in (
        ("text.npy", b"hello"),
        ("empty.npz", b""),
        ("short.npz", whole[: len(whole) // 2]),
        ("torn.npz", whole[:100] + b"\xff" * 20 + whole[120:]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RecipeError, match=f"{name}: holds no arrays: give .npy or .npz"):
            samples.read(tmp_path / name, [X])
    with pytest.raises(RecipeError, match="none.npy: cannot be read: No such file"):
        samples.read(tmp_path / "none.npy", [X])
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        samples.read(tmp_path, [X])
