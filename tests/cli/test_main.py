"""The command line as a whole: its commands, its start-up, and a mistake in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.cli import COMMANDS
from tests.conftest import assert_one_line, run_cli


def test_help_names_every_command() -> None:
    result = run_cli("--help")
    assert result.returncode == 0
    assert result.stderr == ""
    for name, summary in COMMANDS.items():
        assert f"  {name} " in result.stdout
        assert summary.split(":")[0] in result.stdout


def test_no_arguments_show_the_help() -> None:
    result = run_cli()
    assert result.returncode == 2
    assert "Commands:" in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_own_help(name: str) -> None:
    result = run_cli(name, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: edgekd {name}")
    assert result.stderr == ""


def test_the_version_is_the_package_s() -> None:
    import edgekd

    assert run_cli("--version").stdout == f"edgekd {edgekd.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["biuld"], ["no command is called 'biuld'", "did you mean 'build'?"]),
        (["build", "--sudent", "dscnn-s"], ["--sudent", "edgekd build --help"]),
        (["build", "--fps", "fast"], ["'fast' is not a valid float"]),
        (["bench"], ["Missing argument 'WHAT'", "edgekd bench --help"]),
        (["bench", "x.edgekd", "--scenario", "webcam"], ["'webcam'", "single-stream"]),
        (["run", "x.edgekd"], ["Missing argument 'INPUT...'"]),
    ],
)
def test_a_wrong_argument(arguments: list[str], words: list[str]) -> None:
    assert_one_line(run_cli(*arguments), 2, *words)


@pytest.mark.parametrize("command", [["bench"], ["report"], ["verify"], ["run"]])
def test_what_is_not_a_bundle(command: list[str], tmp_path: Path) -> None:
    image = tmp_path / "x.npy"
    rest = [image] if command == ["run"] else []
    words = ["is not a bundle", "manifest.json", "name a folder that `edgekd build` made"]
    assert_one_line(run_cli(*command, tmp_path / "none.edgekd", *rest), 2, *words)


def test_a_bug_keeps_its_traceback_and_is_no_missed_budget(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgekd import targets
    from edgekd.cli import main

    def broken() -> list[str]:
        raise ZeroDivisionError

    monkeypatch.setattr(targets, "names", broken)
    with pytest.raises(SystemExit) as left:
        main(["targets"])
    assert left.value.code == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "edgekd", "targets", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        child.stdout.close()
        assert child.stderr is not None
        assert child.stderr.read() == ""
    assert child.returncode == 141  # and not 1, which is a missed budget
