"""NVML as its API reference describes it: what is asked, and what is not told."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from edgekd.bench import nvml
from tests.bench.machine import FakeGpu, fake_nvml


def _install(monkeypatch: pytest.MonkeyPatch, module: ModuleType | None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)  # type: ignore[arg-type]


def test_a_gpu_tells_its_state_and_its_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, fake_nvml(FakeGpu(reasons=0x44)))
    (gpu,), why = nvml.gpus()
    assert why == ""
    assert gpu.state() == {
        "mhz": 1755,
        "celsius": 61,
        "watts": 40.0,
        "held_back": ["its power limit", "heat, by hardware"],
    }
    assert gpu.joules() == 5000.0


@pytest.mark.parametrize("reason", [0x00, 0x01, 0x02, 0x10, 0x100])
def test_idling_and_what_was_asked_for_hold_nothing_back(
    monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    _install(monkeypatch, fake_nvml(FakeGpu(reasons=reason)))
    assert nvml.gpus()[0][0].state()["held_back"] == []


def test_an_older_driver_is_asked_by_the_older_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, fake_nvml(FakeGpu(reasons=0x20, modern=False)))
    assert nvml.gpus()[0][0].state()["held_back"] == ["heat, by software"]


def test_what_a_gpu_or_the_package_does_not_have_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake_nvml(FakeGpu(millijoules=None, milliwatts=None))
    del module.nvmlDeviceGetTemperature
    _install(monkeypatch, module)
    gpu = nvml.gpus()[0][0]
    assert (gpu.joules(), gpu.watts()) == (None, None)
    assert gpu.state()["celsius"] is None
    assert gpu.state()["mhz"] == 1755


def test_why_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, None)
    assert nvml.gpus() == ((), "the package nvidia-ml-py is not installed")
    _install(monkeypatch, fake_nvml(works=False))
    assert nvml.gpus() == ((), "NVML says: NVML Shared Library Not Found")
    _install(monkeypatch, fake_nvml())
    assert nvml.gpus() == ((), "NVML knows no GPU")
