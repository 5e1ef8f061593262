"""``edgekd export-triton``"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgekd.cli import out


@click.command("export-triton")
@out.bundle_argument
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--target", metavar="NAME", help="Only this target's engines.")
@click.option("--precision", metavar="P", help="Only engines of this precision, such as int8.")
@click.option("--name", metavar="MODEL", help="The model's name; the bundle's, if not given.")
@click.option("--version", metavar="N", type=int, default=1, help="The model's version; 1.")
@click.option(
    "--max-batch",
    metavar="N",
    type=int,
    help="The largest batch that Triton may make of requests; the engine's, if not given.",
)
@out.json_option
def export_triton(
    bundle: str,
    folder: Path,
    target: str | None,
    precision: str | None,
    name: str | None,
    version: int,
    max_batch: int | None,
    as_json: bool,
) -> None:
    """Add a model for NVIDIA's Triton Inference Server to the model repository DIR.

    It holds the bundle's best measured engine of ONNX Runtime, OpenVINO or TensorRT, labels, a
    golden image to warm up with, and config.pbtxt. Preprocessing is left to clients:
    config.pbtxt tells it. A further --version is added to a model that is there if config.pbtxt
    and the labels are the same; what they say of the engine itself is of the latest version. Exit
    code 2: an argument is wrong, or there is such a version or another model already; 4: a file of
    the bundle was changed, or the engine is yet to be built on its device.
    """
    from edgekd import bundle as bundles
    from edgekd import triton

    made = triton.export(
        bundles.read(Path(bundle)),
        folder,
        target=target,
        precision=precision,
        name=name,
        version=version,
        max_batch=max_batch,
    )
    if as_json:
        out.document({**asdict(made), "model": str(made.model), "notes": list(made.notes)})
        return
    batches = f"batches of up to {made.max_batch}" if made.max_batch else "its own batch"
    click.echo(f"{made.model}: {made.target} {made.precision} by {made.backend}, {batches}")
    for each in made.notes:
        click.echo(f"  {each}")
