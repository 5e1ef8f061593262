"""The part ``machine``: the GPUs, the driver, and what is installed."""

from __future__ import annotations

from collections.abc import Iterator

from job import Job, Row, skipped

from edgekd.backends import cuda, ort_providers
from edgekd.backends.base import BACKENDS, find
from edgekd.errors import BackendUnavailable
from edgekd.store import installed

MIB = 1 << 20
PACKAGES = (
    "edgekd", "numpy", "torch", "triton", "onnx", "onnxruntime", "onnxruntime-gpu",
    "onnxruntime-ep-nv-tensorrt-rtx-cu12", "tensorrt", "tensorrt-cu12", "tensorrt-cu13",
    "tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "cuda-python", "pycuda",
)  # fmt: skip


def rows(job: Job) -> Iterator[Row]:
    """What is here."""
    for index, gpu in enumerate(cuda.gpus()):
        facts = {"name": gpu.name, "sm": gpu.sm, "memory_mib": gpu.memory_bytes // MIB}
        yield Row(f"GPU {index}", facts)
    for layer in ("cuda-python", "pycuda"):
        try:
            yield Row(f"GPU by {layer}", {"name": cuda.open_device(layer, "").gpu().name})
        except BackendUnavailable as error:
            yield skipped(f"GPU by {layer}", error.reason)
    yield Row(
        "driver and CUDA",
        {name: version or "none" for name, version in cuda.versions().items()},
    )
    versions = installed(PACKAGES)
    yield Row("packages", {name: each for name, each in versions.items() if each != "absent"})
    yield Row(
        "not installed", {"": ", ".join(n for n, each in versions.items() if each == "absent")}
    )
    for name in BACKENDS:
        found = find(name).probe()
        facts = {"version": found.version, "devices": ", ".join(found.devices) or "none"}
        if found.installed:
            yield Row(f"backend {name}", facts, reason=found.reason)
        else:
            yield skipped(f"backend {name}", found.reason)
    if find("onnxruntime").probe().installed:
        yield Row("ONNX Runtime's providers", {"": ", ".join(ort_providers.providers())})
