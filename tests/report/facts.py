"""Facts with every part that a report may have, added to those of a real build."""

from __future__ import annotations

import base64
import copy
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from edgekd.report import traces

SECOND = 10**9


def whole(built: Mapping[str, Any]) -> dict[str, Any]:
    """As if all there is had been measured; what the build has measured itself is replaced."""
    facts: dict[str, Any] = copy.deepcopy(dict(built))
    rng = np.random.default_rng(0)
    facts["budget"] = {
        "fps": 60.0, "deadline_ms": None, "miss_rate": 0.01, "confidence": 0.99, "max_drop": 2.0,
        "max_memory_mb": 500.0, "max_size_mb": None,
    }  # fmt: skip
    facts["verdict"] = {
        "status": "pass",
        "headline": "60 FPS (16.67 ms): PASS; p99.9 9.8 ms [9.5, 10.4]; misses 0/36,000,"
        " <= 0.013 % at 99 % confidence",
        "criteria": [
            {"name": "deadline", "status": "pass", "reason": "it missed 0 of 36,000 frames"},
            {"name": "accuracy", "status": "insufficient", "reason": "too few test images"},
            {"name": "memory", "status": "fail", "reason": "peak memory is 612 MB"},
        ],
        "reasons": ["it missed 0 of 36,000 frames", "too few test images", "peak is 612 MB"],
    }
    for place, line in enumerate(each for each in facts["engines"] if each["latency_ns"]):
        line |= _timed(line["latency_ns"]["p50"], place, rng)
    facts["engines"][-1]["built"] = False
    facts["bench"]["load"] = {"samples": 700, "seconds": 1.0, "blocks": 7}
    facts["watch"] = watch(rng)
    facts["camera"] = camera(facts["preferred"], rng)
    facts["profiles"] = {facts["preferred"]: profile(), "teacher/onnxruntime-cpu/fp32": profile()}
    classes = facts["data"]["classes"]
    facts["confusion"] = {
        "engine": facts["preferred"],
        "classes": classes,
        "counts": (np.eye(len(classes), dtype=int) * 40 + rng.integers(0, 3, (10, 10))).tolist(),
        "pairs": [{"label": "9", "named": "4", "count": 3, "of": 44}],
    }
    facts["disagreements"] = [
        disagreement("student/onnxruntime-cpu/int8", "student/torch/fp32", rng),
        disagreement("student/torch/fp32", "teacher/torch/fp32", rng),
    ]
    facts["calibration"] = {
        "method": "percentile 99.99", "samples": 128, "tensors": 61, "source": "digits",
        "draw": "stratified", "seed": 0, "licence": "CC BY 4.0",
        "per_class": {str(each): 12 + each % 2 for each in range(10)}, "classes": 10,
        "clipped": [
            {"name": "/body/block.0/relu", "share": 0.00042, "range": [0.0, 5.91],
             "extremes": [0.0, 12.3]},
        ],
        "moved": [
            {"name": "/head/" + "pool/" * 12 + "mean", "share": 0.081, "range": [-1.25, 3.5],
             "extremes": None},
        ],
        "moving": 1, "still": 0.05, "tried": ["minmax", "percentile 99.99"],
    }  # fmt: skip
    facts["quantisation"]["sensitivity"] = {
        form: sensitivity() for form in facts["quantisation"]["forms"]
    }
    return facts


