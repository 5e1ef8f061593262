"""``edgekd run``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli import out

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekd.runtime import Engine


@click.command()
@out.bundle_argument
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("--target", metavar="NAME", help="Only this target's engines.")
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "int8", "fp8"]), help="Only this precision."
)
@out.json_option
def run(
    bundle: str,
    inputs: tuple[str, ...],
    target: str | None,
    precision: str | None,
    as_json: bool,
) -> int:
    """Run a bundle on images: PNG or JPEG of any size, or .npy arrays.

    An array holds uint8 pixels, (height, width, channels) of any size or (n, channels, height,
    width) as the model takes them, or the model's own float32 inputs.
    """
    import numpy as np

    from edgekd import runtime

    results = []
    with runtime.load(bundle, target, precision) as engine:
        for name in inputs:
            for row in _logits(engine, _read(Path(name), engine.shape[0]), name):
                shares = np.exp(row - row.max())
                best = int(row.argmax())
                labels = engine.classes
                results.append(
                    {
                        "input": name,
                        "label": labels[best] if best < len(labels) else str(best),
                        "share": float(shares[best] / shares.sum()),
                        "logits": row.tolist(),
                    }
                )
    if as_json:
        out.document({"target": engine.target, "precision": engine.precision, "results": results})
        return 0
    for each in results:
        click.echo(f"{each['input']}: {each['label']} ({100 * each['share']:.1f} %)")
    return 0


def _logits(engine: Engine, images: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    import numpy as np

    from edgekd.errors import DataError, EngineError

    try:
        logits = engine(images)
    except EngineError as error:
        raise DataError(f"{name}: {error.message}", error.hint) from error
    if not np.isfinite(logits).all():
        raise DataError(f"{name}: the engine answers with NaN or infinity")
    return logits


def _read(path: Path, channels: int) -> npt.NDArray[Any]:
    """An array file as it is; an image as uint8 (height, width, channels)."""
    import numpy as np

    from edgekd.data import pixels
    from edgekd.errors import BackendUnavailable, DataError

    if path.suffix == ".npy":
        try:
            # Mapped, so that a header that lies about its size costs no memory.
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # numpy's reader raises whatever its header's parser does
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise DataError(f"{path} cannot be read as .npy ({reason})") from error
        if not isinstance(array, np.ndarray):
            array.close()
            raise DataError(f"{path} cannot be read as .npy (it is an archive of several)")
        return array
    try:
        pixels.require()
        return pixels.decode(path, channels)
    except BackendUnavailable as error:
        raise DataError(
            f"{path}: reading images needs Pillow", "pip install 'edgekd[report]'"
        ) from error
    except DataError as error:
        raise DataError(f"{path} cannot be read ({error.message})") from error
