"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747): 60,000 + 10,000 at 28×28.

The four files are looked for in ``EDGEKD_DATA``, in Debian's package
``dataset-fashion-mnist`` and in the user's cache, and downloaded where they are in none.
Wherever they come from, the sha256 of their decoded bytes must be the published files'
(compressed bytes differ: Debian packs them anew).
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from edgekd.data import Images, Labels, Part, Shape
from edgekd.data.arrays import in_memory
from edgekd.errors import DataError
from edgekd.progress import Progress, silent

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
)
_HOW_TO_GET_IT = (
    "install Debian's package dataset-fashion-mnist, or put the four .gz files into a folder"
    " and set EDGEKD_DATA to it"
)


class FashionMnist:
    """The source ``fashion-mnist``."""

    name = "fashion-mnist"
    classes: tuple[str, ...] = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    shape: Shape = (1, 28, 28)
    ignored: tuple[str, ...] = ()
    licence = "MIT"

    def fingerprint(self) -> str:
        """sha256 over the four files' published hashes; ``read`` holds the files to them."""
        return hashlib.sha256("".join(SHA256.values()).encode()).hexdigest()

    def stamp(self) -> str:
        """The fingerprint: these images do not change."""
        return self.fingerprint()

    def parts(self, progress: Progress = silent) -> dict[str, Part]:
        """See ``Source``."""
        return {
            part: in_memory(f"{self.name}: {part}", *self.read(part, progress))
            for part in ("train", "test")
        }

    def read(self, part: str, progress: Progress = silent) -> tuple[Images, Labels]:
        """The part ``train`` or ``test``; see ``Source.read``."""
        images_name, labels_name = FILES[part]
        images = _idx(*_find(images_name, progress))
        labels = _idx(*_find(labels_name, progress))
        return images[:, None], labels.astype(np.int64)


def _find(name: str, progress: Progress) -> tuple[Path, bytes]:
    """The file and its decoded bytes, from the first place that has it."""
    places = [DEBIAN, _cache()]
    if chosen := os.environ.get("EDGEKD_DATA"):
        places = [Path(chosen) / "fashion-mnist", Path(chosen), *places]
    for place in places:
        for path in (place / f"{name}.gz", place / name):
            if path.is_file():
                return path, _checked(path, name)
    return _download(name, places, progress)


def _cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("edgekd")) / "fashion-mnist"


def _checked(path: Path, name: str) -> bytes:
    """A file's decoded bytes, if they are the published ones."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is damaged ({error})", f"delete it, then {_HOW_TO_GET_IT}"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", _HOW_TO_GET_IT) from error
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise DataError(
            f"{path} does not hold the published Fashion-MNIST (its sha256 differs)",
            f"delete it, then {_HOW_TO_GET_IT}",
        )
    return content


def _download(name: str, searched: list[Path], progress: Progress) -> tuple[Path, bytes]:
    from edgekd.data.download import download

    mirror = os.environ.get("EDGEKD_DATA_URL")
    mirrors = (f"{mirror.rstrip('/')}/fashion-mnist",) if mirror else MIRRORS
    target = _cache() / f"{name}.gz"
    part = _cache() / f"{name}.{os.getpid()}.part"  # two builds may download at once
    unchecked = part.with_suffix(".gz")
    failures = []
    for each in mirrors:
        try:
            download(f"{each}/{name}.gz", part, progress)
        except OSError as error:
            part.unlink(missing_ok=True)
            failures.append(f"{each}: {getattr(error, 'reason', error)}")
            continue
        try:
            content = _checked(part.rename(unchecked), name)
        except DataError:
            unchecked.unlink()
            failures.append(f"{each}: the file it sends is not the published one")
            continue
        unchecked.rename(target)
        return target, content
    raise DataError(
        f"Fashion-MNIST's {name}.gz is not in {', '.join(str(each) for each in searched)}, and"
        f" could not be downloaded ({'; '.join(failures)})",
        _HOW_TO_GET_IT,
    )


def _idx(path: Path, content: bytes) -> Images:
    """An array of bytes in the IDX format: 0, 0, type, rank, big-endian sizes, data."""
    kind, rank = content[2], content[3]
    if kind != 0x08:
        raise DataError(f"{path} does not hold bytes (IDX type {kind:#x})")
    sizes = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(sizes)
