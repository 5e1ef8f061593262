"""The stages ``bench`` and ``camera``: engines timed side by side, and what each needs."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekd import trace
from edgekd.artifacts import Dataset, EngineFile, OnnxModel, Preprocessing, QuantizedModel
from edgekd.backends.base import Arrays, Buildable, batches, find
from edgekd.bench import host, load, scenarios, supervise
from edgekd.bench.scenarios import Feeds, Load
from edgekd.bench.timer import CLOCK
from edgekd.data import Images, splits
from edgekd.data.rows import Rows
from edgekd.errors import BenchError
from edgekd.measurements import ColdStart, Measurement, Measurements, Profile
from edgekd.preprocessing import normalise
from edgekd.progress import Progress, silent
from edgekd.recipe import BenchSettings, BudgetSettings
from edgekd.stats import misses, percentiles, series
from edgekd.targets import Target

ALLOWED = 2
"""Misses among a camera's frames that still let an engine pass: with none allowed, one that
misses a tenth of what it may would be refused one time in three."""
_FEEDS = 64
_FEW_BLOCKS = 10
_PAUSES = 5
_LATE_SHARE = 0.01
_SPARE = 1.25
_SPARE_S = 5.0


def bench(
    engines: Sequence[EngineFile],
    dataset: Dataset,
    settings: BenchSettings,
    out_dir: Path,
    progress: Progress = silent,
) -> Measurements:
    """The stage ``bench``: one image after another, of validation; see ``measure``."""
    asked = single_stream(settings)
    feeds = _validation(engines, dataset, settings, progress)
    found = measure(engines, feeds, asked, settings, out_dir, progress)
    return complete(found)


def camera(
    engine: EngineFile,
    dataset: Dataset,
    settings: BenchSettings,
    budget: BudgetSettings,
    out_dir: Path,
    progress: Progress = silent,
) -> Measurements:
    """The stage ``camera``: as many of a camera's frames as the budget needs, of validation."""
    asked = camera_load(settings, budget, settings.camera_seconds or None)
    feeds = _validation([engine], dataset, settings, progress)
    return complete(measure([engine], feeds, asked, settings, out_dir, progress))


def single_stream(settings: BenchSettings) -> Load:
    """The load of a build's own measurement."""
    return Load(
        frames=settings.samples,
        seconds=settings.seconds,
        blocks=settings.blocks,
        batches=(settings.batch,),
        seed=settings.seed,
    )


def camera_load(
    settings: BenchSettings,
    budget: BudgetSettings,
    most_s: float | None,
    frames: int | None = None,
) -> Load:
    """A camera's frames: as many as the budget needs to be told, in no more time than given.

    Args:
        settings: policy and seed.
        budget: with ``fps``.
        most_s: seconds; None for as long as it takes.
        frames: how many; None for as many as are needed.
    """
    assert budget.fps is not None
    frames = frames or frames_for(budget)
    if most_s is not None:
        frames = max(1, min(frames, int(most_s * budget.fps)))
    return Load(
        scenario="camera",
        frames=frames,
        seconds=frames / budget.fps * _SPARE + _SPARE_S,
        blocks=1,
        period_ns=1e9 / budget.fps,
        policy=settings.policy,
        pauses=_PAUSES,
        seed=settings.seed,
    )


def frames_for(budget: BudgetSettings) -> int:
    """The frames from which a budget can be told, with ``ALLOWED`` misses among them."""
    return misses.frames_needed(budget.miss_rate, budget.confidence, ALLOWED)


def complete(found: Measurements) -> Measurements:
    """A measurement, if nothing ended it.

    Raises:
        BenchError: an engine failed.
        KeyboardInterrupt: the run was stopped.
    """
    for each in found.items:
        if each.partial == supervise.STOPPED:
            raise KeyboardInterrupt
        if each.partial:
            raise BenchError(f"{each.engine}: {each.partial}", each.hint)
    return found


def from_images(
    engines: Sequence[EngineFile],
    images: Images | Rows | npt.NDArray[np.uint8],
    preprocessing: Preprocessing,
    settings: BenchSettings,
) -> list[Feeds]:
    """What each engine is given: images, in turn, again from the first where there are too few.

    Preprocessing is done before any clock starts.
    """
    needed = max(_FEEDS, settings.batch)
    x = normalise(images[np.arange(needed) % len(images)], preprocessing)
    return [{each.model_inputs[0].name: x} for each in engines]


