"""Inputs that lie in GPU memory already, as other libraries give them."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.backends.cuda import arrays
from edgekd.backends.cuda.arrays import device_array
from edgekd.errors import StageError
from tests.backends.fake_arrays import ByDlpack, ByInterface, OnGpu
from tests.backends.fake_cuda import LEGACY, FakeCuda


@pytest.fixture
def fake() -> FakeCuda:
    return FakeCuda()


@pytest.mark.parametrize("kind", [ByDlpack, ByInterface])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8", "int64", "bool"])
def test_an_array_on_the_gpu_is_taken_as_it_is(
    kind: type[OnGpu], dtype: str, fake: FakeCuda
) -> None:
    given = kind(fake, np.ones((2, 3), dtype))
    taken = device_array("x", given, fake, 9)
    assert taken is not None
    assert (taken.pointer, taken.shape, taken.dtype) == (given.pointer, (2, 3), dtype)


@pytest.mark.parametrize("value", [np.ones(3), torch.ones(3), [1, 2], 3.0])
def test_what_lies_on_the_host_is_not_taken(value: Any, fake: FakeCuda) -> None:
    assert device_array("x", value, fake, 9) is None
    assert not fake.log


def test_dlpack_is_told_the_stream_that_will_read(fake: FakeCuda) -> None:
    given = ByDlpack(fake, np.ones(3))
    device_array("x", given, fake, 9)
    assert given.streams == (9,)


def test_bfloat16_which_numpy_lacks_has_its_name(fake: FakeCuda) -> None:
    class Torch(ByDlpack):
        def __dlpack__(self, *, stream: Any = None) -> Any:
            return torch.ones(3, dtype=torch.bfloat16).__dlpack__()

    taken = device_array("x", Torch(fake, np.ones(3)), fake, 9)
    assert taken is not None
    assert taken.dtype == "bfloat16"


def test_dlpack_may_begin_within_its_memory(fake: FakeCuda) -> None:
    class Within(ByDlpack):
        def __dlpack__(self, *, stream: Any = None) -> Any:
            capsule = super().__dlpack__(stream=stream)
            arrays._Tensor.from_address(arrays._pointer_of(capsule, b"dltensor")).byte_offset = 12
            return capsule

    given = Within(fake, np.ones(3))
    taken = device_array("x", given, fake, 9)
    assert taken is not None
    assert taken.pointer == given.pointer + 12


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("stream", [None, LEGACY, 17])
def test_the_producers_stream_is_waited_for(
    version: int, stream: int | None, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(fake, "wait", waited.append)
    given = ByInterface(fake, np.ones(3))
    given.more = {"version": version, "stream": stream}
    device_array("x", given, fake, 9)
    # Before version 3 nobody said which; None means that nothing is to be waited for.
    assert waited == ([LEGACY] if version < 3 else [] if stream is None else [stream])


@pytest.mark.parametrize("kind", [ByDlpack, ByInterface])
def test_an_array_that_is_not_contiguous_is_refused(kind: type[OnGpu], fake: FakeCuda) -> None:
    given = kind(fake, np.ones((4, 6), np.float32))
    given.array = given.array[:, ::2]
    given.more = {"version": 3, "strides": given.array.strides}  # type: ignore[attr-defined]
    with pytest.raises(StageError, match="input 'x' is not contiguous: give a contiguous copy"):
        device_array("x", given, fake, 9)


@pytest.mark.parametrize("kind", [ByDlpack, ByInterface])
def test_strides_that_mean_nothing_do_not_matter(kind: type[OnGpu], fake: FakeCuda) -> None:
    given = kind(fake, np.ones((4, 1, 3), np.float32))
    given.array = np.lib.stride_tricks.as_strided(given.array, strides=(12, 999, 4))
    given.more = {"version": 3, "strides": given.array.strides}  # type: ignore[attr-defined]
    taken = device_array("x", given, fake, 9)
    assert taken is not None and taken.shape == (4, 1, 3)


def test_an_array_on_another_gpu_is_refused(fake: FakeCuda) -> None:
    given = ByDlpack(fake, np.ones(3))
    given.ordinal = 1
    with pytest.raises(StageError, match="input 'x' lies on GPU 1, and the engine is on 0"):
        device_array("x", given, fake, 9)


def test_what_its_library_will_not_give_is_told(fake: FakeCuda) -> None:
    class Torch(ByDlpack):
        def __dlpack__(self, *, stream: Any = None) -> Any:
            return torch.ones(3, requires_grad=True).__dlpack__()

    with pytest.raises(StageError, match="input 'x' is not given by its library .*requires? grad"):
        device_array("x", Torch(fake, np.ones(3)), fake, 9)


def test_the_memory_is_kept_as_long_as_the_array(fake: FakeCuda) -> None:
    given = ByDlpack(fake, np.ones(3))
    kept = weakref.ref(given.array)
    taken = device_array("x", given, fake, 9)
    del given
    gc.collect()
    assert kept() is not None
    del taken
    gc.collect()
    assert kept() is None
