"""What Linux tells in /proc and /sys, as numbers; None for whatever cannot be read here.

proc(5), and in the kernel's documentation admin-guide/pm/cpufreq, driver-api/thermal/sysfs-api,
hwmon/sysfs-interface and ABI/testing/sysfs-devices-system-cpu. Every function takes the root of
the tree, ``/`` but for tests.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_CORE_SENSORS = {"coretemp", "k10temp", "zenpower", "cpu_thermal"}
_MAJFLT, _TIMES, _PROCESSOR = 12, range(14, 18), 39
"""Fields of /proc/PID/stat by their numbers in proc(5); the times are utime to cstime."""


@dataclass(frozen=True)
class CpuTimes:
    """Ticks since the start of the system, of all CPUs: working, and taken by a hypervisor."""

    busy: int
    steal: int


@dataclass(frozen=True)
class ProcessTimes:
    """What a process had since it began, its ended children's time with it.

    Attributes:
        ticks: of CPU time.
        faults: pages that had to be read from a disk.
        switches: how often one of its threads was made to give up its CPU.
        cpus: on which its threads ran last.
    """

    ticks: int
    faults: int
    switches: int
    cpus: frozenset[int]


def text(path: Path) -> str | None:
    """A small file's text; None where it cannot be read. Faster than ``Path.read_text``."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        parts = []
        while part := os.read(handle, 1 << 16):
            parts.append(part)
    except OSError:  # a sensor that does not answer, a process that ended
        return None
    finally:
        os.close(handle)
    return b"".join(parts).decode("utf-8", "replace").strip("\0\n ")


def number(path: Path) -> int | None:
    """A file that holds one whole number."""
    found = text(path)
    return int(found) if found and found.lstrip("-").isdigit() else None


def numbers(paths: list[Path]) -> list[int]:
    """Those of the files that hold a number."""
    found = (number(each) for each in paths)
    return [each for each in found if each is not None]


def cpu_list(written: str) -> frozenset[int]:
    """CPUs as Linux writes them: ``0-3,8`` is 0, 1, 2, 3 and 8."""
    spans = (each.partition("-") for each in written.split(",") if each)
    return frozenset(cpu for low, _, high in spans for cpu in range(int(low), int(high or low) + 1))


def allowed_cpus(root: Path, pid: int | str) -> str | None:
    """The CPUs on which a process may run, as Linux writes them."""
    return _field(text(root / f"proc/{pid}/status"), "Cpus_allowed_list:")


def cpu_times(root: Path) -> CpuTimes | None:
    """Of all CPUs together."""
    fields = (text(root / "proc/stat") or "").partition("\n")[0].split()[1:9]
    if len(fields) < 8:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return CpuTimes(user + nice + system + irq + softirq, steal)


def process_times(root: Path, pid: int) -> ProcessTimes | None:
    """None once the process has ended."""
    own = _stat(root / f"proc/{pid}/stat")
    if own is None:
        return None
    try:
        threads = list((root / f"proc/{pid}/task").iterdir())
    except OSError:
        return None
    switches, cpus = 0, set()
    for thread in threads:
        stat = _stat(thread / "stat")
        told = _field(text(thread / "status"), "nonvoluntary_ctxt_switches:")
        if stat is not None and told is not None:  # else it has ended in between
            cpus.add(stat[_PROCESSOR])
            switches += int(told)
    ticks = sum(own[each] for each in _TIMES)
    return ProcessTimes(ticks, own[_MAJFLT], switches, frozenset(cpus))


def clock_mhz(root: Path, cpus: frozenset[int]) -> float | None:
    """The fastest of these CPUs; those that nobody needs may sleep."""
    base = root / "sys/devices/system/cpu"
    khz = numbers([base / f"cpu{each}/cpufreq/scaling_cur_freq" for each in sorted(cpus)])
    if khz:
        return max(khz) / 1000
    found, cpu = [], -1
    for line in (text(root / "proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "processor":
            cpu = int(value)
        elif name.strip() == "cpu MHz" and cpu in cpus:
            found.append(float(value))
    return max(found, default=None)


def thermometers(root: Path) -> list[Path]:
    """Files with temperatures of the system and of CPUs, in thousandths of a degree."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*/temp"))
    chips = sorted((root / "sys/class/hwmon").glob("hwmon*"))
    cores = [each for each in chips if text(each / "name") in _CORE_SENSORS]
    return zones + [path for each in cores for path in sorted(each.glob("temp*_input"))]


def throttle_counters(root: Path) -> list[Path]:
    """Files that count how often a core or a package slowed itself down; of Intel alone."""
    return sorted(
        (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    )


def load_average(root: Path) -> float | None:
    """Processes that wanted to run, on average over the last minute."""
    found = text(root / "proc/loadavg")
    return float(found.split()[0]) if found else None


def suspended_ns() -> int | None:
    """How long the machine has slept since its start: one clock goes on, the other does not."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    found = []
    for _ in range(3):  # whoever is interrupted between two clocks reads too much
        awake = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        found.append(time.clock_gettime_ns(time.CLOCK_BOOTTIME) - awake)
    return min(found)


def _stat(path: Path) -> dict[int, int] | None:
    """The numbers of a stat file by the numbers of their fields, from the parent's on."""
    found = text(path)
    if not found:
        return None
    fields = found.rpartition(")")[2].split()[1:]  # a name may hold blanks and brackets
    return dict(enumerate(map(int, fields), start=4))


def _field(status: str | None, name: str) -> str | None:
    lines = (status or "").splitlines()
    found = [line.removeprefix(name).strip() for line in lines if line.startswith(name)]
    return found[0] if found else None
