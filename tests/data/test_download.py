"""Downloads: a connection that breaks is an error, whatever had come by then."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from edgekd.data.download import download


@pytest.mark.parametrize("url", ["mirror.local/file", "", "http://[", "file:///nowhere"])
def test_what_is_no_url_is_an_error(url: str, tmp_path: Path) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - whatever its words
        download(url, tmp_path / "file")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this", "9 of 100 bytes came"),
        (b"this is no HTTP\r\n\r\n", "this is no HTTP"),
    ],
)
def test_fewer_bytes_than_announced_or_no_http_is_an_error(
    sent: bytes, words: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(sent)

        thread = threading.Thread(target=answer)
        thread.start()
        port = listening.getsockname()[1]
        with pytest.raises(OSError, match=words):
            download(f"http://127.0.0.1:{port}/file", tmp_path / "file")
        thread.join()
