"""What is known of a host, on the one that is here and on those that are not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgekd.bench import host
from tests.bench.machine import FakeGpu, fake_nvml, write

X86 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 {}avx512_vnni\n\nprocessor\t: 1"


def test_this_host_is_described() -> None:
    facts = host.facts()
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 1e8
    assert facts["cpu"]
    assert isinstance(facts["flags"], list)
    assert facts["kernel"]
    assert host.processor() == {"cpu": facts["cpu"], "flags": facts["flags"]}
    load = host.load_average()
    assert load is not None
    assert load >= 0
    assert host.facts() == facts  # what keys are made of does not flutter
    assert json.loads(json.dumps(facts)) == facts
    peak = host.peak_memory_bytes()
    assert peak is not None
    assert peak > 10e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_on_linux_the_cpus_that_may_be_used_are_told() -> None:
    assert host.facts()["affinity"]


@pytest.mark.parametrize("hypervisor", [True, False])
def test_an_x86(tmp_path: Path, hypervisor: bool) -> None:
    write(tmp_path, "proc/cpuinfo", X86.format("hypervisor " if hypervisor else ""))
    write(tmp_path, "proc/self/status", "Name:\tx\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1,4")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave")
    write(tmp_path, "sys/devices/system/cpu/smt/control", "on")
    facts = host.facts(tmp_path)
    assert facts["cpu"] == "AMD EPYC"
    assert facts["flags"] == ["avx2", "avx512_vnni"]
    assert facts["hypervisor"] is hypervisor
    assert facts["affinity"] == "0-1,4"
    assert facts["governor"] == "powersave"
    assert facts["smt"] == "on"


def test_a_jetson_is_named_by_its_board(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    (tmp_path / "proc/device-tree").mkdir()
    (tmp_path / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    facts = host.facts(tmp_path)
    assert facts["cpu"] == "NVIDIA Jetson Orin Nano"
    assert facts["flags"] == ["asimddp"]
    assert facts["hypervisor"] is None


def test_a_host_that_tells_nothing(tmp_path: Path) -> None:
    facts = host.facts(tmp_path)
    assert facts["cpu"]
    assert facts["governor"] == "unavailable"
    assert (facts["affinity"], facts["hypervisor"], facts["smt"]) == (None, None, None)


def test_gpus_are_named_where_nvml_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(FakeGpu(), FakeGpu()))
    assert host.facts()["gpus"] == [{"name": "NVIDIA L4", "driver": "570.86"}] * 2
