"""OpenVINO's benchmark_app, whole; its list of times is kept before it rounds what it prints.

python benchmarks/harness_app.py TIMES.npy [benchmark_app's own arguments]
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from openvino.tools.benchmark import main as app
from openvino.tools.benchmark.benchmark import Benchmark


def _kept(path: str) -> None:
    loop = Benchmark.sync_inference

    def keeping(self: Any, request: Any, data_queue: Any) -> Any:
        times, seconds, calls = loop(self, request, data_queue)
        np.save(path, np.round(np.array(times) * 1e6).astype(np.int64))
        return times, seconds, calls

    Benchmark.sync_inference = keeping


if __name__ == "__main__":
    _kept(sys.argv.pop(1))
    app.main()
