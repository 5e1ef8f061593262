"""A training's figures for TensorBoard, beside whoever watches the build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from edgekd.errors import BackendUnavailable
from edgekd.progress import Progress, Watcher


class TensorBoard:
    """Passes everything on to a watcher, and writes each epoch's scalars as ``STAGE/NAME``.

    Args:
        inner: the watcher.
        folder: where the event file goes.

    Raises:
        BackendUnavailable: tensorboard is not installed.
    """

    def __init__(self, inner: Watcher, folder: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise BackendUnavailable(
                "TensorBoard", "tensorboard", f"it is not installed ({error})"
            ) from error
        self._inner = inner
        self._writer = SummaryWriter(str(folder))

    def begin(self, stage: str) -> Progress:
        """See ``Watcher``."""
        inner = self._inner.begin(stage)

        def progress(
            done: int, total: int, note: str = "", scalars: Mapping[str, float] | None = None
        ) -> None:
            inner(done, total, note, scalars)
            for name, value in (scalars or {}).items():
                if name != "epoch":
                    self._writer.add_scalar(f"{stage}/{name}", value, int((scalars or {})["epoch"]))

        return progress

    def end(self, stage: str, reused: bool, seconds: float) -> None:
        """See ``Watcher``."""
        self._inner.end(stage, reused, seconds)

    def note(self, line: str) -> None:
        """See ``Watcher``."""
        self._inner.note(line)

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
