"""Several engines at once, each in threads of its own: python threads.py BUNDLE... [THREADS]"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import edgekd
from edgekd.errors import EdgekdError


def work(engine: edgekd.Engine, seed: int) -> None:
    """Runs an engine on noise, in place: a binding belongs to one thread."""
    binding = engine.bind()
    random = np.random.default_rng(seed)
    for _ in range(200):
        for array in binding.inputs.values():
            array[...] = random.normal(size=array.shape)
        binding.run()
    if not all(np.isfinite(each).all() for each in binding.outputs.values()):
        raise ValueError("an output is no number")


def main(bundles: list[str], threads: int) -> None:
    """Prints what each engine's calls took."""
    engines = [edgekd.load(each, streams=threads) for each in bundles]
    with ThreadPoolExecutor(threads * len(engines)) as pool:
        started = [pool.submit(work, each, seed) for each in engines for seed in range(threads)]
        for each in started:
            each.result()
    for bundle, engine in zip(bundles, engines, strict=True):
        told = engine.stats()
        print(f"{bundle}: {told.count} runs, p50 {told.p50_ns / 1e3:.0f} us")
        engine.close()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    count = int(sys.argv[-1]) if sys.argv[-1].isdecimal() else 2
    try:
        main([each for each in sys.argv[1:] if not each.isdecimal()], count)
    except EdgekdError as error:
        sys.exit(str(error))
