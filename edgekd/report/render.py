"""From ``report.json`` to one page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.artifacts import Report
from edgekd.errors import BackendUnavailable
from edgekd.progress import Progress, silent
from edgekd.report import figures, shape
from edgekd.report.charts import accuracy, latency, layers, style
from edgekd.report.charts.style import Chart
from edgekd.report.summary import Findings, summarise
from edgekd.report.tables import engines as measured_tables
from edgekd.report.tables import networks
from edgekd.report.tables.base import Table

if TYPE_CHECKING:
    import jinja2

_PROFILES, _DRAWN = 8, 2
"""So many engines' layers are told, and drawn."""
_EMBEDDED = 300_000
"""Characters that the facts may have within a page of less than a megabyte."""
_HEAVY = ("series", "curve", "nodes", "watch", "profiles", "confusion", "calibration", "classes")
"""What is left out of a page's facts until they fit, the first first."""


def report(found: Findings, out_dir: Path, progress: Progress = silent) -> Report:
    """The stage ``report``."""
    facts = summarise(found)
    html, record = out_dir / "report.html", out_dir / "report.json"
    record.write_text(json.dumps(facts, indent=1, allow_nan=False))
    progress(0, 1, "drawing")
    html.write_text(render(facts), encoding="utf-8")
    progress(1, 1, "")
    return Report(
        html=html, json=record, status=facts["verdict"]["status"], preferred=facts["preferred"]
    )


def render(facts: Mapping[str, Any]) -> str:
    """The page for a ``report.json``, or for what ``edgekd bench`` found.

    The same facts give the same bytes.

    Raises:
        BackendUnavailable: the packages that draw it are not installed.
    """
    page = environment().get_template("report.html.j2")
    found = shape.complete(facts)
    found["profiles"] = dict(list(found["profiles"].items())[:_PROFILES])
    timed = [each for each in found["engines"] if each["latency_ns"]]
    raw, left_out = embedded(facts)
    return page.render(
        r=found,
        best=next((each for each in found["engines"] if each["name"] == found["preferred"]), None),
        about=_about(found),
        headline=shape.headline(found["verdict"]),
        less_work=_less_work(found["models"]),
        charts=_charts(found, timed),
        tables=_tables(found, timed),
        contents=list(_contents(found, timed)),
        ended=list(_ended(found)),
        warnings=list(_warnings(found)),
        watched=latency.watched(found["watch"], [each["series"] for each in timed]),
        camera_watched=bool(found["camera"])
        and latency.watched(found["camera"]["watch"], [found["camera"]["series"]]),
        starred=any(each["untold"] for each in timed),
        latency_caption=_how(found),
        host=list(_known(found["host"])),
        load=[each for each in _known(found["bench"]["load"]) if each[0] != "scenario"],
        raw=raw,
        left_out=left_out,
    )


