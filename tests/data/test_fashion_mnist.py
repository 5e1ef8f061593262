"""Fashion-MNIST: where it is sought, what is refused, and a real download from a server here."""

from __future__ import annotations

import gzip
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from edgekd.data import fashion_mnist
from edgekd.data.fashion_mnist import DEBIAN, FashionMnist
from edgekd.errors import DataError

FILES = sorted(f"{name}.gz" for name in fashion_mnist.SHA256)

needs_debian = pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs dataset-fashion-mnist")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing on stderr."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine, and the folder that it serves."""
    folder = tmp_path / "served" / "fashion-mnist"
    folder.mkdir(parents=True)
    handler = partial(_Quiet, directory=str(folder.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()
        thread.join()


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data on this machine; returns the user's empty cache."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "no-debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGEKD_DATA", raising=False)
    return tmp_path / "cache" / "edgekd" / "fashion-mnist"


@needs_debian
def test_it_is_the_real_thing() -> None:
    images, labels = FashionMnist().read("train")
    assert images.shape == (60_000, 1, 28, 28)
    assert images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [6_000] * 10
    # Xiao et al. give mean 0.2860 and deviation 0.3530 of the training pixels.
    assert images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    assert images.std() / 255 == pytest.approx(0.3530, abs=1e-4)
    images, labels = FashionMnist().read("test")
    assert images.shape == (10_000, 1, 28, 28)
    assert np.bincount(labels).tolist() == [1_000] * 10


@needs_debian
@pytest.mark.parametrize("inner", ["", "fashion-mnist"])
def test_a_named_folder_comes_first(
    nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    folder = tmp_path / "mine" / inner
    folder.mkdir(parents=True)
    for name in FILES:
        shutil.copy(Path("/usr/share/datasets/fashion-mnist") / name, folder)
    plain = folder / "t10k-labels-idx1-ubyte"  # unpacked files will do
    plain.write_bytes(gzip.decompress((folder / f"{plain.name}.gz").read_bytes()))
    (folder / f"{plain.name}.gz").unlink()
    monkeypatch.setenv("EDGEKD_DATA", str(tmp_path / "mine"))
    assert len(FashionMnist().read("test")[1]) == 10_000


@needs_debian
def test_it_is_downloaded_once_with_progress(
    nowhere: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    for name in FILES:
        shutil.copy(Path("/usr/share/datasets/fashion-mnist") / name, folder)
    monkeypatch.setenv("EDGEKD_DATA_URL", url)
    seen: list[tuple[int, int, str]] = []
    images, _ = FashionMnist().read("test", lambda *each: seen.append(each))
    assert len(images) == 10_000
    size = (folder / "t10k-images-idx3-ubyte.gz").stat().st_size
    assert (size, size, "downloading t10k-images-idx3-ubyte.gz") in seen
    assert len(seen) > 10
    shutil.rmtree(folder)  # from now on it is in the cache
    assert len(FashionMnist().read("test")[0]) == 10_000
    assert sorted(each.name for each in nowhere.iterdir()) == [
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "File not found"),
        (gzip.compress(b"something else", mtime=0), "is not the published one"),
        (b"<html>proxy login</html>", "is not the published one"),
    ],
)
def test_a_download_that_is_not_the_file_is_not_kept(
    nowhere: Path,
    server: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
    reason: str,
) -> None:
    url, folder = server
    if content is not None:
        (folder / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    monkeypatch.setenv("EDGEKD_DATA_URL", url)
    with pytest.raises(DataError, match=reason):
        FashionMnist().read("test")
    assert not [each for each in nowhere.glob("*") if each.suffix != ".part"]


def test_without_a_network_the_places_and_the_mend_are_named(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_DATA_URL", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(DataError) as caught:
        FashionMnist().read("train")
    text = str(caught.value)
    for word in (
        "no-debian",
        str(nowhere),
        "Connection refused",
        "dataset-fashion-mnist",
        "EDGEKD_DATA",
    ):
        assert word in text


@needs_debian
@pytest.mark.parametrize("fault", ["truncated", "flipped bit", "not gzip", "another set"])
def test_a_damaged_file_is_named_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    content = bytearray((Path("/usr/share/datasets/fashion-mnist") / path.name).read_bytes())
    match fault:
        case "truncated":
            content = content[: len(content) // 2]
        case "flipped bit":
            content[len(content) // 2] ^= 1
        case "not gzip":
            content = bytearray(b"PK" + content)
        case "another set":
            content = bytearray(gzip.compress(bytes(10_008)))
    shutil.copy(Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz"), tmp_path)
    path.write_bytes(content)
    monkeypatch.setenv("EDGEKD_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        FashionMnist().read("test")
    assert str(path) in str(caught.value)
    assert "delete it" in str(caught.value)
