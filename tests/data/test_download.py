"""Downloads: a connection that breaks is an error, whatever had come by then."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from edgekd.data.download import download


def test_fewer_bytes_than_announced_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")

        thread = threading.Thread(target=answer)
        thread.start()
        port = listening.getsockname()[1]
        with pytest.raises(OSError, match="9 of 100 bytes came"):
            download(f"http://127.0.0.1:{port}/file", tmp_path / "file")
        thread.join()
