"""``edgekd bench`` without the command line: what is asked, compared, and kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import remeasure
from edgekd.artifacts import EngineFile
from edgekd.bench import supervise
from edgekd.bench.scenarios import Load
from edgekd.errors import BenchError, RecipeError
from edgekd.measurements import Measurement, Measurements
from edgekd.recipe import BenchSettings, BudgetSettings
from edgekd.subjects import Subject, Wanted
from tests import small_onnx
from tests.bench import planted
from tests.bench.here import Quiet
from tests.bench.planted import backend  # noqa: F401

SETTINGS = BenchSettings()
STRICT = BudgetSettings(fps=50, miss_rate=0.001)
Make = Callable[..., EngineFile]


def plan(scenario: str, budget: BudgetSettings = STRICT, **given: Any) -> Load:
    return remeasure.plan(scenario, SETTINGS, budget, **given)


# what is asked


def test_as_many_frames_as_the_budget_needs_with_two_misses_among_them() -> None:
    few = plan("single-stream", BudgetSettings(fps=50))
    assert (few.frames, few.least, few.seconds) == (7000, 838, 5.0)  # p99.9 is to be told as well
    many = plan("single-stream")
    assert many.frames == many.least == 8403
    assert plan("single-stream", BudgetSettings()).least == 0
    assert plan("single-stream", BudgetSettings(max_size_mb=1)).least == 0
    assert plan("camera").frames == 8403
    assert plan("camera", BudgetSettings(fps=50, deadline_ms=3)).frames == 838


def test_the_user_may_ask_for_less() -> None:
    capped = plan("single-stream", frames=10)
    assert (capped.frames, capped.least) == (10, 0)
    short = plan("single-stream", seconds=0.5)
    assert (short.seconds, short.least) == (0.5, 0)
    assert plan("camera", seconds=2).frames == 100  # of 50 a second
    assert plan("camera", seconds=0.001).frames == 1
    assert plan("camera", frames=10).frames == 10
    assert plan("camera", frames=1000, seconds=2).frames == 100


def test_a_camera_has_a_rate_and_as_long_as_it_takes() -> None:
    load = plan("camera", streams=3, background=2)
    assert load.period_ns == 20_000_000
    assert load.seconds > 8403 / 50
    assert (load.policy, load.blocks, load.background) == ("drop-oldest", 1, 2)
    with pytest.raises(RecipeError, match="--scenario camera: a camera has a rate: .*--fps"):
        plan("camera", BudgetSettings(deadline_ms=5))


def test_a_server_has_a_rate_of_its_own_or_the_budget_s() -> None:
    load = plan("server", rate=400.0)
    assert (load.rate_per_s, load.period_ns, load.policy) == (400.0, 0.0, "queue")
    assert load.seconds == pytest.approx(8403 / 400 * 1.25 + 5)
    assert plan("server").rate_per_s == 50
    assert plan("server", BudgetSettings(deadline_ms=5), rate=400.0).frames == 838
    with pytest.raises(RecipeError, match="--scenario server: requests come at a rate: .*--rate"):
        plan("server", BudgetSettings())


def test_offline_sweeps_batches() -> None:
    assert plan("offline").batches == (1, 2, 4, 8, 16, 32, 64)
    assert plan("single-stream").batches == (32,)
    assert plan("multi-stream", streams=3).streams == 3


def test_more_frames_than_can_be_kept() -> None:
    with pytest.raises(RecipeError, match="frames are more than the 10,000,000 .*--miss-rate"):
        plan("camera", BudgetSettings(fps=50, miss_rate=1e-7))
    with pytest.raises(RecipeError, match="--frames: 20,000,000 frames"):
        plan("single-stream", frames=20_000_000)
    assert plan("camera", BudgetSettings(fps=50, miss_rate=1e-7), seconds=2).frames == 100


def test_a_bundle_s_budget_gives_way_to_the_user_s(tmp_path: Path) -> None:
    bundle = planted.bundle(tmp_path / "p.edgekd", {}, fps=20)
    assert remeasure.own_budget(str(bundle), {}).fps == 20
    found = remeasure.own_budget(str(bundle), {"fps": 30, "max_size_mb": 2})
    assert (found.fps, found.max_size_mb) == (30, 2)
    assert remeasure.own_budget(str(tmp_path / "none.onnx"), {}).is_empty
    assert remeasure.own_budget("resnet8", {"deadline_ms": 4}).deadline_ns == 4_000_000


# compared


def measured(
    engine: EngineFile, blocks: list[np.ndarray], folder: Path, **changes: Any
) -> tuple[Subject, Measurement]:
    """An engine whose turns took these times, one call after another."""
    took = np.concatenate(blocks).astype(np.int64)
    ended = np.cumsum(took)
    path = folder / f"{engine.name.replace('/', '.')}.npy"
    np.save(path, np.stack([ended - took, ended - took, ended], 1))
    starts = np.cumsum([0, *map(len, blocks)])[:-1]
    found = Measurement(
        engine=engine.name, batch=1, samples=len(took), latency_ns={}, interval_ns={}, early_ns={},
        untold=(), trace=path, blocks=tuple(starts.tolist()), throughput_per_s={},
        **changes,
    )  # fmt: skip
    return Subject(engine, {}), found


def turns(rng: np.random.Generator, factor: float = 1.0, count: int = 20) -> list[np.ndarray]:
    """Times whose level differs from turn to turn, as a machine's speed does."""
    pace = 1 + 0.3 * np.arange(count) / count
    return [factor * each * rng.normal(1e6, 2e4, 40) for each in pace]


