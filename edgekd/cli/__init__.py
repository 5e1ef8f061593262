"""The command line: one file a command, imported when it is called."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from importlib import import_module
from typing import Any

import click

from edgekd import __version__
from edgekd.errors import EdgekdError, near_matches

BUG = 70
INTERRUPTED = 130
READER_GONE = 141

COMMANDS = {
    "build": "Distil, quantise, build, measure and report: a recipe to a bundle.",
    "bench": "Measure a bundle or a model here, against a budget.",
    "report": "Print a report, draw it again, or compare several.",
    "run": "Run a bundle on images.",
    "verify": "Check a bundle's files and golden outputs.",
    "quantize": "Write an ONNX file in the int8 form that a target wants.",
    "calibration": "Make a calibration set, or audit one.",
    "export-triton": "Write a model for NVIDIA's Triton Inference Server.",
    "lint": "Lint an ONNX file: what a target would refuse or get wrong.",
    "targets": "List what engines can be built for.",
    "students": "List the built-in students.",
    "teachers": "List the built-in teachers.",
    "datasets": "List the built-in data sources, or examine one of any kind.",
    "doctor": "Say what can be built and run here, and what is missing.",
    "init": "Write a recipe to start from.",
}
_HOMES = {"students": "models", "teachers": "models"}


class _ReaderGone(Exception):
    """Whoever read stdout has closed it."""


class _Lazy(click.Group):
    """Commands by name, each from its own module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        plain = name.replace("-", "_")
        module = import_module(f"edgekd.cli.{_HOMES.get(name, plain)}")
        command: click.Command = getattr(module, plain)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:  # click's own answer is 1, which here is a missed budget
            raise _ReaderGone from error
        return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(
                f"no command is called '{args[0]}': {near_matches(args[0], COMMANDS)}"
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgekd", message="%(prog)s %(version)s")
def cli() -> None:
    """From a teacher, data and a latency budget to an int8 engine that fits, and the proof."""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits; a user's mistake is one line on stderr."""
    for name in ("SIGTERM", "SIGHUP"):  # so that what is unfinished is cleared away
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _leave)
    try:
        code = _run(arguments)
    except Exception:  # noqa: BLE001  # a bug keeps its traceback, and is no missed budget
        traceback.print_exc()
        code = BUG
    sys.exit(code)


def _leave(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # what is cleared away is not left half cleared
    sys.exit(128 + number)


def _run(arguments: list[str] | None) -> int:
    try:
        result: Any = cli.main(arguments, prog_name="edgekd", standalone_mode=False)
    except EdgekdError as error:
        return _complain(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        path = getattr(getattr(error, "ctx", None), "command_path", "edgekd")
        return _complain(f"{error.format_message().rstrip('.')} (see `{path} --help`)", 2)
    except (KeyboardInterrupt, click.Abort):
        return _complain(
            "stopped; what was finished is kept, and the same command goes on from there",
            INTERRUPTED,
        )
    except _ReaderGone:
        # What is still buffered would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    return result if isinstance(result, int) else 0


def _complain(message: str, code: int) -> int:
    click.echo(f"edgekd: {' '.join(message.split())}", err=True)
    return code
