"""How near a form's outputs come to the fp32 model's, and the build's stop where they do not.

The graphs are run as they are written, nothing fused, so that a fault is the form's own and
not one runtime's. What is compared is signal to quantisation noise: the energy of the outputs
over that of their differences, in dB.

What a recipe asks for if not told else is 10 dB, a difference of a third of the outputs' size.
With random weights, right int8 models of ResNet-18, VGG-11 and a ViT stand at 28 to 31 dB, of
MobileNetV2 and V3 at 12 to 14; one whose zero points a runtime ignored fell from 31 to 9. Of
EfficientNet-B0, at 8 dB, too little is left as well: it is stopped until layers stay in float.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import OnnxModel, Proof, QuantizedModel, TensorSpec
from edgekd.backends import ort
from edgekd.backends.base import usable_cores
from edgekd.calibration.feeds import Feeds
from edgekd.data import UNLABELLED
from edgekd.data.batches import slices
from edgekd.errors import QuantizeError
from edgekd.progress import Progress, silent

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]

FP32 = "fp32"
EXACT = 150.0
"""dB, as good as equal: float32 itself resolves 144."""
_BATCH = 16


class Noise:
    """Signal and noise of a model's outputs, batch by batch.

    Each output counts for itself, since one of large values would drown what is wrong with
    another. Those that hold floats are compared; where there are none, the integers are.
    """

    def __init__(self) -> None:
        self._signal: dict[str, float] = {}
        self._noise: dict[str, float] = {}

    def see(self, reference: Outputs, other: Outputs) -> None:
        """Takes in one batch of outputs.

        Raises:
            QuantizeError: every output's shape depends on the values, and differs.
        """
        floats = [name for name, each in reference.items() if each.dtype.kind == "f"]
        names = floats or [name for name, each in reference.items() if each.dtype.kind in "iub"]
        names = [name for name in names if reference[name].shape == other[name].shape]
        if not names:
            raise QuantizeError(
                "no output can be compared: their shapes depend on the values",
                "give a model without what selects among its results, such as NonMaxSuppression",
            )
        for name in names:
            expected = np.asarray(reference[name], np.float64)
            found = np.asarray(other[name], np.float64)
            same = expected == found  # infinities too
            with np.errstate(invalid="ignore"):
                noise = float(np.square(np.where(same, 0, expected - found)).sum())
            signal = float(np.square(expected[np.isfinite(expected)]).sum())
            self._signal[name] = self._signal.get(name, 0.0) + signal
            self._noise[name] = self._noise.get(name, 0.0) + noise

    def decibels(self) -> float:
        """Of the output that fares worst; infinite where all are equal."""
        return min(_decibels(signal, self._noise[name]) for name, signal in self._signal.items())


def sqnr(reference: Outputs, other: Outputs) -> float:
    """Signal to quantisation noise of outputs by name, in dB, see ``Noise``."""
    noise = Noise()
    noise.see(reference, other)
    return noise.decibels()


def prove(
    model: OnnxModel,
    forms: Mapping[str, QuantizedModel | OnnxModel],
    feeds: Feeds,
    least: float,
    out_dir: Path,
    progress: Progress = silent,
) -> Proof:
    """The stage ``prove``: as ``measure``, and stops the build where a form falls short.

    Args:
        model: fp32.
        forms: by name.
        feeds: real samples, all of which are run.
        least: dB that each form must reach.
        out_dir: not written to.
        progress: told the samples done.

    Raises:
        QuantizeError: a form stays below; the worst is named.
    """
    proof = measure(model, forms, feeds, progress)
    hold(proof, forms, least, model.path.name)
    return proof


def measure(
    model: OnnxModel,
    forms: Mapping[str, QuantizedModel | OnnxModel],
    feeds: Feeds,
    progress: Progress = silent,
) -> Proof:
    """Runs the fp32 model and its forms on the same samples.

    Where the samples have labels and the model gives one row of scores a sample, the proof
    has everyone's top-1 too.

    Raises:
        QuantizeError: no output can be compared.
    """
    to_fp32 = {name: Noise() for name in forms}
    between = {f"{a}/{b}": (a, b, Noise()) for a, b in itertools.combinations(sorted(forms), 2)}
    right = dict.fromkeys((FP32, *forms), 0)
    labelled = samples = 0
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(ort.open_model(each.path, usable_cores(), optimise=False))
            for name, each in {FP32: model, **forms}.items()
        }
        for part in batches(len(feeds), model.model_inputs):
            x = feeds.take(part)
            outputs = {name: session.run(x) for name, session in sessions.items()}
            for name, noise in to_fp32.items():
                noise.see(outputs[FP32], outputs[name])
            for a, b, noise in between.values():
                noise.see(outputs[a], outputs[b])
            samples += part.stop - part.start
            if feeds.labels is not None and is_classifier(outputs[FP32], feeds):
                labels = feeds.labels[part]
                labelled += int((labels != UNLABELLED).sum())
                for name, found in outputs.items():
                    right[name] += int((next(iter(found.values())).argmax(1) == labels).sum())
            progress(part.stop, len(feeds), "")
    return Proof(
        to_fp32={name: _bounded(each.decibels()) for name, each in to_fp32.items()},
        between={name: _bounded(each.decibels()) for name, (_, _, each) in between.items()},
        samples=samples,
        top1={name: 100 * each / labelled for name, each in right.items()} if labelled else {},
    )


def hold(proof: Proof, forms: Collection[str], least: float, name: str) -> None:
    """Refuses a model that came out wrong.

    Args:
        forms: those that must reach ``least`` dB.
        name: what to call the model.

    Raises:
        QuantizeError: one does not; the worst is named.
    """
    worst = min(forms, key=lambda form: proof.to_fp32[form])
    if proof.to_fp32[worst] < least:
        raise QuantizeError(
            f"form {worst} of {name} stands {proof.to_fp32[worst]:.1f} dB above its difference to"
            f" fp32, and {least:g} dB are asked",
            "calibrate on samples like those the model will see, preprocessed as it was trained;"
            " or keep the most sensitive layers in float",
        )


def batches(n: int, model_inputs: Sequence[TensorSpec], batch: int = _BATCH) -> Iterator[slice]:
    """Slices of ``n`` samples, in the batch that the model has fixed; what is left over is out."""
    sizes = [each.shape[0] for each in model_inputs if each.shape]
    size = max((each for each in sizes if isinstance(each, int)), default=0)
    return slices(n - n % size, size) if size else slices(n, batch)


def is_classifier(outputs: Outputs, feeds: Feeds) -> bool:
    """Whether the one output holds a row of scores a sample, with a place for every label."""
    if len(outputs) != 1 or feeds.labels is None:
        return False
    (scores,) = outputs.values()
    return scores.ndim == 2 and int(feeds.labels.max(initial=0)) < scores.shape[1] > 1


def _decibels(signal: float, noise: float) -> float:
    if not np.isfinite(noise):
        return -np.inf
    if noise == 0:
        return np.inf
    return float(10 * np.log10(signal / noise)) if signal else -np.inf


def _bounded(decibels: float) -> float:
    """Held to ±EXACT, since JSON has no infinity."""
    return float(np.clip(decibels, -EXACT, EXACT))
