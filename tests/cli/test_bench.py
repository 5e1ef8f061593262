"""``edgekd bench`` as a user meets it: the command line in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from edgekd.backends.base import find
from edgekd.bundle import read, sealed
from tests import small_onnx
from tests.bench import planted
from tests.conftest import assert_one_line, run_cli

Done = subprocess.CompletedProcess[str]
FEW = ("--frames", "30", "--seconds", "1")
SURE = ("--miss-rate", "0.9", "--confidence", "0.5")  # a busy machine passes as well


def _json(*arguments: str | Path, code: int = 0) -> Any:
    result = run_cli(*arguments, "--json")
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout)


@dataclass(frozen=True)
class Place:
    """Where a third party's backend is installed, and what it is to be run on.

    Attributes:
        root: of everything.
        bundle: of one engine, which does as it should; it cannot be written.
        env: with which the command line finds the backend.
    """

    root: Path
    bundle: Path
    env: dict[str, str]

    def bench(self, what: str | Path, *options: str | Path) -> Done:
        return run_cli("bench", what, *options, env=self.env)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("planted")
    env = {
        "PYTHONPATH": str(planted.install(root / "site")),
        "EDGEKD_STORE": str(root / "home" / "store"),
    }
    bundle = planted.bundle(root / "good.edgekd", {})
    for each in (bundle, *bundle.rglob("*")):
        each.chmod(each.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    planted.bundle(
        root / "bad.edgekd",
        {"took_ms": 0.5},
        {"what": "raise", "at": 120},
        {"what": "nan", "at": 120},
        {"what": "shape", "at": 120},
    )
    never = {"what": "raise", "at": 0}
    planted.bundle(root / "hang.edgekd", {}, {"what": "hang", "at": 120}, never)
    planted.bundle(root / "broken.edgekd", never)
    full = root / "full"
    full.mkdir()
    (full / "report.json").symlink_to("/dev/full")
    small_onnx.product(root / "a.onnx")
    small_onnx.product(root / "b.onnx", wide=3000)
    return Place(root, bundle, env)


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(each.relative_to(folder)): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in sorted(folder.rglob("*"))
        if each.is_file()
    }


@pytest.fixture(scope="module")
def runs(place: Place) -> dict[str, Done]:
    """Runs that several tests look at, each made once; most of their time is waiting."""
    good, root = place.bundle, place.root
    camera = ("--scenario", "camera", "--fps", "200", *SURE, *FEW, "--json")
    asked: dict[str, tuple[str | Path, ...]] = {
        "pass": (good, *FEW, "--fps", "1", *SURE, "--json", "--max-size", "1kB"),
        "fail": (good, *FEW, "--fps", "1e6", "-o", root / "kept"),
        "insufficient": (
            good, "--frames", "10", "--fps", "1", "--miss-rate", "0.001",
            "--junit", root / "bench.xml", "--markdown", root / "bench.md",
        ),
        "nowhere": (good, "--frames", "10", "--junit", root / "none" / "bench.xml"),
        "full": (good, *FEW, "-o", root / "full"),
        "bad": (root / "bad.edgekd", *FEW, "--fps", "1", *SURE, "--json", "-o", root / "bad"),
        "hang": (root / "hang.edgekd", *FEW, "--timeout", "2"),
        "camera": (good, *camera, "--policy", "skip", "--background", "1"),
        "server": (good, *camera, "--scenario", "server", "--rate", "300"),
        "multi-stream": (good, *FEW, "--scenario", "multi-stream", "--streams", "4", "--fps", "1",
                         *SURE, "--json"),
        "offline": (good, *FEW, "--scenario", "offline", "--fps", "1", *SURE, "--json"),
        "single-stream": (
            root / "a.onnx", *FEW, "--against", root / "b.onnx", "--loadgen", "--profile",
            "--threads", "2",
        ),
    }  # fmt: skip
    before = _hashes(good)
    with ThreadPoolExecutor(4) as pool:
        made = {name: pool.submit(place.bench, *each) for name, each in asked.items()}
        found = {name: each.result() for name, each in made.items()}
    assert _hashes(good) == before
    return found


def _facts(done: Done) -> Any:
    """A report on stdout, and nothing but it."""
    return json.loads(done.stdout)


# a budget


def test_a_budget_that_is_met(runs: dict[str, Done]) -> None:
    done = runs["pass"]
    assert done.returncode == 0, done.stderr
    facts = _facts(done)
    assert facts["verdict"]["status"] == "pass"
    assert [each["name"] for each in facts["verdict"]["criteria"]] == ["deadline", "size"]
    (row,) = facts["engines"]
    assert (row["name"], row["samples"]) == ("student/planted/P0", 30)
    assert row["misses"]["frames"] == 30
    assert row["start"]["peak_memory_bytes"] > 0
    assert facts["budget"] == {
        "fps": 1.0, "deadline_ms": None, "miss_rate": 0.9, "confidence": 0.5, "max_drop": None,
        "max_memory_mb": None, "max_size_mb": 0.001,
    }  # fmt: skip
    assert facts["command"].startswith("edgekd bench ")
    assert "Traceback" not in done.stderr


def test_a_budget_that_is_missed(runs: dict[str, Done]) -> None:
    done = runs["fail"]
    assert done.returncode == 1, done.stderr
    assert "missed 30 of 30 frames due within 0.001 ms, 30 in a row at most" in done.stdout
    assert "single-stream (0.001 ms): FAIL" in done.stdout.splitlines()[-1]


def test_ten_frames_certify_nothing(runs: dict[str, Done]) -> None:
    done = runs["insufficient"]
    assert done.returncode == 5, done.stderr
    assert "too few frames to tell: it takes 4,603 with no miss more" in done.stdout
    assert "INSUFFICIENT" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "option",
    ["--fps", "--deadline-ms", "--miss-rate", "--confidence", "--max-size", "--max-memory"],
)
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast"])
def test_a_budget_that_is_none(option: str, value: str) -> None:
    from click.testing import CliRunner

    from edgekd.cli import cli

    result = CliRunner().invoke(cli, ["bench", "none.onnx", f"{option}={value}"])
    assert result.exit_code == 2 or getattr(result.exception, "exit_code", 0) == 2


@pytest.mark.parametrize("value", ["0", "nan"])
def test_a_budget_that_is_none_is_told_in_one_line(value: str) -> None:
    assert_one_line(run_cli("bench", "none.onnx", f"--fps={value}"), 2, "--fps", repr(value))


# scenarios


def test_a_camera_has_a_period(runs: dict[str, Done]) -> None:
    done = runs["camera"]
    assert done.returncode == 0, done.stderr
    facts = _facts(done)
    assert facts["bench"]["scenario"] == "camera"
    load = facts["bench"]["load"]
    assert (load["period_ns"], load["policy"], load["frames"]) == (5e6, "skip", 30)
    assert facts["camera"]["engine"] == facts["preferred"]
    (row,) = facts["engines"]
    assert row["misses"]["frames"] == 30
    assert set(row["lateness_ns"]) == {"p50", "p99", "max"}
    assert "pause" in row["starts_ns"]
    assert (load["background"], facts["watch"]["background"]) == (1, 1)


def test_a_server_has_a_rate(runs: dict[str, Done]) -> None:
    done = runs["server"]
    assert done.returncode == 0, done.stderr
    facts = _facts(done)
    load = facts["bench"]["load"]
    assert (load["scenario"], load["rate_per_s"], load["policy"]) == ("server", 300, "queue")
    assert facts["engines"][0]["misses"]["deadline_ns"] == 5_000_000  # of --fps 200
    assert facts["camera"] is None


def test_streams_are_answered_at_once(runs: dict[str, Done]) -> None:
    facts = _facts(runs["multi-stream"])
    assert runs["multi-stream"].returncode == 0
    assert facts["engines"][0]["batch"] == 4
    assert "batches of 4" in facts["verdict"]["reasons"][0]


def test_offline_tells_a_rate_for_each_batch(runs: dict[str, Done]) -> None:
    assert runs["offline"].returncode == 0
    rates = _facts(runs["offline"])["engines"][0]["throughput_per_s"]
    assert list(rates) == ["1", "2", "4", "8", "16", "32", "64"]
    assert rates["64"] > rates["1"]


def test_a_scenario_without_its_rate(place: Place) -> None:
    for scenario, words in (("camera", "give it with --fps"), ("server", "give --rate")):
        result = place.bench(place.bundle, "--scenario", scenario)
        assert_one_line(result, 2, f"--scenario {scenario}", words)


# an engine that is not as it should be


def test_engines_that_fail_are_marked_and_the_others_shown(
    runs: dict[str, Done], place: Place
) -> None:
    done = runs["bad"]
    assert_one_line(done, 4, "student/planted/P1: ", "frame ", "RuntimeError: out of luck")
    facts = _facts(done)
    rows = {each["precision"]: each for each in facts["engines"]}
    for name, words in (
        ("P1", "RuntimeError: out of luck"),
        ("P2", "output 'y' holds values that are not finite"),
        ("P3", "output 'y' has shape (1, 3), and ('batch', 2) was declared"),
    ):
        assert words in rows[name]["partial"]
        assert 0 < rows[name]["samples"] < 30
        assert rows[name]["latency_ns"]
    assert (rows["P0"]["samples"], rows["P0"]["partial"]) == (30, "")
    assert facts["preferred"] == "student/planted/P0"  # the slowest, and the only one that works
    assert facts["verdict"]["status"] == "pass"
    kept = json.loads((place.root / "bad" / "report.json").read_text())
    assert kept == facts
    for row in facts["engines"]:
        trace = np.load(place.root / "bad" / f"{row['name'].replace('/', '.')}.single-stream.npy")
        assert (trace[:, 2] >= 0).sum() == row["samples"]


def test_an_engine_that_hangs_is_ended_and_named(runs: dict[str, Done]) -> None:
    done = runs["hang"]
    assert_one_line(done, 4, "student/planted/P1: no answer came for 2 s")
    assert "! student/planted/P1: no answer came for 2 s" in done.stdout
    assert "! student/planted/P0: ended with student/planted/P1" in done.stdout
    assert done.stdout.endswith("INSUFFICIENT\n")
    assert re.search(r"\n  student/planted/P2 +- +- +- +- +- +0\n", done.stdout)  # never answered


def test_where_no_frame_is_answered_there_is_nothing_to_show(place: Place) -> None:
    done = place.bench(place.root / "broken.edgekd", *FEW)
    assert_one_line(done, 4, "student/planted/P0: warm-up, frame 0: RuntimeError: out of luck")
    assert not done.stdout


@pytest.mark.parametrize(("at", "took_ms"), [(0, 500), (300, 5)])
def test_ctrl_c_shows_and_keeps_what_there_is(
    place: Place, tmp_path: Path, at: int, took_ms: int
) -> None:
    """Before the first frame that counts, and in the middle; every process gets the signal."""
    mark = tmp_path / "mark"
    options: dict[str, object] = {"what": "mark", "mark": mark, "at": at, "took_ms": took_ms}
    bundle = planted.bundle(tmp_path / "m.edgekd", options)
    command = (
        "bench", bundle, "--frames", "100000", "--seconds", "600", "--background", "1",
        "-o", tmp_path / "kept",
    )  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-m", "edgekd", *map(str, command)],
        env={**os.environ, **place.env}, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not mark.exists():
        assert child.poll() is None
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=60)
    done = subprocess.CompletedProcess(command, child.returncode, out, err)
    assert "Traceback" not in err
    if not at:
        assert_one_line(done, 130, "stopped before anything was measured")
        return
    assert_one_line(done, 130, "what was measured until then is marked as partial")
    assert "! student/planted/P0: stopped by you" in out
    assert "INSUFFICIENT" in out.splitlines()[-1]
    (row,) = json.loads((tmp_path / "kept" / "report.json").read_text())["engines"]
    assert row["partial"] == "stopped by you"
    trace = np.load(tmp_path / "kept" / "student.planted.P0.single-stream.npy")
    assert (trace[:, 2] >= 0).sum() == row["samples"] > 50


# where results go


def test_every_sample_is_kept(runs: dict[str, Done], place: Place) -> None:
    kept = place.root / "kept"
    assert f"every sample is kept in {kept}" in runs["fail"].stderr
    assert np.load(kept / "student.planted.P0.single-stream.npy").shape == (30, 3)
    report = json.loads((kept / "report.json").read_text())
    assert report["engines"][0]["misses"]["missed"] == 30
    beside = [each.name for each in (place.root / "home" / "bench").iterdir()]
    assert any(each.startswith("good.edgekd-") for each in beside)  # where no folder is named


def test_a_full_disk_costs_the_files_and_not_the_figures(runs: dict[str, Done]) -> None:
    done = runs["full"]
    assert_one_line(done, 4, "the results cannot be kept in", "No space left on device", "-o")
    assert "* student/planted/P0" in done.stdout
    assert done.stdout.endswith("PASS\n")


def test_a_bundle_that_cannot_be_written_is_measured_and_not_changed(
    runs: dict[str, Done], place: Place
) -> None:
    read(place.bundle).check()  # and ``runs`` saw that no file of it was changed, or added
    assert runs["pass"].returncode == 0


def test_forms_for_ci_and_for_a_review(runs: dict[str, Done], place: Place) -> None:
    assert runs["insufficient"].returncode == 5
    suite = ET.parse(place.root / "bench.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("name"), suite.get("skipped")) == ("good.edgekd", "1")
    assert [each.get("name") for each in suite.iter("testcase")] == [
        "deadline",
        "student/planted/P0",
    ]
    text = (place.root / "bench.md").read_text()
    assert "`good.edgekd`: INSUFFICIENT" in text
    assert "student/planted/P0" in text


def test_a_form_that_cannot_be_written_comes_after_what_can(runs: dict[str, Done]) -> None:
    assert_one_line(runs["nowhere"], 2, "bench.xml: cannot be written: No such file")
    assert "every sample is kept in" in runs["nowhere"].stderr
    assert runs["nowhere"].stdout.endswith("PASS\n")


# what else it tells


def test_two_onnx_files_loadgen_and_layers_by_name(runs: dict[str, Done]) -> None:
    done = runs["single-stream"]
    assert done.returncode == 0, done.stderr
    mine, other = "a/onnxruntime-cpu/onnx", "b/onnxruntime-cpu/onnx"
    assert f"* {mine}" in done.stdout
    assert f"{mine} against {other}: p50 ×" in done.stdout
    for name in (mine, other):
        assert f"{name}: MLPerf LoadGen, " in done.stdout
    assert "(ours " in done.stdout
    _, layers = done.stdout.split(f"{mine}, layer by layer:\n")
    assert "% " in layers.splitlines()[0]
    assert "fp32" in layers.splitlines()[0]
    kept = done.stderr.split("every sample is kept in ")[1].strip()
    facts = json.loads((Path(kept) / "report.json").read_text())
    assert facts["bench"]["threads"] == 2
    assert facts["engines"][0]["loadgen"]["queries"] > 0
    assert list(facts["profiles"]) == [mine]
    (pair,) = facts["comparisons"]
    assert pair["p50"][1] <= pair["p50"][0] <= pair["p50"][2]


def test_what_is_nothing_to_hold_against(place: Place) -> None:
    net = place.root / "a.onnx"
    assert_one_line(place.bench(net, "--against", "nonsense"), 2, "there is no nonsense")
    assert_one_line(place.bench(net, "--against", "teacher"), 2, "a.onnx is no bundle")
    result = place.bench(place.bundle, "--against", "teacher")
    assert_one_line(result, 2, "does not hold the teacher", "bundle.teacher = true")


def test_what_cannot_be_measured(place: Place) -> None:
    (place.root / "plan.engine").write_bytes(b"plan")
    for what, code, words in (
        ("nonsense", 2, "there is no nonsense"),
        (place.root / "plan.engine", 4, "plan.engine.json: No such file"),
        (place.root / "site" / "planted.py", 2, "is nothing that can be measured"),
    ):
        assert_one_line(place.bench(what), code, words)


# a bundle that was built


@pytest.fixture(scope="module")
def whole(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("whole")
    return _json("bench", built["bundle"], *FEW, "--against", "teacher", "-o", folder)


def test_every_engine_that_runs_here_and_the_teacher(whole: Any) -> None:
    names = [each["name"] for each in whole["engines"]]
    assert sorted(names) == [
        "student/onnxruntime-cpu/fp32",
        "student/onnxruntime-cpu/int8",
        "student/openvino-cpu/fp32",
        "student/openvino-cpu/int8",
        "teacher/onnxruntime-cpu/fp32",
        "teacher/openvino-cpu/fp32",
    ]
    for each in whole["engines"]:
        assert each["samples"] == 30
        assert 0 < each["latency_ns"]["p50"] <= each["latency_ns"]["p99"]
        assert each["speedup_vs_teacher"] > 0
    assert whole["preferred"].startswith("student/")
    assert {each["engine"].split("/")[1] for each in whole["comparisons"]} == {
        each["against"].split("/")[1] for each in whole["comparisons"]
    }
    assert len(whole["comparisons"]) == 4


def test_the_bundle_s_own_budget_is_taken(whole: Any, built: dict[str, Path]) -> None:
    assert (whole["budget"]["fps"], whole["budget"]["miss_rate"]) == (20, 0.2)
    assert whole["verdict"]["status"] == "pass"
    read(built["bundle"]).check()


def test_accuracy_is_held_against_the_budget_as_well(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["budget"]["max_drop"] = 0.0
    report = json.loads((bundle / "report.json").read_text())
    assert all(
        each["to_teacher"][0] < 0
        for each in report["engines"]
        if each["role"] == "student" and each["target"] == "onnxruntime-cpu"
    )
    (bundle / "manifest.json").write_text(sealed(manifest))
    choice = ("--target", "onnxruntime-cpu", "--precision", "int8")
    result = run_cli("bench", bundle, *choice, *FEW)
    assert result.returncode in (1, 5), result.stderr  # as the interval has it
    assert "a drop of 0 is allowed" in result.stdout


def test_a_target_that_is_not_in_the_bundle(built: dict[str, Path]) -> None:
    result = run_cli("bench", built["bundle"], "--target", "onnxruntime")
    assert_one_line(result, 2, "no engine for target 'onnxruntime'", "'onnxruntime-cpu'")


def test_a_target_that_cannot_run_here(built: dict[str, Path]) -> None:
    if find("tensorrt-rtx").probe().devices:
        pytest.skip("it can")
    result = run_cli("bench", built["bundle"], "--target", "tensorrt-rtx")
    assert_one_line(result, 3, "no NVIDIA GPU with a working driver was found")