def environment() -> jinja2.Environment:
    """What templates are filled in by.

    Raises:
        BackendUnavailable: the packages that draw are not installed.
    """
    try:
        import jinja2
        import matplotlib  # noqa: F401, ICN001
    except ImportError as error:
        raise BackendUnavailable("the report", "report", f"{error.name} is missing") from error

    found = jinja2.Environment(
        loader=jinja2.PackageLoader("edgekd.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.globals["palette"] = style.PALETTE
    found.filters.update(
        ms=figures.milliseconds,
        count=figures.count,
        size=figures.size,
        ratio=figures.ratio,
        percent=figures.percent,
        plain=figures.plain,
        accuracy=figures.accuracy,
        whole=figures.whole,
        sides=_sides,
        capitalize_first=lambda text: text[:1].upper() + text[1:],
    )
    return found


def embedded(facts: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The facts as JSON that may stand in a page, and what was left out for want of room.

    Images are not in it a second time.
    """
    kept: Any = _without(facts, "png")
    left_out: list[str] = []
    heavy = iter(_HEAVY)
    while len(raw := json.dumps(kept, sort_keys=True, allow_nan=False)) > _EMBEDDED:
        name = next(heavy, None)
        if name is None:
            return "null", ["everything"]
        kept = _without(kept, name)
        left_out.append(name)
    return raw.replace("<", "\\u003c"), left_out


def _without(value: Any, name: str) -> Any:
    """JSON in which every value by this name is null."""
    if isinstance(value, Mapping):
        return {key: None if key == name else _without(each, name) for key, each in value.items()}
    return [_without(each, name) for each in value] if isinstance(value, list) else value


def _charts(facts: Mapping[str, Any], timed: list[Any]) -> dict[str, Any]:
    deadline, camera, watch = shape.deadline_ns(facts), facts["camera"], facts["watch"]
    # A bench of a camera has its frames as the engine's own curve already.
    other = None if facts["bench"]["scenario"] == "camera" else camera
    judged = [each for each in timed if each["top1"] is not None]
    found: dict[str, Chart | None] = {
        "waterfall": accuracy.waterfall(facts["waterfall"]) if facts["waterfall"] else None,
        "pareto": accuracy.pareto(judged) if judged else None,
        "latency": latency.percentiles(timed, deadline) if timed else None,
        "tail": latency.tail(timed, other, deadline)
        if any(each["curve"] for each in timed) or (other and other["curve"])
        else None,
        "over_time": latency.over_time(timed, watch, deadline)
        if any(each["series"] for each in timed)
        else None,
        "machine": latency.machine(watch) if latency.has_strips(watch) else None,
        "miss_rate": latency.miss_rate(camera, facts["budget"])
        if camera and camera["miss_rate_by_fps"]
        else None,
        "camera_over_time": latency.camera_over_time(camera, deadline)
        if camera and any(point[1] for point in camera["series"])
        else None,
    }
    sensitivity = (facts["quantisation"] or {"sensitivity": {}})["sensitivity"]
    return {
        **found,
        "sensitivity": {
            form: accuracy.sensitivity(form, each["layers"]) if each["layers"] else None
            for form, each in sensitivity.items()
        },
        "profiles": {
            name: list(_profile(name, each)) if place < _DRAWN else []
            for place, (name, each) in enumerate(facts["profiles"].items())
        },
    }


def _profile(name: str, profile: Mapping[str, Any]) -> Iterator[Chart]:
    if profile["layers"]:
        yield layers.times(name, profile)
        if profile["roof"] and profile["roof"]["macs_per_s"] and layers.placed(profile):
            yield layers.roofline(name, profile)


def _tables(facts: Mapping[str, Any], timed: list[Any]) -> dict[str, Any]:
    quantisation = facts["quantisation"]
    found: dict[str, Table | None] = {
        "engines": measured_tables.engines(facts),
        "builds": measured_tables.builds(facts),
        "percentiles": measured_tables.percentiles(facts, timed),
        "costs": measured_tables.costs(facts, timed),
        "camera": measured_tables.camera(facts) if facts["camera"] else None,
        "comparisons": measured_tables.comparisons(facts),
        "models": networks.models(facts),
        "waterfall": networks.waterfall(facts),
        "pairs": networks.pairs(facts["confusion"]) if facts["confusion"] else None,
        "tried": networks.tried(quantisation) if quantisation and quantisation["tried"] else None,
        **{
            what: networks.tensors(facts["calibration"], what) if facts["calibration"] else None
            for what in ("clipped", "moved")
        },
    }
    sensitivity = (quantisation or {"sensitivity": {}})["sensitivity"]
    return {
        **found,
        "mixes": {form: networks.mixes(form, each) for form, each in sensitivity.items()},
        "layers": {name: networks.layers(name, each) for name, each in facts["profiles"].items()},
    }


def _contents(facts: Mapping[str, Any], timed: list[Any]) -> Iterator[tuple[str, str]]:
    """The sections that have something in them: each a template in ``parts``, and its heading."""
    yield "engines", "Engines"
    if facts["camera"]:
        yield "camera", "Behind a camera"
    if facts["waterfall"]:
        yield "accuracy", "Accuracy"
    if timed:
        yield "latency", "Latency"
    if facts["profiles"]:
        yield "layers", "Layers"
    if facts["quantisation"] or facts["calibration"]:
        yield "quantisation", "Quantisation"
    if facts["disagreements"] or facts["confusion"]:
        yield "mistakes", "Mistakes"
    yield "provenance", "Provenance"


def _ended(facts: Mapping[str, Any]) -> Iterator[str]:
    """What ended before its time, and why."""
    for each in facts["engines"]:
        if each["partial"]:
            yield f"{each['name']} ended early: {each['partial']}"
    if facts["camera"] and facts["camera"]["partial"]:
        yield f"The camera's run ended early: {facts['camera']['partial']}"


def _warnings(facts: Mapping[str, Any]) -> Iterator[str]:
    """Why figures may be less than they seem, each once."""
    told: dict[str, list[str]] = {}
    for each in facts["engines"]:
        for warning in each["warnings"]:
            told.setdefault(warning, []).append(each["name"])
    for warning, names in told.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"{', '.join(names[:3])}{more}: {warning}"
    if facts["camera"]:
        yield from (f"camera: {each}" for each in facts["camera"]["warnings"])


def _about(facts: Mapping[str, Any]) -> str:
    """Who was taught by whom on what, and where it was measured."""
    models, data, host = facts["models"], facts["data"], facts["host"]
    threads = facts["bench"]["threads"]
    parts = []
    if "student" in models:
        taught = f" taught by {models['teacher']['model']}" if "teacher" in models else ""
        parts.append(
            models["student"]["model"] + taught + (f" on {data['source']}" if data else "")
        )
    if host.get("cpu"):
        parts.append(f"measured on {host['cpu']}, {threads} thread{'s' * (threads > 1)}")
    return "; ".join(parts)


def _less_work(models: Mapping[str, Any]) -> float | None:
    """How many times the student's multiply-accumulates the teacher's are."""
    teacher, student = ((models.get(role) or {}).get("macs") for role in ("teacher", "student"))
    return teacher / student if teacher and student else None


def _sides(between: list[str]) -> list[str]:
    """What tells two engines apart in few letters: their precisions, else their roles."""
    for part in (2, 0):
        told = [name.split("/")[part] if name.count("/") == 2 else name for name in between]
        if told[0] != told[1]:
            return told
    return between


def _how(facts: Mapping[str, Any]) -> str:
    bench = facts["bench"]
    closed = bench["scenario"] not in ("camera", "server")
    return (
        f"{bench['scenario']}, {bench['threads']} thread{'s' * (bench['threads'] > 1)},"
        f" {'closed' if closed else 'open'} loop."
        + " Engines took turns in random order." * (len(facts["engines"]) > 1)
        + " Compare within this report: another run or machine has other figures."
    )


def _known(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is known of a machine or a load, in the order in which it was told."""
    for name, value in facts.items():
        if value in (None, [], {}, ""):
            continue
        shown = figures.size(value) if name.endswith("_bytes") else _plain(value)
        yield name.removesuffix("_bytes").replace("_", " "), shown


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    return " ".join(map(_plain, value)) if isinstance(value, list) else str(value)
