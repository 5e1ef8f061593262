"""``edgekd bench``: anything that can be opened, measured on the machine that is here."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import bundle as bundles
from edgekd import subjects, trace
from edgekd.advice import advise
from edgekd.bench import loadgen
from edgekd.bench.measure import (
    camera_load,
    complete,
    frames_for,
    measure,
    profile_layers,
    single_stream,
)
from edgekd.bench.scenarios import Load
from edgekd.bench.supervise import STOPPED
from edgekd.bundle import MANIFEST
from edgekd.errors import BenchError, EdgekdError, RecipeError, near_matches
from edgekd.measurements import Measurement, Measurements, Profile
from edgekd.progress import Watcher
from edgekd.recipe import BenchSettings, BudgetSettings
from edgekd.report import layers as told
from edgekd.report import traces
from edgekd.stats import compare
from edgekd.store import default_root
from edgekd.subjects import Subject, Wanted
from edgekd.verdict import Row, for_each, prefer, row

__all__ = ["STOPPED", "bench_anything", "check_place", "complete", "keep", "own_budget", "plan"]
SCHEMA = "1.0"
TEACHER = "teacher"
_SWEEP = (1, 2, 4, 8, 16, 32, 64)
_MOST_FRAMES = 10_000_000  # of 24 bytes each, in shared memory


def bench_anything(
    what: str,
    *,
    against: str,
    budget: BudgetSettings,
    load: Load | Callable[[BudgetSettings], Load],
    profile: bool,
    wanted: Wanted,
    watcher: Watcher,
    command: str,
) -> tuple[dict[str, Any], Measurements]:
    """Measures what a name stands for and judges it; what is measured is not changed.

    Args:
        what: see ``subjects.named``.
        against: the same, or ``teacher`` for a bundle's own; empty for nothing.
        budget: see ``own_budget``.
        load: what is asked of each engine; or what makes that of the budget for each.
        profile: also time the preferred engine's layers.
        wanted: of the thing, what.
        watcher: told of progress.
        command: for the report.

    Returns:
        A report, as ``report.json`` holds one, of what can be told without a build; and the
        measurements, whose traces lie in ``wanted.folder``.

    Raises:
        RecipeError, BundleError: it cannot be measured.
        BackendUnavailable, EngineIncompatible: none of it can run here; why not the first.
        BenchError: nothing could be measured.
    """
    first = load if isinstance(load, Load) else load(budget)
    if first.loadgen:
        loadgen.check(first)
    own = subjects.named(what, wanted)
    asked, budget = budget, for_each(budget, [each.engine for each in own])
    load = load if isinstance(load, Load) else load(budget)
    others = _others(what, against, own, wanted)
    everything = [*own, *others]
    _check_shapes(everything, wanted)
    begin = time.monotonic()
    found = measure(
        [each.engine for each in everything],
        [each.feeds for each in everything],
        load,
        wanted.settings,
        wanted.folder,
        watcher.begin("bench"),
    )
    watcher.end("bench", False, time.monotonic() - begin)
    measured = {each.engine: each for each in found.items}
    how = {"scenario": load.scenario, "rate_per_s": load.rate_per_s}
    rows = [row(each.engine, measured, budget) | each.known | how for each in everything]
    mine = rows[: len(own)]
    preferred, verdict = prefer(mine, budget)
    best = next(each for each in own if each.engine.name == preferred)
    profiles: dict[str, Profile] = {}
    notes = advise(mine)
    if budget.confidence != asked.confidence:
        notes.append(
            f"each of {len(own)} engines is judged at {100 * budget.confidence:.4g} % confidence,"
            f" so that the best of them holds {100 * asked.confidence:.4g} %"
        )
    if others and load.is_open:
        notes.append(
            f"no ratios: in '{load.scenario}' engines take no turns; single-stream has them"
        )
    if profile and not any(each.partial for each in found.items):
        try:
            profiles[preferred] = profile_layers(
                best.engine, best.model, best.feeds, wanted.settings.threads
            )
        except EdgekdError as error:
            notes.append(f"the layers of {preferred} could not be timed: {error}")
        except KeyboardInterrupt:  # of what is already there nothing is lost
            items = tuple(replace(each, partial=STOPPED) for each in found.items)
            found = replace(found, items=items)
            rows = [line | {"partial": STOPPED} for line in rows]
    for line in rows:
        record = np.load(measured[line["name"]].trace, allow_pickle=False)
        line["curve"] = traces.curve(record)
    camera = None
    if found.scenario == "camera":
        camera = traces.camera(replace(found, items=(measured[preferred],)), budget)
    facts = {
        "schema": SCHEMA,
        "name": Path(what).resolve().name if Path(what).exists() else what,
        "verdict": verdict,
        "preferred": preferred,
        "budget": asked.canonical(),
        "engines": rows,
        "advice": notes,
        "comparisons": _comparisons(own, others, measured),
        "bench": {
            "scenario": found.scenario,
            "load": dict(found.load),
            "threads": found.threads,
            "clock": found.clock,
        },
        "camera": camera,
        "profiles": told.profiles(profiles),
        "watch": traces.watch(found.watch),
        "host": dict(found.host),
        "command": command,
    }
    return facts, found


def keep(facts: Mapping[str, Any], found: Measurements, folder: Path | None) -> Path:
    """Writes ``report.json`` and every trace where they stay.

    Args:
        facts: the report.
        found: the measurements.
        folder: where to; None for a fresh folder beside the store.

    Returns:
        The folder.

    Raises:
        BenchError: they cannot be written there.
    """
    if folder is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", facts["name"])
        folder = default_root().parent / "bench" / f"{stem}-{stamp}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "report.json").exists():  # of a run whose traces are not of this one
            for stale in folder.glob("*.npy"):
                stale.unlink()
        for each in found.items:
            shutil.copy(each.trace, folder / each.trace.name)
        (folder / "report.json").write_text(json.dumps(facts, indent=1, allow_nan=False))
    except OSError as error:
        raise BenchError(
            f"the results cannot be kept in {folder} ({error.strerror or error})",
            "name another folder with -o; what was measured is shown above",
        ) from error
    return folder


def check_place(folder: Path | None) -> None:
    """Refuses to keep results in a bundle, which is sealed.

    Raises:
        RecipeError: it is one.
    """
    if folder is not None and (folder / MANIFEST).exists():
        raise RecipeError("is a bundle, and sealed", "name another folder", path=f"-o {folder}")


def own_budget(what: str, given: Mapping[str, Any]) -> BudgetSettings:
    """A bundle's budget, with what the user gives in its place; of anything else that alone."""
    path = Path(what)
    own: Mapping[str, Any] = {}
    if (path / MANIFEST).is_file():
        own = bundles.read(path).manifest["budget"]
    known = {key: value for key, value in own.items() if key in BudgetSettings.model_fields}
    if "fps" in given:  # the bundle's deadline was for its own rate
        known.pop("deadline_ms", None)
    return BudgetSettings(**{**known, **given})


