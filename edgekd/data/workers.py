"""Files to rows of a .npy file, in this process or in several."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from edgekd.data import Shape, pixels
from edgekd.errors import DataError

Task = tuple[int, str]
"""A row, and the file that goes there."""


def decode(
    target: Path, shape: Shape, crop: float, tasks: Sequence[Task], workers: int
) -> Iterator[tuple[int, str]]:
    """Decodes files into their rows of a .npy file that is there already.

    Each process writes rows of its own, so that none waits for another and none holds more
    than one image.

    Args:
        target: uint8 (n, channels, height, width).
        shape: what every image is brought to.
        crop: as ``data.crop``.
        tasks: which file goes where.
        workers: processes; 0 decodes in this one.

    Yields:
        each row when it is done, and why its file cannot be decoded, or nothing. With
        processes the order is not that of ``tasks``.

    Raises:
        DataError: a process ended before its time.
    """
    if not workers:
        yield from _here(target, shape, crop, tasks)
        return
    answers: SimpleQueue[tuple[int, str] | None] = SimpleQueue()
    children: list[subprocess.Popen[str]] = []
    try:
        for each in range(workers):
            children.append(_child(target, shape, crop, tasks[each::workers]))
        listeners = [threading.Thread(target=_listen, args=(each, answers)) for each in children]
        for listener in listeners:
            listener.start()
        running = workers
        while running:
            answer = answers.get()
            if answer is None:
                running -= 1
            else:
                yield answer
        for child in children:
            if child.wait():
                raise DataError(
                    f"a process that decodes images ended with code {child.returncode}",
                    "decode in one process, with data.workers = 0",
                )
    finally:
        for child in children:
            child.kill()
            child.wait()


def _here(
    target: Path, shape: Shape, crop: float, tasks: Sequence[Task]
) -> Iterator[tuple[int, str]]:
    rows = np.load(target, mmap_mode="r+")
    for row, path in tasks:
        try:
            rows[row] = pixels.read(Path(path), shape, crop)
        except DataError as error:
            yield row, error.message
        else:
            yield row, ""
    rows.flush()


def _child(target: Path, shape: Shape, crop: float, tasks: Sequence[Task]) -> subprocess.Popen[str]:
    """A process of its own, which Ctrl-C reaches only through us."""
    with tempfile.TemporaryFile("w+") as job:
        json.dump({"target": str(target), "shape": shape, "crop": crop, "tasks": tasks}, job)
        job.seek(0)
        return subprocess.Popen(
            [sys.executable, "-m", "edgekd.data.workers"],
            stdin=job,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def _listen(child: subprocess.Popen[str], answers: SimpleQueue[tuple[int, str] | None]) -> None:
    assert child.stdout is not None
    with child.stdout as lines:
        for line in lines:
            row, reason = json.loads(line)
            answers.put((row, reason))
    answers.put(None)


if __name__ == "__main__":
    given = json.load(sys.stdin)
    target, shape = Path(given["target"]), tuple(given["shape"])
    for answer in _here(target, shape, given["crop"], given["tasks"]):
        print(json.dumps(answer))
