"""Tables on stdout: on a terminal of 80 columns no figure is cut."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import run_cli


@pytest.mark.parametrize("columns", [80, 66])
def test_no_figure_is_cut_on_a_narrow_terminal(built: dict[str, Path], columns: int) -> None:
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "edgekd", "report", str(built["bundle"])],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "dumb"},
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(ours)
    assert child.wait() == 0
    found = [line.split() for line in shown.decode().splitlines() if "/torch/" in line]
    plain = run_cli("report", built["bundle"]).stdout
    expected = [line.split() for line in plain.splitlines() if "/torch/" in line]
    assert [each[-6:] for each in found] == [each[-6:] for each in expected]
    if columns == 80:
        assert found == expected
        assert "\N{HORIZONTAL ELLIPSIS}" not in shown.decode()