def _validation(
    engines: Sequence[EngineFile], dataset: Dataset, settings: BenchSettings, progress: Progress
) -> list[Feeds]:
    images = splits.read(dataset, "validation", progress).images
    return from_images(engines, images, dataset.preprocessing, settings)


def profile(
    engine: EngineFile,
    model: OnnxModel | QuantizedModel,
    dataset: Dataset,
    settings: BenchSettings,
    progress: Progress = silent,
) -> Profile:
    """The stage ``profile``: where an engine's time goes, by layer, on validation images."""
    (feeds,) = _validation([engine], dataset, settings, progress)
    return profile_layers(engine, model.path, feeds, settings.threads)


def profile_layers(engine: EngineFile, model: Path | None, feeds: Feeds, threads: int) -> Profile:
    """``layers.profile`` on the first of some samples, in a process of its own.

    Raises:
        BenchError: it fails there.
    """
    with tempfile.TemporaryDirectory() as folder:
        (path,) = scenarios.write([feeds], Path(folder))
        return supervise.profile(engine, model, path, threads)


def measure(
    engines: Sequence[EngineFile],
    feeds: Sequence[Feeds],
    asked: Load,
    settings: BenchSettings,
    out_dir: Path,
    progress: Progress = silent,
) -> Measurements:
    """Engines in one scenario, in a process of their own; then each alone in a fresh process.

    An engine that takes no single images is given the fewest that it takes, and of the batches
    asked for the nearest. What ended early is marked ``partial``, and kept.

    Args:
        engines: what is measured.
        feeds: samples for each.
        asked: of each.
        settings: threads and the timeout.
        out_dir: for the traces.
        progress: told of turns and engines.

    Raises:
        BenchError: nothing could be measured, or not be kept.
    """
    steps = supervise.PARTS * (asked.blocks + 2 * len(engines))
    load_before = host.load_average()
    with tempfile.TemporaryDirectory() as folder:
        given = scenarios.write(feeds, Path(folder))
        runs, watched = supervise.run(
            list(zip(engines, given, strict=True)),
            asked,
            threads=settings.threads,
            timeout_s=settings.timeout,
            progress=lambda done, total: progress(done, steps, asked.scenario),
        )
        items = []
        for index, (engine, run, own) in enumerate(zip(engines, runs, feeds, strict=True)):
            start = None
            try:
                if not run.partial:
                    start = cold_start(engine, own, settings.threads)
            except BenchError as error:
                run.partial, run.hint = error.message, error.hint
            except KeyboardInterrupt:
                for each in runs[index:]:
                    each.partial = each.partial or supervise.STOPPED
            items.append(_measurement(engine, run, asked, start, out_dir))
            progress(steps - supervise.PARTS * (len(runs) - index - 1), steps, "cold start")
    if not any(each.samples for each in items):
        if items[0].partial == supervise.STOPPED:
            raise KeyboardInterrupt
        reasons = [f"{each.engine}: {each.partial or 'no frame was answered'}" for each in items]
        raise BenchError("; ".join(reasons), items[0].hint)
    return Measurements(
        scenario=asked.scenario,
        load=dataclasses.asdict(asked),
        threads=settings.threads,
        clock=CLOCK,
        host={
            **host.facts(),
            "load_before": load_before,
            "load_after": host.load_average(),
        },
        watch=watched,
        items=tuple(items),
    )


def cold_start(engine: EngineFile, feeds: Feeds, threads: int) -> ColdStart:
    """A fresh process that opens the engine and runs it twice on the first of some samples.

    Raises:
        BenchError: that process fails.
    """
    one = scenarios.cut(feeds, batches(engine)[0])[0]
    with tempfile.TemporaryDirectory() as folder:
        (path,) = scenarios.write([one], Path(folder))
        (imported, opened, first, second), memory = supervise.cold_start(engine, path, threads)
    return ColdStart(imported, opened, first, second, memory)


