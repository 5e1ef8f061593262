"""MLPerf LoadGen over ONNX Runtime, as somebody writes it who does not know EdgeKD.

python benchmarks/harness_sut.py MODEL.onnx SAMPLES.npz QUERIES
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlperf_loadgen as lg
import numpy as np
import onnxruntime as rt

WARM_UP = 100
_KEYS = {f"p{share}": f"result_{share}.00_percentile_latency_ns" for share in (50, 90, 99)}


def opened(model: Path) -> rt.InferenceSession:
    """A session with one thread."""
    options = rt.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return rt.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def ask(session: rt.InferenceSession, feeds: Sequence[Any], queries: int) -> dict[str, int]:
    """SingleStream: LoadGen's own percentiles, in nanoseconds."""
    names = [each.name for each in session.get_outputs()]

    def issue(asked: Sequence[Any]) -> None:
        for each in asked:
            session.run(names, feeds[each.index % len(feeds)])
        lg.QuerySamplesComplete([lg.QuerySampleResponse(each.id, 0, 0) for each in asked])

    begin = time.perf_counter_ns()
    for index in range(WARM_UP):
        session.run(names, feeds[index % len(feeds)])
    settings = lg.TestSettings()
    settings.scenario = lg.TestScenario.SingleStream
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_query_count = settings.max_query_count = queries
    settings.min_duration_ms = 0
    settings.single_stream_expected_latency_ns = (time.perf_counter_ns() - begin) // WARM_UP
    with tempfile.TemporaryDirectory() as folder:
        log = lg.LogSettings()
        log.log_output.outdir = folder
        log.enable_trace = False
        system = lg.ConstructSUT(issue, lambda: None)
        library = lg.ConstructQSL(1024, 1024, lambda _: None, lambda _: None)
        lg.StartTestWithLogSettings(system, library, settings, log)
        lg.DestroyQSL(library)
        lg.DestroySUT(system)
        lines = (Path(folder) / "mlperf_log_detail.txt").read_text().splitlines()
    records = [json.loads(line.partition(":::MLLOG ")[2]) for line in lines]
    found = {each["key"]: each["value"] for each in records}
    return {name: int(found[key]) for name, key in _KEYS.items()}


if __name__ == "__main__":
    with np.load(sys.argv[2]) as given:
        arrays = dict(given)
    count = len(next(iter(arrays.values())))
    samples = [{name: x[k : k + 1] for name, x in arrays.items()} for k in range(count)]
    print(json.dumps(ask(opened(Path(sys.argv[1])), samples, int(sys.argv[3]))))
