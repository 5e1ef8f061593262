"""Arrays in the memory of a ``FakeCuda``, given by each of the two standards."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.backends.fake_cuda import FakeCuda


class OnGpu:
    """A producer: memory of the fake GPU, given by one of the two standards."""

    def __init__(self, fake: FakeCuda, array: np.ndarray, offset: int = 0) -> None:
        self.pointer = fake.put(np.ascontiguousarray(array), offset)
        self.array = fake.view(self.pointer, array.shape, array.dtype)


class ByDlpack(OnGpu):
    kind, ordinal, streams = 2, 0, ()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, self.ordinal

    def __dlpack__(self, *, stream: Any = None) -> Any:
        self.streams = (*self.streams, stream)
        return self.array.__dlpack__()


class ByInterface(OnGpu):
    def __init__(self, fake: FakeCuda, array: np.ndarray, offset: int = 0) -> None:
        super().__init__(fake, array, offset)
        self.more: dict[str, Any] = {"version": 3}

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.array.shape,
            "typestr": self.array.dtype.str,
            "data": (self.pointer, False),
            **self.more,
        }
