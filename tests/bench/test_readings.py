"""Files of /proc and /sys as the kernel writes them, and this machine's own."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from edgekd.bench import readings
from edgekd.bench.readings import CpuTimes, ProcessTimes
from tests.bench.machine import PID, Machine, write


@pytest.mark.parametrize(
    ("written", "cpus"),
    [("0", {0}), ("0-3,8", {0, 1, 2, 3, 8}), ("2-3,5-6", {2, 3, 5, 6}), ("", set())],
)
def test_lists_of_cpus(written: str, cpus: set[int]) -> None:
    assert readings.cpu_list(written) == cpus


def test_times_of_the_cpus_are_busy_or_taken(tmp_path: Path) -> None:
    # user nice system idle iowait irq softirq steal guest guest_nice: guests are in user
    write(tmp_path, "proc/stat", "cpu  100 20 30 4000 50 6 7 80 90 1\ncpu0 9 9 9 9 9 9 9 9 9 9")
    assert readings.cpu_times(tmp_path) == CpuTimes(busy=163, steal=80)


def test_a_process_is_the_sum_of_its_threads(tmp_path: Path) -> None:
    Machine(tmp_path, own=77, faults=5, switches=40).put()
    assert readings.process_times(tmp_path, PID) == ProcessTimes(77, 5, 43, frozenset({0, 1}))
    assert readings.process_times(tmp_path, PID + 1) is None


def test_the_clock_is_that_of_the_fastest_cpu_in_use(tmp_path: Path) -> None:
    Machine(tmp_path, khz=[1_200_000, 2_400_000, 3_600_000]).put()
    assert readings.clock_mhz(tmp_path, frozenset({0, 1})) == 2400
    assert readings.clock_mhz(tmp_path, frozenset()) is None


def test_without_cpufreq_the_clock_is_the_processors_own_word(tmp_path: Path) -> None:
    entry = "processor\t: {}\ncpu MHz\t\t: {}\n\n"
    write(tmp_path, "proc/cpuinfo", entry.format(0, 2596.146) + entry.format(1, 3100.5))
    assert readings.clock_mhz(tmp_path, frozenset({0})) == 2596.146
    assert readings.clock_mhz(tmp_path, frozenset({0, 1})) == 3100.5


def test_thermometers_are_zones_and_sensors_of_cores(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", 40_000)
    write(tmp_path, "sys/class/hwmon/hwmon0/name", "k10temp")
    write(tmp_path, "sys/class/hwmon/hwmon0/temp1_input", 71_500)
    write(tmp_path, "sys/class/hwmon/hwmon1/name", "nvme")
    write(tmp_path, "sys/class/hwmon/hwmon1/temp1_input", 80_000)
    assert readings.numbers(readings.thermometers(tmp_path)) == [40_000, 71_500]


@pytest.mark.parametrize("content", ["", "soon", "1.5"])
def test_what_is_no_whole_number_is_not_told(tmp_path: Path, content: str) -> None:
    write(tmp_path, "value", content)
    assert readings.number(tmp_path / "value") is None
    assert readings.number(tmp_path) is None  # a folder opens, and cannot be read
    assert readings.numbers([tmp_path / "value", tmp_path / "none"]) == []


def test_an_empty_machine_tells_nothing(tmp_path: Path) -> None:
    assert readings.cpu_times(tmp_path) is None
    assert readings.process_times(tmp_path, 1) is None
    assert readings.load_average(tmp_path) is None
    assert readings.allowed_cpus(tmp_path, 1) is None
    assert readings.thermometers(tmp_path) == readings.throttle_counters(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_counts_what_this_process_does() -> None:
    root, pid = Path("/"), os.getpid()
    allowed = readings.allowed_cpus(root, pid)
    assert allowed is not None
    assert readings.cpu_list(allowed) == os.sched_getaffinity(0)
    before, machine = readings.process_times(root, pid), readings.cpu_times(root)
    stop = threading.Event()
    waiting = threading.Thread(target=stop.wait)
    waiting.start()
    begin = os.times().user
    while os.times().user - begin < 0.1:
        sum(range(10_000))
    after, later = readings.process_times(root, pid), readings.cpu_times(root)
    stop.set()
    waiting.join()
    assert before is not None
    assert after is not None
    assert machine is not None
    assert later is not None
    assert after.ticks - before.ticks >= 5
    assert later.busy > machine.busy
    assert after.cpus <= os.sched_getaffinity(0)
    assert (readings.suspended_ns() or 0) >= 0
