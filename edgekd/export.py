"""The stage ``export``: a torch network becomes ONNX, and is held against the original."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import Checkpoint, Dataset, OnnxModel, TensorSpec
from edgekd.backends import ort
from edgekd.data import splits
from edgekd.errors import ExportError
from edgekd.models import weights
from edgekd.preprocessing import normalise
from edgekd.progress import Progress, silent

if TYPE_CHECKING:
    from torch import nn

OPSET = 18
"""Read by TensorRT 10 and 11, ONNX Runtime and OpenVINO alike."""
INPUT, OUTPUT, BATCH = "image", "logits", "batch"
_SAMPLES = 128
_TOLERANCE = 1e-3


def export(
    checkpoint: Checkpoint, dataset: Dataset, out_dir: Path, progress: Progress = silent
) -> OnnxModel:
    """Exports with a free batch dimension and batch norm folded.

    ``parity`` is the largest absolute difference of the logits between torch and ONNX Runtime
    over validation images, as one batch and as single images.

    Raises:
        ExportError: the export fails, or differs by more than a thousandth of the largest logit.
    """
    model = weights.load(checkpoint)
    images = splits.read(dataset, "validation", progress).images[:_SAMPLES]
    x = normalise(images, dataset.preprocessing)
    path = out_dir / "model.onnx"
    progress(0, 2, "exporting")
    write(model, x[:2], path, checkpoint.model)
    progress(1, 2, "comparing with torch")
    parity = compare(model, path, x)
    progress(2, 2, f"largest difference {parity:.1e}")
    classes = len(dataset.classes)
    return OnnxModel(
        path=path,
        opset=OPSET,
        model_inputs=(TensorSpec(INPUT, "float32", (BATCH, *dataset.shape)),),
        model_outputs=(TensorSpec(OUTPUT, "float32", (BATCH, classes)),),
        parity=parity,
    )


def write(model: nn.Module, example: npt.NDArray[np.float32], path: Path, name: str) -> None:
    """Writes a network in eval mode as ONNX.

    Args:
        example: two images or more.
        name: what to call the network where it fails.

    Raises:
        ExportError: the exporter refuses it.
    """
    import torch

    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                (torch.from_numpy(example),),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim(BATCH, min=1, max=65536)},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            program.save(path, external_data=False)
    except (torch.onnx.OnnxExporterError, torch._dynamo.exc.TorchDynamoException) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ExportError(f"{name} cannot be exported: {first_line}") from error


def compare(model: nn.Module, path: Path, x: npt.NDArray[np.float32]) -> float:
    """The largest absolute difference between a torch network and its ONNX file.

    Raises:
        ExportError: it is more than a thousandth of the largest logit.
    """
    import torch

    with torch.inference_mode():
        expected = model(torch.from_numpy(x)).numpy()
    with ort.open_model(path) as session:
        whole = session.run({INPUT: x})[OUTPUT]
        single = np.concatenate([session.run({INPUT: each[None]})[OUTPUT] for each in x[:8]])
    parity = max(
        float(np.abs(whole - expected).max()), float(np.abs(single - expected[: len(single)]).max())
    )
    if not parity <= _TOLERANCE * float(np.abs(expected).max()):
        raise ExportError(
            f"the ONNX model differs from torch by {parity:.3g} on logits of up to"
            f" {np.abs(expected).max():.3g}",
            "the exporter mistranslated an operator; report the model's architecture",
        )
    return parity


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's notes on optional packages off the user's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
