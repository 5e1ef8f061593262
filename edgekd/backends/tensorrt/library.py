"""What the three libraries have in common and what only one of them has, read from the module.

TensorRT 10 must be told that a network is strongly typed, and 11 knows no other kind. TensorRT
for RTX builds ahead of time for a list of GPUs, times no kernel, compiles on the device that
runs the engine, and can keep what it compiled.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from edgekd.errors import BackendUnavailable


@dataclass(frozen=True)
class Capabilities:
    """What a library can do.

    Attributes:
        network_flags: for ``create_network``, so that precision comes from the ONNX alone.
        names_gpus: it is told which GPUs to build for; otherwise it builds for the one here.
        times_kernels: it times kernels to choose among them, and can keep the times.
        compiles_later: it compiles on the device, and can keep what it compiled.
        own_graphs: it captures CUDA graphs by itself.
    """

    network_flags: int
    names_gpus: bool
    times_kernels: bool
    compiles_later: bool
    own_graphs: bool


def capabilities(library: Any) -> Capabilities:
    """Reads them from a library's module."""
    strongly_typed = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    names_gpus = hasattr(library.IBuilderConfig, "set_compute_capability")
    return Capabilities(
        network_flags=0 if strongly_typed is None else 1 << int(strongly_typed),
        names_gpus=names_gpus,
        times_kernels=not names_gpus,  # RTX has the calls, which do nothing
        compiles_later=hasattr(library, "IRuntimeCache"),
        own_graphs=hasattr(library, "CudaGraphStrategy"),
    )


def load(name: str, backend: str, extra: str) -> ModuleType:
    """Imports ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        module = import_module(name)
    except (ImportError, OSError) as error:
        reason = f"{name} cannot be imported ({error})"
        raise BackendUnavailable(backend, extra, reason) from error
    if not hasattr(module, "Builder"):  # type stubs alone make an empty package
        raise BackendUnavailable(backend, extra, f"{name} is not installed")
    return module


def system() -> str:
    """The operating system and processor that a plan belongs to, such as ``linux-x86_64``."""
    return f"{platform.system()}-{platform.machine()}".lower()


@cache
def logger(library: Any) -> Any:
    """A logger that keeps errors, so that a failure can be told in one line.

    One for a library: it takes the first that it is given for as long as anything made with
    it lives, and leaves every other without a word.
    """

    class Log(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(text.split()))

        def told(self) -> str:
            """The errors since this was last asked, the first of them first."""
            told = "; ".join(dict.fromkeys(self.errors)) or "no reason was given"
            self.errors.clear()
            return told

    return Log()
