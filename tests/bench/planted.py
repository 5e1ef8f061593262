"""Sessions whose behaviour is planted, and a clock that moves when they say so."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import bundle as bundles
from edgekd.artifacts import EngineFile, Preprocessing, TensorSpec
from edgekd.backends.base import Arrays
from edgekd.bench import arrivals, load, timer


class Planted:
    """Spins for a time that the call's number decides; writes down what it was fed."""

    inputs = ()
    outputs: Any = ()

    def __init__(
        self, times_us: Iterator[float], log: list[str] | None = None, name: str = ""
    ) -> None:
        self.times, self.fed, self.log, self.name = times_us, [], log, name  # type: ignore[var-annotated]

    def run(self, feeds: Arrays) -> Arrays:
        self.fed.append(feeds)
        if self.log is not None:
            self.log.append(self.name)
        end = time.perf_counter_ns() + int(next(self.times) * 1e3)
        while time.perf_counter_ns() < end:
            pass
        return {}

    def __enter__(self):  # type: ignore[no-untyped-def]
        return self

    def __exit__(self, *_: object) -> None: ...


class Clock:
    """Time that stands still but for what a session takes, and for what is waited."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000_000
        for module in (load, arrivals):
            monkeypatch.setattr(module, "perf_counter_ns", lambda: self.now)
        monkeypatch.setattr(arrivals, "wait_until", self.wait)
        assert timer.CLOCK == "time.perf_counter_ns"

    def wait(self, moment: int) -> None:
        assert moment > self.now
        self.now = moment

    def session(self, took_ns: Callable[[int], int], answer: Arrays | None = None) -> Timed:
        return Timed(self, took_ns, answer or {})


class Timed:
    """A session that takes as long as the number of its call decides, by a planted clock."""

    inputs = ()
    outputs: Any = ()

    def __init__(self, clock: Clock, took_ns: Callable[[int], int], answer: Arrays) -> None:
        self.clock, self.took, self.answer, self.calls = clock, took_ns, answer, 0
        self.fed: list[Any] = []

    def run(self, feeds: Arrays) -> Arrays:
        self.fed.append(feeds)
        self.clock.now += self.took(self.calls)
        self.calls += 1
        return self.answer


def constant(us: float) -> Iterator[float]:
    while True:
        yield us


def feeds(n: int) -> list[Arrays]:
    return [{"x": np.array([index])} for index in range(n)]


BACKEND = '''
import atexit, os, sys, time
import numpy as np
from edgekd.artifacts import TensorSpec
from edgekd.backends.base import Availability


class Session:
    """Answers (n, 2) zeros, until the call that its engine's option ``at`` names."""

    def __init__(self, engine):
        self.inputs, self.outputs = engine.model_inputs, engine.model_outputs
        self.what = engine.options.get("what", "")
        self.at = int(engine.options.get("at", -1))
        self.mark = engine.options.get("mark", "")
        self.took = float(engine.options.get("took_ms", 0.2)) / 1e3
        self.calls = 0
        if "chatter" in engine.options:
            atexit.register(print, "bye")
            atexit.register(print, "bye", file=sys.stderr)

    def run(self, feeds):
        self.calls += 1
        n = len(feeds["x"])
        time.sleep(self.took)
        if self.calls > self.at >= 0:
            if self.what == "raise":
                raise RuntimeError("out of\\nluck")
            if self.what == "hang":
                time.sleep(1000)
            if self.what == "leave":
                os._exit(0)
            if self.what == "die":
                os.kill(os.getpid(), 11)
            if self.what == "nan":
                return {"y": np.full((n, 2), np.nan, np.float32)}
            if self.what == "shape":
                return {"y": np.zeros((n, 3), np.float32)}
            if self.what == "mark":  # for whoever waits until it has come so far
                open(self.mark, "w").close()
            if self.what == "nothing":
                return {}
        return {"y": np.zeros((n, 2), np.float32)}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Backend:
    name, extra, packages = "planted", "", ("planted",)

    def probe(self):
        return Availability("1.0", ("cpu",))

    def build(self, model, target, out_dir, progress=None):
        raise NotImplementedError

    def open(self, engine, threads=1, gpu=None, *, device=None, streams=1):
        return Session(engine)
'''


def install(site: Path) -> Path:
    """Writes the backend as a distribution into a folder for PYTHONPATH; gives the folder."""
    info = site / "planted-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "planted.py").write_text(textwrap.dedent(BACKEND))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgekd.backends]\nplanted = planted:Backend\n")
    return site


def bundle(folder: Path, *engines: Mapping[str, object], fps: float | None = None) -> Path:
    """A bundle of engines of the planted backend, named P0, P1 and so on as their precisions.

    Args:
        folder: where to; its name ends in ``.edgekd``.
        engines: what each does: the options of ``BACKEND``.
        fps: the bundle's own budget.
    """
    sources = folder.parent / f"{folder.stem}-sources"
    sources.mkdir(parents=True)
    np.save(sources / "images.npy", np.zeros((4, 1, 2, 2), np.uint8))
    np.save(sources / "golden.npy", np.zeros((4, 2), np.float32))
    (sources / "report.json").write_text(json.dumps({"engines": []}))
    (sources / "planted.bin").write_bytes(b"planted")
    files = {"golden/images.npy": sources / "images.npy", "report.json": sources / "report.json"}
    records = []
    for number, options in enumerate(engines):
        path, golden = f"engines/P{number}/planted.bin", f"golden/P{number}.npy"
        files |= {path: sources / "planted.bin", golden: sources / "golden.npy"}
        records.append(
            {
                "target": "planted",
                "backend": "planted",
                "version": "1.0",
                "precision": f"P{number}",
                "device": "cpu",
                "executed": True,
                "path": path,
                "parts": [],
                "options": {name: str(value) for name, value in options.items()},
                "source": "",
                "golden": golden,
                "tolerance": 1e-9,
            }
        )
    manifest = {
        "name": folder.stem,
        "budget": {"fps": fps, "max_drop": None},
        "verdict": {"status": "pass", "reasons": []},
        "provenance": {},
        "labels": ["no", "yes"],
        "preprocessing": asdict(Preprocessing((0.0,), (1.0,))),
        "golden": {"images": "golden/images.npy"},
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 1, 2, 2]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}],
        "engines": records,
    }
    return bundles.write(folder, manifest, files).root


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., EngineFile]:
    """A third party's backend, found by its entry point here and in every process we start.

    Gives a function that makes engines for it.
    """
    site = install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    path = tmp_path / "planted.bin"
    path.write_bytes(b"planted")

    def engine(role: str = "student", **options: object) -> EngineFile:
        return EngineFile(
            role=role,
            target="planted",
            backend="planted",
            backend_version="1.0",
            device="cpu",
            precision="fp32",
            path=path,
            model_inputs=(TensorSpec("x", "float32", ("batch", 4)),),
            model_outputs=(TensorSpec("y", "float32", ("batch", 2)),),
            executed=True,
            options={name: str(value) for name, value in options.items()},
        )

    return engine
