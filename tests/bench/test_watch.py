"""Watching a machine: every disturbance that is planted is told, with its time, and no other."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import pytest

from edgekd.bench import readings, watch
from edgekd.bench.readings import TICKS_PER_S
from edgekd.bench.watch import Watch
from tests.bench.machine import PID, FakeGpu, Machine, fake_nvml, rapl

SECOND = 1_000_000_000
TICKS = TICKS_PER_S // 2  # in half a second


class Clock:
    """Half a second passes whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 7 * SECOND
        self.slept = 0

    def __call__(self) -> int:
        self.now += SECOND // 2
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    ticking = Clock()
    monkeypatch.setattr(watch, "perf_counter_ns", ticking)
    monkeypatch.setattr(readings, "suspended_ns", lambda: ticking.slept)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]
    return ticking


@pytest.fixture
def machine(tmp_path: Path, clock: Clock) -> Machine:
    found = Machine(tmp_path)
    found.put()
    return found


def _run(machine: Machine, looks: int, at: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Looks at a machine that measures on one core; ``at`` some looks more happened besides."""
    watching = Watch(PID, machine.root)
    for look in range(looks):
        machine.own += TICKS
        machine.busy += TICKS
        for name, value in at.get(look, {}).items():
            before = getattr(machine, name)
            setattr(machine, name, value if name == "khz" else before + value)
        machine.put()
        watching.sample()
    return watching.record()


def test_a_quiet_machine_is_not_disturbed(machine: Machine, clock: Clock) -> None:
    found = _run(machine, 10, {})
    assert found["disturbances"] == []
    assert found["steal_share"] == 0
    assert found["others_share"] == 0
    assert found["switches"] == found["faults"] == 0
    assert len(found["samples"]) == 10
    first, last = found["samples"][0], found["samples"][-1]
    assert first["t_ns"] == 7 * SECOND + SECOND // 2
    assert last["t_ns"] == clock.now
    assert (last["mhz"], last["celsius"], last["load"]) == (3000, 50.0, 1.25)
    assert first["others"] is None  # nothing was seen before it
    assert found["energy"]["joules"] is None
    assert json.loads(json.dumps(found)) == found


def test_a_hypervisor_that_takes_time_is_told(machine: Machine) -> None:
    found = _run(machine, 10, {4: {"steal": TICKS}, 5: {"steal": TICKS // 4}})
    assert found["disturbances"] == [
        {
            "t_ns": 7 * SECOND + 2 * SECOND,  # from the look before it was seen
            "until_ns": 7 * SECOND + 3 * SECOND,
            "what": "a hypervisor kept back 50% of the CPU time that was wanted",
        }
    ]
    assert found["steal_share"] == pytest.approx(1.25 * TICKS / (9 * TICKS + 1.25 * TICKS), rel=0.1)


def test_a_single_tick_is_no_disturbance(machine: Machine) -> None:
    found = _run(machine, 10, {4: {"steal": 1}})
    assert found["disturbances"] == []
    assert found["steal_share"] > 0


def test_other_processes_are_told_from_the_measured_one(machine: Machine) -> None:
    found = _run(machine, 10, {3: {"busy": 2 * TICKS}, 8: {"busy": TICKS // 20}})
    (told,) = found["disturbances"]  # 5 % of a core is little
    assert told["what"] == "other processes kept 2.0 cores busy"
    assert (told["t_ns"], told["until_ns"]) == (8.5 * SECOND, 9 * SECOND)
    assert found["others_share"] == pytest.approx(2.05 / 9, rel=0.05)


def test_a_clock_that_falls_is_held_against_the_runs_best(machine: Machine) -> None:
    slow, hardly = [2_000_000, 800_000], [2_800_000, 800_000]
    found = _run(machine, 12, {2: {"khz": slow}, 4: {"khz": hardly}})
    (told,) = found["disturbances"]
    assert told["what"] == "the clock was 33% below its best of 3000 MHz"
    assert told["until_ns"] - told["t_ns"] == SECOND


def test_throttling_sleep_and_faults(machine: Machine, clock: Clock) -> None:
    watching = Watch(PID, machine.root)
    for look in range(6):
        machine.throttled += look == 2
        machine.switches += 3
        machine.faults += look == 5
        clock.slept += 90 * SECOND * (look == 4)
        machine.own, machine.busy = machine.own + 1, machine.busy + 1
        machine.put()
        watching.sample()
    found = watching.record()
    assert [each["what"] for each in found["disturbances"]] == [
        "the CPU was throttled",
        "the machine slept for 90.0 s",
    ]
    assert (found["switches"], found["faults"]) == (15, 1)


def test_what_comes_again_at_once_is_one_disturbance_and_later_another(machine: Machine) -> None:
    some, more = {"busy": TICKS // 2}, {"busy": TICKS}
    found = _run(machine, 40, {5: some, 8: more, 30: some})
    assert [each["what"] for each in found["disturbances"]] == [
        "other processes kept 1.0 cores busy",
        "other processes kept 0.5 cores busy",
    ]
    first = found["disturbances"][0]
    assert first["until_ns"] - first["t_ns"] == 2 * SECOND


def test_a_long_run_keeps_few_samples_and_every_disturbance(machine: Machine) -> None:
    watching = Watch(PID, machine.root)
    for look in range(2000):
        if look == 777:
            machine.steal, machine.switches = TICKS // 2, 5
            machine.busy += TICKS
            machine.put()
        watching.sample()
    found = watching.record()
    assert 300 < len(found["samples"]) <= 600
    assert len(found["disturbances"]) == 2
    assert max(each["steal"] or 0 for each in found["samples"]) == pytest.approx(1 / 3)
    assert max(each["others"] or 0 for each in found["samples"]) == pytest.approx(1)
    assert sum(each["switches"] or 0 for each in found["samples"]) == found["switches"] == 5
    times = [each["t_ns"] for each in found["samples"]]
    assert times == sorted(times)


def test_a_process_that_has_ended_is_no_failure(machine: Machine) -> None:
    watching = Watch(PID + 1, machine.root)
    watching.sample()
    watching.sample()
    found = watching.record()
    assert found["others_share"] is None
    assert found["switches"] is None
    assert found["steal_share"] is None  # nobody wanted any time
    assert found["disturbances"] == []


@pytest.mark.parametrize("looks", [0, 1])
def test_a_run_too_short_to_tell_anything(machine: Machine, looks: int) -> None:
    found = _run(machine, looks, {})
    assert len(found["samples"]) == looks
    assert found["steal_share"] is None
    assert found["disturbances"] == []


def test_a_machine_that_tells_nothing(tmp_path: Path, clock: Clock) -> None:
    watching = Watch(PID, tmp_path / "nothing")
    watching.sample()
    watching.sample()
    found = watching.record()
    told = found["samples"][-1]
    names = ("mhz", "celsius", "load", "steal", "others", "switches", "joules")
    assert {told[name] for name in names} == {None}
    assert found["disturbances"] == []


def test_gpus_and_energy_are_watched(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(gpu))
    rapl(machine.root, 0, 0)
    watching = Watch(PID, machine.root)
    for look in range(4):
        gpu.reasons = 0x40 if look == 2 else 0x01
        rapl(machine.root, 0, look * 1_000_000)
        watching.sample()
    found = watching.record()
    assert [each["what"] for each in found["disturbances"]] == [
        "GPU 0 was held back by heat, by hardware"
    ]
    assert [each["joules"] for each in found["samples"]] == [0, 1, 2, 3]
    assert found["samples"][0]["gpus"][0]["mhz"] == 1755
    assert found["energy"]["joules"] == 3.0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_is_watched() -> None:
    begin = perf_counter_ns()
    watching = Watch(os.getpid())
    for _ in range(2):
        watching.sample()
        until = perf_counter_ns() + 50_000_000
        while perf_counter_ns() < until:
            pass
    watching.sample()
    found = watching.record()
    assert json.loads(json.dumps(found)) == found
    assert begin < found["samples"][0]["t_ns"] < found["samples"][-1]["t_ns"] < perf_counter_ns()
    assert found["samples"][-1]["load"] >= 0
    assert found["switches"] >= 0
    assert found["others_share"] >= 0
    assert set(found["energy"]) == {"joules", "source", "why"}
