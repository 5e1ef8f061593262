"""Single images of the test split: which engines disagree on, and which classes are confused."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import EngineFile, Evaluation
from edgekd.data import Images, Labels
from edgekd.data.splits import Samples
from edgekd.errors import BackendUnavailable
from edgekd.verdict import BASELINE

Outputs = npt.NDArray[np.floating[Any]]

IMAGES = 12
"""So many are shown of each two engines."""
CLASSES = 40
"""A confusion matrix of more is not drawn; its worst pairs are told."""
_PAIRS = 20
_SIDE = 64
_COLOURS = 48  # of a thumbnail: 24 of them stay below 150 kB


def confusion(
    engine: str, outputs: Outputs, labels: Labels, classes: Sequence[str]
) -> dict[str, Any]:
    """How often an engine takes which class for which.

    Returns:
        ``engine``; ``classes``: their names, and ``counts``: a row for each true class, a column
        for each that was named, both None for more than 40; ``pairs``: the most confused, as
        ``label``, ``named``, ``count`` and ``of``, the images of that class.
    """
    n = len(classes)
    counts = np.zeros((n, n), np.int64)
    np.add.at(counts, (labels, outputs.argmax(1)), 1)
    of = counts.sum(1)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    worst = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS].tolist()
    few = n <= CLASSES
    return {
        "engine": engine,
        "classes": list(classes) if few else None,
        "counts": counts.tolist() if few else None,
        "pairs": [
            {
                "label": classes[each // n],
                "named": classes[each % n],
                "count": int(wrong.flat[each]),
                "of": int(of[each // n]),
            }
            for each in worst
            if wrong.flat[each]
        ],
    }


def disagreement(
    between: tuple[str, str], a: Outputs, b: Outputs, test: Samples, classes: Sequence[str]
) -> dict[str, Any]:
    """On which images two engines disagree, and those on which they do most.

    The farthest comes first: where the softmax share of the class that ``b`` names falls most
    from ``b`` to ``a``; those on which both name one class come last.

    Args:
        between: the engines' names.
        a: the first one's outputs, a row an image.
        b: the second one's.
        test: the images.
        classes: by name.
    """
    p, q = softmax(a), softmax(b)
    mine, theirs = p.argmax(1), q.argmax(1)
    rows = np.arange(len(p))
    drop = q[rows, theirs] - p[rows, theirs]
    differs = mine != theirs
    order = np.lexsort((rows, -drop, ~differs))
    shown = [each for each in order[:IMAGES].tolist() if differs[each] or drop[each] > 0]
    return {
        "between": list(between),
        "count": int(differs.sum()),
        "n": len(p),
        "images": [
            {
                "id": int(test.ids[each]),
                "label": classes[int(test.labels[each])],
                "a": {"class": classes[int(mine[each])], "share": float(p[each, mine[each]])},
                "b": {"class": classes[int(theirs[each])], "share": float(q[each, theirs[each]])},
                "png": thumbnail(test.images[each]),
            }
            for each in shown
        ],
    }


def softmax(outputs: Outputs) -> npt.NDArray[np.float64]:
    """Each class's share, by row."""
    raised = np.exp(outputs.astype(np.float64) - outputs.max(1, keepdims=True))
    shares: npt.NDArray[np.float64] = raised / raised.sum(1, keepdims=True)
    return shares


def thumbnail(image: Images) -> str:
    """An image (channels, height, width) of uint8 as base64 of a PNG of 64 pixels at most.

    Raises:
        BackendUnavailable: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise BackendUnavailable("the report", "report", f"{error.name} is missing") from error

    pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
    small = Image.fromarray(np.ascontiguousarray(pixels))
    small.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    small.quantize(_COLOURS).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def pairs(
    engines: Mapping[str, EngineFile], evaluations: Mapping[str, Evaluation], preferred: str
) -> list[tuple[str, str]]:
    """Which engines are held against each other: int8 and fp32, then the student and its teacher.

    Of int8 it is the preferred engine, or the first that was evaluated.
    """
    rounded = [
        each.name
        for each in engines.values()
        if each.role == "student" and each.precision != "fp32" and each.name in evaluations
    ]
    rounded.sort(key=lambda name: (name != preferred, not name.endswith("/int8")))
    student, teacher = f"student/{BASELINE}/fp32", f"teacher/{BASELINE}/fp32"
    wanted = [*((each, student) for each in rounded[:1]), (student, teacher)]
    return [each for each in wanted if set(each) <= set(evaluations)]
