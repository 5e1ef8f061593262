"""Whether C++ gives what Python gives, and both what the report says; from many threads too."""

from __future__ import annotations

import json
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt
import record
from embedding_programs import Given, Record, ask, name

import edgekd
from edgekd.data import open_built_in
from edgekd.errors import EdgekdError

THREADS = 8
Array = npt.NDArray[Any]


def outputs(given: Given) -> str:
    """The table of outputs over the test split."""
    report = json.loads(given.bundle.file("report.json").read_text())
    tops = {each["name"]: each["top1"] for each in report["engines"]}
    images, labels = _test(report["data"])
    size, whole = len(labels), given.sizes.images is None
    chosen = slice(None, given.sizes.images)
    images, labels = images[chosen], labels[chosen]
    rows = []
    for engine in given.engines:
        ours, python = _cpp(given, engine, images), _python(given, engine, images)
        differ = int((ours.view(np.uint32) != python.view(np.uint32)).any(1).sum())
        right = int((python.argmax(1) == labels).sum())
        reported = round(tops[f"student/{engine['target']}/{engine['precision']}"] * size / 100)
        golden = _cpp(given, engine, given.bundle.golden_images().transpose(0, 2, 3, 1))
        largest = float(np.abs(golden - given.bundle.golden_outputs(engine)).max())
        allowed = engine["tolerance"]
        rows.append(
            [
                name(engine),
                f"**{differ:,}**" if differ else "0",
                f"{right:,}",
                f"{reported:,}" if right == reported or not whole else f"**{reported:,}**",
                f"{largest:.3g}" if largest <= allowed else f"**{largest:.3g}**",
                f"{allowed:.3g}",
            ]
        )
    headings = (
        "engine", "images on which a bit differs", "right answers", "in the report",
        "golden outputs: largest difference", "allowed",
    )  # fmt: skip
    return "\n\n".join(
        [
            "## The same outputs",
            record.table(headings, rows),
            (
                f"The {len(labels):,} images of the test split of {report['data']['source']}, one"
                " at a time as bytes, by the C++ library and by the Python engine, both one"
                f" thread. The report counted {size:,} when the bundle was built, in batches and"
                " with all processors. The golden outputs are the bundle's own, and C++ is held"
                " against them."
            ),
        ]
    )


def threads(given: Given) -> str:
    """The table of what eight threads give."""
    runs, rows = given.sizes.thread_runs, []
    for engine in given.engines:
        words = (given.bundle.root, engine["target"], engine["precision"], THREADS, runs)
        (line,) = ask(given, "threads", *words).decode().splitlines()
        wrong = _wrong_in_python(given, engine, runs)
        rows.append([name(engine), line, f"{THREADS * runs} runs, {wrong} wrong"])
    return "\n\n".join(
        [
            f"## {THREADS} threads",
            record.table(("engine", "C++", "Python"), rows),
            (
                "Each thread with a context of its own, on 16 images of other sizes than the"
                " model's; wrong is what differs by a bit from what one thread gave before. C++"
                " counts that one's 16 runs too."
            ),
        ]
    )


def _test(data: Record) -> tuple[Array, Array]:
    """The test split that the report was made of: images (n, height, width, channels), labels."""
    try:
        source = open_built_in(data["source"])
        if source.fingerprint() != data["fingerprint"]:
            raise SystemExit(f"{data['source']} is not what the report was made of")
        images, labels = source.read("test")
    except EdgekdError as error:
        raise SystemExit(f"{error}: give the bundle of a recipe with a built-in source") from error
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels


def _cpp(given: Given, engine: Record, images: Array) -> Array:
    count, height, width, channels = images.shape
    words = (given.bundle.root, engine["target"], engine["precision"], width, height, channels)
    found = ask(given, "outputs", *words, "RGB", 1, stdin=images.tobytes())
    return np.frombuffer(found, np.float32).reshape(count, -1)


def _python(given: Given, engine: Record, images: Array) -> Array:
    with edgekd.load(given.bundle.root, engine["target"], engine["precision"]) as opened:
        return np.concatenate([opened(each) for each in images])


def _wrong_in_python(given: Given, engine: Record, runs: int) -> int:
    images = np.random.default_rng(3).integers(0, 256, (16, 30, 40, 3), np.uint8)
    wrong = [0] * THREADS
    where = (given.bundle.root, engine["target"], engine["precision"])
    with edgekd.load(*where, streams=THREADS) as opened:
        alone = [opened(each) for each in images]

        def work(number: int) -> None:
            for run in range(runs):
                place = (run * 7 + number) % len(images)
                wrong[number] += not np.array_equal(opened(images[place]), alone[place])

        several = [Thread(target=work, args=(number,)) for number in range(THREADS)]
        for each in several:
            each.start()
        for each in several:
            each.join()
        if opened.stats().count != THREADS * runs + len(images):
            raise SystemExit(f"{name(engine)}: a thread ended early")
    return sum(wrong)
