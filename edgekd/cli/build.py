"""``edgekd build``"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from edgekd.cli import out
from edgekd.cli.watch import watcher

EXIT_CODES = {"pass": 0, "fail": 1, "insufficient": 5}


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--student", metavar="NAME", help="The student's architecture.")
@click.option("--teacher", metavar="NAME", help="The teacher's architecture.")
@click.option("--data", metavar="SOURCE", help="The data source.")
@click.option("--target", "targets", metavar="NAME", multiple=True, help="May be repeated.")
@click.option("--fps", type=float, help="Frames a second that the engine must keep up with.")
@click.option("--max-drop", type=float, metavar="PP", help="Points it may lose to the teacher.")
@click.option(
    "--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Any key of a recipe."
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where the bundle NAME.edgekd goes; here, if not given.",
)
@out.json_option
def build(
    recipe: Path | None,
    student: str | None,
    teacher: str | None,
    data: str | None,
    targets: tuple[str, ...],
    fps: float | None,
    max_drop: float | None,
    assignments: tuple[str, ...],
    folder: Path,
    as_json: bool,
) -> int:
    """Distil, quantise, build, measure and report: RECIPE (a TOML file) to a bundle.

    Without RECIPE every key has its default. Finished stages are kept in the store, so a
    second run, or one that was stopped, goes on from there. Exit code 0: the budget is met;
    1: it is missed; 5: there were too few samples to tell.
    """
    from edgekd import pipeline
    from edgekd import recipe as recipes
    from edgekd.store import Store, default_root

    flags: dict[str, Any] = {
        "student.model": student,
        "teacher.model": teacher,
        "data.source": data,
        "engines.targets": list(targets) or None,
        "budget.fps": fps,
        "budget.max_drop": max_drop,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    loaded = recipes.load(recipe, given, assignments)
    with watcher() as watching:
        result = pipeline.build(
            loaded,
            folder,
            store=Store(default_root(), watching.warn),
            watcher=watching,
            command=shlex.join(["edgekd", *sys.argv[1:]]),
        )
    facts = json.loads(result.report.json.read_text())
    root = result.bundle.root
    if as_json:
        out.document(
            {
                "bundle": str(root),
                "report": str(root / "report.html"),
                "verdict": facts["verdict"],
                "preferred": facts["preferred"],
                "models": facts["models"],
                "engines": [
                    {key: value for key, value in each.items() if key != "curve"}
                    for each in facts["engines"]
                ],
            }
        )
    else:
        out.engines(facts["engines"], facts["preferred"])
        click.echo("")
        for reason in facts["verdict"]["reasons"]:
            click.echo(f"  {reason}")
        click.echo(
            f"{facts['verdict']['status'].upper()}  {root}  (report: {root / 'report.html'})"
        )
    return EXIT_CODES[facts["verdict"]["status"]]
