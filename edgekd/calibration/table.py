"""The stage ``calibrate``: one streaming pass, and the range of every float tensor."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from edgekd.artifacts import CalibrationSet, CalibrationTable, Dataset, OnnxModel
from edgekd.calibration import observers, sets
from edgekd.data.batches import slices
from edgekd.errors import CalibrationError
from edgekd.preprocessing import normalise
from edgekd.progress import Progress, silent
from edgekd.recipe import CalibrationSettings

_BATCH = 32


def calibrate(
    model: OnnxModel,
    chosen: CalibrationSet,
    dataset: Dataset,
    settings: CalibrationSettings,
    out_dir: Path,
    progress: Progress = silent,
) -> CalibrationTable:
    """Runs the fp32 model with every intermediate tensor as an output, batch by batch.

    Memory is one batch of intermediate tensors and one histogram a tensor, however many
    samples the set has.

    Raises:
        CalibrationError: a tensor holds NaN or infinity.
    """
    import onnxruntime as rt

    images = sets.images(chosen, dataset, progress)
    exposed, names = _expose_all(model.path, out_dir)
    options = rt.SessionOptions()
    options.log_severity_level = 3
    session = rt.InferenceSession(exposed, options, providers=["CPUExecutionProvider"])
    source = model.model_inputs[0].name
    watching = {
        name: observers.make(settings.method, settings.percentile) for name in (source, *names)
    }
    for part in slices(len(images), _BATCH):
        x = normalise(images[part], dataset.preprocessing)
        values = dict(zip(names, session.run(names, {source: x}), strict=True))
        values[source] = x
        for name, observer in watching.items():
            if not np.isfinite(values[name]).all():
                raise CalibrationError(
                    f"tensor '{name}' holds NaN or infinity on the calibration set"
                )
            observer.see(values[name])
        progress(part.stop, len(images), "")
    exposed.unlink()
    ranges = {name: observer.range() for name, observer in watching.items()}
    assert all(math.isfinite(bound) for pair in ranges.values() for bound in pair)
    return CalibrationTable(
        method=settings.method,
        ranges=ranges,
        set_sha256=chosen.sha256,
        samples=chosen.samples,
    )


def _expose_all(path: Path, out_dir: Path) -> tuple[Path, list[str]]:
    """A copy of a model whose outputs are all of its float tensors, and their names."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    known = {each.name: each for each in (*model.graph.value_info, *model.graph.output)}
    names = [
        name
        for node in model.graph.node
        for name in node.output
        if name in known and known[name].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
    del model.graph.output[:]
    model.graph.output.extend(known[name] for name in names)
    exposed = out_dir / "exposed.onnx"
    onnx.save(model, exposed)
    return exposed, names
