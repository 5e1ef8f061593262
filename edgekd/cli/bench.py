"""``edgekd bench``"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli import INTERRUPTED, out
from edgekd.cli.build import EXIT_CODES
from edgekd.cli.sizes import megabytes, positive, shape
from edgekd.cli.watch import watcher

if TYPE_CHECKING:
    from edgekd.bench.scenarios import Load
    from edgekd.recipe import BudgetSettings

_SCENARIOS = ("single-stream", "multi-stream", "offline", "server", "camera")
_POLICIES = ("queue", "drop-oldest", "skip")
_SHARE = click.FloatRange(min=0, max=1, min_open=True, max_open=True)


@click.command()
@click.argument("what", metavar="WHAT")
@click.option("--target", "targets", metavar="NAME", multiple=True, help="May be repeated.")
@click.option("--precision", "precisions", metavar="NAME", multiple=True, help="Of a bundle.")
@click.option(
    "--scenario",
    type=click.Choice(_SCENARIOS),
    default="single-stream",
    show_default=True,
    help="What engines are asked.",
)
@click.option(
    "--against", metavar="WHAT", default="", help="Time this as well, in turns; or `teacher`."
)
@click.option(
    "--fps", type=positive, metavar="PER_S", help="Of frames; a bundle's own budget if not given."
)
@click.option(
    "--deadline-ms", type=positive, metavar="MS", help="For each frame; 1/fps if not given."
)
@click.option("--miss-rate", type=_SHARE, help="Share of frames that may miss it; 0.01.")
@click.option("--confidence", type=_SHARE, help="With which that is to be shown; 0.99.")
@click.option(
    "--max-drop", type=click.FloatRange(min=0), metavar="PP", help="Points to the teacher."
)
@click.option("--max-memory", type=megabytes, metavar="SIZE", help="Of a process, such as 256MB.")
@click.option("--max-size", type=megabytes, metavar="SIZE", help="Of the engine, such as 4MB.")
@click.option(
    "--policy", type=click.Choice(_POLICIES), help="Of frames that come while another is worked on."
)
@click.option("--rate", type=positive, metavar="PER_S", help="Of requests to a server.")
@click.option("--streams", type=click.IntRange(1, 4096), default=8, show_default=True)
@click.option(
    "--background", type=click.IntRange(0, 1024), default=0, help="Busy processes beside."
)
@click.option("--frames", type=click.IntRange(min=1), help="Frames, or calls, for each engine.")
@click.option("--seconds", type=positive, metavar="S", help="No longer than this for each engine.")
@click.option(
    "--timeout", type=positive, metavar="S", help="After which a call is taken to hang; 60."
)
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option("--batch", type=click.IntRange(2, 4096), help="Of the second throughput figure; 32.")
@click.option("--inputs", type=click.Path(path_type=Path), help="Samples, as .npz or .npy.")
@click.option(
    "--shape", "shapes", type=shape, multiple=True, help="Of a sample: [INPUT=]3,224,224."
)
@click.option("--classes", type=click.IntRange(min=1), default=1000, help="Of a network of torch.")
@click.option("--loadgen", is_flag=True, help="Ask MLPerf LoadGen the same, and show both.")
@click.option("--profile", is_flag=True, help="Time the preferred engine's layers too.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Keep results there."
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="JUnit XML for CI.")
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), help="For a review.")
@out.json_option
def bench(
    what: str,
    targets: tuple[str, ...],
    precisions: tuple[str, ...],
    scenario: str,
    against: str,
    inputs: Path | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    classes: int,
    policy: str | None,
    rate: float | None,
    streams: int,
    background: int,
    frames: int | None,
    seconds: float | None,
    timeout: float | None,
    threads: int,
    batch: int | None,
    loadgen: bool,
    profile: bool,
    output: Path | None,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
    **limits: float | None,
) -> int:
    """Measure anything on this machine, and hold it against a budget.

    WHAT is a bundle, an ONNX file, an OpenVINO IR, a TensorRT plan with its side-car, or a network
    of torch (module:function, timm:NAME, or a built-in). Engines take turns.

    With a budget, as many frames are run as it needs to be told, and the exit code is 0 where the
    preferred engine meets it, 1 where it misses it, 5 where that cannot be told; 4 where an engine
    fails or hangs, 130 after Ctrl-C: what was measured until then is shown, kept and marked.
    Accuracy is that of a bundle's own report.
    """
    from edgekd import recipe_file, remeasure
    from edgekd.subjects import Wanted

    names = {"max_memory": "max_memory_mb", "max_size": "max_size_mb"}
    given = {names.get(name, name): value for name, value in limits.items() if value is not None}
    flags = {"threads": threads, "timeout": timeout, "policy": policy, "batch": batch}
    keys = {f"bench.{name}": value for name, value in flags.items() if value is not None}
    keys |= {f"budget.{name}": value for name, value in given.items()}
    settings = recipe_file.load(None, keys).bench
    budget = remeasure.own_budget(what, given)
    remeasure.check_place(output)

    def load(each: BudgetSettings) -> Load:
        return remeasure.plan(
            scenario, settings, each, frames=frames, seconds=seconds, rate=rate,
            streams=streams, background=background, loadgen=loadgen,
        )  # fmt: skip

    with watcher() as watching, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            facts, found = remeasure.bench_anything(
                what,
                against=against,
                budget=budget,
                load=load,
                profile=profile,
                wanted=Wanted(targets, precisions, inputs, dict(shapes), classes, settings, folder),
                watcher=watching,
                command=shlex.join(["edgekd", *sys.argv[1:]]),
            )
        except KeyboardInterrupt:
            click.echo("edgekd: stopped before anything was measured", err=True)
            return INTERRUPTED
        if as_json:
            out.document(facts)
        else:
            _show(facts)
        try:
            place = remeasure.keep(facts, found, output)
            click.echo(f"every sample is kept in {place}", err=True)
        finally:
            out.further(facts, junit, markdown)
    if any(each.partial == remeasure.STOPPED for each in found.items):
        click.echo("edgekd: stopped; what was measured until then is marked as partial", err=True)
        return INTERRUPTED
    remeasure.complete(found)
    return EXIT_CODES[facts["verdict"]["status"]]


def _show(facts: Mapping[str, Any]) -> None:
    out.engines(facts["engines"], facts["preferred"])
    click.echo("")
    for each in facts["comparisons"]:
        click.echo(f"  {each['engine']} against {each['against']}: {_ratios(each)}")
    for row in facts["engines"]:
        if row["loadgen"]:
            click.echo(f"  {row['name']}: {_loadgen(row)}")
        for told in (*row["warnings"], *([row["partial"]] if row["partial"] else [])):
            click.echo(f"  ! {row['name']}: {told}")
    for name, each in facts["profiles"].items():
        total = sum(layer["ns"] for layer in each["layers"])
        click.echo(f"  {name}, layer by layer:")
        for layer in sorted(each["layers"], key=lambda layer: -layer["ns"])[:_TOLD]:
            share = 100 * layer["ns"] / total
            click.echo(
                f"    {share:5.1f} %  {layer['ns'] / 1e6:.3g} ms  {layer['name']}"
                f" ({layer['kind']}, {layer['precision']})"
            )
    for told in facts["watch"]["disturbances"][:_TOLD]:
        click.echo(f"  ! the machine was disturbed: {told['what']}")
    for told in (*facts["advice"], *facts["verdict"]["reasons"]):
        click.echo(f"  {told}")
    click.echo(facts["verdict"]["headline"])


_TOLD = 5


def _ratios(each: Mapping[str, Any]) -> str:
    told = [
        f"{name} ×{found[0]:.3g} [{found[1]:.3g}, {found[2]:.3g}]"
        for name in ("p50", "p99")
        if (found := each[name]) is not None
    ]
    return ", ".join(told) or "too few turns to tell"


def _loadgen(row: Mapping[str, Any]) -> str:
    """LoadGen's percentiles beside ours."""
    theirs = row["loadgen"]
    pairs = [
        f"{name.replace('_', '.')} {theirs['latency_ns'][name] / 1e6:.3g}"
        f" (ours {row['latency_ns'][name] / 1e6:.3g})"
        for name in ("p50", "p90", "p99")
    ]
    rate = theirs["samples_per_s"]
    text = f"{rate:,.0f} images/s" if rate else f"{', '.join(pairs)} ms"
    valid = "VALID" if theirs["valid"] else f"INVALID ({theirs['reason']})"
    return f"MLPerf LoadGen, {theirs['queries']:,} queries, {valid}: {text}"
