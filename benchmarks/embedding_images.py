"""How long a camera's frame takes to become a model's input, and whether the bits are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import record
from embedding_calls import turn
from embedding_programs import Given, told
from harness_tools import NAMES, in_turn

from edgekd.artifacts import Preprocessing
from edgekd.backends.base import find
from edgekd.bench.load import quiet_collector
from edgekd.preprocessing import box, normalise, prepare
from edgekd.stats.percentiles import interval

FRAME = (480, 640, 3)
CPP, PYTHON, PILLOW = "EdgeKD in C++", "EdgeKD in Python", "Pillow and numpy"
OPENCV = {"INTER_LINEAR": "OpenCV, `INTER_LINEAR`", "INTER_AREA": "OpenCV, `INTER_AREA`"}
Frame = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]
Way = Callable[[Frame, Preprocessing, Shape], npt.NDArray[np.float32]]


def part(given: Given) -> str:
    """The table of what a frame costs."""
    sizes, wanted = given.sizes, given.bundle.preprocessing
    shape = _shape(given)
    frame = np.random.default_rng(6).integers(0, 256, FRAME, np.uint8)
    calls = max(10, sizes.calls // 5)
    bits: dict[str, npt.NDArray[np.uint32]] = {}

    def cpp() -> Mapping[str, int]:
        engine = given.engines[0]
        words = (given.bundle.root, engine["target"], engine["precision"], *_wide(FRAME))
        found = told(given, "overhead", "images", *words, 5, calls, 0, stdin=frame.tobytes())
        bits[CPP] = np.array(found["bits"], np.uint32)
        image, tensor = (
            np.median(found["callers"][each]["p50_ns"]) for each in ("image", "tensor")
        )
        allocated.append(found["callers"]["image"]["ours"])
        return dict.fromkeys(NAMES, int(image - tensor))

    allocated: list[int] = []
    tools: dict[str, Callable[[], Mapping[str, int]]] = {CPP: cpp}
    for way, run in _ways(wanted).items():
        made = np.ascontiguousarray(run(frame, wanted, shape))
        bits[way] = made.view(np.uint32).ravel()
        tools[way] = partial(turn, run, (frame, wanted, shape), calls)
    with quiet_collector():
        taken = in_turn(tools, sizes.frames, 0)
    p50 = {way: found[:, 0] for way, found in taken.items()}
    rows = [
        [way, f"{np.median(times) / 1000:,.0f}", _ratio(times, p50[CPP]), _same(bits, way)]
        for way, times in p50.items()
    ]
    height, width, _ = FRAME
    told_of = "" if find_spec("cv2") else " OpenCV is not installed here."
    ours = sum(allocated)
    return "\n\n".join(
        [
            f"## From a frame of {width}×{height} to the model's input",
            record.table(("by", "p50, µs", "over EdgeKD's in C++", "same bits as it"), rows),
            (
                f"A frame of noise, {width}×{height}×3 bytes, to {shape[0]}×{shape[1]}×{shape[2]}"
                " float32: colours, size, mean and deviation. In C++ it is the time of"
                " `edgekd_context_run_images` less that of `edgekd_context_run`, both in turns in"
                " one process, of which each round has a fresh one; allocations that are not the"
                f" runtime's: {f'**{ours}**' if ours else 0}. In Python `prepare` and"
                " `normalise`. Pillow: `Image.fromarray`, `convert`, `resize`, and the same"
                " formula by numpy. Medians over rounds of p50; ratios are of neighbours, with"
                " the 95 % interval of their median, bold where another is faster. OpenCV resizes"
                " otherwise: without antialias (`INTER_LINEAR`), or by areas; the last column says"
                f" on how many values it agrees.{told_of}"
            ),
        ]
    )


def _shape(given: Given) -> Shape:
    file = given.bundle.engine(given.engines[0])
    with find(file.backend).open(file) as session:
        sizes = [each for each in session.inputs[0].shape[1:] if isinstance(each, int)]
    first, second, third = sizes
    return (
        (third, first, second)
        if given.bundle.preprocessing.layout == "NHWC"
        else (first, second, third)
    )


def _wide(frame: Shape) -> tuple[int, int, int]:
    height, width, channels = frame
    return width, height, channels


def _ways(wanted: Preprocessing) -> dict[str, Way]:
    if wanted.color is None:
        raise SystemExit("this model takes no images in colour: give a bundle whose model does")
    ways: dict[str, Way] = {PYTHON: _edgekd, PILLOW: _pillow}
    if find_spec("cv2"):
        ways |= {told: partial(_opencv, how) for how, told in OPENCV.items()}
    return ways


def _edgekd(frame: Frame, wanted: Preprocessing, shape: Shape) -> npt.NDArray[np.float32]:
    return normalise(prepare(frame, wanted, shape)[None], wanted)


def _pillow(frame: Frame, wanted: Preprocessing, shape: Shape) -> npt.NDArray[np.float32]:
    from PIL import Image

    _, height, width = shape
    image = Image.fromarray(frame).convert(wanted.color)
    if wanted.crop is not None:
        top, left, tall, wide = box(*frame.shape[:2], height, width, wanted.crop)
        image = image.crop((left, top, left + wide, top + tall))
    return _formula(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)), wanted)


def _opencv(how: str, frame: Frame, wanted: Preprocessing, shape: Shape) -> npt.NDArray[Any]:
    import cv2

    _, height, width = shape
    if wanted.crop is not None:
        top, left, tall, wide = box(*frame.shape[:2], height, width, wanted.crop)
        frame = frame[top : top + tall, left : left + wide]
    image = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if wanted.color == "L" else frame
    return _formula(cv2.resize(image, (width, height), interpolation=getattr(cv2, how)), wanted)


def _formula(pixels: Frame, wanted: Preprocessing) -> npt.NDArray[np.float32]:
    """Bytes (height, width, ...) to the model's input, as engines/README.md has it."""
    mean, std = (np.asarray(each, np.float32) for each in (wanted.mean, wanted.std))
    planes = pixels.reshape(*pixels.shape[:2], -1)
    scaled = planes.astype(np.float32) * (np.float32(1 / 255) / std) - mean / std
    return scaled if wanted.layout == "NHWC" else scaled.transpose(2, 0, 1)


def _ratio(times: npt.NDArray[Any], ours: npt.NDArray[Any]) -> str:
    if times is ours:
        return ""
    ratios = times / ours
    bounds = interval(np.round(ratios * 1000).astype(np.int64), 0.5)
    told = "" if bounds is None else f" [{bounds[0] / 1000:.2f}, {bounds[1] / 1000:.2f}]"
    middle = f"{np.median(ratios):.2f}"
    return (middle if np.median(ratios) >= 1 else f"**{middle}**") + told


def _same(bits: Mapping[str, npt.NDArray[np.uint32]], way: str) -> str:
    if way == CPP:
        return ""
    same = int((bits[way] == bits[CPP]).sum())
    whole = len(bits[CPP])
    told = f"{same:,} of {whole:,}"
    return told if same == whole or way in OPENCV.values() else f"**{told}**"
