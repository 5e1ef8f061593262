"""How many joules a run took, where the machine tells.

Intel's and AMD's RAPL counters of whole CPU packages (power/powercap/powercap in the kernel's
documentation), NVIDIA's of GPUs, and the rails of Jetson boards, which an INA3221 measures
(hwmon/ina3221). What cannot be read is unavailable with a reason, never zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.bench import nvml
from edgekd.bench.readings import number, text

_WHOLE = {"VDD_IN", "POM_5V_IN", "VIN"}
"""Rails through which all of a Jetson module's power comes; without one, all rails are added."""


@dataclass(frozen=True)
class Source:
    """Something that tells energy or power.

    Attributes:
        name: for the report.
        read: joules so far, or watts now; None where it does not answer.
        is_power: it tells watts.
        wraps_at: joules at which it begins again from zero.
    """

    name: str
    read: Callable[[], float | None]
    is_power: bool = False
    wraps_at: float | None = None


class Meter:
    """Adds up the energy between samples, over everything that tells any."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._sources, self._missing = sources(root)
        self._before: list[float] = []
        self._t_ns = 0
        self._joules: float | None = None
        self._lost = ""

    def sample(self, t_ns: int) -> float | None:
        """Joules since the first sample; None where they are not known."""
        if self._lost or not self._sources:
            return None
        now = [each.read() for each in self._sources]
        told = [each for each in now if each is not None]
        if len(told) < len(now):
            silent = self._sources[now.index(None)]
            self._lose(f"{silent.name} stopped answering")
            return None
        if self._before:
            seconds = (t_ns - self._t_ns) / 1e9
            for source, before, after in zip(self._sources, self._before, told, strict=True):
                self._add(source, before, after, seconds)
        self._before, self._t_ns = told, t_ns
        return None if self._lost else self._joules or 0.0

    def record(self) -> dict[str, Any]:
        """``joules`` or None, their ``source``, and ``why`` some or all are missing."""
        names = " + ".join(dict.fromkeys(each.name for each in self._sources))
        if self._joules is not None and not self._lost:
            return {"joules": self._joules, "source": names, "why": self._missing}
        few = "it ended before a second sample" if self._sources else self._missing
        return {"joules": None, "source": "unavailable", "why": self._lost or few}

    def _add(self, source: Source, before: float, after: float, seconds: float) -> None:
        if source.is_power:
            more = (before + after) / 2 * seconds
        else:
            more = after - before
            if more < 0 and source.wraps_at is None:
                self._lose(f"{source.name} began again from zero")
                return
            if more < 0 and source.wraps_at is not None:
                more += source.wraps_at
        self._joules = (self._joules or 0.0) + more

    def _lose(self, why: str) -> None:
        self._lost, self._joules = why, None


def sources(root: Path) -> tuple[list[Source], str]:
    """What tells energy here, and what is missing of it.

    A Jetson's rails have its GPU in them; elsewhere CPU packages and GPUs are added.
    """
    found = _rails(root)
    if found:
        return found, ""
    packages, no_packages = _packages(root)
    gpus, no_gpus = _gpus()
    if packages and not gpus:
        return packages, ""  # most machines with RAPL have no GPU, and need none
    why = "; ".join(each for each in (no_packages, "" if gpus else no_gpus) if each)
    return packages + gpus, why


def _packages(root: Path) -> tuple[list[Source], str]:
    """RAPL's package domains: not their parts, nor ``psys``, in which they are contained."""
    zones = [
        each
        for each in sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
        if each.name.count(":") == 1 and (text(each / "name") or "").startswith("package")
    ]
    if not zones:
        return [], "the CPU tells no energy (there is no RAPL domain in /sys/class/powercap)"
    if any(number(each / "energy_uj") is None for each in zones):
        return [], "the CPU's energy may be read by root alone (/sys/class/powercap, energy_uj)"
    return [
        Source("RAPL package", _scaled([each / "energy_uj"], 1e-6), wraps_at=_range(each))
        for each in zones
    ], ""


def _range(zone: Path) -> float | None:
    told = number(zone / "max_energy_range_uj")
    return None if told is None else told / 1e6


def _gpus() -> tuple[list[Source], str]:
    """GPUs by their energy counters; older ones by their power."""
    found, why = nvml.gpus()
    told = []
    for each in found:
        if each.joules() is not None:
            told.append(Source("NVML energy", each.joules))
        elif each.watts() is not None:
            told.append(Source("NVML power", each.watts, is_power=True))
        else:
            why = f"{each.name} tells neither its energy nor its power"
    return told, why


def _rails(root: Path) -> list[Source]:
    """Rails of a Jetson: channels 1 to 3 of each INA3221, in millivolts and milliamperes."""
    drivers = root / "sys/bus/i2c/drivers"
    found = {}
    for monitor in sorted(drivers.glob("ina3221*/*/hwmon/hwmon*")):
        for channel in (1, 2, 3):
            label = text(monitor / f"in{channel}_label")
            parts = [monitor / f"in{channel}_input", monitor / f"curr{channel}_input"]
            read = _scaled(parts, 1e-6)
            if label and label != "NC" and read() is not None:
                found[label] = Source(f"Jetson rail {label}", read, is_power=True)
    whole = [source for label, source in found.items() if label in _WHOLE]
    return whole or list(found.values())


def _scaled(paths: list[Path], unit: float) -> Callable[[], float | None]:
    """The product of the numbers in some files, in a unit."""

    def read() -> float | None:
        product = unit
        for each in paths:
            told = number(each)
            if told is None:
                return None
            product *= told
        return product

    return read
