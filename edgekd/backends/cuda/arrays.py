"""Inputs that lie in GPU memory already: DLPack, and the CUDA Array Interface.

DLPack: dlpack.h of version 0.8, and the array API standard's ``__dlpack__``. It is read by
ctypes, since cuda.core reads neither without a driver, and PyCUDA does not bring it.
CUDA Array Interface: version 3, as Numba documents it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from edgekd.backends.cuda import Device
from edgekd.errors import StageError

_CUDA = 2  # kDLCUDA
_LEGACY = 1  # the default stream, for which all others wait, by the name that both standards use
_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}


@dataclass(frozen=True)
class DeviceArray:
    """A contiguous array in the GPU's memory.

    Attributes:
        pointer: of its first element.
        owner: what keeps the memory alive, for as long as this is kept.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    owner: Any


def device_array(name: str, value: Any, device: Device, stream: int) -> DeviceArray | None:
    """The value where it lies in that GPU's memory; None where it lies on the host.

    Work that is put into the stream from now on finds the memory written: by DLPack the producer
    sees to that, for the CUDA Array Interface its stream is waited for.

    Raises:
        StageError: naming the input: it is not contiguous, is on another GPU, or is not given.
        DeviceError: its stream failed.
    """
    if isinstance(value, np.ndarray):
        return None
    where = getattr(value, "__dlpack_device__", None)
    if where is not None:
        kind, ordinal = where()
        if kind != _CUDA:
            return None
        if ordinal != device.ordinal:
            raise StageError(
                f"input '{name}' lies on GPU {ordinal}, and the engine is on {device.ordinal}",
                "copy it there",
            )
        return _dlpack(name, value, stream)
    interface = getattr(value, "__cuda_array_interface__", None)
    return None if interface is None else _interface(name, value, interface, device)


def _interface(name: str, value: Any, interface: dict[str, Any], device: Device) -> DeviceArray:
    # Before version 3 nothing was said of streams.
    producer = interface.get("stream") if interface["version"] >= 3 else _LEGACY
    if producer is not None:
        device.wait(producer)
    dtype = np.dtype(interface["typestr"])
    strides = interface.get("strides")
    if strides is not None:
        _check_contiguous(name, interface["shape"], [each / dtype.itemsize for each in strides])
    pointer, _read_only = interface["data"]
    return DeviceArray(pointer, tuple(interface["shape"]), dtype.name, value)


class _Tensor(ctypes.Structure):
    """DLTensor; in a capsule called ``dltensor`` it comes first in DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _dlpack(name: str, value: Any, stream: int) -> DeviceArray:
    try:
        capsule = value.__dlpack__(stream=stream)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise StageError(f"input '{name}' is not given by its library ({error})") from error
    # A capsule that keeps this name gives the memory back when it is collected.
    tensor = _Tensor.from_address(_pointer_of(capsule, b"dltensor"))
    shape = tuple(tensor.shape[: tensor.ndim])
    if tensor.strides:  # in elements; NULL where it is contiguous
        _check_contiguous(name, shape, tensor.strides[: tensor.ndim])
    kind = _KINDS.get(tensor.code, f"of kind {tensor.code}, ")
    bits = "" if kind == "bool" else str(tensor.bits)
    lanes = f"x{tensor.lanes}" if tensor.lanes != 1 else ""
    pointer = (tensor.data or 0) + tensor.byte_offset
    return DeviceArray(pointer, shape, f"{kind}{bits}{lanes}", (capsule, value))


def _check_contiguous(name: str, shape: Any, strides: Any) -> None:
    """Strides in elements; those of a dimension of one element mean nothing."""
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        if size > 1 and prod(shape) and stride != prod(shape[axis + 1 :]):
            raise StageError(f"input '{name}' is not contiguous", "give a contiguous copy")
