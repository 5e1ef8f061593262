"""``benchmarks/harness.py``: what it plants is found, and its tables are made."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.bench.arrivals import POLICIES
from tests.bench.planted import Clock
from tests.conftest import ROOT

SCRIPT = ROOT / "benchmarks" / "harness.py"
sys.path.insert(0, str(SCRIPT.parent))
stalls, tools, clocks = map(import_module, ("harness_stalls", "harness_tools", "harness_clock"))


def timed(plan: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    return Clock(monkeypatch).session(plan.took_ns)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_planted_is_reported_to_the_nanosecond(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = stalls.Plan()
    kept = stalls.seen(plan, policy, timed(plan, monkeypatch))
    planted = stalls.simulated(plan, policy)
    assert [int(each) if each > 0 else None for each in kept[:, 2] - kept[:, 0]] == planted
    assert stalls.reported(kept) == stalls.planted(planted)


def test_a_stall_is_several_lost_frames_to_a_camera_and_one_slow_call_to_a_closed_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = stalls.Plan()
    lost = {policy: stalls.planted(stalls.simulated(plan, policy)) for policy in POLICIES}
    assert lost["queue"][0].startswith("31 of 3,000")  # 6 stalls of 4 frames, and 7 of the burst
    assert lost["drop-oldest"][:3] == ["31 of 3,000 (1.03 %)", "22", "7"]
    assert lost["skip"][0].startswith("39 of 3,000")
    closed = stalls.reported(stalls.back_to_back(plan, timed(plan, monkeypatch)))
    assert closed[:3] == ["9 of 3,000 (0.30 %)", "0", "3"]
    assert closed[3:5] == ["1.00", "1.00"]  # p99 of the calls, where a camera loses 1 % and more


@pytest.mark.parametrize("policy", POLICIES)
def test_a_machine_that_is_a_little_late_loses_the_same_frames(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = stalls.simulated(stalls.Plan(), policy)
    planned = stalls.Plan.took_ns

    def slower(self: Any, call: int) -> int:
        took = planned(self, call)
        return int(took + 500_000 * (took > stalls.MS))

    monkeypatch.setattr(stalls.Plan, "took_ns", slower)
    moved = stalls.simulated(stalls.Plan(), policy)
    assert moved != exact
    late = [[each is None or each > stalls.PERIOD_NS for each in run] for run in (exact, moved)]
    assert late[0] == late[1]


def test_a_ratio_is_of_neighbours_and_bold_beyond_three_percent() -> None:
    steady = np.array([[100, 100, 100], [200, 200, 200], [300, 300, 300]])
    found = {"EdgeKD": steady, "peer": steady * np.array([1.02, 1.04, 0.5])}
    base, peer = tools._rows("m", "r", found)
    assert base[5:] == ["", "", ""]
    assert peer[5:] == [
        "1.020 [1.020, 1.020]", "**1.040** [1.040, 1.040]", "**0.500** [0.500, 0.500]",
    ]  # fmt: skip


def test_tools_take_turns_and_the_first_round_is_not_kept() -> None:
    asked: list[str] = []

    def tool(name: str) -> Any:
        def turn() -> dict[str, int]:
            asked.append(name)
            return dict.fromkeys(("p50", "p90", "p99"), asked.count(name))

        return turn

    found = tools.in_turn({name: tool(name) for name in "abc"}, 20, 0)
    assert found["a"][:, 0].tolist() == list(range(2, 22))
    rounds = [asked[first : first + 3] for first in range(0, len(asked), 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 3  # in fresh random order


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A product of a vector and a matrix, with a free batch."""
    kept = numpy_helper.from_array(np.ones((8, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 4))],
        [kept],
    )
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )
    return path


def test_the_script_makes_its_tables(model: Path, tmp_path: Path) -> None:
    chosen = ["--quick", "--parts", "overhead", "stalls", "--model", model, "--out", tmp_path]
    done = subprocess.run(
        [sys.executable, SCRIPT, *chosen], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "harness.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    loops = [row[2] for row in rows if row[0].startswith("small")]
    assert loops == ["EdgeKD's session in that loop", "EdgeKD single-stream"]
    plan = stalls.QUICK
    for policy in POLICIES:
        (place,) = [k for k, row in enumerate(rows) if row[0] == f"camera, {policy}"]
        planted, reported = rows[place][2:], rows[place + 1][2:]
        assert planted == stalls.planted(stalls.simulated(plan, policy))
        most = int(planted[0].split()[0])
        assert int(reported[0].split()[0]) >= most  # and what this machine lost besides
    assert text.count("Meanwhile ") == 2


def test_lateness_is_that_of_each_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still but for what is waited, nobody is late."""
    session = Clock(monkeypatch).session(lambda call: 1000)
    late = clocks.camera(session, [{"x": np.zeros(1)}], 500, 50)
    assert late.tolist() == [0] * 50
    assert clocks._late([np.array([1000] * 99 + [50_000]), np.array([30_000] * 100)]) == [
        "15.5", "1.0", "**30.0**", "**30.0**", "50",
    ]  # fmt: skip
