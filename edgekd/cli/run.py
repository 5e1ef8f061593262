"""``edgekd run``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli import out

if TYPE_CHECKING:
    import numpy.typing as npt


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
    """Run a bundle on images: .npy arrays (uint8 pixels, or float32 inputs), PNG or JPEG."""
    import numpy as np

    from edgekd import runtime

    results = []
    with runtime.load(bundle, target, precision) as engine:
        for name in inputs:
            for row in _logits(engine, _read(Path(name), engine.shape), name):
                shares = np.exp(row - row.max())
                best = int(row.argmax())
                results.append(
                    {
                        "input": name,
                        "label": engine.classes[best],
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


def _logits(engine: Any, images: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    from edgekd.errors import DataError

    try:
        logits: npt.NDArray[Any] = engine(images)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error
    return logits


def _read(path: Path, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """An array file as it is; an image as uint8 (channels, height, width)."""
    import numpy as np

    from edgekd.errors import DataError

    try:
        if path.suffix == ".npy":
            array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
            return array
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DataError(
            f"{path}: reading images needs Pillow", "pip install 'edgekd[report]'"
        ) from error
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read as .npy ({reason})") from error
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L" if shape[0] == 1 else "RGB"))
    except (OSError, UnidentifiedImageError) as error:
        reason = getattr(error, "strerror", None) or "it is no image, or a damaged one"
        raise DataError(f"{path} cannot be read ({reason})") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
