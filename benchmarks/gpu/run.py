"""Claim: what runs on an NVIDIA GPU does there what it does in the tests; see README.md here.

    python benchmarks/gpu/run.py

One script for any NVIDIA machine, in one go. Every part runs in a process of its own. A part that
cannot run, and a machine without a GPU, is told in a line. The exit code is 0 where everything
ran or could not, and 1 where something is not as EdgeKD says.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

import record  # noqa: E402
from job import OUTCOMES  # noqa: E402
from machine import PACKAGES  # noqa: E402

from edgekd.backends import cuda  # noqa: E402
from edgekd.bench import host  # noqa: E402
from edgekd.store import installed  # noqa: E402

PARTS = {"machine": 20, "training": 100, "providers": 100, "plans": 100, "layers": 90}
"""Each part, a module here, with the seconds after which it begins nothing more."""
GRACE_S = 300
"""What a part may take beyond that for what it has begun."""
Told = dict[str, Any]


def run(name: str, work: Path, chosen: argparse.Namespace) -> Told:
    """One part: its rows and its seconds. One that dies, or does not end, has failed."""
    told = work / f"{name}.jsonl"
    command = [sys.executable, HERE / "part.py", name, told, "--work", work]
    command += ["--limit", str(PARTS[name]), "--device", chosen.device]
    command += ["--quick"] * chosen.quick
    environment = {**os.environ, "EDGEKD_STORE": str(work / "user")}
    begin = time.monotonic()
    fault = ""
    try:
        child = subprocess.run(command, env=environment, check=False, timeout=PARTS[name] + GRACE_S)
        if child.returncode:
            fault = f"its process ended with code {child.returncode}; the last lines say why"
    except subprocess.TimeoutExpired as error:
        fault = f"it was stopped after {error.timeout:g} s"
    rows = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
    if fault:
        rows.append({"what": "the part", "figures": {}, "outcome": "failed", "reason": fault})
    return {"seconds": round(time.monotonic() - begin, 1), "rows": rows}


def cells(name: str, row: Told) -> list[str]:
    """A row of the table."""
    figures = "; ".join(f"{key} {_number(value)}".strip() for key, value in row["figures"].items())
    outcome = ": ".join(each for each in (row["outcome"], row["reason"]) if each)
    return [each.replace("|", "/") for each in (name, row["what"], figures, outcome)]


def body(parts: Mapping[str, Told]) -> str:
    """The result's text: what it comes to, and one table."""
    rows = [(name, row) for name, each in parts.items() for row in each["rows"]]
    counts = Counter(row["outcome"] for _, row in rows)
    said = ", ".join(f"{counts[each]} {each}" for each in OUTCOMES if counts[each])
    seconds = sum(each["seconds"] for each in parts.values())
    notes = []
    if not cuda.gpus():
        notes = ["No GPU could be had: nothing here is said of how anything runs on one.", ""]
    return "\n".join(
        [
            *notes,
            f"{len(rows)} rows in {seconds:.0f} s: {said}.",
            "",
            record.table(("part", "what", "found", "outcome"), [cells(*each) for each in rows]),
            "",
            "[How to run it, and what it proves](../gpu/README.md).",
        ]
    )


def main() -> None:
    """Runs the parts, and writes ``gpu.md`` and ``gpu.json``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    parser.add_argument("--quick", action="store_true", help="little of everything, in a minute")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="to train on")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    parts: dict[str, Told] = {}
    with tempfile.TemporaryDirectory() as work:
        for name in PARTS:
            if name not in chosen.only:
                continue
            parts[name] = run(name, Path(work), chosen)
            document = {"date": today, "quick": chosen.quick, "host": host.facts(), "parts": parts}
            # After each, so that a machine that goes away leaves what there was.
            (chosen.out / "gpu.json").write_text(json.dumps(document, indent=1) + "\n")
    here = [name for name, version in installed(PACKAGES).items() if version != "absent"]
    record.write("gpu", "What runs on an NVIDIA GPU, and how fast", here, body(parts), chosen.out)
    failed = any(row["outcome"] == "failed" for each in parts.values() for row in each["rows"])
    sys.exit(int(failed))


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


if __name__ == "__main__":
    main()
