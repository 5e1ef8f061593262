"""The same model by several tools: EdgeKD, MLPerf LoadGen, OpenVINO's benchmark_app."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import harness_sut
import numpy as np
import numpy.typing as npt
import openvino
import record
from openvino.tools.benchmark.benchmark import Benchmark

from edgekd import trace
from edgekd.artifacts import EngineFile
from edgekd.backends.base import Arrays, Session
from edgekd.backends.openvino import OpenVinoSession
from edgekd.backends.ort import OrtSession
from edgekd.bench import loadgen, supervise
from edgekd.bench.load import REACQUAINT, closed_loop, quiet_collector
from edgekd.bench.scenarios import Feeds, Load, cut
from edgekd.recipe import BenchSettings
from edgekd.stats.percentiles import PERCENTILES, percentile
from edgekd.subjects import Wanted, named

NAMES = ("p50", "p90", "p99")
GOAL = 0.03
SECONDS = 0.7
HERE = Path(__file__).parent
_PULSE = np.zeros(1, np.int64)
Figures = Mapping[str, int]
Tool = Callable[[], Figures]
OPENVINO = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": "1",
    "INFERENCE_NUM_THREADS": "1",
    "INFERENCE_PRECISION_HINT": "f32",
}
SAME, LOOP = "the same calls, by OpenVINO's clock", "benchmark_app's loop"
APP = "-d CPU -api sync -ip f32 -op f32"


def figures(times_ns: npt.NDArray[np.int64]) -> Figures:
    """p50, p90 and p99 of what a tool timed."""
    ordered = np.sort(times_ns)
    return {name: percentile(ordered, PERCENTILES[name]) for name in NAMES}


def in_turn(tools: Mapping[str, Tool], rounds: int, seed: int) -> dict[str, npt.NDArray[Any]]:
    """What each tool tells in each round, (rounds, 3) in ns; a first round is not kept."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[list[int]]] = {name: [] for name in tools}
    for turn in range(rounds + 1):
        for name in rng.permutation(list(tools)):
            told = tools[name]()
            if turn:
                found[name].append([told[each] for each in NAMES])
    return {name: np.array(each) for name, each in found.items()}


def ours(session: Session, feeds: Sequence[Arrays], calls: int) -> Tool:
    """EdgeKD's closed loop, as in a turn of ``edgekd bench``."""
    drive = closed_loop(session, feeds)

    def turn() -> Figures:
        kept = trace.empty(calls)
        with quiet_collector():
            for each in (trace.empty(REACQUAINT), kept):
                drive(each, 0, 60 * 10**9, _PULSE)
        return figures(trace.service(kept))

    return turn


class Noted:
    """A session of OpenVINO that keeps what OpenVINO's own clock says of each call."""

    def __init__(self, session: OpenVinoSession) -> None:
        self.session, self.outputs = session, session.outputs
        self.request, self.took = session._request, []  # type: ignore[var-annotated]

    def run(self, feeds: Arrays) -> Arrays:
        """As the session does."""
        outputs = self.session.run(feeds)
        self.took.append(self.request.latency)
        return outputs

    def turn(self, drive: Tool) -> Figures:
        """That of all calls of a turn of EdgeKD's loop."""
        self.took.clear()
        drive()
        return figures(np.array([round(1e6 * each) for each in self.took[REACQUAINT:]]))


class _Same:
    """benchmark_app's queue of inputs where they are set once, before it measures."""

    def get_next_batch_size(self) -> int:
        return 1


def of_onnxruntime(path: Path, feeds: Sequence[Arrays], calls: int) -> dict[str, Tool]:
    """Tools that call one and the same ``InferenceSession``."""
    inner = harness_sut.opened(path)
    session = OrtSession(inner)
    asked = Load(frames=calls, seconds=60.0)
    return {
        "EdgeKD single-stream": ours(session, feeds, calls),
        "LoadGen through EdgeKD": lambda: loadgen.run(session, feeds, asked)["latency_ns"],
        "LoadGen, plain system under test": lambda: harness_sut.ask(inner, feeds, calls),
    }


def of_openvino(path: Path, feeds: Sequence[Arrays], calls: int) -> dict[str, Tool]:
    """Tools that call one and the same compiled model."""
    compiled = openvino.Core().compile_model(path, "CPU", OPENVINO)
    noted = Noted(OpenVinoSession(compiled))
    drive = ours(noted, feeds, calls)  # type: ignore[arg-type]
    app = Benchmark("CPU", 1, calls, None, "sync", True)
    request = compiled.create_infer_request()
    request.infer(feeds[0])

    def app_loop() -> Figures:
        times, _, _ = app.sync_inference(request, _Same())
        return figures(np.array([round(1e6 * each) for each in times]))

    return {
        "EdgeKD single-stream": ours(OpenVinoSession(compiled), feeds, calls),
        SAME: lambda: noted.turn(drive),
        LOOP: app_loop,
    }


