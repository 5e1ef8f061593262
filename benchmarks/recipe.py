"""Claim: what a recipe reaches. Builds it, builds it again, and writes down the report.

    python benchmarks/recipe.py RECIPE

Stages that the store holds already are not run again; the result says how many were.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record


def build(recipe: str, out: str) -> tuple[float, int, int, Any]:
    """Seconds, stages, how many came from the store, and ``report.json``."""
    begin = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "edgekd", "build", recipe, "--out", out, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begin
    if result.returncode not in {0, 1}:
        sys.exit(result.stderr)
    stages = [line for line in result.stderr.splitlines() if line.startswith("✓ ")]
    reused = sum(line.endswith("from the store") for line in stages)
    report = json.loads((Path(json.loads(result.stdout)["bundle"]) / "report.json").read_text())
    return seconds, len(stages), reused, report


def accuracy(report: Any) -> str:
    """The waterfall."""

    def points(delta: list[float] | None) -> str:
        return "" if delta is None else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*delta)

    rows = [
        (
            each["stage"],
            f"{each['top1']:.2f}",
            "{:.2f} – {:.2f}".format(*each["ci"]),
            points(each["to_student"]),
            "" if each["agreement"] is None else f"{each['agreement']:.2f}",
        )
        for each in report["waterfall"]
    ]
    return record.table(
        ("stage", "test top-1, %", "95 % interval", "to the fp32 student", "agreement, %"), rows
    )


def latency(report: Any) -> str:
    """Every engine, measured or not."""

    def ms(each: Any, name: str) -> str:
        return f"{each['latency_ns'][name] / 1e6:.3g}" if each["latency_ns"] else "not executed"

    rows = [
        (
            f"**{each['name']}**" if each["name"] == report["preferred"] else each["name"],
            ms(each, "p50"),
            ms(each, "p99"),
            f"{each['speedup_vs_teacher']:.2f}" if each["speedup_vs_teacher"] else "",
            f"{each['bytes'] / 1e3:,.1f}",
        )
        for each in report["engines"]
        if each["role"] != "control"
    ]
    return record.table(
        ("engine", "p50, ms", "p99, ms", "× teacher, same runtime", "size, kB"), rows
    )


def main() -> None:
    """Builds twice and writes ``results/NAME.md``."""
    recipe = sys.argv[1]
    with tempfile.TemporaryDirectory() as out:
        first, stages, reused, report = build(recipe, out)
        again, all_stages, all_reused, _ = build(recipe, out)
    teacher, student = (report["models"][role] for role in ("teacher", "student"))
    sizes = (
        f"The teacher {teacher['model']} has {teacher['params']:,} parameters and"
        f" {teacher['macs']:,} MACs; the student {student['model']} {student['params']:,} and"
        f" {student['macs']:,}, 1/{teacher['macs'] / student['macs']:.0f} of them."
    )
    runs = (
        f"This run: {first:.0f} s, {reused} of {stages} stages from the store. The same command"
        f" again: {again:.1f} s, {all_reused} of {all_stages} from the store."
    )
    caveat = (
        "One seed. Latency is one run's, batch 1, one thread; throughput, percentiles and the"
        " host's load are in the report."
    )
    body = [
        f"Verdict **{report['verdict']['status']}**: {'; '.join(report['verdict']['reasons'])}.",
        "",
        sizes,
        "",
        accuracy(report),
        "",
        latency(report),
        "",
        *[f"- {note}" for note in report["notes"]],
        "",
        runs,
        "",
        caveat,
    ]
    packages = ["torch", "onnx", "onnxruntime", "openvino", "tensorrt-rtx-cu12"]
    record.write(Path(recipe).stem, f"What {recipe} reaches", packages, "\n".join(body))


if __name__ == "__main__":
    main()
