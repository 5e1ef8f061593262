"""Energy by counters and by power where a machine tells it, and a reason where it does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgekd.bench.energy import Meter
from tests.bench.machine import FakeGpu, fake_nvml, rail, rapl, write

S = 1_000_000_000


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]


def test_rapl_counts_microjoules_of_every_package(tmp_path: Path) -> None:
    rapl(tmp_path, 0, 1_000_000)
    rapl(tmp_path, 1, 500_000)
    rapl(tmp_path, 2, 0, name="psys")  # in which the packages are contained
    rapl(tmp_path, 3, 0)
    (tmp_path / "sys/class/powercap/intel-rapl:3").rename(
        tmp_path / "sys/class/powercap/intel-rapl:0:0"  # a part of package 0
    )
    meter = Meter(tmp_path)
    assert meter.sample(0) == 0
    rapl(tmp_path, 0, 4_500_000)
    rapl(tmp_path, 1, 1_500_000)
    rapl(tmp_path, 2, 99_000_000, name="psys")
    assert meter.sample(S) == pytest.approx(4.5)
    assert meter.record() == {"joules": pytest.approx(4.5), "source": "RAPL package", "why": ""}


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    rapl(tmp_path, 0, 9_000_000, most=10_000_000)
    meter = Meter(tmp_path)
    meter.sample(0)
    rapl(tmp_path, 0, 2_000_000, most=10_000_000)
    assert meter.sample(S) == pytest.approx(3.0)


def test_a_counter_for_root_alone_is_unavailable_and_says_so(tmp_path: Path) -> None:
    rapl(tmp_path, 0, 1)
    energy = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    energy.unlink()
    energy.mkdir()  # which cannot be read either, not even by root
    meter = Meter(tmp_path)
    assert meter.sample(0) is None
    found = meter.record()
    assert (found["joules"], found["source"]) == (None, "unavailable")
    assert "root alone" in found["why"]


def test_nothing_to_read_is_unavailable_not_zero(tmp_path: Path) -> None:
    meter = Meter(tmp_path)
    assert [meter.sample(each) for each in (0, S)] == [None, None]
    found = meter.record()
    assert (found["joules"], found["source"]) == (None, "unavailable")
    assert "no RAPL domain" in found["why"]
    assert "nvidia-ml-py is not installed" in found["why"]


def test_one_sample_tells_no_energy(tmp_path: Path) -> None:
    rapl(tmp_path, 0, 1)
    meter = Meter(tmp_path)
    meter.sample(0)
    assert meter.record()["joules"] is None
    assert meter.record()["why"] == "it ended before a second sample"


def test_a_counter_that_falls_silent_takes_the_figure_with_it(tmp_path: Path) -> None:
    rapl(tmp_path, 0, 1_000_000)
    meter = Meter(tmp_path)
    meter.sample(0)
    rapl(tmp_path, 0, 2_000_000)
    meter.sample(S)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    assert meter.sample(2 * S) is None
    rapl(tmp_path, 0, 3_000_000)
    assert meter.sample(3 * S) is None
    assert meter.record() == {
        "joules": None,
        "source": "unavailable",
        "why": "RAPL package stopped answering",
    }


def test_a_jetsons_power_is_that_of_the_whole_module(tmp_path: Path) -> None:
    rail(tmp_path, 1, "VDD_IN", 5000, 2000)  # 10 W
    rail(tmp_path, 2, "VDD_CPU_GPU_CV", 5000, 1000)
    rail(tmp_path, 3, "VDD_SOC", 5000, 400)
    meter = Meter(tmp_path)
    meter.sample(0)
    rail(tmp_path, 1, "VDD_IN", 5000, 4000)  # 20 W
    assert meter.sample(S // 2) == pytest.approx(7.5)  # half a second at 15 W
    assert meter.sample(S) == pytest.approx(17.5)  # and another at 20
    assert meter.record() == {
        "joules": pytest.approx(17.5),
        "source": "Jetson rail VDD_IN",
        "why": "",
    }


def test_a_jetson_without_such_a_rail_names_those_that_are_added(tmp_path: Path) -> None:
    rail(tmp_path, 1, "VDD_GPU_SOC", 20_000, 500)
    rail(tmp_path, 2, "VDD_CPU_CV", 20_000, 250)
    rail(tmp_path, 3, "NC", 20_000, 9000)
    rail(tmp_path, 2, "VDDQ_VDD2_1V8AO", 5000, 1000, chip="1-0041")
    write(tmp_path, "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in7_label", "sum of shunts")
    meter = Meter(tmp_path)
    meter.sample(0)
    assert meter.sample(S) == pytest.approx(20.0)
    assert meter.record()["source"] == (
        "Jetson rail VDD_GPU_SOC + Jetson rail VDD_CPU_CV + Jetson rail VDDQ_VDD2_1V8AO"
    )


def test_cpu_and_gpu_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(gpu))
    rapl(tmp_path, 0, 0)
    meter = Meter(tmp_path)
    meter.sample(0)
    rapl(tmp_path, 0, 2_000_000)
    gpu.millijoules = 5_030_000
    meter.sample(S)
    assert meter.record() == {"joules": 32.0, "source": "RAPL package + NVML energy", "why": ""}
    gpu.millijoules = 7  # the driver was loaded anew
    assert meter.sample(2 * S) is None
    assert meter.record()["why"] == "NVML energy began again from zero"


def test_a_gpu_without_a_counter_is_told_by_its_power_and_the_cpu_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu(millijoules=None, milliwatts=40_000)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(gpu))
    meter = Meter(tmp_path)
    meter.sample(0)
    gpu.milliwatts = 60_000
    meter.sample(2 * S)
    found = meter.record()
    assert (found["joules"], found["source"]) == (100.0, "NVML power")
    assert found["why"].startswith("the CPU tells no energy")


def test_a_gpu_that_tells_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(millijoules=None, milliwatts=None)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(gpu))
    why = Meter(tmp_path).record()["why"]
    assert "NVIDIA L4 tells neither its energy nor its power" in why


def test_this_machine_tells_energy_or_why_not() -> None:
    meter = Meter()
    meter.sample(0)
    meter.sample(S)
    found = meter.record()
    if found["joules"] is None:
        assert found["source"] == "unavailable"
        assert found["why"]
    else:
        assert found["joules"] >= 0
        assert found["source"] != "unavailable"