def _measurement(
    engine: EngineFile, run: supervise.Run, asked: Load, start: ColdStart | None, out_dir: Path
) -> Measurement:
    path = out_dir / f"{engine.name.replace('/', '.')}.{asked.scenario}.npy"
    try:
        np.save(path, run.trace)
    except OSError as error:
        raise BenchError(
            f"{path} cannot be written ({error.strerror})", "make room, or name another folder"
        ) from error
    latencies = trace.response(run.trace)
    size = scenarios.frame_size(asked, *batches(engine))
    late = trace.lateness(run.trace) if asked.is_open else np.empty(0, np.int64)
    rates = dict(run.throughput)
    if len(latencies):
        rates = {str(size): size * 1e9 / float(trace.service(run.trace).mean()), **rates}
    return Measurement(
        engine=engine.name,
        batch=size,
        samples=len(latencies),
        latency_ns=_shares(latencies, *percentiles.PERCENTILES, "max"),
        interval_ns={
            name: percentiles.interval(latencies, share)
            for name, share in percentiles.PERCENTILES.items()
        },
        early_ns={
            name: percentiles.early_stopping(latencies, percentiles.PERCENTILES[name])
            for name in ("p90", "p99", "p99_9")
        },
        untold=tuple(
            name
            for name, share in percentiles.PERCENTILES.items()
            if len(latencies) < percentiles.fewest(share)
        ),
        trace=path,
        blocks=run.blocks,
        throughput_per_s=rates,
        start=start,
        lateness_ns=_shares(late, "p50", "p99", "max"),
        starts_ns=_starts(run, asked),
        split_ns={
            name: _shares(np.array(each, np.int64), "p50", "p99")
            for name, each in run.splits_ns.items()
        },
        loadgen=run.loadgen,
        warnings=tuple(_warnings(run.trace, late, asked)),
        partial=run.partial,
        hint=run.hint,
    )


def _shares(values: npt.NDArray[np.int64], *names: str) -> dict[str, int]:
    if not len(values):
        return {}
    figures = percentiles.summary(values)
    return {name: figures[name] for name in names}


def _starts(run: supervise.Run, asked: Load) -> dict[str, int]:
    """The median service by what came before it."""
    service, idle = trace.service(run.trace), trace.waited_for(run.trace)
    groups = {"pause": np.array(run.pauses_ns, np.int64)}
    if asked.is_open:
        groups |= {"warm": service[~idle], "idle": service[idle]}
    return {name: int(np.median(each)) for name, each in groups.items() if len(each)}


def _warnings(run: trace.Trace, late: npt.NDArray[np.int64], asked: Load) -> list[str]:
    """Why these figures may be less than they seem."""
    said: list[str] = []
    service = trace.service(run)
    if not len(service):
        return said
    before = series.warm_up(service)
    if before:
        said.append(
            f"the first {before:,} of {len(service):,} calls are not like the rest: the machine"
            " or the runtime was still warming up"
        )
    if series.is_dependent(trace.response(run)):
        worth = series.effective_by_rank(trace.response(run))
        said.append(
            f"calls that follow each other resemble each other: {len(service):,} of them tell as"
            f" much as {worth:,.0f} would that do not, and intervals are too narrow"
        )
    if asked.is_open and len(late):
        most = percentiles.percentile(np.sort(late), 0.99)
        mean_gap = asked.period_ns or 1e9 / asked.rate_per_s
        if most > _LATE_SHARE * mean_gap:
            said.append(
                f"the load generator itself was late by {most / 1e3:.0f} µs at p99, which counts"
                " as the engine's"
            )
    return said


def side_by_side(
    models: Sequence[Buildable],
    targets: Sequence[Target],
    feeds: Sequence[Arrays],
    settings: BenchSettings,
    folder: Path,
) -> dict[str, list[dict[str, int]]]:
    """p50 and p99 of models in nanoseconds, for each target that can be run here.

    All models of a target take turns in this process, and for little time: enough calls to tell
    p99 at most, and no more than a second for each model.

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
                calls=min(settings.samples, percentiles.fewest(percentiles.PERCENTILES["p99"])),
                blocks=min(settings.blocks, _FEW_BLOCKS),
                limit_ns=int(min(settings.seconds, 1.0) * 1e9),
                seed=settings.seed,
            )
        summaries = [percentiles.summary(np.concatenate(each.latencies_ns)) for each in timings]
        found[target.name] = [{name: each[name] for name in ("p50", "p99")} for each in summaries]
    return found
