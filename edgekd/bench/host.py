"""What is known of the machine that a measurement was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from edgekd.backends.base import usable_cores
from edgekd.bench import nvml
from edgekd.bench.readings import allowed_cpus, text

_TELLING_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
)


def facts(root: Path = Path("/")) -> dict[str, Any]:
    """What latencies here depend on, and does not change by itself: keys are made of it.

    Processor, cores, the flags that int8 depends on, governor, the CPUs that this process may
    use, whether there is a hypervisor, threads that share a core (``smt``), memory, system,
    kernel, GPUs as NVML names them. None where it is not told.

    Args:
        root: of /proc and /sys.
    """
    info = _cpuinfo(root)
    return {
        "cpu": _cpu(root, info),
        "cores": usable_cores(),
        "flags": _telling_flags(info),
        "governor": text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
        or "unavailable",
        "affinity": allowed_cpus(root, "self"),
        "hypervisor": _hypervisor(root, info),
        "smt": text(root / "sys/devices/system/cpu/smt/control"),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "gpus": [{"name": each.name, "driver": each.driver} for each in nvml.gpus()[0]],
    }


def processor(root: Path = Path("/")) -> dict[str, Any]:
    """What the outputs of an engine may depend on: the processor and its int8 instructions."""
    info = _cpuinfo(root)
    return {"cpu": _cpu(root, info), "flags": _telling_flags(info)}


def load_average() -> float | None:
    """Processes that wanted to run, on average over the last minute; None where it is not told."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def peak_memory_bytes() -> int | None:
    """The largest resident memory that this process ever had; None where it is not told."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; empty where there is none."""
    found = text(root / "proc/cpuinfo") or ""
    lines = (line.partition(":") for line in found.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _cpu(root: Path, info: dict[str, str]) -> str:
    """Its name; that of the board where the processor has none, as on ARM."""
    board = text(root / "proc/device-tree/model")
    return info.get("model name") or board or platform.processor() or platform.machine()


def _flags(info: dict[str, str]) -> set[str]:
    return set((info.get("flags") or info.get("Features") or "").split())


def _telling_flags(info: dict[str, str]) -> list[str]:
    flags = _flags(info)
    return [each for each in _TELLING_FLAGS if each in flags]


def _hypervisor(root: Path, info: dict[str, str]) -> bool | None:
    """Of x86 the processor tells; of others only that there is one, by Xen or the device tree."""
    if "flags" in info:
        return "hypervisor" in _flags(info)
    signs = ("sys/hypervisor/type", "proc/device-tree/hypervisor")
    return True if any((root / each).exists() for each in signs) else None
