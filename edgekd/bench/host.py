"""What is known of the machine that a measurement was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from edgekd.backends.base import usable_cores

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


def facts() -> dict[str, Any]:
    """Processor, cores, the flags that int8 depends on, governor, memory, system."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "flags": [each for each in _TELLING_FLAGS if each in flags],
        "governor": _governor(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def processor() -> dict[str, Any]:
    """What the outputs of an engine may depend on: the processor and its int8 instructions."""
    known = facts()
    return {"cpu": known["cpu"], "flags": known["flags"]}


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


def _cpuinfo() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _governor() -> str:
    try:
        path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
        return path.read_text().strip()
    except OSError:
        return "unavailable"
