"""Measuring in another process: what is kept when it fails, hangs, dies or is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd import trace
from edgekd.artifacts import EngineFile
from edgekd.bench import supervise
from edgekd.bench.scenarios import Load
from edgekd.bench.supervise import PARTS, STOPPED, Run, cold_start
from edgekd.bench.worker import to_json
from edgekd.errors import BenchError
from tests.bench.planted import backend  # noqa: F401

Make = Callable[..., EngineFile]
LOAD = Load(frames=200, seconds=20, blocks=4, pauses=1, batches=(1, 4))


@pytest.fixture
def feeds(tmp_path: Path) -> Path:
    path = tmp_path / "feeds.npz"
    np.savez(path, x=np.zeros((8, 4), np.float32))
    return path


def run(
    engines: list[EngineFile], feeds: Path, load: Load = LOAD, timeout_s: float = 20
) -> list[Run]:
    runs, watched = supervise.run(
        [(each, feeds) for each in engines], load, threads=1, timeout_s=timeout_s
    )
    assert set(watched) >= {"samples", "disturbances", "energy"}
    return runs


def test_a_whole_run_comes_back(backend: Make, feeds: Path) -> None:  # noqa: F811
    seen: list[tuple[int, int]] = []
    runs, watched = supervise.run(
        [(backend("student"), feeds), (backend("teacher", took_ms=1), feeds)],
        LOAD,
        threads=1,
        timeout_s=20,
        progress=lambda *each: seen.append(each),
    )
    fast, slow = runs
    for each in runs:
        assert not each.partial
        assert trace.answered(each.trace).all()
        assert len(each.trace) == 200
        assert each.blocks == (0, 50, 100, 150)
        assert set(each.throughput) == {"1", "4"}
        assert len(each.pauses_ns) == 1
        assert not each.splits_ns
        assert each.trace[0, trace.BEGUN] >= 0  # times are told from the run's beginning
    assert np.median(trace.service(slow.trace)) > np.median(trace.service(fast.trace))
    assert slow.throughput["4"] > slow.throughput["1"]
    assert all(total == PARTS * (LOAD.blocks + 2) for _, total in seen)
    assert seen == sorted(seen)
    assert all(each["t_ns"] > -(10**9) for each in watched["samples"])


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("raise", "RuntimeError: out of luck"),
        ("nan", "output 'y' holds values that are not finite"),
        ("shape", r"output 'y' has shape (1, 3)"),
        ("nothing", "there is no output 'y'"),
    ],
)
def test_one_that_fails_is_marked_and_the_others_go_on(
    what: str,
    complaint: str,
    backend: Make,  # noqa: F811
    feeds: Path,
) -> None:
    good, bad = run([backend("student"), backend("teacher", what=what, at=150)], feeds)
    assert not good.partial
    assert len(trace.service(good.trace)) == 200
    assert complaint in bad.partial
    assert "frame" in bad.partial
    assert 0 < len(trace.service(bad.trace)) < 150


def test_a_call_that_hangs_is_ended_and_what_came_before_is_kept(
    backend: Make,  # noqa: F811
    feeds: Path,
) -> None:
    begin = time.monotonic()
    (found,) = run([backend(what="hang", at=120)], feeds, timeout_s=1)
    assert time.monotonic() - begin < 30
    assert "no answer came for" in found.partial
    assert 0 < len(trace.service(found.trace)) < 120


def test_a_process_that_dies_leaves_what_came_before(backend: Make, feeds: Path) -> None:  # noqa: F811
    (found,) = run([backend(what="die", at=120)], feeds)
    assert found.partial == "its process was ended by signal 11"
    assert 0 < len(trace.service(found.trace)) < 120


def test_a_process_that_leaves_without_a_word_leaves_what_came_before(
    backend: Make,  # noqa: F811
    feeds: Path,
) -> None:
    (found,) = run([backend(what="leave", at=120)], feeds)
    assert found.partial == "its process ended without a word"
    assert 0 < len(trace.service(found.trace)) < 120
    with pytest.raises(BenchError, match="in a process of its own: its process ended without a w"):
        cold_start(backend(what="leave", at=0), feeds, 1)


def test_what_a_library_prints_as_it_ends_hides_nothing(backend: Make, feeds: Path) -> None:  # noqa: F811
    (found,) = run([backend(chatter=1)], feeds, Load(frames=5, blocks=1))
    assert not found.partial
    spans, _ = cold_start(backend(chatter=1), feeds, 1)
    assert len(spans) == 4
    with pytest.raises(BenchError, match="of its own: frame 0: RuntimeError: out of luck"):
        cold_start(backend(chatter=1, what="raise", at=0), feeds, 1)


def test_to_wait_is_not_to_hang(backend: Make, feeds: Path) -> None:  # noqa: F811
    """Neither for a frame that is due later than a call may take, nor for half a second."""
    load = Load(scenario="camera", frames=2, period_ns=1.2e9, seconds=2, blocks=1, pauses=2)
    (found,) = run([backend()], feeds, load, timeout_s=0.4)
    assert not found.partial
    assert len(trace.service(found.trace)) == 2
    assert len(found.pauses_ns) == 2


def test_the_shortest_run_is_watched_from_before_it_began_until_it_ended(
    backend: Make,  # noqa: F811
    feeds: Path,
) -> None:
    (found,), watched = supervise.run(
        [(backend(), feeds)], Load(frames=5, seconds=1, blocks=1), threads=1, timeout_s=20
    )
    first, *_, last = watched["samples"]
    assert first["t_ns"] < 0
    assert last["t_ns"] > found.trace[-1, trace.ANSWERED]
    assert watched["others_share"] is not None  # its process' own counters were read to the end


def test_progress_is_told_within_a_turn(backend: Make, feeds: Path) -> None:  # noqa: F811
    seen: list[int] = []
    supervise.run(
        [(backend(took_ms=10), feeds)], Load(frames=120, seconds=9, blocks=1),
        threads=1, timeout_s=20, progress=lambda done, total: seen.append(done),
    )  # fmt: skip
    assert any(0 < each < PARTS for each in seen)
    assert seen == sorted(seen)


def test_where_nothing_came_there_is_no_result(backend: Make, feeds: Path) -> None:  # noqa: F811
    with pytest.raises(BenchError, match="student/planted/fp32 could not be measured: its process"):
        run([backend(what="die", at=0)], feeds)
    gone = backend()
    object.__setattr__(gone, "backend", "onnxruntime")
    object.__setattr__(gone, "device", "cpu")
    with pytest.raises(BenchError, match="ONNX Runtime refuses .*planted.bin"):
        run([gone], feeds)


INTERRUPTED = """
import json, sys
from pathlib import Path
from edgekd.bench import supervise
from edgekd.bench.scenarios import Load
from edgekd.bench.worker import from_json
load = Load(frames=100_000, seconds=600, blocks=1)
told = lambda done, total: print("measuring", flush=True)
(found,), _ = supervise.run(
    [(from_json(json.loads(sys.argv[1])), Path(sys.argv[2]))], load,
    threads=1, timeout_s=20, progress=told,
)
print(json.dumps([found.partial, len(found.trace)]))
"""


def test_ctrl_c_keeps_what_came_until_then(backend: Make, feeds: Path) -> None:  # noqa: F811
    """As a terminal sends it: to every process of the group."""
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, json.dumps(to_json(backend())), str(feeds)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None
    for _ in range(5):
        assert child.stdout.readline() == "measuring\n"
    os.killpg(child.pid, signal.SIGINT)
    rest, _ = child.communicate(timeout=60)
    partial, frames = json.loads(rest.splitlines()[-1])
    assert child.returncode == 0
    assert partial == STOPPED
    assert 0 < frames < 100_000
    group = subprocess.run(["pgrep", "-g", str(child.pid)], capture_output=True, check=False)
    assert not group.stdout  # the process that measured is gone too


ENDED = """
import signal
def leave(number, frame):
    sys.exit(128 + number)
