"""One part of ``run.py``, in a process of its own: what it gives, line by line, as JSON.

A library that takes its process down takes one part along, and the rows until then are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from job import Job, Row, failed, skipped

from edgekd.errors import BackendUnavailable, EdgekdError


def rows(name: str, job: Job) -> Iterator[Row]:
    """A part's rows; the last says why there are no more, where something is missing."""
    try:
        yield from import_module(name).rows(job)
    except BackendUnavailable as error:
        yield skipped("the rest", str(error))
    except ModuleNotFoundError as error:
        yield skipped("the rest", f"{error.name} is not installed")
    except EdgekdError as error:
        yield failed("the rest", str(error))


def main() -> None:
    """Runs the part that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("told", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    job = Job(chosen.work, chosen.quick, chosen.device, chosen.limit)
    with chosen.told.open("w") as file:
        for row in rows(chosen.name, job):
            print(json.dumps(asdict(row)), file=file, flush=True)
            print(f"{chosen.name}: {row.what}: {row.outcome} {row.reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
