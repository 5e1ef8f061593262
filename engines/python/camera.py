"""A camera with a deadline, late frames dropped: python camera.py BUNDLE SOURCE [FPS]

SOURCE is a folder of images, a .npy of frames (n, height, width, channels), or the number of a
camera, which needs OpenCV.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np

import edgekd
from edgekd.errors import EdgekdError


def frames(source: str) -> Iterator[tuple[np.ndarray, str]]:
    """Frames, and the order of their channels."""
    if source.isdecimal():
        import cv2

        camera = cv2.VideoCapture(int(source))
        while (taken := camera.read())[0]:
            yield taken[1], "BGR"
    elif source.endswith(".npy"):
        yield from ((frame, "RGB") for frame in np.load(source))
    else:
        from PIL import Image

        for path in sorted(Path(source).iterdir()):
            with Image.open(path) as image:
                yield np.asarray(image.convert("RGB")), "RGB"


def main(bundle: str, source: str, fps: float = 30) -> None:
    """Prints a label for each frame that was answered, and how many were late or dropped."""
    if not fps > 0:
        sys.exit(f"FPS must be more than 0, and is {fps:g}")
    with edgekd.load(bundle, deadline_ms=1000 / fps) as engine:

        def tell(future: Future[np.ndarray]) -> None:
            if not future.cancelled():
                print(future.exception() or engine.classes[future.result()[0].argmax()])

        engine.warmup()
        with engine.stream(policy="drop-oldest") as stream:
            for frame, order in frames(source):
                stream.submit(frame, order).add_done_callback(tell)
                if not source.isdecimal():  # a camera waits by itself
                    time.sleep(1 / fps)
        told = engine.stats()
        print(f"{told.count} answered, p50 {told.p50_ns / 1e6:.3f} ms, {told.misses} missed")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:3], *map(float, sys.argv[3:]))
    except (EdgekdError, OSError, ValueError) as error:
        sys.exit(str(error))