def compared(*pairs: tuple[Subject, Measurement], own: int = 1) -> list[dict[str, Any]]:
    subjects_ = [subject for subject, _ in pairs]
    by_name = {found.engine: found for _, found in pairs}
    return remeasure._comparisons(subjects_[:own], subjects_[own:], by_name)


def test_a_known_factor_is_told(
    backend: Make,  # noqa: F811
    tmp_path: Path,
    rng: np.random.Generator,
) -> None:
    slow = measured(backend("slow"), turns(rng, 3), tmp_path)
    fast = measured(backend("fast"), turns(rng), tmp_path)
    (found,) = compared(slow, fast)
    assert (found["engine"], found["against"]) == ("slow/planted/fp32", "fast/planted/fp32")
    for name in ("p50", "p99"):
        ratio, low, high = found[name]
        assert ratio == pytest.approx(3, rel=0.02)
        assert low <= 3 <= high or low == pytest.approx(3, rel=0.02)
        assert high - low < 0.3
    ratio, low, high = compared(fast, slow)[0]["p50"]
    assert ratio == pytest.approx(1 / 3, rel=0.02)


def test_an_engine_is_as_fast_as_itself(
    backend: Make,  # noqa: F811
    tmp_path: Path,
    rng: np.random.Generator,
) -> None:
    blocks = turns(rng)
    one, same = (measured(backend(name), blocks, tmp_path) for name in ("one", "same"))
    assert compared(one, same)[0]["p50"] == (1, 1, 1)
    other = measured(backend("other"), turns(rng), tmp_path)
    _, low, high = compared(one, other)[0]["p50"]
    assert low <= 1 <= high


def test_each_is_held_against_the_one_on_its_own_target(
    backend: Make,  # noqa: F811
    tmp_path: Path,
    rng: np.random.Generator,
) -> None:
    def on(target: str, role: str, **changes: Any) -> tuple[Subject, Measurement]:
        engine = replace(backend(role), target=target)
        return measured(engine, turns(rng, count=6), tmp_path, **changes)

    found = compared(
        on("a", "mine"), on("b", "mine"), on("c", "mine"), on("b", "its"), on("a", "its"), own=3
    )
    assert [each["against"][:5] for each in found] == ["its/a", "its/b", "its/b"]
    assert compared(on("a", "mine", partial="it broke"), on("a", "its")) == []
    assert compared(on("a", "mine")) == []


def test_too_few_turns_to_tell(
    backend: Make,  # noqa: F811
    tmp_path: Path,
    rng: np.random.Generator,
) -> None:
    pair = [measured(backend(name), turns(rng, count=4), tmp_path) for name in ("one", "other")]
    assert compared(*pair)[0]["p50"] is None
    pair = [measured(backend(name), turns(rng, count=1), tmp_path) for name in ("one", "other")]
    assert compared(*pair) == []


