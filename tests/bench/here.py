"""Measuring in the tests' own process, for stand-ins of hardware that another would not have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekd.bench import supervise, worker


def measure_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the worker's work be done here, and no process start afresh."""

    def watch(request: worker.Request, *_: Any) -> tuple[Any, dict[str, Any]]:
        worker.work(request)
        nothing = {
            "samples": [],
            "disturbances": [],
            "energy": {"joules": None, "source": "", "why": "not asked"},
        }
        return json.loads((request.folder / "done.json").read_text()), nothing

    monkeypatch.setattr(supervise, "_watch", watch)
    monkeypatch.setattr(worker, "_THROUGHPUT_NS", 10_000_000)
    monkeypatch.setattr(worker, "_SPLIT_CALLS", 3)  # those of a stand-in are slow
    monkeypatch.setattr(supervise, "cold_start", lambda *_: ([4, 3, 2, 1], None))

    def ask(what: str, engine: Any, feeds: Any, threads: int, model: str | None = None) -> Any:
        answer = worker._ANSWERS[what]
        return answer(engine, feeds, {"threads": threads, "model": model})

    monkeypatch.setattr(supervise, "_ask", ask)


class Quiet:
    """A watcher that is told nothing."""

    def begin(self, stage: str) -> Any:
        return lambda *_: None

    def end(self, *_: Any) -> None: ...
