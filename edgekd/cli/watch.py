"""Progress on stderr: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import click

from edgekd.progress import Progress

_EVERY_S = 10.0
_ROWS = 8
"""Epochs in the table."""


class Lines:
    """For a log: a line every ten seconds while a stage works, and one when it is done."""

    def begin(self, stage: str) -> Progress:
        """See ``Watcher``."""
        last = time.monotonic()

        def progress(
            done: int, total: int, note: str = "", scalars: Mapping[str, float] | None = None
        ) -> None:
            nonlocal last
            if scalars:
                figures = ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
                click.echo(f"  {stage}: {figures}", err=True)
            elif time.monotonic() - last >= _EVERY_S:
                last = time.monotonic()
                share = f"{100 * done / total:3.0f} %" if total else ""
                click.echo(f"  {stage}: {share} {note}".rstrip(), err=True)

        return progress

    def end(self, stage: str, reused: bool, seconds: float) -> None:
        """See ``Watcher``."""
        how = "from the store" if reused else f"{seconds:.1f} s"
        click.echo(f"✓ {stage}: {how}", err=True)

    def note(self, line: str) -> None:
        """See ``Watcher``."""
        click.echo(line if line.startswith("! ") else f"  {line}", err=True)

    def warn(self, line: str) -> None:
        """One line that the user should see."""
        click.echo(f"! {line}", err=True)

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to take down."""


class Bars:
    """For a terminal: a bar for the stage at work, and a line for each that is done.

    While a network trains, a table of its latest epochs stands above the bar.
    """

    def __init__(self) -> None:
        from rich.console import Console, RenderableType
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True)
        self._epochs: deque[Mapping[str, float]] = deque(maxlen=_ROWS)
        epochs = self._epochs

        class WithEpochs(Progress):
            def get_renderables(self) -> Iterable[RenderableType]:
                if epochs:
                    yield _table(epochs)
                yield self.make_tasks_table(self.tasks)

        self._bars = WithEpochs(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self._console,
            transient=True,
        )
        self._task: Any = None

    def begin(self, stage: str) -> Progress:
        """See ``Watcher``."""
        self._task = task = self._bars.add_task(stage, total=None, note="")

        def progress(
            done: int, total: int, note: str = "", scalars: Mapping[str, float] | None = None
        ) -> None:
            if scalars:
                self._epochs.append(scalars)
            self._bars.update(task, completed=done, total=total, note=note)

        return progress

    def end(self, stage: str, reused: bool, seconds: float) -> None:
        """See ``Watcher``."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
            self._epochs.clear()
        how = "[dim]from the store[/]" if reused else f"{seconds:.1f} s"
        self._bars.console.print(f"[green]✓[/] {stage} {how}", highlight=False)

    def note(self, line: str) -> None:
        """See ``Watcher``."""
        if line.startswith("! "):
            self.warn(line.removeprefix("! "))
        else:
            self._bars.console.print(f"  {line}", style="dim", highlight=False, markup=False)

    def warn(self, line: str) -> None:
        """One line that the user should see."""
        self._bars.console.print(f"! {line}", style="yellow", highlight=False, markup=False)

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()


def _table(epochs: Iterable[Mapping[str, float]]) -> Any:
    """The terms of the loss, and the accuracy, by epoch."""
    from rich.table import Table

    rows = list(epochs)
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in rows[-1]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" for value in row.values()))
    return table


def watcher() -> Lines | Bars:
    """Bars where stderr is a terminal, else lines."""
    return Bars() if sys.stderr.isatty() else Lines()
