"""NVIDIA's management library, where the package nvidia-ml-py and a driver are there.

The names are those of its API reference (docs.nvidia.com/deploy/nvml-api).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_SM_CLOCK = 1  # NVML_CLOCK_SM
_CORE = 0  # NVML_TEMPERATURE_GPU
_REASONS = {  # NvmlClocksEventReasons; what is left out is idling, or was asked for
    0x04: "its power limit",
    0x08: "a slowdown by hardware",
    0x20: "heat, by software",
    0x40: "heat, by hardware",
    0x80: "an external power brake",
}


@dataclass(frozen=True)
class Gpu:
    """A GPU that NVML tells of.

    Attributes:
        name: of the product.
        driver: its version.
        ask: calls a function of the library with the GPU and what else is given; None where the
            library or the GPU has no such function.
    """

    name: str
    driver: str
    ask: Callable[..., Any]

    def joules(self) -> float | None:
        """Energy since the driver was loaded; from Volta on."""
        told = self.ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if told is None else told / 1e3

    def watts(self) -> float | None:
        """Power now."""
        told = self.ask("nvmlDeviceGetPowerUsage")
        return None if told is None else told / 1e3

    def state(self) -> dict[str, Any]:
        """Clock, temperature, power, and what holds the clock back."""
        reasons = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:  # before driver 535
            reasons = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return {
            "mhz": self.ask("nvmlDeviceGetClockInfo", _SM_CLOCK),
            "celsius": self.ask("nvmlDeviceGetTemperature", _CORE),
            "watts": self.watts(),
            "held_back": [name for bit, name in _REASONS.items() if bit & (reasons or 0)],
        }


def gpus() -> tuple[tuple[Gpu, ...], str]:
    """All GPUs, in NVML's order; or none, and why."""
    try:
        import pynvml
    except ImportError:
        return (), "the package nvidia-ml-py is not installed"

    def asked(handle: Any) -> Callable[..., Any]:
        def ask(name: str, *more: Any) -> Any:
            function = getattr(pynvml, name, None)
            try:
                return None if function is None else function(handle, *more)
            except pynvml.NVMLError:
                return None

        return ask

    try:
        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(each) for each in range(pynvml.nvmlDeviceGetCount())
        ]
        found = tuple(Gpu(pynvml.nvmlDeviceGetName(each), driver, asked(each)) for each in handles)
    except pynvml.NVMLError as error:
        return (), f"NVML says: {error}"
    return found, "" if found else "NVML knows no GPU"
