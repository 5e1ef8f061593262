"""What else goes on on a machine while something is timed there, and when it disturbed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from edgekd.bench import nvml, readings
from edgekd.bench.energy import Meter
from edgekd.bench.readings import TICKS_PER_S, CpuTimes, ProcessTimes

STEAL = 0.01
"""Of the CPU time that was wanted, taken by a hypervisor."""
OTHERS = 0.10
"""Cores that other processes kept busy."""
CLOCK = 0.90
"""Of the run's highest clock."""
ASLEEP_S = 0.1
_FEWEST_TICKS = 2  # less is the counters' own coarseness
_MERGED_NS = 2_000_000_000
_MOST = 600
_WORST = {"mhz": min, "celsius": max, "load": max, "steal": max, "others": max}
_SUMS = ("stolen_s", "wanted_s", "switches", "faults", "throttles", "asleep_s")
"""Of samples that are thinned out the worst or the sum is kept; of all else the last."""

Row = dict[str, Any]


@dataclass(frozen=True)
class _Counters:
    """What only ever grows; differences are told."""

    t_ns: int
    cpu: CpuTimes | None
    process: ProcessTimes | None
    throttles: int
    suspended_ns: int | None


class Watch:
    """Looks at the machine, and at the process that measures, whenever it is told to.

    Args:
        pid: of the measuring process.
        root: of /proc and /sys.
    """

    def __init__(self, pid: int, root: Path = Path("/")) -> None:
        self._pid, self._root = pid, root
        self._thermometers = readings.thermometers(root)
        self._throttles = readings.throttle_counters(root)
        self._gpus, _ = nvml.gpus()
        self._meter = Meter(root)
        self._before: _Counters | None = None
        self._rows: list[Row] = []

    def sample(self) -> None:
        """One look. Takes a millisecond or two; what cannot be read is None."""
        now = _Counters(
            perf_counter_ns(),
            readings.cpu_times(self._root),
            readings.process_times(self._root, self._pid),
            sum(readings.numbers(self._throttles)),
            readings.suspended_ns(),
        )
        heat = readings.numbers(self._thermometers)
        cpus = now.process.cpus if now.process else frozenset()
        self._rows.append(
            {
                "t_ns": now.t_ns,
                "mhz": readings.clock_mhz(self._root, cpus),
                "celsius": max(heat) / 1000 if heat else None,
                "load": readings.load_average(self._root),
                **_between(self._before, now),
                "joules": self._meter.sample(now.t_ns),
                "gpus": [each.state() for each in self._gpus],
            }
        )
        self._before = now

    def record(self) -> dict[str, Any]:
        """All looks together, as JSON; times are those of ``time.perf_counter_ns``.

        Returns:
            ``samples`` (at most 600, each with the worst of those that it stands for),
            ``steal_share`` of the CPU time that was wanted, ``others_share`` of one core,
            ``switches`` and ``faults`` of the measuring process, ``disturbances`` with their
            times and a sentence, and ``energy``.
        """
        rows = self._rows
        wanted = _total(rows, "wanted_s")
        seconds = [
            (after["t_ns"] - before["t_ns"]) / 1e9
            for before, after in pairwise(rows)
            if after["others"] is not None
        ]
        others = [row["others"] for row in rows if row["others"] is not None]
        busy = sum(each * length for each, length in zip(others, seconds, strict=True))
        return {
            "samples": _thinned(rows),
            "steal_share": _total(rows, "stolen_s") / wanted if wanted else None,
            "others_share": busy / sum(seconds) if seconds else None,
            "switches": _total(rows, "switches"),
            "faults": _total(rows, "faults"),
            "disturbances": disturbances(rows),
            "energy": self._meter.record(),
        }