for each in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(each, leave)
supervise._SHARED = Path(sys.argv[3])
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_who_is_ended_leaves_nothing_behind(
    sent: signal.Signals,
    backend: Make,  # noqa: F811
    feeds: Path,
    tmp_path: Path,
) -> None:
    """As the command line does it: the signal becomes a SystemExit."""
    shared = tmp_path / "shared"
    shared.mkdir()
    program = INTERRUPTED.replace("load = ", ENDED + "load = ", 1)
    child = subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(to_json(backend())), str(feeds), str(shared)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "measuring\n"
    assert [each.name[:7] for each in shared.iterdir()] == ["edgekd-"]
    child.send_signal(sent)
    child.communicate(timeout=60)
    assert child.returncode == 128 + sent
    assert not list(shared.iterdir())
    group = subprocess.run(["pgrep", "-g", str(child.pid)], capture_output=True, check=False)
    assert not group.stdout


def test_background_work_is_ours_and_no_disturbance(backend: Make, feeds: Path) -> None:  # noqa: F811
    load = Load(frames=400, seconds=5, blocks=1, background=1)
    _, watched = supervise.run([(backend(took_ms=4), feeds)], load, threads=1, timeout_s=20)
    assert watched["background"] == 1
    assert not [each for each in watched["disturbances"] if "other" in each["what"]]
    assert not _workers("np.multiply")


def test_a_fresh_process_tells_how_it_came_to_its_first_answers(
    backend: Make,  # noqa: F811
    feeds: Path,
) -> None:
    spans, memory = cold_start(backend(took_ms=30), feeds, 1)
    imported, opened, first, second = spans
    assert imported > 10_000_000  # a Python with numpy does not start faster
    assert opened >= 0
    assert first >= 30_000_000
    assert second >= 30_000_000
    assert memory is not None
    assert 10e6 < memory < 1e9
    with pytest.raises(BenchError, match="does not run in a process of its own: .*out of luck"):
        cold_start(backend(what="raise", at=0), feeds, 1)


def _workers(word: str = "edgekd.bench.worker") -> list[str]:
    """Processes of ours that are still there."""
    found = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "args="],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [line for line in found.stdout.splitlines() if word in line]