def plan(
    scenario: str,
    settings: BenchSettings,
    budget: BudgetSettings,
    *,
    frames: int | None = None,
    seconds: float | None = None,
    rate: float | None = None,
    **further: Any,
) -> Load:
    """What to ask of each engine: the frames that the budget needs, unless the user says how many.

    Args:
        scenario: of ``scenarios.SCENARIOS``.
        settings: the rest.
        budget: its deadline decides how many frames are needed.
        frames: how many; None for as many as are needed.
        seconds: no longer than this; None for as long as it takes.
        rate: of requests to a server.
        further: fields of ``Load``.

    Raises:
        RecipeError: a camera without ``fps``, a server without a rate, or too many frames.
    """
    if scenario == "camera":
        if budget.fps is None:
            raise RecipeError("a camera has a rate", "give it with --fps", path="--scenario camera")
        load = camera_load(settings, budget, seconds, frames)
    elif scenario == "server":
        rate = rate or budget.fps
        if rate is None:
            raise RecipeError("requests come at a rate", "give --rate", path="--scenario server")
        as_camera = budget.model_copy(update={"fps": rate})
        load = replace(
            camera_load(settings, as_camera, seconds, frames),
            scenario="server",
            period_ns=0.0,
            rate_per_s=rate,
            policy="queue",
        )
    else:
        load = replace(single_stream(settings), scenario=scenario)
        if seconds is not None:
            load = replace(load, seconds=seconds)
        elif budget.deadline_ns is not None and frames is None:
            load = replace(load, least=frames_for(budget))
        wanted = frames or max(load.frames, load.least)
        load = replace(load, frames=wanted)
        if scenario == "offline":
            load = replace(load, batches=_SWEEP)
    if load.frames > _MOST_FRAMES:
        raise RecipeError(
            f"{load.frames:,} frames are more than the {_MOST_FRAMES:,} that are kept of a run",
            "cap them with --frames, or allow a higher --miss-rate",
            path="--frames",
        )
    return replace(load, **further)


def _check_shapes(everything: Sequence[Subject], wanted: Wanted) -> None:
    known = {spec.name for each in everything for spec in each.engine.model_inputs}
    for name in wanted.shapes:
        if name and name not in known:
            hint = near_matches(name, known)
            raise RecipeError(f"no input is called '{name}'", hint, path="--shape")


def _others(what: str, against: str, own: Sequence[Subject], wanted: Wanted) -> list[Subject]:
    if not against:
        return []
    apart = replace(wanted, folder=wanted.folder / "against")
    if against == TEACHER:
        path = Path(what)
        if not (path / MANIFEST).is_file():
            raise RecipeError(f"{what} is no bundle, and has no teacher", path="--against teacher")
        targets = sorted({each.engine.target for each in own})
        return subjects.teacher_of(bundles.read(path), targets, apart)
    found = subjects.named(against, apart)
    names = {each.engine.name for each in own}
    return [
        replace(each, engine=replace(each.engine, role=f"against-{each.engine.role}"))
        if each.engine.name in names
        else each
        for each in found
    ]


def _comparisons(
    own: Sequence[Subject], others: Sequence[Subject], measured: Mapping[str, Measurement]
) -> list[Row]:
    """Each engine's p50 and p99 over those of what it is held against, on the same target if any.

    Ratios are of interleaved blocks, with 95 % intervals by resampling rounds. There are none of
    open loops, which take no turns: a queue that is emptied by the end of a turn would hide what
    builds up in it. Nor of calls of different batches.
    """
    found = []
    for each in own:
        same = [other for other in others if other.engine.target == each.engine.target]
        for other in (same or others)[:1]:
            pair = [measured[one.engine.name] for one in (each, other)]
            if any(one.partial for one in pair) or len(pair[0].blocks) != len(pair[1].blocks):
                continue
            blocks = [_blocks(one) for one in pair]
            if len(blocks[0]) < 2 or pair[0].batch != pair[1].batch:
                continue
            ratios = {
                name: compare.block_bootstrap_ratio(*blocks, share=share)
                for name, share in (("p50", 0.5), ("p99", 0.99))
            }
            found.append({"engine": each.engine.name, "against": other.engine.name, **ratios})
    return found


def _blocks(one: Measurement) -> list[Any]:
    record = np.load(one.trace, allow_pickle=False)
    parts = np.split(record, one.blocks[1:])
    return [trace.response(each) for each in parts]
