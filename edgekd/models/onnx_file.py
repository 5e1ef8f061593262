"""A teacher that is an ONNX file: what it takes and gives, what it costs, and running it."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgekd import onnx_cost
from edgekd.errors import BackendUnavailable, TrainError

if TYPE_CHECKING:
    import onnx
    import onnxruntime

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class Interface:
    """An ONNX file's image input and its first output.

    Attributes:
        channels: of the input.
        size: height and width; empty where they are free.
        channels_last: (n, height, width, channels), and not (n, channels, height, width).
        batch: images in one call; 0 where that is free.
    """

    channels: int
    size: tuple[int, ...]
    channels_last: bool
    batch: int


class OnnxNetwork(nn.Module):
    """An ONNX file in a network's place: (n, channels, height, width) float32 to its first output.

    ONNX Runtime runs it, on the CUDA provider where the images are there and it has one. It has
    no parameters, and its session is opened when first needed, so that it can be copied.
    """

    def __init__(self, path: Path, channels_last: bool = False) -> None:
        super().__init__()
        self.path = path
        self.channels_last = channels_last
        self._opened: dict[str, onnxruntime.InferenceSession] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs batches of the size that the file has fixed, the last one filled up with zeros.

        Raises:
            TrainError: ONNX Runtime refuses the file, or fails on these images.
        """
        if x.device.type not in self._opened:
            self._opened[x.device.type] = open_session(self.path, x.device.type)
        session = self._opened[x.device.type]
        spec = session.get_inputs()[0]
        images = (x.permute(0, 2, 3, 1) if self.channels_last else x).float().cpu().contiguous()
        n, batch = len(images), spec.shape[0] if isinstance(spec.shape[0], int) else len(images)
        rows = []
        for start in range(0, n, batch):
            part = images[start : start + batch].numpy()
            whole = np.pad(part, ((0, batch - len(part)), *[(0, 0)] * (part.ndim - 1)))
            try:
                out = session.run(None, {spec.name: whole.astype(_DTYPES[spec.type])})[0]
            except Exception as error:  # its exceptions have no base of their own
                raise TrainError(
                    f"ONNX Runtime fails on {self.path.name}: {str(error).splitlines()[0]}"
                ) from error
            found = torch.from_numpy(np.array(out, np.float32))
            rows.append(found[: len(part)] if len(found) == batch else found)
        return torch.cat(rows).to(x.device)


def open_session(path: Path, device: str = "cpu") -> onnxruntime.InferenceSession:
    """A session on the CPU, or on a GPU where ONNX Runtime has the provider.

    Raises:
        BackendUnavailable: ONNX Runtime is not installed.
        TrainError: it refuses the file.
    """
    try:
        import onnxruntime as rt
    except ImportError as error:
        raise BackendUnavailable("onnxruntime", "onnxruntime", "it is not installed") from error
    options = rt.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors alone
    wanted = ["CUDAExecutionProvider"] if device == "cuda" else []
    providers = [each for each in wanted if each in rt.get_available_providers()]
    try:
        return rt.InferenceSession(path, options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base of their own
        raise TrainError(f"ONNX Runtime refuses {path}: {str(error).splitlines()[0]}") from error


def interface(path: Path, channels: int) -> Interface:
    """What an ONNX file takes: one image input, whose channels stand second or last.

    Args:
        path: the file.
        channels: the data's; grey images can be repeated for a file that takes three.

    Raises:
        TrainError: it takes something else.
    """
    inputs = open_session(path).get_inputs()
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs)
        raise TrainError(f"{path} has {len(inputs)} inputs ({names}), and a teacher has one")
    spec = inputs[0]
    if spec.type not in _DTYPES:
        raise TrainError(
            f"{path} takes {spec.type}, and a teacher takes float images",
            "leave the conversion from bytes out of the file; teacher.mean and teacher.std say it",
        )
    shape = tuple(each if isinstance(each, int) else 0 for each in spec.shape)
    if len(shape) != 4:
        raise TrainError(f"{path} takes {list(spec.shape)}, and images have four dimensions")
    usable = (channels, 3) if channels == 1 else (channels,)
    batch, second, _, last = shape
    if second in usable or (not second and last not in usable):
        return Interface(second or channels, _size(shape[2:]), False, batch)
    if last in usable:
        return Interface(last, _size(shape[1:3]), True, batch)
    raise TrainError(
        f"{path} takes {list(spec.shape)}, and no second or last dimension is the images'"
        f" {channels} channel{'s' if channels > 1 else ''}"
    )


def _size(pair: tuple[int, ...]) -> tuple[int, ...]:
    return pair if all(pair) else ()


def files(path: Path) -> list[Path]:
    """The file, and those beside it that hold its tensors.

    Raises:
        TrainError: it is not ONNX, or names a file outside its folder.
    """
    names = set()
    for each in _read(path).graph.initializer:
        names |= {entry.value for entry in each.external_data if entry.key == "location"}
    for name in sorted(names):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise TrainError(f"{path} names '{name}', outside its folder")
    for name in sorted(names):
        if not (path.parent / name).is_file():
            raise TrainError(f"{path} keeps its tensors in {name}, which is not beside it")
    return [path, *(path.parent / name for name in sorted(names))]


def copy(path: Path, out: Path) -> None:
    """Copies an ONNX file, with the tensors of the files beside it in it."""
    if len(files(path)) == 1:
        shutil.copyfile(path, out)
        return
    import onnx

    try:
        onnx.save(onnx.load(path), out)
    except ValueError as error:  # a protobuf holds 2 GB
        raise TrainError(f"{path} cannot be kept as one file: {error}") from error


def cost(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of convolutions and products, by inferred shapes.

    Args:
        path: the file, its tensors in it.
        shape: of its input for one image. What has no shape that can be inferred counts nothing.
    """
    from onnx import TensorProto as Kind

    model = _read(path)
    graph = model.graph
    tensors = {Kind.FLOAT, Kind.FLOAT16, Kind.BFLOAT16, Kind.DOUBLE, Kind.INT8, Kind.UINT8}
    params = sum(math.prod(t.dims) for t in graph.initializer if t.data_type in tensors)
    weights = {each.name for each in graph.initializer}
    image = next(each for each in graph.input if each.name not in weights)
    counted = onnx_cost.of(model, {image.name: (1, *shape)})
    return params, sum(node.macs or 0 for node in counted.nodes)


def _read(path: Path) -> onnx.ModelProto:
    import onnx

    try:
        return onnx.load(path, load_external_data=False)
    except OSError as error:
        raise TrainError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:  # the errors of protobuf, which differ by its version
        raise TrainError(f"{path} is not an ONNX file") from error
