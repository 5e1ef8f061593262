"""The side-car: a JSON file beside a plan that says what it is and where it may be loaded.

A plan is executable content, bound to a library's version and to a GPU, and the libraries do not
reliably say so before they load it. Nothing is put in front of the plan itself, which every
vendor's tool must still be able to read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgekd.backends.cuda import Gpu
from edgekd.errors import CorruptBundle, EngineIncompatible, HostCodeRefused

SUFFIX = ".json"
HOST_CODE = "EDGEKD_HOST_CODE"
"""The environment variable by which a user lets plans bring code that runs on the CPU."""
SCHEMA = "1.0"
_HINT = "build the engine again; `edgekd verify BUNDLE --rebuild` does so on the device"


@dataclass(frozen=True)
class SideCar:
    """What is known of a plan.

    Attributes:
        sha256: of the plan.
        bytes: its size.
        library: ``tensorrt`` or ``tensorrt_rtx``.
        version: the library's, to the build number.
        system: such as ``linux-x86_64``.
        device: the GPUs that it is for, such as ``sm_87`` or ``sm_86+sm_89``.
        gpu: the one model of them that it is for; empty for all. Kernels are chosen, and memory
            is measured out, on the model that builds.
        hardware: which others may load it: ``none``, ``ampere+`` or ``same_compute_capability``.
        version_compatible: later versions of the same major may load it; it brings host code.
        precision: of the network.
        onnx_sha256: of the model that it was built from.
        calibration_sha256: of the ranges in it; empty where nothing is quantised.
        compiled_sha256: of what was compiled for the GPU and lies beside the plan; empty where
            nothing does.
        flags: what else it was built with, by name.
        inputs: its tensors, each a ``name``, a ``dtype`` and a ``shape``.
        outputs: the same.
    """

    sha256: str
    bytes: int
    library: str
    version: str
    system: str
    device: str
    gpu: str
    hardware: str
    version_compatible: bool
    precision: str
    onnx_sha256: str
    calibration_sha256: str
    compiled_sha256: str
    flags: dict[str, str]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]


def path_of(plan: Path) -> Path:
    """Where a plan's side-car lies."""
    return plan.with_name(plan.name + SUFFIX)


def write(plan: Path, facts: SideCar) -> Path:
    """Writes it beside the plan; returns where."""
    path = path_of(plan)
    path.write_text(json.dumps({"schema": SCHEMA, **asdict(facts)}, indent=1) + "\n")
    return path


def read(path: Path, content_of: Callable[[Path], bytes] = Path.read_bytes) -> SideCar:
    """Reads one.

    Args:
        path: where it lies.
        content_of: a file's bytes, which somebody may hold already.

    Raises:
        CorruptBundle: it is missing, or is not one.
    """
    try:
        record = json.loads(content_of(path))
        major = int(record["schema"].split(".")[0])
        known = {each.name: record[each.name] for each in fields(SideCar)}
    except OSError as error:
        raise CorruptBundle(f"{path}: {error.strerror}", _HINT) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptBundle(f"{path} is not a side-car ({error})", _HINT) from error
    if major > int(SCHEMA.split(".")[0]):
        raise CorruptBundle(f"{path} has schema {record['schema']}, later than {SCHEMA}", _HINT)
    wrong = [name for name, kind in _KINDS.items() if type(known[name]) is not kind]
    if wrong:
        raise CorruptBundle(f"{path} misstates {wrong[0]}", _HINT)
    return SideCar(**known)


_KINDS: dict[str, type] = {
    **dict.fromkeys(("sha256", "library", "version", "system", "device", "hardware"), str),
    **dict.fromkeys(("precision", "onnx_sha256", "calibration_sha256", "compiled_sha256"), str),
    "gpu": str,
    "bytes": int, "version_compatible": bool, "flags": dict,
    "inputs": list, "outputs": list,
}  # fmt: skip


def check(
    facts: SideCar,
    library: str,
    version: str,
    system: str,
    sm: str,
    host_code: bool,
    gpu: str = "",
) -> None:
    """Refuses a plan that this library on this GPU must not load.

    Args:
        facts: the plan's.
        library: the one that is here.
        version: the library's.
        system: see ``library.system``.
        sm: of the GPU, such as ``sm_87``; empty to leave it out.
        host_code: whether the user lets the plan bring code for the CPU.
        gpu: its model, see ``model_of``; empty to leave it out.

    Raises:
        EngineIncompatible: naming what it was built for and what is here.
        HostCodeRefused: it fits, and brings code for the CPU.
    """
    if facts.library != library or not _takes_version(facts, version):
        raise EngineIncompatible(f"{facts.library} {facts.version}", f"{library} {version}")
    if facts.system != system:
        raise EngineIncompatible(facts.system, system)
    if sm and not _takes_gpu(facts, sm):
        raise EngineIncompatible(_gpus(facts), f"a GPU of {sm}")
    if gpu and facts.gpu and facts.hardware == "none" and facts.gpu != gpu:
        raise EngineIncompatible(facts.gpu, gpu)
    if facts.version_compatible and not host_code:
        raise HostCodeRefused(
            "a runtime that lets it bring host code",
            "one that does not",
            f"set {HOST_CODE}=1 if you trust where it is from, or build without version_compatible",
        )


def model_of(gpu: Gpu) -> str:
    """A GPU's model; by its name alone, every Jetson Orin would be the same."""
    return f"{gpu.name} with {gpu.processors} multiprocessors"


def checked(
    path: Path, sha256: str, content_of: Callable[[Path], bytes] = Path.read_bytes
) -> bytes:
    """A file's bytes, once they are what the side-car says; the same bytes are to be loaded.

    Args:
        path: where it lies.
        sha256: what the side-car says.
        content_of: see ``read``.

    Raises:
        CorruptBundle: they are not, or there are none.
    """
    try:
        content = content_of(path)
    except OSError as error:
        raise CorruptBundle(f"{path}: {error.strerror}", _HINT) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CorruptBundle(f"{path} is not the file that its side-car names", _HINT)
    return content


def _takes_version(facts: SideCar, version: str) -> bool:
    """A plan belongs to one build; a version-compatible one to what follows in its major.

    NVIDIA, TensorRT developer guide, "Version Compatibility".
    """
    if not facts.version_compatible:
        return facts.version == version
    built, here = _numbers(facts.version), _numbers(version)
    return built[:1] == here[:1] and built <= here


def _takes_gpu(facts: SideCar, sm: str) -> bool:
    """NVIDIA, TensorRT developer guide, "Hardware Compatibility"."""
    if facts.hardware == "ampere+":
        return int(sm.removeprefix("sm_")) >= 80
    return sm in facts.device.split("+")


def _gpus(facts: SideCar) -> str:
    return "sm_80 and later" if facts.hardware == "ampere+" else facts.device


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", version))
