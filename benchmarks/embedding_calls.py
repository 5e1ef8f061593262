"""What EdgeKD adds to a call, in C++ and in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt
import record
from embedding_programs import Given, Record, name, told
from harness_tools import OPENVINO, figures, in_turn

import edgekd
from edgekd.bench.load import REACQUAINT, quiet_collector
from edgekd.stats.percentiles import interval

CPP_NS, PYTHON_NS = 500, 3_000
BARE, AGAIN, ANEW = "bare", "bare, opened again", "bare, outputs made anew"
OURS = ("edgekd_context_run", "edgekd::Context::run")
RUN, BINDING = "engine.run(x)", "binding.run()"
Times = npt.NDArray[Any]
Call = tuple[Callable[..., Any], tuple[Any, ...]]


# ── C++ ──────────────────────────────────────────────────────────────────────────────────


def cpp(given: Given) -> str:
    """The table of what the C++ library adds, and the allocations of a call."""
    sizes, rows, same = given.sizes, [], []
    for engine in given.engines:
        words = (given.bundle.root, engine["target"], engine["precision"])
        file = given.bundle.root / engine["path"]
        processes = [
            told(given, "overhead", "calls", *words, file, sizes.rounds, sizes.calls, seed)
            for seed in range(sizes.processes)
        ]
        same.extend(each["same"] for each in processes)
        callers = {
            caller: [each["callers"][caller] for each in processes]
            for caller in processes[0]["callers"]
        }
        p50 = {
            caller: [np.array(each["p50_ns"]) for each in found]
            for caller, found in callers.items()
        }
        for caller, found in callers.items():
            ours = sum(each["ours"] for each in found)
            allocated = [
                f"{np.median([each['all'] for each in found]):.0f}",
                f"**{ours}**" if ours else "0",
            ]
            more = _more(p50, caller, BARE, dict.fromkeys(OURS, CPP_NS), 1)
            rows.append([name(engine), caller, _middle(p50[caller]), more, *allocated])
    headings = (
        "engine", "call", "p50, µs", "over the bare call, ns", "allocations in a call",
        "of them not the runtime's",
    )  # fmt: skip
    return "\n\n".join(
        [
            "## What the C++ library adds to a call",
            record.table(headings, rows),
            (
                "*bare* is `OrtApi::Run` with values made before, and `ov::InferRequest::infer`"
                " with bound tensors, on memory, options and threads as the plugins have them."
                f" *{AGAIN}* is the same once more, on a session of its own: how much depends on"
                f" where memory happens to lie. *{ANEW}* is what samples do: `Ort::Session::Run`"
                " that allocates its outputs in each call; a tensor made, set and got from"
                " OpenVINO's request in each call. Callers took turns of"
                f" {sizes.calls} calls in random order, {sizes.rounds} rounds in each of"
                f" {sizes.processes} processes. Of a process the median over rounds of the"
                " difference between neighbours' p50 is kept; told is the median over processes"
                f" with its 95 % interval, bold beyond {CPP_NS / 1000} µs. Allocations are those"
                " of all threads, counted in `malloc` and its kin and put down to whose frames are"
                " nearest. The answers of all callers are "
                + ("the same to the bit." if all(same) else "**not the same**.")
            ),
        ]
    )


# ── Python ───────────────────────────────────────────────────────────────────────────────


def python(given: Given) -> str:
    """The table of what the Python engine adds."""
    sizes, rows, same = given.sizes, [], []
    for engine in given.engines:
        p50: dict[str, list[Times]] = {}
        for opening in range(sizes.openings):
            turns, equal = _opening(given, engine, opening)
            same.append(equal)
            for caller, found in turns.items():
                p50.setdefault(caller, []).append(found[:, 0])
        plain, bound = next(iter(p50)), next(each for each in p50 if "bound" in each)
        for caller, found in p50.items():
            rows.append(
                [
                    name(engine), f"`{caller}`", _middle(found),
                    _more(p50, caller, plain, {RUN: PYTHON_NS, BINDING: 0}, 1000),
                    _more(p50, caller, bound, {BINDING: PYTHON_NS}, 1000),
                ]
            )  # fmt: skip
    headings = ("engine", "call", "p50, µs", "over the plain call, µs", "over the bound one, µs")
    return "\n\n".join(
        [
            "## What the Python engine adds to a call",
            record.table(headings, rows),
            (
                "The first call of each engine, the plain one, is its runtime's own as its"
                f" documentation has it: an array in, a new array out, as `{RUN}` has it too. What"
                " is bound stays in one place: that is the runtime's own call to hold"
                f" `{BINDING}` against. `engine(image)` begins with bytes of the model's size, and"
                f" normalises them. Turns of {sizes.calls} calls in one process, {sizes.rounds}"
                f" rounds in each of {sizes.openings} openings of everything; medians and"
                f" intervals as above, over openings. Bold: `{RUN}` beyond {PYTHON_NS / 1000:g} µs"
                f" over the plain call; `{BINDING}` slower than that, or beyond"
                f" {PYTHON_NS / 1000:g} µs over the bound one. The answers are "
                + ("the same to the bit." if all(same) else "**not the same**.")
            ),
        ]
    )


def _opening(given: Given, engine: Record, seed: int) -> tuple[Mapping[str, Times], bool]:
    """Each caller's p50 by round, and whether all of them answer the same."""
    sizes = given.sizes
    rng = np.random.default_rng(seed)
    with edgekd.load(given.bundle.root, engine["target"], engine["precision"]) as opened:
        channels, height, width = opened.shape
        image = rng.integers(0, 256, (height, width, channels), np.uint8)
        x = rng.standard_normal((1, *opened.inputs[0].shape[1:])).astype(np.float32)
        binding = opened.bind()
        binding.inputs[opened.inputs[0].name][...] = x
        file = str(given.bundle.root / engine["path"])
        bare, bound = RUNTIMES[engine["backend"]](file, x)
        calls: dict[str, Call] = {
            **bare,
            RUN: (opened.run, (x,)),
            "engine(image)": (opened, (image,)),
            **bound,
            BINDING: (binding.run, ()),
        }
        tools = {
            caller: partial(turn, run, arguments, sizes.calls)
            for caller, (run, arguments) in calls.items()
        }
        with quiet_collector():
            found = in_turn(tools, sizes.rounds, seed)
        run, arguments = next(iter(calls.values()))
        (answer,) = run(*arguments).values() if engine["backend"] == "openvino" else run(*arguments)
        held = binding.outputs[opened.outputs[0].name]
        return found, np.array_equal(answer, opened.run(x)) and np.array_equal(answer, held)


