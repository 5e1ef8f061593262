"""The stage ``evaluate``: an engine over the test split, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import (
    Dataset,
    Difference,
    EngineFile,
    Evaluation,
    Golden,
    OnnxModel,
    QuantizedModel,
)
from edgekd.backends import ort
from edgekd.backends.base import Session, find, run_any, usable_cores
from edgekd.data import splits
from edgekd.data.batches import slices
from edgekd.errors import StageError
from edgekd.preprocessing import normalise
from edgekd.progress import Progress, silent
from edgekd.stats import compare

METRIC = "top1"
_BATCH = 32
_GOLDEN = 8
_TOLERANCE = {"fp32": 1e-3, "fp16": 0.01, "int8": 0.03, "fp8": 0.03, "emulated": 0.05}
"""Of the largest logit. int8 rounds differently where kernels sum in another order, and a GPU
multiplies fp32 in TF32."""


def evaluate(
    engine: EngineFile,
    dataset: Dataset,
    teacher: Evaluation | None,
    out_dir: Path,
    progress: Progress = silent,
) -> Evaluation:
    """Runs the engine over the whole test split, on which nothing was trained or chosen.

    Args:
        teacher: the evaluation to agree with; None when this is the teacher's.

    Raises:
        StageError: an output is not finite.
    """
    with find(engine.backend).open(engine, threads=usable_cores()) as session:
        return _on_test(session, engine, dataset, teacher, out_dir, progress)


def preview(
    engine: EngineFile,
    model: OnnxModel | QuantizedModel,
    dataset: Dataset,
    teacher: Evaluation,
    out_dir: Path,
    progress: Progress = silent,
) -> Evaluation:
    """The stage ``preview``: what an engine that cannot run here is to give on the test split.

    A graph with its rounding is run instead, every step as it is written and nothing fused: what
    its precision does to accuracy, without the last bit of the device's own rounding, and nothing
    of latency.

    Args:
        model: what the engine was built from; where that is in float16, rounded to it in float32.
        teacher: the evaluation to agree with.

    Raises:
        StageError: an output is not finite.
    """
    with ort.open_model(model.path, usable_cores(), optimise=False) as session:
        anywhere = replace(engine, options={})
        found = _on_test(session, anywhere, dataset, teacher, out_dir, progress)
    return replace(found, emulated=True)


def _on_test(
    session: Session,
    engine: EngineFile,
    dataset: Dataset,
    teacher: Evaluation | None,
    out_dir: Path,
    progress: Progress,
) -> Evaluation:
    test = splits.read(dataset, "test", progress)
    rows = []
    source, sink = session.inputs[0].name, session.outputs[0].name
    for part in slices(len(test), _BATCH):
        x = normalise(test.images[part], dataset.preprocessing)
        rows.append(run_any(session, engine, {source: x})[sink].astype(np.float32))
        progress(part.stop, len(test), "")
    outputs = np.concatenate(rows)
    if not np.isfinite(outputs).all():
        raise StageError(f"{engine.name} gives outputs that are not finite on the test split")
    path = out_dir / "outputs.npy"
    np.save(path, outputs)
    correct = int((outputs.argmax(1) == test.labels).sum())
    low, high = compare.wilson(correct, len(test))
    return Evaluation(
        engine=engine.name,
        metric=METRIC,
        value=100 * correct / len(test),
        low=100 * low,
        high=100 * high,
        n=len(test),
        agreement=None if teacher is None else agreement(outputs, np.load(teacher.outputs)),
        outputs=path,
    )


def differences(
    reference: Evaluation,
    others: Sequence[Evaluation],
    dataset: Dataset,
    out_dir: Path,
    progress: Progress = silent,
) -> Difference:
    """The stage ``differences``: each engine's top-1 minus the reference's, by sample."""
    labels = splits.read(dataset, "test", progress).labels
    right = np.load(reference.outputs).argmax(1) == labels
    others_right = {each.engine: np.load(each.outputs).argmax(1) == labels for each in others}
    return Difference(
        reference=reference.engine,
        deltas={name: compare.paired(each, right) for name, each in others_right.items()},
        bootstrap={
            name: compare.bootstrap_difference(each, right) for name, each in others_right.items()
        },
        p={name: compare.mcnemar(each, right) for name, each in others_right.items()},
    )


def agreement(outputs: npt.NDArray[np.float32], teacher: npt.NDArray[np.float32]) -> float:
    """Percent of the samples on which both name the same class."""
    return 100 * float((outputs.argmax(1) == teacher.argmax(1)).mean())


def golden(
    engines: Sequence[EngineFile],
    emulations: Mapping[str, OnnxModel | QuantizedModel],
    dataset: Dataset,
    out_dir: Path,
    progress: Progress = silent,
) -> Golden:
    """The stage ``golden``: validation images, and what each engine gives for them.

    Args:
        emulations: for each engine that cannot run here the model to whose plain semantics it is
            held, by its name.
    """
    images = splits.read(dataset, "validation", progress).images[:_GOLDEN]
    x = normalise(images, dataset.preprocessing)
    np.save(out_dir / "images.npy", images)
    outputs, tolerances = {}, {}
    for done, engine in enumerate(engines):
        model = emulations.get(engine.name)
        opened = (
            find(engine.backend).open(engine)
            if model is None
            else ort.open_model(model.path, optimise=False)
        )
        with opened as session:
            held = engine if model is None else replace(engine, options={})
            result = run_any(session, held, {session.inputs[0].name: x})[session.outputs[0].name]
        outputs[engine.name] = out_dir / f"{engine.name.replace('/', '.')}.npy"
        np.save(outputs[engine.name], np.asarray(result, np.float32))
        share = _TOLERANCE[engine.precision if model is None else "emulated"]
        tolerances[engine.name] = share * float(np.abs(result).max())
        progress(done + 1, len(engines), "")
    return Golden(images=out_dir / "images.npy", outputs=outputs, tolerances=tolerances)
