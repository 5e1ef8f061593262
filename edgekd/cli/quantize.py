"""``edgekd quantize``"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli import out

if TYPE_CHECKING:
    from edgekd.artifacts import OnnxModel, Sensitivity
    from edgekd.calibration.feeds import Feeds
    from edgekd.quantize.bring import Brought, Method, Wishes
    from edgekd.quantize.sensitivity import Timer
    from edgekd.targets import Target

_FORMS = ("s8s8", "u8s8", "a8s8", "f8", "fp16")
_METHODS = ("auto", "minmax", "moving_average", "percentile", "entropy", "mse")
_SHOWN = 12
"""Nodes in a table."""
_TIMED_ON = 64


@click.command()
@click.argument("model", metavar="MODEL.onnx", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--calibration",
    metavar="SET",
    required=True,
    help="A set that `edgekd calibration create` made, or npz:FILE with an array for each input"
    " of the model, taken as it is.",
)
@click.option("--target", "name", metavar="NAME", required=True, help="Where it is to run.")
@click.option(
    "-o",
    "--output",
    metavar="OUT.onnx",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the model goes; the table of ranges goes beside it.",
)
@click.option("--form", type=click.Choice(_FORMS), help="In place of the target's own.")
@click.option(
    "--base",
    type=click.Choice(["fp32", "fp16"]),
    help="What computes between int8; the target's own, if not given.",
)
@click.option(
    "--ranges",
    metavar="TABLE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Ranges found before, or TensorRT's calibration cache; the samples then prove alone.",
)
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    help="How ranges are found; auto, which tries them all, if not given.",
)
@click.option("--percentile", type=click.FloatRange(50, 100, min_open=True), help="For its method.")
@click.option("--samples", type=click.IntRange(min=2), help="Use no more of the set.")
@click.option("--data", metavar="SOURCE", help="In place of the source that the set names.")
@click.option(
    "--min-sqnr",
    type=float,
    metavar="DB",
    help="Refuse a result whose outputs stand less above their difference to fp32; 10 if not"
    " given.",
)
@click.option(
    "--keep-float", "kept", metavar="NODE", multiple=True, help="Leave in float; may be repeated."
)
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    metavar="PP",
    help="Points of top-1 it may lose: the worst layers stay in float until it loses no more.",
)
@click.option(
    "--max-divergence",
    type=click.FloatRange(min=0, max=100, min_open=True),
    metavar="PCT",
    help="The same without labels: by how much outputs may differ, in percent of their size.",
)
@out.json_option
def quantize(
    model: Path,
    calibration: str,
    name: str,
    output: Path,
    form: str | None,
    base: str | None,
    ranges: Path | None,
    method: Method | None,
    percentile: float | None,
    samples: int | None,
    data: str | None,
    min_sqnr: float | None,
    kept: tuple[str, ...],
    max_drop: float | None,
    max_divergence: float | None,
    as_json: bool,
) -> int:
    """Write MODEL.onnx, from wherever it is, in the int8 form that a target wants.

    Ranges are found on real samples, and the result is run against fp32 before it is written.
    MODEL.onnx is not touched. Exit code 0: done; 1: written, but it loses more than --max-drop
    or --max-divergence allows; 2: an argument is wrong; 4: the model or the samples are of no
    use.
    """
    from edgekd import targets
    from edgekd.cli.watch import watcher
    from edgekd.errors import RecipeError
    from edgekd.quantize import bring
    from edgekd.recipe import QuantizeSettings

    target = targets.load(name)
    form = form or target.form
    if not form:
        raise RecipeError(
            f"{name} runs no int8 model", "name another target, or a --form", path="--target"
        )
    _check_flags(form, ranges, method, percentile, max_drop, max_divergence)
    if base == "fp16" and form not in bring.OVER_HALF:
        raise RecipeError(
            f"form {form} is over float32 alone",
            f"leave it out, or name a form among {', '.join(bring.OVER_HALF)}",
            path="--base fp16",
        )
    half = form in bring.OVER_HALF and (base or target.base) == "fp16"
    if not model.is_file():
        raise RecipeError("there is no such file", path=str(model))
    _check_places(model, output)
    wishes = bring.Wishes(
        form=form,
        half=half,
        calibration=calibration,
        source=data,
        ranges=ranges,
        method=method or "auto",
        percentile=percentile or 99.99,
        samples=samples,
        least=QuantizeSettings().min_sqnr if min_sqnr is None else min_sqnr,
        keep_float=kept,
        max_drop=max_drop,
        max_divergence=max_divergence,
    )
    with _work(output) as work, watcher() as watching:
        brought = bring.bring(
            model, wishes, work, watching, partial(_timer, target=target, work=work)
        )
        written = bring.publish(brought, output)
    met = brought.sensitivity is None or _meets(brought, wishes)
    if as_json:
        out.document(
            {**_facts(brought, target, form, written, met), "base": "fp16" if half else "fp32"}
        )
    else:
        _tell(brought, target, form, half, written, met)
    return 0 if met else 1


def _check_flags(
    form: str,
    ranges: Path | None,
    method: Method | None,
    percentile: float | None,
    max_drop: float | None,
    max_divergence: float | None,
) -> None:
    """Raises RecipeError for options that contradict each other."""
    from edgekd.errors import RecipeError

    if max_drop is not None and max_divergence is not None:
        raise RecipeError("both say what may be lost", "give one", path="--max-divergence")
    if percentile is not None and method != "percentile":
        raise RecipeError(
            "is for the method of that name", "add --method percentile", path="--percentile"
        )
    flags = {
        "--ranges": ranges,
        "--method": method,
        "--max-drop": max_drop,
        "--max-divergence": max_divergence,
    }
    for flag, value in flags.items():
        if form == "fp16" and value is not None:
            raise RecipeError("fp16 has no ranges to find", "leave it out", path=flag)
    if ranges is not None and method is not None:
        raise RecipeError("the ranges are there already", "leave it out", path="--method")


def _check_places(model: Path, output: Path) -> None:
    """Raises RecipeError where the result would lie in no folder, or on what is read."""
    from edgekd.errors import RecipeError
    from edgekd.quantize.bring import places
    from edgekd.quantize.prepare import files

    if output.suffix != ".onnx":
        raise RecipeError("is no name of an ONNX file", "end it in .onnx", path=str(output))
    if not output.parent.is_dir():
        raise RecipeError(f"there is no folder '{output.parent}'", "make it", path=str(output))
    taken = [place for place in places(output) if place.exists()]
    for read in files(model):
        if any(read.samefile(place) for place in taken):
            raise RecipeError(
                f"would be written over {read}, which is read",
                "give another name",
                path=str(output),
            )


@contextmanager
def _work(output: Path) -> Iterator[Path]:
    """A folder beside the result, gone afterwards, so that files go to their place whole."""
    from edgekd.errors import RecipeError, StageError

    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent)
    except OSError as error:
        raise RecipeError(f"cannot be written: {error.strerror}", path=str(output)) from error
    with folder as name:
        try:
            yield Path(name)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StageError(
                f"the disk that holds {output.parent} is full",
                "free some space, about four times the model's",
            ) from error


def _timer(model: OnnxModel, feeds: Feeds, *, target: Target, work: Path) -> Timer:
    """Times mixes on the target if it is here, with samples in the batch that the model takes."""
    from itertools import islice

    from edgekd.bench.measure import side_by_side
    from edgekd.quantize.proof import batches
    from edgekd.quantize.sensitivity import untimed
    from edgekd.recipe import BenchSettings

    if model.path.with_name(f"{model.path.name}.data").exists():
        return untimed  # engines are of one file
    parts = islice(batches(len(feeds), model.model_inputs, 1), _TIMED_ON)
    folder = work / "timed"
    folder.mkdir()
    return partial(
        side_by_side,
        targets=[target],
        feeds=[feeds.take(part) for part in parts],
        settings=BenchSettings(),
        folder=folder,
    )


def _meets(brought: Brought, wishes: Wishes) -> bool:
    """Whether the mix that was chosen loses no more than it may."""
    from edgekd.quantize.bring import decibels

    assert brought.sensitivity is not None
    mix = brought.sensitivity.mixes[brought.sensitivity.chosen]
    if wishes.max_drop is not None:
        assert mix.lost is not None
        return mix.lost <= wishes.max_drop
    assert wishes.max_divergence is not None
    return mix.sqnr >= decibels(wishes.max_divergence)


def _facts(
    brought: Brought, target: Target, form: str, written: list[Path], met: bool
) -> dict[str, Any]:
    from dataclasses import asdict

    from edgekd.store import hash_file

    table = brought.table
    return {
        "model": str(written[-1]),
        "files": {str(each): asdict(hash_file(each)) for each in written},
        "target": target.name,
        "form": form,
        "parity": brought.prepared.parity,
        "samples": brought.calibrated_on,
        "method": None if table is None else {"name": table.method, "percentile": table.percentile},
        "tried": [] if table is None else [asdict(each) for each in table.tried],
        "products": brought.products,
        "kept_float": dict(brought.kept_float),
        "sensitivity": None if brought.sensitivity is None else asdict(brought.sensitivity),
        "proof": {
            "samples": brought.proof.samples,
            "validation": brought.validated,
            "sqnr_to_fp32": dict(brought.proof.to_fp32),
            "sqnr_between": dict(brought.proof.between),
            "top1": dict(brought.proof.top1),
        },
        "met": met,
    }


def _tell(
    brought: Brought, target: Target, form: str, half: bool, written: list[Path], met: bool
) -> None:
    from edgekd.calibration.methods import label

    table, proof = brought.table, brought.proof
    if table is not None and table.tried:
        best = label(table.method, table.percentile)
        out.table(
            ("  method", *(["top-1"] if table.tried[0].metric == "top1" else []), "dB"),
            [
                (
                    f"{'*' if each.method == best else ' '} {each.method}",
                    *([f"{each.values[form]:.2f}"] if each.metric == "top1" else []),
                    f"{each.sqnr[form]:.1f}",
                )
                for each in table.tried
            ],
        )
        click.echo("")
    if brought.sensitivity is not None:
        _tell_mixes(brought.sensitivity)
    done = brought.products - len(brought.kept_float)
    method = f", ranges by {label(table.method, table.percentile)}" if table is not None else ""
    over = " over fp16" if half else ""
    click.echo(f"{form}{over} for {target.name}: {done} of {brought.products} products{method}")
    for node, why in list(brought.kept_float.items())[:_SHOWN]:
        click.echo(f"  {node} stays in float: {why}")
    if len(brought.kept_float) > _SHOWN:
        click.echo(f"  and {len(brought.kept_float) - _SHOWN} more (--json tells all)")
    others = "validation samples" if brought.validated else "of the samples that it calibrated on"
    click.echo(f"proof on {proof.samples} {others}, nothing fused:")
    for name, decibels in proof.to_fp32.items():
        top1 = (
            f", top-1 {proof.top1[name]:.2f} of fp32's {proof.top1['fp32']:.2f}"
            if proof.top1
            else ""
        )
        click.echo(f"  {name}: {decibels:.1f} dB to fp32{top1}")
    for pair, decibels in proof.between.items():
        click.echo(f"  {pair}: {decibels:.1f} dB between them")
    sizes = ", ".join(f"{each} ({each.stat().st_size / 1e3:,.1f} kB)" for each in reversed(written))
    click.echo(f"{'' if met else 'MISSED, it loses more than it may  '}{sizes}")


def _tell_mixes(found: Sensitivity) -> None:
    """Accuracy against latency for each number of layers kept in float."""
    timed = sorted(found.fp32_ns)
    labelled = found.mixes[0].lost is not None
    out.table(
        (
            "  in float",
            *(["points lost"] if labelled else []),
            "dB",
            *(f"p50 ms {each}" for each in timed),
        ),
        [
            (
                f"{'*' if place == found.chosen else ' '} {len(mix.kept)}",
                *([f"{mix.lost:.2f}"] if labelled else []),
                f"{mix.sqnr:.1f}",
                *(f"{mix.latency_ns[each]['p50'] / 1e6:.3g}" for each in timed),
            )
            for place, mix in enumerate(found.mixes)
        ],
    )
    if timed:
        told = ", ".join(f"{found.fp32_ns[each]['p50'] / 1e6:.3g} ms on {each}" for each in timed)
        click.echo(f"fp32 takes {told}")
    click.echo("")
