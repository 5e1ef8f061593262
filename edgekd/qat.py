"""Quantisation-aware distillation: what int8 loses on validation, and the training that mends it.

The exported graph itself is trained, with every activation and weight rounded as the Q/DQ form
rounds them and the ranges of the calibration table held; batch norm is folded already. Its
teacher is the fp32 student, or the student's own teacher. What is trained goes back into
the fp32 graph, of which the ordinary quantisation makes every form.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgekd.artifacts import (
    CalibrationTable,
    Checkpoint,
    Dataset,
    Int8Check,
    OnnxModel,
    QuantizedModel,
)
from edgekd.backends import ort
from edgekd.backends.base import usable_cores
from edgekd.data import splits
from edgekd.data.batches import slices
from edgekd.preprocessing import normalise
from edgekd.progress import Progress, silent
from edgekd.recipe import DistillSettings, QatSettings, TrainSettings

_BATCH = 100
_SAMPLES = 128


def check(
    dataset: Dataset,
    model: OnnxModel,
    quantized: Mapping[str, QuantizedModel],
    out_dir: Path,
    progress: Progress = silent,
) -> Int8Check:
    """The stage ``int8-check``: top-1 on validation of a model and of its forms.

    Forms are run with the plain semantics of their graphs, so that those for devices that are
    not here are judged too.
    """
    validation = splits.read(dataset, "validation", progress)
    models = {"fp32": model.path, **{form: each.path for form, each in quantized.items()}}
    top1 = {}
    for done, (form, path) in enumerate(models.items()):
        right = 0
        with ort.open_model(path, threads=usable_cores(), optimise=form == "fp32") as session:
            source, sink = session.inputs[0].name, session.outputs[0].name
            for part in slices(len(validation), _BATCH):
                x = normalise(validation.images[part], dataset.preprocessing)
                named = np.asarray(session.run({source: x})[sink]).argmax(1)
                right += int((named == validation.labels[part]).sum())
        top1[form] = 100 * right / len(validation)
        progress(done + 1, len(models), f"{form} {top1[form]:.2f} %")
    return Int8Check(fp32=top1.pop("fp32"), forms=top1)


def tune(
    dataset: Dataset,
    model: OnnxModel,
    table: CalibrationTable,
    form: str,
    settings: QatSettings,
    train: TrainSettings,
    teacher: Checkpoint,
    out_dir: Path,
    progress: Progress = silent,
    *,
    work: Path | None = None,
) -> OnnxModel:
    """The stage ``qat``: the fp32 model whose weights were trained to be rounded.

    Args:
        model: the fp32 student.
        table: its ranges; they stay.
        form: the form to train for, such as ``s8s8``.
        settings: how long, how fast, and with which losses.
        train: the student's own settings; augmentation and seed are taken from them.
        teacher: whom to learn from.
        work: for checkpoints, as in ``trainer.train``.

    Raises:
        QuantizeError: a node of the model cannot be trained so.
        TrainError: the loss is not finite.
    """
    from edgekd.distill import checkpoint, ranks
    from edgekd.distill.fit import fit
    from edgekd.quantize import fake, qdq

    checkpoint.seed(train.seed)
    network = fake.trainable(model, table, form)
    kept = ("flip", "shift", "views", "seed")
    own = TrainSettings(
        **{name: getattr(train, name) for name in kept},
        epochs=settings.epochs,
        batch=settings.batch,
        optimizer="adamw",
        learning_rate=settings.learning_rate,
        weight_decay=0.0,
        schedule="cosine",
        warmup=0.1,
        keep="best",
    )
    losses = DistillSettings.model_validate(
        {"weights": settings.weights, "temperature": settings.temperature}
    )
    fit(
        network,
        dataset,
        own,
        progress,
        name=f"the {form} student",
        teacher=teacher,
        distill=losses,
        work=work,
    )
    images = splits.read(dataset, "validation").images[:_SAMPLES]
    x = normalise(images, dataset.preprocessing)
    if ranks.rank():
        return model  # rank 0 writes, and its result is the one that counts
    trained = fake.export_trained(network, model, x, out_dir)
    rounded = out_dir / "rounded"
    rounded.mkdir()
    fake.compare(network, qdq.quantize(trained, table, form, rounded), x)
    (rounded / "model.onnx").unlink()
    rounded.rmdir()
    return trained