# measured


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    folder = tmp_path / "work"
    folder.mkdir()
    settings = BenchSettings(samples=40, seconds=1, blocks=8)
    return Wanted((), (), None, {}, 10, settings, folder)


def bench(what: str, wanted: Wanted, load: Load, **given: Any) -> Any:
    arguments: dict[str, Any] = {"against": "", "budget": BudgetSettings(), "profile": False}
    return remeasure.bench_anything(
        what, wanted=wanted, load=load, watcher=Quiet(), command="edgekd bench",  # type: ignore[arg-type]
        **{**arguments, **given},
    )  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No process for what is not looked at: a fresh start takes no time; its engines are noted."""
    started: list[str] = []

    def start(engine: EngineFile, *_: Any) -> Any:
        started.append(engine.name)
        return [4, 3, 2, 1], 10**8

    monkeypatch.setattr(supervise, "cold_start", start)
    return started


def test_an_open_loop_is_given_whole_and_has_no_ratio(
    backend: Make,  # noqa: F811
    quick: list[str],
    tmp_path: Path,
    wanted: Wanted,
) -> None:
    """What builds up in a queue would be forgotten at the end of every turn."""
    backend()  # is found from here on
    bundle = str(planted.bundle(tmp_path / "p.edgekd", {"took_ms": 0.5}))
    budget = BudgetSettings(fps=500, miss_rate=0.5, confidence=0.5)
    load = remeasure.plan("camera", wanted.settings, budget, frames=150)
    load = replace(load, pauses=0)
    facts, found = bench(bundle, wanted, load, against=bundle, budget=budget)
    assert facts["bench"]["load"]["blocks"] == 1
    assert quick == ["student/planted/P0", "against-student/planted/P0"]
    assert not facts["comparisons"]
    assert "no ratios: in 'camera' engines take no turns" in " ".join(facts["advice"])
    assert facts["camera"]["engine"] == facts["preferred"] == quick[0]
    assert facts["name"] == "p.edgekd"
    assert [each.blocks for each in found.items] == [(0,), (0,)]
    json.dumps(facts, allow_nan=False)


def test_each_of_several_is_judged_more_strictly(
    backend: Make,  # noqa: F811
    quick: list[str],
    tmp_path: Path,
    wanted: Wanted,
) -> None:
    backend()
    bundle = str(planted.bundle(tmp_path / "p.edgekd", {}, {}))
    budget = BudgetSettings(deadline_ms=1000, miss_rate=0.2, confidence=0.9)
    seen: list[float] = []

    def load(each: BudgetSettings) -> Load:
        seen.append(each.confidence)
        return Load(frames=30, seconds=1, blocks=5)

    facts, _ = bench(bundle, wanted, load, budget=budget)
    assert seen[-1] == pytest.approx(0.95)
    assert {each["misses"]["confidence"] for each in facts["engines"]} == {seen[-1]}
    assert facts["budget"]["confidence"] == 0.9
    assert "each of 2 engines is judged at 95 % confidence" in " ".join(facts["advice"])


def test_a_fresh_start_that_fails_costs_that_engine_alone(
    backend: Make,  # noqa: F811
    tmp_path: Path,
    wanted: Wanted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(engine: EngineFile, *_: Any) -> Any:
        if engine.precision == "P0":
            raise BenchError("no room for it", "make some")
        return [4, 3, 2, 1], None

    backend()
    monkeypatch.setattr(supervise, "cold_start", start)
    bundle = str(planted.bundle(tmp_path / "p.edgekd", {}, {}))
    facts, found = bench(bundle, wanted, Load(frames=30, seconds=1, blocks=5))
    assert [each.partial for each in found.items] == ["no room for it", ""]
    assert [each.samples for each in found.items] == [30, 30]
    assert facts["preferred"] == "student/planted/P1"  # which ran to its end
    with pytest.raises(BenchError, match="student/planted/P0: no room for it: make some"):
        remeasure.complete(found)


def test_ctrl_c_during_a_fresh_start_or_a_profile_loses_nothing(
    backend: Make,  # noqa: F811
    tmp_path: Path,
    wanted: Wanted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def press(*_: Any) -> Any:
        raise KeyboardInterrupt

    backend()
    bundle = str(planted.bundle(tmp_path / "p.edgekd", {}, {}))
    monkeypatch.setattr(supervise, "profile", press)
    with monkeypatch.context() as whole:
        whole.setattr(supervise, "cold_start", lambda *_: ([4, 3, 2, 1], None))
        facts, found = bench(bundle, wanted, Load(frames=30, seconds=1, blocks=5), profile=True)
    monkeypatch.setattr(supervise, "cold_start", press)
    earlier = bench(bundle, wanted, Load(frames=30, seconds=1, blocks=5))
    for told, items in ((facts, found), earlier):
        assert [each["partial"] for each in told["engines"]] == [remeasure.STOPPED] * 2
        assert [each.samples for each in items.items] == [30, 30]
        with pytest.raises(KeyboardInterrupt):
            remeasure.complete(items)


def test_layers_that_cannot_be_timed_are_told_of(
    backend: Make,  # noqa: F811
    quick: list[str],
    tmp_path: Path,
    wanted: Wanted,
) -> None:
    backend()
    bundle = str(planted.bundle(tmp_path / "p.edgekd", {}))
    facts, _ = bench(bundle, wanted, Load(frames=30, seconds=1, blocks=5), profile=True)
    assert not facts["profiles"]
    assert "planted does not say how long its layers take" in " ".join(facts["advice"])


def test_what_is_asked_of_nothing(tmp_path: Path, wanted: Wanted) -> None:
    bundle = str(planted.bundle(tmp_path / "p.edgekd", {}))
    net = str(small_onnx.relu(tmp_path / "net.onnx"))
    with pytest.raises(RecipeError, match="net.onnx is no bundle, and has no teacher"):
        bench(net, wanted, Load(), against="teacher")
    with pytest.raises(BenchError, match="LoadGen has no scenario like 'camera'"):
        bench(bundle, wanted, Load(scenario="camera", loadgen=True))


def test_a_shape_of_an_input_that_is_not_there(
    backend: Make,  # noqa: F811
    tmp_path: Path,
    wanted: Wanted,
) -> None:
    backend()
    bundle = str(planted.bundle(tmp_path / "p.edgekd", {}))
    with pytest.raises(RecipeError, match="--shape: no input is called 'y': the known ones are x"):
        bench(bundle, replace(wanted, shapes={"y": (1,)}), Load())


# kept


@pytest.fixture
def result(tmp_path: Path, backend: Make) -> tuple[dict[str, Any], Measurements]:  # noqa: F811
    _, item = measured(backend(), [np.full(5, 1000)], tmp_path)
    host: dict[str, Any] = {}
    found = Measurements(
        scenario="camera", load={}, threads=1, clock="", host=host, watch=host, items=(item,)
    )
    return {"name": "my net:x", "verdict": "pass"}, found


def test_the_report_and_every_trace_are_kept(
    result: tuple[dict[str, Any], Measurements], tmp_path: Path
) -> None:
    facts, found = result
    for _ in range(2):  # in the same place again
        place = remeasure.keep(facts, found, tmp_path / "a" / "b")
    assert place == tmp_path / "a" / "b"
    assert json.loads((place / "report.json").read_text()) == facts
    assert np.array_equal(np.load(place / found.items[0].trace.name), np.load(found.items[0].trace))


def test_without_a_place_it_is_beside_the_store(
    result: tuple[dict[str, Any], Measurements], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "home" / "store"))
    place = remeasure.keep(*result, None)
    assert place.parent == tmp_path / "home" / "bench"
    assert place.name.startswith("my-net-x-")
    assert (place / "report.json").exists()


def test_where_nothing_can_be_written(
    result: tuple[dict[str, Any], Measurements], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    full = tmp_path / "full"
    full.mkdir()
    (full / "report.json").symlink_to("/dev/full")
    cases = {tmp_path / "file" / "x": "Not a directory", full: "No space left on device"}
    if os.geteuid():  # root may write anywhere
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        cases[closed / "x"] = "Permission denied"
    for place, words in cases.items():
        with pytest.raises(BenchError) as told:
            remeasure.keep(*result, place)
        assert f"the results cannot be kept in {place} ({words})" in str(told.value)
        assert "name another folder with -o" in str(told.value)
