"""``edgekd calibration create`` and ``edgekd calibration inspect``"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from edgekd.cli import out

_SHOWN = 12
"""Tensors in the table."""


def _figures(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...]:
    """Numbers with commas between them, such as ``0.485,0.456,0.406``."""
    try:
        return tuple(float(each) for each in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter(f"'{value}' is not numbers such as 0.485,0.456,0.406") from None


@click.group()
def calibration() -> None:
    """Make a calibration set, or tell whether one is any good."""


@calibration.command()
@click.argument("source")
@click.option(
    "-o",
    "--output",
    metavar="SET.json",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the manifest goes; a file that is there is not written over.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    help="How many; 512 if not given, or all that train has.",
)
@click.option(
    "--draw",
    type=click.Choice(["stratified", "coverage", "random"]),
    default="stratified",
    show_default=True,
    help="Each class its share; as far apart as can be; or any.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--size", nargs=2, type=click.IntRange(min=1), metavar="H W", help="Resize to it.")
@click.option(
    "--mean",
    metavar="M,…",
    callback=_figures,
    help="By channel, of pixel / 255; measured if not given.",
)
@click.option("--std", metavar="M,…", callback=_figures, help="The same.")
@click.option(
    "--layout",
    type=click.Choice(["NCHW", "NHWC"]),
    default="NCHW",
    show_default=True,
    help="What the model takes.",
)
@click.option(
    "--model",
    metavar="M.onnx",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="With --draw coverage: tell samples apart by this model's outputs.",
)
@click.option(
    "--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Any data.* key of a recipe."
)
@out.json_option
def create(
    source: str,
    output: Path,
    samples: int | None,
    draw: str,
    seed: int,
    size: tuple[int, int] | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    layout: str,
    model: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> int:
    """Draw a calibration set from SOURCE and write its manifest.

    SOURCE is a data source's name, folder:PATH (a folder for each class, or images without
    labels), or npz:FILE (images and labels, or an array for each input of a model, taken as it
    is). Samples are drawn from its training part alone.
    """
    from edgekd import recipe_file
    from edgekd.calibration import manifest, sets
    from edgekd.cli.watch import watcher

    flags: dict[str, Any] = {
        "data.source": source,
        "data.size": list(size) if size else None,
        "calibration.samples": samples,
        "calibration.draw": draw,
        "calibration.seed": seed,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    chosen = recipe_file.load(None, given, assignments)
    begin = time.monotonic()
    with watcher() as watching:
        made = sets.create(
            chosen.data,
            chosen.calibration,
            output,
            at_most=samples is None,
            mean=mean,
            std=std,
            layout=layout,
            model=model,
            progress=watching.begin("calibration set"),
        )
        watching.end("calibration set", False, time.monotonic() - begin)
        if made.preprocessing and not mean:
            watching.note(
                "mean and std are measured on train: give --mean and --std where the"
                " model was trained with others"
            )
        if len(made.ids) == 1:
            watching.warn("one sample calibrates nothing: `edgekd quantize` takes two at least")
    if as_json:
        out.document({"path": str(output), **manifest.document(made)})
    else:
        click.echo(f"{output}: {len(made.ids):,} of train ({made.draw}), sha256 {made.sha256[:12]}")
    return 0


@calibration.command()
@click.argument("path", metavar="SET.json", type=click.Path(path_type=Path))
@click.option("--data", metavar="SOURCE", help="In place of the source that the set names.")
@click.option(
    "--model",
    metavar="M.onnx",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Tell of every tensor of this model; of the samples alone, if not given.",
)
@click.option(
    "--method",
    type=click.Choice(["minmax", "moving_average", "percentile", "entropy", "mse"]),
    default="percentile",
    show_default=True,
    help="How ranges are found.",
)
@click.option(
    "--percentile", type=click.FloatRange(50, 100, min_open=True), default=99.99, show_default=True
)
@out.json_option
def inspect(
    path: Path,
    data: str | None,
    model: Path | None,
    method: str,
    percentile: float,
    as_json: bool,
) -> int:
    """Audit a calibration set: its classes, duplicates, overlap with test, and its size.

    The set is large enough where no tensor's range moves by more than 5 % of its width in the
    second half of the samples.
    """
    from edgekd.calibration import audit, pool, sets
    from edgekd.cli.watch import watcher

    begin = time.monotonic()
    with watcher() as watching, pool.scratch() as work:
        opened = sets.open_whole(path, data, watching.begin("samples"))
        found = audit.of_samples(opened)
        watching.end("samples", False, time.monotonic() - begin)
        ranges = None
        if model is not None or len(opened.feeds) > 1:
            begin = time.monotonic()
            collected = audit.pass_over(opened, model, work, watching.begin("ranges"))
            ranges = audit.of_ranges(collected, method, percentile)
            watching.end("ranges", False, time.monotonic() - begin)
    if as_json:
        out.document({"set": str(path), **found, "ranges": ranges})
        return 0
    if found["per_class"]:
        _classes(opened.pool, found["per_class"])
    if ranges:
        _tensors(ranges)
    for line in audit.lines(found, ranges):
        click.echo(line)
    return 0


def _classes(found: Any, counts: dict[str, int]) -> None:
    from edgekd.calibration.pool import per_class

    train = per_class(found, found.parts["train"].labels)
    out.table(
        ("class", "set", "train"),
        [(name, f"{counts.get(name, 0):,}", f"{n:,}") for name, n in train.items()],
    )
    click.echo("")


def _tensors(ranges: dict[str, Any]) -> None:
    rows = list(ranges["tensors"].items())
    out.table(
        ("tensor", "low", "high", "moved", "clipped"),
        [
            (
                name,
                f"{each['low']:.4g}",
                f"{each['high']:.4g}",
                f"{100 * each['moved']:.1f} %",
                f"{100 * each['clipped']:.3f} %",
            )
            for name, each in rows[:_SHOWN]
        ],
    )
    if len(rows) > _SHOWN:
        click.echo(f"and {len(rows) - _SHOWN} that moved less (--json tells all)")
    click.echo("")
