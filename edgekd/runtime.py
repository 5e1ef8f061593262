"""Engines for applications: numpy, one backend and a bundle; no torch, no recipe.

>>> engine = load("model.edgekd")                                # doctest: +SKIP
>>> logits = engine(images)                                      # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd import bundle as bundles
from edgekd.backends.base import GpuOptions, find, run_any
from edgekd.bundle import Bundle
from edgekd.errors import (
    BackendUnavailable,
    BundleError,
    CorruptBundle,
    EngineIncompatible,
    near_matches,
)
from edgekd.preprocessing import normalise


class Engine:
    """An opened engine of a bundle. One thread at a time; a context manager.

    Attributes:
        classes: the class names; the index of a logit is an index into them.
        target: the target that the engine was built for.
        precision: ``fp32`` or ``int8``.
        shape: channels, height, width of one image.
    """

    def __init__(
        self,
        bundle: Bundle,
        record: Mapping[str, Any],
        threads: int,
        gpu: GpuOptions | None = None,
    ) -> None:
        self.classes = bundle.classes
        self.target: str = record["target"]
        self.precision: str = record["precision"]
        self._bundle = bundle
        self._record = record
        self._file = bundle.engine(record)
        self._session = find(record["backend"]).open(self._file, threads, gpu)
        self._input = self._session.inputs[0]
        self._output = self._session.outputs[0]
        self._preprocessing = bundle.preprocessing
        self.shape = tuple(int(each) for each in self._input.shape[1:])

    def __call__(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits, float32 (n, classes), of one image or a batch.

        Args:
            images: (n, channels, height, width), or one image without n; grey images may
                leave out the channel. uint8 pixels are preprocessed as in training; float32
                is taken as preprocessed already.

        Raises:
            ValueError: the shape or the type is another.
        """
        images = np.asarray(images)
        batch = self._batch(images)
        if images.dtype == np.uint8:
            batch = normalise(batch, self._preprocessing)
        elif images.dtype != np.float32:
            raise ValueError(f"images are {images.dtype}: give uint8 pixels or float32 inputs")
        feeds = {self._input.name: np.ascontiguousarray(batch)}
        outputs = run_any(self._session, self._file, feeds)
        return np.asarray(outputs[self._output.name], np.float32)

    def _batch(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        shape = images.shape
        if shape[1:] == self.shape:
            return images
        if shape == self.shape:
            return images[None]
        if self.shape[0] == 1 and shape[-2:] == self.shape[1:]:
            if images.ndim == 3:
                return images[:, None]
            if images.ndim == 2:
                return images[None, None]
        expected = "×".join(str(each) for each in self.shape)
        raise ValueError(f"images have shape {shape}: expected (n, {expected}) or ({expected})")

    def check_golden(self) -> float:
        """Runs the golden images; returns the largest difference to the recorded outputs.

        Raises:
            CorruptBundle: the difference is larger than the manifest allows.
        """
        expected = self._bundle.golden_outputs(self._record)
        difference = float(np.abs(self(self._bundle.golden_images()) - expected).max())
        allowed = float(self._record["tolerance"])
        if not difference <= allowed:
            raise CorruptBundle(
                f"{self._bundle.root}: {self.target} {self.precision} differs from the golden"
                f" outputs by {difference:.3g}, and {allowed:.3g} is allowed",
                "this machine's runtime computes something else; build the bundle again here",
            )
        return difference

    def close(self) -> None:
        """Gives the engine's memory back."""
        self._session.__exit__(None, None, None)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load(
    path: str | Path,
    target: str | None = None,
    precision: str | None = None,
    threads: int = 1,
    gpu: GpuOptions | None = None,
) -> Engine:
    """Opens a bundle's best measured engine that can run here; its hashes are checked first.

    Args:
        path: a ``.edgekd`` folder.
        target: only this target's engines.
        precision: only engines of this precision.
        threads: for one inference.
        gpu: how it is run on a GPU, see ``edgekd.backends.base.GpuOptions``; None for what the
            engine was built with.

    Raises:
        BundleError: no bundle, or none of its engines is as asked for.
        CorruptBundle: a file is missing or was changed.
        BackendUnavailable, EngineIncompatible: none of them can run here; why not the first.
    """
    bundle = bundles.read(Path(path))
    records = [
        each
        for each in bundle.engines
        if target in (None, each["target"]) and precision in (None, each["precision"])
    ]
    if not records:
        held = sorted({each["target"] for each in bundle.engines})
        raise BundleError(
            f"{path} holds no engine for target {target or 'any'}, precision {precision or 'any'}",
            near_matches(target or "", held),
        )
    refusals: list[BackendUnavailable | EngineIncompatible] = []
    for record in records:
        try:
            return Engine(bundle, record, threads, gpu)
        except (BackendUnavailable, EngineIncompatible) as error:
            refusals.append(error)
    raise refusals[0]