def measured(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What ``edgekd bench`` gives of them: no models, no accuracy of its own, no images."""
    kept = (
        "verdict", "preferred", "budget", "engines", "bench", "host", "camera", "watch", "profiles",
    )  # fmt: skip
    found = {name: copy.deepcopy(facts[name]) for name in kept}
    for line in found["engines"]:
        line |= dict.fromkeys(("top1", "agreement", "to_teacher", "to_student"))
    comparisons = [
        {"engine": "a", "against": "b", "p50": [0.81, 0.79, 0.84], "p99": None},
    ]
    more = {"name": "digits.edgekd", "advice": ["ship int8"], "comparisons": comparisons}
    return {**found, **more, "command": "edgekd bench digits.edgekd"}


def _timed(p50: int, place: int, rng: np.random.Generator) -> dict[str, Any]:
    moments = np.linspace(0.2, 40, 60)
    took = p50 * rng.uniform(0.97, 1.05, len(moments))
    return {
        "early_ns": {"p90": int(1.2 * p50), "p99": int(1.4 * p50), "p99_9": None},
        "misses": misses(place % 2),
        "start": {
            "import_ns": 210_000_000, "open_ns": 31_000_000, "first_ns": 4_000_000,
            "second_ns": int(1.3 * p50), "peak_memory_bytes": 81_000_000,
        },
        "split_ns": {},
        "loadgen": {"latency_ns": {"p50": int(1.01 * p50), "p99": int(1.5 * p50)}, "valid": True},
        "warnings": ["the latencies of neighbouring calls depend on each other"] * (place == 1),
        "partial": "stopped by Ctrl-C" if place == 2 else "",
        "series": [
            [int(when * SECOND), int(each), int(each * rng.uniform(1.02, 3)), 0]
            for when, each in zip(moments, took, strict=True)
        ],
    }  # fmt: skip


def misses(missed: int = 0) -> dict[str, Any]:
    return {
        "deadline_ns": 16_666_667, "frames": 36_000, "missed": missed, "dropped": 0,
        "longest_burst": missed, "rate_low": 0.0, "rate_high": 0.00013, "confidence": 0.99,
    }  # fmt: skip


def watch(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "samples": [
            {"t_ns": each * SECOND // 2, "mhz": float(rng.uniform(2400, 2500)),
             "celsius": None, "load": 1 + each / 90, "steal": 0.001 * (each % 7),
             "others": 0.02 + each / 400, "gpus": []}
            for each in range(80)
        ],
        "disturbances": [
            {"t_ns": 12 * SECOND, "until_ns": 14 * SECOND, "what": "another process had 62 %"},
            {"t_ns": 30 * SECOND, "until_ns": 30 * SECOND, "what": "the clock fell to 1,200 MHz"},
        ],
        "steal_share": 0.002, "others_share": 0.031,
        "energy": {"joules": None, "source": "", "why": "no RAPL, NVML or rails here"},
    }  # fmt: skip


def camera(engine: str, rng: np.random.Generator) -> dict[str, Any]:
    """A second of stalls in twenty of a camera at 60 frames a second."""
    n, period = 1200, SECOND // 60
    services = rng.lognormal(np.log(6e6), 0.12, n).astype(np.int64)
    services[500:506] = 60_000_000
    trace = np.full((n, 3), -1, np.int64)
    trace[:, 0] = np.arange(n) * period
    free = 0
    for place in range(n):
        trace[place, 1] = max(free, trace[place, 0])
        trace[place, 2] = free = trace[place, 1] + services[place]
    series = [
        [int(part[0, 0]), int(np.median(part[:, 2] - part[:, 0])),
         int((part[:, 2] - part[:, 0]).max()), int((part[:, 2] - part[:, 0] > period).sum())]
        for part in np.array_split(trace, 100)
    ]  # fmt: skip
    return {
        "engine": engine,
        "load": {"scenario": "camera", "period_ns": period, "policy": "queue", "background": 2},
        "samples": n,
        "latency_ns": {"p50": 6_010_000, "p90": 7_100_000, "p99": 80_000_000,
                       "p99_9": 262_000_000, "max": 268_000_000},
        "interval_ns": {"p50": [5_900_000, 6_100_000], "p90": None, "p99": None, "p99_9": None},
        "untold": ["p99_9"],
        "misses": {**misses(34), "longest_burst": 34, "frames": n},
        "lateness_ns": {"p50": 300, "p99": 7_000, "max": 41_000},
        "starts_ns": {"warm": 5_900_000, "idle": 6_400_000, "pause": 9_800_000},
        "series": series,
        "curve": traces.curve(trace),
        "miss_rate_by_fps": traces.miss_rate_by_fps(trace, "queue", None, 60.0),
        "warnings": ["the generator was late by more than 1 % of the period"],
        "partial": "",
        "watch": watch(rng),
    }  # fmt: skip


def profile() -> dict[str, Any]:
    """Fifteen layers: a float island, copies, and what has no work to tell."""
    layers = [
        {"name": f"/body/block.{each}/conv/{'long' * 8}", "kind": "FusedConv",
         "precision": "int8" if each != 4 else "fp32", "role": "compute",
         "ns": 90_000 - 5_000 * each, "macs": 2_000_000 * (each + 1), "bytes": 90_000 + 1000 * each,
         "nodes": [f"/conv{each}"], "place": each}
        for each in range(10)
    ]  # fmt: skip
    layers += [
        {"name": f"reorder_{each}", "kind": "Reorder", "precision": "unknown", "role": role,
         "ns": 61_000 - each, "macs": None, "bytes": None, "nodes": [], "place": 10 + each}
        for each, role in enumerate(("reformat", "convert", "other", "other", "other"))
    ]  # fmt: skip
    return {
        "total_ns": 1_000_000, "count": 15, "layers": layers, "islands": [layers[4]["name"]],
        "by_precision": {"int8": 600_000, "fp32": 70_000, "unknown": 300_000},
        "by_role": {"compute": 670_000, "reformat": 61_000, "convert": 60_999, "other": 182_991},
        "roof": {"macs_per_s": {"fp32": 4e10, "int8": 1.5e11}, "bytes_per_s": 1.1e10,
                 "threads": 1},
    }  # fmt: skip


def disagreement(a: str, b: str, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "between": [a, b], "count": 7, "n": 449,
        "images": [
            {"id": each, "label": "9", "a": {"class": "4", "share": 0.61},
             "b": {"class": "9", "share": 0.58}, "png": png(rng)}
            for each in range(12)
        ],
    }  # fmt: skip


def png(rng: np.random.Generator, side: int = 8) -> str:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (side, side), np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def sensitivity() -> dict[str, Any]:
    """As if layers had been looked into: two of them."""
    layers = [
        {"name": f"{'long' * 9}/conv{n}", "op": "Conv", "macs": n, "macs_share": n / 3,
         "lost": lost, "sqnr": sqnr}
        for n, lost, sqnr in ((1, 7.25, 4.5), (2, None, 41.5))
    ]  # fmt: skip
    times = {"onnxruntime-cpu": {"p50": 1_230_000, "p99": 2_340_000}}
    mixes = [
        {"kept": kept, "lost": lost, "sqnr": sqnr, "latency_ns": times, "chosen": bool(kept)}
        for kept, lost, sqnr in (([], 7.5, 4.25), ([layers[0]["name"]], 0.125, 37.75))
    ]
    return {
        "layers": layers, "layer_samples": 512, "mixes": mixes, "mix_samples": 3000,
        "fp32_ns": times,
    }  # fmt: skip
