"""scikit-learn's digits (UCI, Alpaydin & Kaynak 1998): 1,797 images at 8×8, for quick runs."""

from __future__ import annotations

import hashlib

import numpy as np

from edgekd.data import Images, Labels, Part, Shape
from edgekd.data.arrays import in_memory
from edgekd.data.splits import stratified
from edgekd.errors import DataError
from edgekd.progress import Progress, silent

_TEST_SHARE = 0.25
_TEST_SEED = 0


class Digits:
    """The source ``digits``. It has no test part of its own: a stratified quarter is it."""

    name = "digits"
    classes: tuple[str, ...] = tuple("0123456789")
    shape: Shape = (1, 8, 8)
    ignored: tuple[str, ...] = ()
    licence = "CC BY 4.0"

    def fingerprint(self) -> str:
        """sha256 over the images, the labels and the cut of the test part."""
        images, labels = self._all()
        digest = hashlib.sha256(images.tobytes() + labels.tobytes())
        digest.update(f"{_TEST_SHARE} {_TEST_SEED}".encode())
        return digest.hexdigest()

    def stamp(self) -> str:
        """The fingerprint: these images do not change."""
        return self.fingerprint()

    def parts(self, progress: Progress = silent) -> dict[str, Part]:
        """See ``Source``."""
        return {
            part: in_memory(f"{self.name}: {part}", *self.read(part, progress))
            for part in ("train", "test")
        }

    def read(self, part: str, progress: Progress = silent) -> tuple[Images, Labels]:
        """The part ``train`` or ``test``; see ``Source.read``."""
        images, labels = self._all()
        test = stratified(labels, round(_TEST_SHARE * len(labels)), _TEST_SEED)
        ids = test if part == "test" else np.setdiff1d(np.arange(len(labels)), test)
        return images[ids], labels[ids]

    def _all(self) -> tuple[Images, Labels]:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise DataError(
                "the source 'digits' comes with scikit-learn, which is not installed",
                "pip install 'edgekd[train]'",
            ) from error
        digits = load_digits()
        images = np.minimum(digits.images * 16, 255).astype(np.uint8)  # 0..16 to 0..255
        return images[:, None], digits.target.astype(np.int64)
