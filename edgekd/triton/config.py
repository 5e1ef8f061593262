"""What ``config.pbtxt`` says: the message ``ModelConfig`` of Triton's ``model_config.proto``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgekd import preprocessing
from edgekd.bundle import Bundle
from edgekd.triton.text import Message, Word

LABELS = "labels.txt"
GOLDEN = "golden.bin"
SHAPED = "edgekd.preprocessing"
"""The parameter that tells clients what turns images into the input."""
ORIGIN = "edgekd.engine"
"""The parameter that says which engine the latest version is."""

_TYPES = {
    "bool": "TYPE_BOOL", "uint8": "TYPE_UINT8", "int8": "TYPE_INT8", "int32": "TYPE_INT32",
    "int64": "TYPE_INT64", "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64",
}  # fmt: skip

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Server:
    """How Triton serves a backend's engines: its own names, and those of the files."""

    backend: str
    files: tuple[str, ...]
    platform: str = ""


SERVERS = {
    "onnxruntime": Server("onnxruntime", ("model.onnx",), "onnxruntime_onnx"),
    "openvino": Server("openvino", ("model.xml", "model.bin")),
    "tensorrt": Server("tensorrt", ("model.plan",), "tensorrt_plan"),
}


def number(record: Record, option: str, otherwise: int) -> int:
    """A batch that is among an engine's options, which the manifest's readers have looked at."""
    return int(record["options"].get(option, otherwise))


def config_of(bundle: Bundle, record: Record, name: str, most: int) -> Message:
    """``config.pbtxt``, as the schema's message ``ModelConfig``."""
    server = SERVERS[record["backend"]]
    manifest = bundle.manifest
    kind = "KIND_GPU" if _on_gpu(record) else "KIND_CPU"
    config: Message = {"name": name, "backend": server.backend}
    if server.platform:
        config["platform"] = server.platform
    config |= {
        "max_batch_size": most,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_tensor(each, most) for each in manifest["inputs"]],
        "output": [_tensor(each, most) for each in manifest["outputs"]],
        "instance_group": [{"count": 1, "kind": Word(kind)}],
    }
    if has_labels(bundle):
        config["output"][0]["label_filename"] = LABELS
    if most > 1:
        config["dynamic_batching"] = _batching(record, most)
    if record["backend"] == "tensorrt" and record["options"].get("cuda_graph", "true") == "true":
        config["optimization"] = {"cuda": {"graphs": True}}
    if golden_input(bundle) is not None:
        sizes = {number(record, "min_batch", 1), most} if most else {1}
        config["model_warmup"] = [
            _warmup(manifest["inputs"][0], most, batch) for batch in sorted(sizes)
        ]
    config["parameters"] = [
        {"key": key, "value": {"string_value": value}}
        for key, value in _parameters(bundle, record, most).items()
    ]
    return config


def _tensor(spec: Record, most: int) -> Message:
    """A tensor; where Triton makes the batches, without the batch."""
    shape = spec["shape"][1:] if most else spec["shape"]
    return {
        "name": spec["name"],
        "data_type": Word(_TYPES[spec["dtype"]]),
        "dims": [each if isinstance(each, int) else -1 for each in shape],
    }


def _on_gpu(record: Record) -> bool:
    return record["backend"] == "tensorrt" or "provider" in record["options"]


def _batching(record: Record, most: int) -> Message:
    """A batch is preferred only where the engine was tuned for one (Triton, "Batchers")."""
    best = number(record, "opt_batch", 1)
    if record["backend"] == "tensorrt" and 1 < best <= most:
        return {"preferred_batch_size": [best]}
    return {}


def _warmup(spec: Record, most: int, batch: int) -> Message:
    given = {key: value for key, value in _tensor(spec, most).items() if key != "name"}
    return {
        "name": f"golden, batch {batch}",
        "batch_size": batch,
        "inputs": [{"key": spec["name"], "value": {**given, "input_data_file": GOLDEN}}],
    }


def _parameters(bundle: Bundle, record: Record, most: int) -> dict[str, str]:
    """What the backend reads, one thread as it was measured, and what clients need to know."""
    own: dict[str, str] = {}
    if record["backend"] == "onnxruntime" and not _on_gpu(record):
        own = {"intra_op_thread_count": "1", "inter_op_thread_count": "1"}
    if record["backend"] == "openvino":
        own = {"INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1"}
        if most > 1:
            own["ENABLE_BATCH_PADDING"] = "YES"
    origin = {
        "bundle": bundle.manifest["name"],
        "content": bundle.manifest["content"],
        **{key: record[key] for key in ("target", "precision", "version", "device", "sha256")},
    }
    return {
        **own,
        SHAPED: json.dumps({**asdict(bundle.preprocessing), "dtype": dtype_of(bundle)}),
        ORIGIN: json.dumps(origin),
    }


def dtype_of(bundle: Bundle) -> str:
    """What images are to be at last: of the input, whatever they are normalised in."""
    dtype: str = bundle.manifest["inputs"][0]["dtype"]
    return dtype


def has_labels(bundle: Bundle) -> bool:
    """Whether the first output is one figure a class."""
    shape = bundle.manifest["outputs"][0]["shape"]
    return len(shape) == 2 and shape[1] == len(bundle.classes)


def golden_input(bundle: Bundle) -> bytes | None:
    """The first golden image as the model takes it; None where it takes more than an image."""
    specs = bundle.manifest["inputs"]
    batch, *sizes = specs[0]["shape"]
    if len(specs) != 1 or len(sizes) != 3 or specs[0]["dtype"] != "float32":
        return None
    image = preprocessing.normalise(bundle.golden_images()[:1], bundle.preprocessing)
    wanted = [1, *sizes] if isinstance(batch, str) else [batch, *sizes]
    return image.astype("<f4").tobytes() if list(image.shape) == wanted else None
