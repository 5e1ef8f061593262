"""Memory that host and GPU exchange arrays by."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any
from weakref import finalize

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import TensorSpec
from edgekd.backends.base import Arrays
from edgekd.backends.cuda import Device
from edgekd.errors import DeviceError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Buffer:
    """One tensor of the largest batch: on the GPU, and page-locked on the host."""

    pointer: int
    host: npt.NDArray[np.uint8]

    def view(self, shape: Shape, dtype: str) -> npt.NDArray[Any]:
        """The first elements of the host's side, as that array."""
        return self.host[: prod(shape) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)


class TensorRtBinding:
    """Page-locked arrays of the host, which the GPU copies from and to.

    They outlive the session, and are given back when nobody holds one of them, or a view of it.
    """

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        batch: int,
        device: Device,
        run: Callable[[Arrays, Arrays], None],
    ) -> None:
        self.inputs, self.outputs = (
            MappingProxyType({each.name: _page_locked(each, batch, device) for each in specs})
            for specs in (inputs, outputs)
        )
        self._run = run

    def run(self) -> None:
        """See ``base.Binding``.

        Raises:
            As ``TensorRtSession.run``.
        """
        self._run(self.inputs, self.outputs)


def sized(spec: TensorSpec, batch: int) -> Shape:
    """The shape of a batch; what follows the batch is all numbers."""
    return (batch, *(int(each) for each in spec.shape[1:]))


def nbytes_of(spec: TensorSpec, batch: int) -> int:
    """What a batch takes."""
    return prod(sized(spec, batch)) * np.dtype(spec.dtype).itemsize


def _page_locked(spec: TensorSpec, batch: int, device: Device) -> npt.NDArray[Any]:
    """Zeros, in memory that is given back with the last view of it."""
    taken = device.pinned(nbytes_of(spec, batch))
    # numpy has each view hold this array, and none the one that the device layer gave.
    guard = np.ctypeslib.as_array((ctypes.c_uint8 * taken.nbytes).from_address(taken.ctypes.data))
    finalize(guard, _give_back, device, taken).atexit = False  # the driver takes it when we end
    guard[:] = 0
    return guard.view(spec.dtype).reshape(sized(spec, batch))


def _give_back(device: Device, taken: npt.NDArray[np.uint8]) -> None:
    try:
        device.unpin(taken)
    except DeviceError as error:
        if not error.lost:  # else the driver takes everything back when the process ends
            raise
