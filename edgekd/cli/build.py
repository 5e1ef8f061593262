"""``edgekd build``"""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from edgekd.cli import out
from edgekd.cli.watch import watcher
from edgekd.progress import Watcher

EXIT_CODES = {"pass": 0, "fail": 1, "insufficient": 5}


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option(
    "--student",
    metavar="NAME",
    help="The student: a built-in, timm:NAME, torchvision:NAME or module:function.",
)
@click.option(
    "--teacher", metavar="NAME", help="The teacher: the same, or onnx:FILE or bundle:FOLDER."
)
@click.option(
    "--data", metavar="SOURCE", help="A built-in, folder:PATH, npz:PATH or module:function."
)
@click.option("--target", "targets", metavar="NAME", multiple=True, help="May be repeated.")
@click.option(
    "--distill",
    "losses",
    metavar="LOSS",
    multiple=True,
    help="A distillation loss at its standard weight, such as kl or dist; may be repeated.",
)
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
@click.option(
    "--tensorboard",
    "scalars",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write each epoch's figures there, for TensorBoard.",
)
@out.json_option
def build(
    recipe: Path | None,
    student: str | None,
    teacher: str | None,
    data: str | None,
    targets: tuple[str, ...],
    losses: tuple[str, ...],
    fps: float | None,
    max_drop: float | None,
    assignments: tuple[str, ...],
    folder: Path,
    scalars: Path | None,
    as_json: bool,
) -> int:
    """Distil, quantise, build, measure and report: RECIPE (a TOML file) to a bundle.

    Without RECIPE every key has its default. Finished stages are kept in the store, so a
    second run, or one that was stopped, goes on from there. Exit code 0: the budget is met;
    1: it is missed; 5: there were too few samples to tell.
    """
    from edgekd import pipeline, recipe_file
    from edgekd.recipe import standard_weights
    from edgekd.store import Store, default_root

    flags: dict[str, Any] = {
        "student.model": student,
        "teacher.model": teacher,
        "data.source": data,
        "engines.targets": list(targets) or None,
        "distill.weights": standard_weights(losses) or None,
        "budget.fps": fps,
        "budget.max_drop": max_drop,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    loaded = recipe_file.load(recipe, given, assignments)
    with ExitStack() as stack:
        watching = watcher()
        stack.enter_context(watching)
        told: Watcher = watching
        if scalars is not None:
            from edgekd.distill.tensorboard import TensorBoard

            told = stack.enter_context(TensorBoard(watching, scalars))
        result = pipeline.build(
            loaded,
            folder,
            store=Store(default_root(), watching.warn),
            watcher=told,
            command=shlex.join(["edgekd", *sys.argv[1:]]),
        )
    if int(os.environ.get("RANK", "0")):  # under torchrun the first process alone speaks
        return 0
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
