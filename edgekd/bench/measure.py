"""The stage ``bench``: engines timed side by side, and the memory that each needs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifacts import (
    Dataset,
    EngineFile,
    Measurement,
    Measurements,
    Preprocessing,
    TensorSpec,
)
from edgekd.backends.base import Arrays, Buildable, batches, find
from edgekd.bench import host, load, stats
from edgekd.data import Images, splits
from edgekd.data.rows import Rows
from edgekd.errors import BenchError
from edgekd.preprocessing import normalise
from edgekd.progress import Progress, silent
from edgekd.recipe import BenchSettings
from edgekd.targets import Target

SCENARIO = "single-stream"
_FEEDS = 64
_FEW_BLOCKS = 10
_THROUGHPUT_NS = 500_000_000


def bench(
    engines: Sequence[EngineFile],
    dataset: Dataset,
    settings: BenchSettings,
    out_dir: Path,
    progress: Progress = silent,
) -> Measurements:
    """Times engines on validation images; see ``measure``."""
    images = splits.read(dataset, "validation", progress).images
    return measure(engines, images, dataset.preprocessing, settings, out_dir, progress)


def measure(
    engines: Sequence[EngineFile],
    images: Images | Rows,
    preprocessing: Preprocessing,
    settings: BenchSettings,
    out_dir: Path,
    progress: Progress = silent,
) -> Measurements:
    """Latency at batch 1 in interleaved blocks, throughput at batch 1 and ``settings.batch``.

    An engine that takes no such batches is given the smallest and the largest that it takes.

    Images are taken in turn, again from the first where there are too few. Preprocessing is
    done before the clock starts. Peak memory is that of a fresh process.

    Raises:
        BenchError: an engine cannot be run in a process of its own.
    """
    needed = max(_FEEDS, settings.batch)
    x = normalise(images[np.arange(needed) % len(images)], preprocessing)
    steps = settings.blocks + 2 * len(engines)
    before = host.load_average()
    items = []
    with contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(find(each.backend).open(each, settings.threads)) for each in engines
        ]
        name = sessions[0].inputs[0].name
        least = [batches(each)[0] for each in engines]
        single = [{name: each[None]} for each in x[:_FEEDS]]
        feeds: list[Sequence[Arrays]] = [
            single if size == 1 else [{name: x[np.arange(size) % len(x)]}] for size in least
        ]
        timings = load.interleaved(
            sessions,
            feeds,
            calls=settings.samples,
            blocks=settings.blocks,
            limit_ns=int(settings.seconds * 1e9),
            seed=settings.seed,
            progress=lambda done, total: progress(done, steps, "latency"),
        )
        rates = []
        for index, (engine, session) in enumerate(zip(engines, sessions, strict=True)):
            smallest, largest = batches(engine)
            size = max(smallest, min(settings.batch, largest or settings.batch))
            whole = x[np.arange(size) % len(x)]
            rate = load.throughput(session, {name: whole}, size, _THROUGHPUT_NS)
            rates.append((size, rate))
            progress(settings.blocks + index + 1, steps, "throughput")
    for index, (engine, timing, (size, rate)) in enumerate(
        zip(engines, timings, rates, strict=True)
    ):
        stem = engine.name.replace("/", ".")
        latencies = np.concatenate(timing.latencies_ns)
        latencies_path, starts_path = (
            out_dir / f"{stem}.latencies.npy",
            out_dir / f"{stem}.starts.npy",
        )
        np.save(latencies_path, latencies)
        np.save(starts_path, np.concatenate(timing.starts_ns))
        own = least[index]
        alone = own * 1e9 * timing.count / timing.spent_ns
        items.append(
            Measurement(
                engine=engine.name,
                batch=own,
                samples=timing.count,
                latency_ns=stats.summary(latencies),
                interval_ns={
                    name: stats.interval(latencies, share)
                    for name, share in stats.PERCENTILES.items()
                },
                untold=tuple(
                    name
                    for name, share in stats.PERCENTILES.items()
                    if timing.count < stats.fewest(share)
                ),
                latencies_ns=latencies_path,
                starts_ns=starts_path,
                throughput_per_s={str(own): alone, str(size): rate},
                peak_memory_bytes=peak_memory(engine, settings.threads),
            )
        )
        progress(settings.blocks + len(engines) + index + 1, steps, "memory")
    return Measurements(
        scenario=SCENARIO,
        threads=settings.threads,
        clock=load.CLOCK,
        host={**host.facts(), "load_before": before, "load_after": host.load_average()},
        items=tuple(items),
    )


def side_by_side(
    models: Sequence[Buildable],
    targets: Sequence[Target],
    feeds: Sequence[Arrays],
    settings: BenchSettings,
    folder: Path,
) -> dict[str, list[dict[str, int]]]:
    """p50 and p99 of models in nanoseconds, for each target that can be run here.

    All models of a target take turns, as engines do in ``measure``, but for less time: enough
    calls to tell p99 at most, and no more than a second for each model.

    Args:
        models: what engines are built from.
        targets: where they are to run.
        feeds: of one sample each, taken in turn.
        settings: threads and the rest.
        folder: for the engines.
    """
    found = {}
    for target in targets:
        backend = find(target.backend)
        if not backend.probe().devices:
            continue
        with contextlib.ExitStack() as stack:
            sessions = []
            for index, model in enumerate(models):
                place = folder / f"{target.name}-{index}"
                place.mkdir()
                engine = backend.build(model, target, place)
                if not engine.executed:  # it is for another device
                    break
                sessions.append(stack.enter_context(backend.open(engine, settings.threads)))
            if len(sessions) < len(models):
                continue
            least, _ = batches(engine)
            own = [{name: np.repeat(x, least, 0) for name, x in each.items()} for each in feeds]
            timings = load.interleaved(
                sessions,
                [own] * len(sessions),
                calls=min(settings.samples, stats.fewest(stats.PERCENTILES["p99"])),
                blocks=min(settings.blocks, _FEW_BLOCKS),
                limit_ns=int(min(settings.seconds, 1.0) * 1e9),
                seed=settings.seed,
            )
        summaries = [stats.summary(np.concatenate(each.latencies_ns)) for each in timings]
        found[target.name] = [{name: each[name] for name in ("p50", "p99")} for each in summaries]
    return found


def peak_memory(engine: EngineFile, threads: int) -> int | None:
    """Peak resident bytes of a fresh process that opens the engine and runs it once.

    Raises:
        BenchError: that process fails.
    """
    child = subprocess.run(
        [sys.executable, "-m", "edgekd.bench.measure"],
        input=json.dumps({"engine": to_json(engine), "threads": threads}),
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        last_line = (child.stderr.strip() or "no output").splitlines()[-1]
        raise BenchError(f"{engine.name} does not run in a process of its own: {last_line}")
    found: int | None = json.loads(child.stdout)
    return found


def to_json(engine: EngineFile) -> dict[str, Any]:
    """An engine as JSON, without what the store knows of it."""
    record = dataclasses.asdict(engine)
    for name in ("key", "content", "files", "inputs", "producer_versions"):
        del record[name]
    record["path"] = str(engine.path)
    record["parts"] = [str(each) for each in engine.parts]
    return record


def from_json(record: dict[str, Any]) -> EngineFile:
    """The inverse of ``to_json``."""
    specs = {
        name: tuple(
            TensorSpec(each["name"], each["dtype"], tuple(each["shape"])) for each in record[name]
        )
        for name in ("model_inputs", "model_outputs")
    }
    path = Path(record["path"])
    parts = tuple(Path(each) for each in record["parts"])
    return EngineFile(**{**record, **specs, "path": path, "parts": parts})


def _run_once(request: dict[str, Any]) -> int | None:
    engine = from_json(request["engine"])
    with find(engine.backend).open(engine, request["threads"]) as session:
        session.run(
            {
                spec.name: np.zeros(
                    [each if isinstance(each, int) else batches(engine)[0] for each in spec.shape],
                    spec.dtype,
                )
                for spec in session.inputs
            }
        )
    return host.peak_memory_bytes()


if __name__ == "__main__":
    print(json.dumps(_run_once(json.load(sys.stdin))))
