"""One file over HTTP, into a temporary name, with progress."""

from __future__ import annotations

import http.client
import urllib.request
from pathlib import Path

from edgekd.progress import Progress, silent

_CHUNK = 1 << 18
_TIMEOUT_S = 30


def download(url: str, path: Path, progress: Progress = silent) -> None:
    """Fetches a URL into ``path``, which it replaces; the caller checks what came.

    Raises:
        OSError: no network, no URL, an HTTP error, or fewer bytes than were announced.
    """
    try:
        _fetch(url, path, progress)
    except (ValueError, http.client.HTTPException) as error:
        raise OSError(str(error) or type(error).__name__) from error


def _fetch(url: str, path: Path, progress: Progress) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    request = urllib.request.Request(url, headers={"User-Agent": "edgekd"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer, path.open("wb") as file:
        total = int(answer.headers.get("Content-Length") or 0)
        done = 0
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            progress(done, total or done, f"downloading {url.rsplit('/', 1)[-1]}")
    if total and done != total:
        raise OSError(f"{done} of {total} bytes came")