def _onnxruntime(file: str, x: Times) -> tuple[dict[str, Call], dict[str, Call]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    first, second = (
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        for _ in range(2)
    )
    (taken,), (output,) = second.get_inputs(), second.get_outputs()
    feeds = {taken.name: x}
    bound = second.io_binding()
    bound.bind_ortvalue_input(taken.name, onnxruntime.OrtValue.ortvalue_from_numpy(x))
    answer = np.zeros((1, *output.shape[1:]), np.float32)
    bound.bind_ortvalue_output(output.name, onnxruntime.OrtValue.ortvalue_from_numpy(answer))
    plain = "session.run(None, {name: x})"
    return (
        {plain: (first.run, (None, feeds)), f"{plain}, again": (second.run, (None, feeds))},
        {"session.run_with_iobinding(bound)": (second.run_with_iobinding, (bound,))},
    )


def _openvino(file: str, x: Times) -> tuple[dict[str, Call], dict[str, Call]]:
    import openvino

    core = openvino.Core()
    first, second = (
        core.compile_model(file, "CPU", OPENVINO).create_infer_request() for _ in range(2)
    )
    bound = second.get_compiled_model().create_infer_request()
    bound.set_input_tensor(0, openvino.Tensor(x, shared_memory=True))
    plain = "request.infer([x])"
    return (
        {plain: (first.infer, ([x],)), f"{plain}, again": (second.infer, ([x],))},
        {"bound.infer(share_outputs=True)": (partial(bound.infer, share_outputs=True), ())},
    )


RUNTIMES = {"onnxruntime": _onnxruntime, "openvino": _openvino}


# ── Both ─────────────────────────────────────────────────────────────────────────────────


def turn(run: Callable[..., Any], arguments: tuple[Any, ...], calls: int) -> Mapping[str, int]:
    """Percentiles of so many calls, after a few to get used to it again.

    Turns are short, and what collects garbage is to be kept quiet over all of them.
    """
    times, clock = np.zeros(calls, np.int64), perf_counter_ns
    for _ in range(REACQUAINT):
        run(*arguments)
    for call in range(calls):
        before = clock()
        run(*arguments)
        after = clock()
        times[call] = after - before
    return figures(times)


def _middle(p50: list[Times]) -> str:
    return f"{np.median(np.concatenate(p50)) / 1000:.2f}"


def _more(
    p50: Mapping[str, list[Times]], caller: str, base: str, limits: Mapping[str, float], unit: float
) -> str:
    """What a caller's p50 has over another's, in ns over ``unit``; bold beyond its limit."""
    if caller == base:
        return ""
    pairs = zip(p50[caller], p50[base], strict=True)
    more = np.array([np.median(own - other) for own, other in pairs])
    digits = 0 if unit == 1 else 2
    told = f"{np.median(more) / unit:+,.{digits}f}"
    if np.median(more) > limits.get(caller, np.inf):
        told = f"**{told}**"
    bounds = interval(more, 0.5)
    if bounds is not None:
        told += f" [{bounds[0] / unit:+,.{digits}f}, {bounds[1] / unit:+,.{digits}f}]"
    return told