def disturbances(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Where samples crossed a threshold: from when, until when, and what, in order.

    Crossings of the same that lie less than two seconds apart are one; its sentence tells the
    worst.
    """
    best = max((row["mhz"] for row in rows if row["mhz"]), default=0.0)
    found: dict[str, list[list[float]]] = {}
    for before, after in pairwise(rows):
        for what, size in _crossings(after, best):
            spells = found.setdefault(what, [])
            if spells and before["t_ns"] - spells[-1][1] <= _MERGED_NS:
                spells[-1][1:] = [after["t_ns"], max(spells[-1][2], size)]
            else:
                spells.append([before["t_ns"], after["t_ns"], size])
    told = [
        {"t_ns": begin, "until_ns": end, "what": what.format(size=size, best=best)}
        for what, spells in found.items()
        for begin, end, size in spells
    ]
    return sorted(told, key=lambda each: each["t_ns"])


def _crossings(row: Row, best: float) -> Iterator[tuple[str, float]]:
    """The thresholds that were crossed since the sample before: a sentence, and by how much."""
    few = _FEWEST_TICKS / TICKS_PER_S
    if (row["steal"] or 0) > STEAL and row["stolen_s"] >= few:
        yield "a hypervisor kept back {size:.0%} of the CPU time that was wanted", row["steal"]
    if (row["others"] or 0) > OTHERS:
        yield "other processes kept {size:.1f} cores busy", row["others"]
    if row["mhz"] is not None and row["mhz"] < CLOCK * best:
        yield "the clock was {size:.0%} below its best of {best:.0f} MHz", 1 - row["mhz"] / best
    if row["throttles"]:
        yield "the CPU was throttled", row["throttles"]
    if (row["asleep_s"] or 0) > ASLEEP_S:
        yield "the machine slept for {size:.1f} s", row["asleep_s"]
    for index, gpu in enumerate(row["gpus"]):
        for reason in gpu["held_back"]:
            yield f"GPU {index} was held back by {reason}", 1


def _between(before: _Counters | None, now: _Counters) -> Row:
    """What happened since the sample before; None where either does not tell."""
    row: Row = dict.fromkeys(
        ("steal", "stolen_s", "wanted_s", "others", "switches", "faults", "throttles", "asleep_s")
    )
    if before is None:
        return row
    row["throttles"] = now.throttles - before.throttles
    if before.cpu and now.cpu:
        stolen, busy = now.cpu.steal - before.cpu.steal, now.cpu.busy - before.cpu.busy
        row["stolen_s"], row["wanted_s"] = stolen / TICKS_PER_S, (stolen + busy) / TICKS_PER_S
        row["steal"] = stolen / (stolen + busy) if stolen + busy else 0.0
        if before.process and now.process:
            own = now.process.ticks - before.process.ticks
            seconds = (now.t_ns - before.t_ns) / 1e9
            row["others"] = max(0.0, (busy - own) / TICKS_PER_S / seconds)
    if before.process and now.process:  # threads that ended have taken their switches along
        row["switches"] = max(0, now.process.switches - before.process.switches)
        row["faults"] = now.process.faults - before.process.faults
    if before.suspended_ns is not None and now.suspended_ns is not None:
        slept = (now.suspended_ns - before.suspended_ns) / 1e9
        row["asleep_s"] = max(0.0, round(slept, 3))  # two clocks are read one after the other
    return row


def _total(rows: Sequence[Row], name: str) -> Any:
    """The sum over all samples that tell it; None where none does."""
    told = [row[name] for row in rows if row[name] is not None]
    return sum(told) if told else None


def _thinned(rows: Sequence[Row]) -> list[Row]:
    """At most ``_MOST`` samples: each the last of some in a row, with the worst of them."""
    size = -(-len(rows) // _MOST) or 1
    kept = []
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        worst = {}
        for name, choose in _WORST.items():
            told = [row[name] for row in part if row[name] is not None]
            worst[name] = choose(told) if told else None
        sums = {name: _total(part, name) for name in _SUMS}
        kept.append({**part[-1], **worst, **sums})
    return kept
