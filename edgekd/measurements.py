"""What measuring leaves behind: times of engines, of their layers, and of what else went on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.artifacts import Artifact


@dataclass(frozen=True)
class ColdStart:
    """A fresh process, from its first line to its second answer, in nanoseconds.

    Attributes:
        import_ns: until the runtime is imported.
        open_ns: from there until the engine is open.
        first_ns: the first call.
        second_ns: the second.
        peak_memory_bytes: the most resident memory it had; None where the system does not tell.
    """

    import_ns: int
    open_ns: int
    first_ns: int
    second_ns: int
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class Misses:
    """Frames held against a deadline, as ``verdict.misses`` counts them.

    Attributes:
        deadline_ns: after the frame was due.
        frames: that were due.
        missed: answered late, dropped or skipped.
        dropped: of those, never answered.
        longest_burst: the most of them in a row.
        rate_low: the miss rate is higher than this, one-sided, with ``confidence``.
        rate_high: the miss rate is lower than this, one-sided, with ``confidence``.
    """

    deadline_ns: int
    frames: int
    missed: int
    dropped: int
    longest_burst: int
    rate_low: float
    rate_high: float
    confidence: float


@dataclass(frozen=True)
class Measurement:
    """One engine's timings in one scenario.

    Attributes:
        batch: images in each timed call.
        samples: calls that were answered.
        latency_ns: p50, p90, p99, p99_9 and max: of the service in a closed loop, of the response
            (completion less scheduled arrival) in an open one.
        interval_ns: the 95 % interval of each percentile; None where samples are too few.
        early_ns: MLPerf's early-stopping estimate of p90, p99 and p99_9: they are below it with
            99 % confidence; None where samples are too few.
        untold: the percentiles for which there are too few samples to tell them at 99 %.
        trace: .npy of int64 (frames, 3), nothing trimmed: when each frame was due, begun and
            answered, in nanoseconds from the run's beginning; -1 for what never happened.
        blocks: the frames at which this engine's turns began, where engines took turns.
        throughput_per_s: images a second by batch size.
        lateness_ns: p50, p99 and max by which the load generator itself released frames late;
            empty in a closed loop.
        starts_ns: p50 of the service by what came before: ``warm`` (another frame), ``idle``
            (waiting for the next), ``pause`` (half a second of nothing).
        split_ns: p50 and p99 of ``h2d``, ``gpu`` and ``d2h``; empty without a GPU.
        loadgen: what MLPerf LoadGen measured of the same session; empty where nobody asked.
        warnings: why the figures may be less than they seem, as sentences.
        partial: why the run ended before its time; empty where it did not.
        hint: what to do about that.
    """

    engine: str
    batch: int
    samples: int
    latency_ns: Mapping[str, int]
    interval_ns: Mapping[str, tuple[int, int] | None]
    early_ns: Mapping[str, int | None]
    untold: tuple[str, ...]
    trace: Path
    blocks: tuple[int, ...]
    throughput_per_s: Mapping[str, float]
    start: ColdStart | None = None
    lateness_ns: Mapping[str, int] = field(default_factory=dict)
    starts_ns: Mapping[str, int] = field(default_factory=dict)
    split_ns: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    loadgen: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    partial: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Measurements(Artifact):
    """Engines timed side by side in one run, on one host.

    Attributes:
        scenario: ``single-stream``, ``multi-stream``, ``offline``, ``server`` or ``camera``.
        load: what the scenario was asked for: period, policy, rate and so on.
        threads: of a CPU, for one inference.
        clock: that times are of.
        host: what is known of the machine, ``bench.host.facts``.
        watch: what else went on there meanwhile, ``bench.watch.Watch.record``.
    """

    scenario: str
    load: Mapping[str, Any]
    threads: int
    clock: str
    host: Mapping[str, Any]
    watch: Mapping[str, Any]
    items: tuple[Measurement, ...]


@dataclass(frozen=True)
class LayerTime:
    """One layer as a runtime ran it.

    Attributes:
        name: the runtime's own.
        kind: the runtime's own word for what ran, such as ``FusedConv`` or ``jit_avx512_I8``.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``, ``fp8`` or ``unknown``.
        role: ``compute`` (convolutions and products), ``convert`` (Q and DQ), ``reformat``
            (copies to another layout or type) or ``other``.
        ns: of one inference, the median over those profiled.
        macs: multiply-accumulates of one inference; None where they are not known.
        bytes: of its inputs, weights and outputs; None where they are not known.
        nodes: the ONNX nodes that it was made from, where the runtime names them.
    """

    name: str
    kind: str
    precision: str
    role: str
    ns: int
    macs: int | None = None
    bytes: int | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Roof:
    """What this machine reached at best, with as many threads as the engine has.

    Attributes:
        macs_per_s: by precision, of large matrix products.
        bytes_per_s: of memory, read and written.
        threads: that it was measured with.
    """

    macs_per_s: Mapping[str, float]
    bytes_per_s: float
    threads: int


@dataclass(frozen=True, kw_only=True)
class Profile(Artifact):
    """Where an engine's time goes.

    Attributes:
        layers: in the order in which they ran.
        total_ns: the median of whole inferences while profiled, which profiling slows.
        islands: compute layers in float between those in a lower precision, by name.
    """

    engine: str
    layers: tuple[LayerTime, ...]
    total_ns: int
    islands: tuple[str, ...]
    roof: Roof | None
