"""Whose context PyCUDA uses; what it does with it is tested with the other layers."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from edgekd.backends.cuda import open_device, pycuda
from edgekd.errors import BackendUnavailable, DeviceError
from tests.backends.fake_cuda import FakeCuda
from tests.backends.fake_vendors import FakePyCuda


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> FakePyCuda:
    vendor = FakePyCuda(FakeCuda())
    package = ModuleType("pycuda")
    package.driver = vendor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", vendor)
    return vendor


def test_pycuda_takes_the_context_that_the_application_holds(
    vendor: FakePyCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pycuda, "import_module", lambda name: pytest.fail(name))
    assert open_device("pycuda", "tensorrt").gpu().name == "Fake"


def test_pycuda_takes_the_primary_context_where_there_is_no_other(
    vendor: FakePyCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.current = None
    imported: list[str] = []

    def push(name: str) -> None:
        imported.append(name)
        vendor.current = "the primary one"

    monkeypatch.setattr(pycuda, "import_module", push)
    assert open_device("pycuda", "tensorrt").gpu().name == "Fake"
    assert imported == ["pycuda.autoprimaryctx"]


def test_a_thread_without_a_pycuda_context_is_told(
    vendor: FakePyCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.current = None
    monkeypatch.setattr(pycuda, "import_module", lambda name: None)  # imported long ago
    with pytest.raises(DeviceError, match="this thread has no PyCUDA context: push one"):
        open_device("pycuda", "tensorrt")


def test_pycuda_without_a_gpu_or_not_installed_is_told(
    vendor: FakePyCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.init_error = "cuInit failed: no CUDA-capable device is detected"
    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU.*no CUDA-capable device"):
        open_device("pycuda", "tensorrt")
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(BackendUnavailable, match=r"PyCUDA cannot be imported.*edgekd\[pycuda\]"):
        open_device("pycuda", "tensorrt")
