"""``edgekd bench``"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from edgekd.cli import out
from edgekd.cli.build import EXIT_CODES
from edgekd.cli.watch import watcher


@click.command()
@out.bundle_argument
@click.option("--target", "targets", metavar="NAME", multiple=True, help="May be repeated.")
@click.option("--scenario", type=click.Choice(["single-stream"]), default="single-stream")
@click.option("--fps", type=float, help="Frames a second; the bundle's own budget if not given.")
@click.option("--against", type=click.Choice(["teacher"]), help="Measure the teacher as well.")
@click.option("--samples", type=click.IntRange(min=1), help="Timed calls for each engine.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@out.json_option
def bench(
    bundle: str,
    targets: tuple[str, ...],
    scenario: str,
    fps: float | None,
    against: str | None,
    samples: int | None,
    threads: int,
    as_json: bool,
) -> int:
    """Measure a bundle's engines on this machine, one image at a time, in turn.

    Accuracy is the report's. Exit code 0: the preferred engine meets the budget, or none was
    given; 1: it does not; 5: there were too few samples to tell.
    """
    from edgekd import recipe_file
    from edgekd.remeasure import bench_bundle

    flags = {"budget.fps": fps, "bench.threads": threads, "bench.samples": samples}
    chosen = recipe_file.load(
        None, {key: value for key, value in flags.items() if value is not None}
    )
    with watcher() as watching, tempfile.TemporaryDirectory() as folder:
        facts = bench_bundle(
            Path(bundle),
            targets=targets,
            budget=chosen.budget,
            teacher=against == "teacher",
            settings=chosen.bench,
            folder=Path(folder),
            watcher=watching,
        )
    if as_json:
        out.document(facts)
    else:
        out.engines(facts["engines"], facts["preferred"])
        click.echo("")
        for told in (*facts["advice"], *facts["verdict"]["reasons"]):
            click.echo(f"  {told}")
        click.echo(facts["verdict"]["status"].upper())
    return EXIT_CODES[facts["verdict"]["status"]]
