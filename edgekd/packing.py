"""What goes into a bundle, under which name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekd import bundle
from edgekd.artifacts import Dataset, EngineFile, Golden, OnnxModel, QuantizedModel, Report
from edgekd.bundle import Bundle


def pack(
    path: Path,
    *,
    name: str,
    report: Report,
    dataset: Dataset,
    student: OnnxModel,
    portable: QuantizedModel | None,
    teacher: OnnxModel | None,
    engines: Sequence[EngineFile],
    sources: Mapping[str, tuple[str, Path]],
    golden: Golden,
) -> Bundle:
    """Writes the bundle. Its engines are ordered: the preferred, then by p50, then the rest.

    Args:
        sources: for engines that a device may build again, by name: the ONNX file that they were
            built from, and what the bundle is to call it.
    """
    facts = json.loads(report.json.read_text())
    files = {
        "student.onnx": student.path,
        "golden/images.npy": golden.images,
        "report.html": report.html,
        "report.json": report.json,
    }
    if portable is not None:
        files["student.int8.onnx"] = portable.path
    if teacher is not None:
        files["teacher.onnx"] = teacher.path
    files |= dict(sources.values())
    order = [row["name"] for row in sorted(facts["engines"], key=_merit(facts["preferred"]))]
    records = []
    for engine in sorted(engines, key=lambda each: order.index(each.name)):
        stem = f"engines/{engine.target}/{engine.precision}"
        names = [stem + each.suffix for each in (engine.path, *engine.parts)]
        files.update(zip(names, (engine.path, *engine.parts), strict=True))
        golden_name = f"golden/{engine.target}.{engine.precision}.npy"
        files[golden_name] = golden.outputs[engine.name]
        records.append(
            {
                "target": engine.target,
                "backend": engine.backend,
                "version": engine.backend_version,
                "precision": engine.precision,
                "device": engine.device,
                "executed": engine.executed,
                "path": names[0],
                "parts": names[1:],
                "options": dict(engine.options),
                "source": sources.get(engine.name, ("",))[0],
                "golden": golden_name,
                "tolerance": golden.tolerances[engine.name],
            }
        )
    manifest = {
        "name": name,
        "inputs": [asdict(each) for each in student.model_inputs],
        "outputs": [asdict(each) for each in student.model_outputs],
        "preprocessing": asdict(dataset.preprocessing),
        "labels": list(dataset.classes),
        "engines": records,
        "golden": {"images": "golden/images.npy"},
        "budget": facts["budget"],
        "verdict": in_short(facts["verdict"]),
        "provenance": facts["provenance"]["content"],
    }
    return bundle.write(path, manifest, files)


def in_short(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A verdict as a manifest holds it; the report has its criteria one by one."""
    return {name: verdict[name] for name in ("status", "headline", "reasons")}


def _merit(preferred: str) -> Any:
    def key(row: Mapping[str, Any]) -> tuple[bool, float]:
        latency = row["latency_ns"]["p50"] if row["latency_ns"] else float("inf")
        return row["name"] != preferred, latency

    return key