def programs(model: Path, feeds: Feeds, calls: int, folder: Path) -> dict[str, dict[str, Tool]]:
    """Each tool as one starts it, in a process of its own, by runtime."""
    samples, single, times = folder / "x.npz", folder / "x.npy", folder / "times.npy"
    settings = folder / "settings.json"
    settings.write_text(json.dumps({"CPU": OPENVINO}))
    name, x = next(iter(feeds.items()))
    np.savez(samples, **{name: x})
    np.save(single, x[:1])

    def bench(target: str) -> Tool:
        engine = engine_of(model, target, folder)
        load = Load(frames=calls, seconds=60.0)

        def turn() -> Figures:
            runs, _ = supervise.run([(engine, samples)], load, threads=1, timeout_s=60)
            return figures(trace.service(runs[0].trace))

        return turn

    def sut() -> Figures:
        command = [sys.executable, HERE / "harness_sut.py", model, samples, str(calls)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found: Figures = json.loads(told.splitlines()[-1])
        return found

    def app() -> Figures:
        files = ["-m", model, "-i", single, "-load_config", settings]
        command = [sys.executable, HERE / "harness_app.py", times, *APP.split(), *files]
        command += ["-niter", str(calls)]
        subprocess.run(command, check=True, capture_output=True)
        return figures(np.load(times))

    return {
        "onnxruntime": {"EdgeKD bench": bench("onnxruntime-cpu"), "LoadGen program": sut},
        "openvino": {"EdgeKD bench": bench("openvino-cpu"), "benchmark_app": app},
    }


def engine_of(model: Path, target: str, folder: Path) -> EngineFile:
    """What ``edgekd bench`` makes of an ONNX file."""
    place = folder / target
    place.mkdir(exist_ok=True)
    wanted = Wanted((target,), (), None, {}, 1000, BenchSettings(), place)
    return named(str(model), wanted)[0].engine


def calls_for(session: Session, feeds: Sequence[Arrays], seconds: float) -> int:
    """How many calls fit into so many seconds."""
    p50 = ours(session, feeds, 50)()["p50"]
    return max(100, int(seconds * 1e9 / p50))


def part(
    models: Mapping[str, Path], samples: Mapping[str, Feeds], folder: Path, quick: bool
) -> str:
    """The tables, and what is to be said of them."""
    rounds, seconds = (2, 0.02) if quick else (15, SECONDS)
    rows, shorter = [], []
    for model, path in models.items():
        feeds = samples[model]
        single = cut(feeds, 1)
        calls = calls_for(OrtSession(harness_sut.opened(path)), single, seconds)
        for runtime, make in {"onnxruntime": of_onnxruntime, "openvino": of_openvino}.items():
            found = in_turn(make(path, single, calls), rounds, 0)
            rows += _rows(model, runtime, found)
            if SAME in found:
                ratios = [_ratio(each) for each in (found[LOOP] / found[SAME]).T]
                rows.append(["", "that, over the line above", "", "", "", *ratios])
        place = folder / model
        place.mkdir()
        for runtime, tools in programs(path, feeds, calls, place).items():
            found = in_turn(tools, max(1, rounds // 2), 0)
            shorter += _rows(model, runtime, found)
    headings = ("model, runtime", "tool", *(f"{each}, ms" for each in NAMES), *_RATIOS)
    return "\n\n".join(
        [
            "## The same model by several tools",
            "In one process, all tools of a runtime on one and the same session of it:",
            record.table(headings, rows),
            "Each tool as one starts it, in a process of its own:",
            record.table(headings, shorter),
            _NOTES.format(rounds=rounds, runs=max(1, rounds // 2), seconds=seconds, app=APP),
        ]
    )


_RATIOS = tuple(f"{each} / EdgeKD's" for each in NAMES)
_NOTES = (
    "Batch 1, one thread, float32. {rounds} rounds in one process, {runs} of processes, each tool"
    " in each for about {seconds:g} s of calls, in fresh random order. Times: medians over"
    " rounds. Ratios: of neighbours in a round, median over rounds and quartiles; bold where the"
    " median is more than 3 % off.\n\n"
    "What each tool times differs. EdgeKD and LoadGen time the whole call from Python: input"
    " checked and handed over, network, outputs made into arrays; LoadGen's callback and its reply"
    " are in it too. `benchmark_app {app}` sets its input once, before it measures, and reads"
    " `InferRequest.latency`, a clock inside OpenVINO around the network alone: no input, no"
    " output, no Python. Its line is to be held against *the same calls, by OpenVINO's clock*:"
    " what separates that from EdgeKD's figure is what an application pays on top. Its one input"
    " stays in the caches; EdgeKD takes samples in turn. benchmark_app"
    " prints one percentile a run, rounded; here its own list of times is read.\n\n"
    "ONNX Runtime's own `onnxruntime_perf_test` is in no wheel, no release archive and no Debian"
    " package, and must be built with the library"
    " ([#17332](https://github.com/microsoft/onnxruntime/issues/17332), where a maintainer"
    " recommends LoadGen in its place): it was not run."
)


def _rows(model: str, runtime: str, found: dict[str, npt.NDArray[Any]]) -> list[list[str]]:
    rows = []
    base = next(iter(found.values()))
    for name, each in found.items():
        ratios = each / base
        cells = [f"{ms:.4f}" for ms in np.median(each, 0) / 1e6]
        if each is not base:
            cells += [_ratio(column) for column in ratios.T]
        rows.append([f"{model}, {runtime}", name, *cells, *[""] * (6 - len(cells))])
    return rows


def _ratio(values: npt.NDArray[Any]) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    told = f"{middle:.3f}" if abs(middle - 1) <= GOAL else f"**{middle:.3f}**"
    return f"{told} [{low:.3f}, {high:.3f}]"
