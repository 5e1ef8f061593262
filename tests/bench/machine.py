"""Machines that are not here: trees of /proc and /sys as the kernel's documents describe them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

PID = 4242


def write(root: Path, path: str, value: object) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"{value}\n")


def stat_of_process(*, ticks: int = 0, faults: int = 0, cpu: int = 0, name: str = "python3") -> str:
    """A line of proc(5)'s /proc/PID/stat, whose fields are counted from 1."""
    fields = {4: 1, 12: faults, 14: ticks, 39: cpu}
    rest = " ".join(str(fields.get(each, 0)) for each in range(4, 53))
    return f"{PID} ({name}) R {rest}"


@dataclass
class Machine:
    """A core of 3 GHz that measures, and one that idles. Change what is to change, and ``put``."""

    root: Path
    busy: int = 10_000
    steal: int = 0
    own: int = 500
    switches: int = 0
    faults: int = 0
    khz: list[int] = field(default_factory=lambda: [3_000_000, 800_000])
    millicelsius: int = 50_000
    throttled: int = 0

    def put(self) -> None:
        write(self.root, "proc/stat", f"cpu  {self.busy} 0 0 90000 7 0 0 {self.steal} 0 0\ncpu0 0")
        write(self.root, "proc/loadavg", "1.25 1.00 0.50 2/345 6789")
        for thread, cpu in ((PID, 1), (PID + 1, 0)):  # the first waits, the second works
            folder = f"proc/{PID}/task/{thread}"
            write(self.root, f"{folder}/stat", stat_of_process(cpu=cpu, name="a (b) c"))
            write(
                self.root,
                f"{folder}/status",
                f"Name:\tpython3\nvoluntary_ctxt_switches:\t99\n"
                f"nonvoluntary_ctxt_switches:\t{self.switches if cpu == 0 else 3}",
            )
        own = stat_of_process(ticks=self.own, faults=self.faults)
        write(self.root, f"proc/{PID}/stat", own)
        for cpu, khz in enumerate(self.khz):
            base = f"sys/devices/system/cpu/cpu{cpu}"
            write(self.root, f"{base}/cpufreq/scaling_cur_freq", khz)
            write(self.root, f"{base}/thermal_throttle/core_throttle_count", self.throttled)
        write(self.root, "sys/class/thermal/thermal_zone0/temp", 27_800)
        write(self.root, "sys/class/thermal/thermal_zone1/temp", self.millicelsius)


def rapl(root: Path, package: int, microjoules: int, *, name: str = "", most: int = 0) -> None:
    """A RAPL domain, Documentation/power/powercap/powercap.rst."""
    base = f"sys/class/powercap/intel-rapl:{package}"
    write(root, f"{base}/name", name or f"package-{package}")
    write(root, f"{base}/energy_uj", microjoules)
    write(root, f"{base}/max_energy_range_uj", most or 262_143_328_850)


def rail(
    root: Path, channel: int, label: str, millivolts: int, milliamperes: int, chip: str = "1-0040"
) -> None:
    """A channel of an INA3221, Documentation/hwmon/ina3221.rst, where JetPack has its driver."""
    base = f"sys/bus/i2c/drivers/ina3221/{chip}/hwmon/hwmon1"
    write(root, f"{base}/in{channel}_label", label)
    write(root, f"{base}/in{channel}_input", millivolts)
    write(root, f"{base}/curr{channel}_input", milliamperes)


class NVMLError(Exception):
    pass


@dataclass
class FakeGpu:
    millijoules: int | None = 5_000_000
    milliwatts: int | None = 40_000
    reasons: int = 0
    modern: bool = True


def fake_nvml(*devices: FakeGpu, works: bool = True) -> Any:
    """The module pynvml of the package nvidia-ml-py, with GPUs that are not here."""
    module: Any = ModuleType("pynvml")

    def told(value: int | None) -> int:
        if value is None:
            raise NVMLError("Not Supported")
        return value

    def init() -> None:
        if not works:
            raise NVMLError("NVML Shared Library Not Found")

    module.NVMLError = NVMLError
    module.nvmlInit = init
    module.nvmlSystemGetDriverVersion = lambda: "570.86"
    module.nvmlDeviceGetCount = lambda: len(devices)
    module.nvmlDeviceGetHandleByIndex = lambda index: devices[index]
    module.nvmlDeviceGetName = lambda gpu: "NVIDIA L4"
    module.nvmlDeviceGetTotalEnergyConsumption = lambda gpu: told(gpu.millijoules)
    module.nvmlDeviceGetPowerUsage = lambda gpu: told(gpu.milliwatts)
    module.nvmlDeviceGetClockInfo = lambda gpu, clock: {1: 1755}[clock]
    module.nvmlDeviceGetTemperature = lambda gpu, sensor: {0: 61}[sensor]
    module.nvmlDeviceGetCurrentClocksEventReasons = lambda gpu: told(
        gpu.reasons if gpu.modern else None
    )
    module.nvmlDeviceGetCurrentClocksThrottleReasons = lambda gpu: gpu.reasons
    return module
