"""The whole pipeline on digits: what it makes, what it reuses, what it survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import edgekd
from edgekd.artifacts import OnnxModel
from edgekd.bench.scenarios import Load
from edgekd.errors import BackendUnavailable, BundleError, RecipeError
from edgekd.pipeline import build
from edgekd.progress import Nobody
from edgekd.recipe import Recipe
from edgekd.recipe_file import load
from edgekd.remeasure import bench_anything
from edgekd.store import Store
from edgekd.subjects import Wanted
from tests.conftest import BUILT_WITH, ROOT, TINY, assert_one_line, run_cli
from tests.models.bundles import bundle_of


def _stages(stderr: str) -> dict[str, bool]:
    """By stage, in order: whether its result came from the store."""
    lines = [each[2:].rsplit(": ", 1) for each in stderr.splitlines() if each.startswith("✓ ")]
    return {name: how == "from the store" for name, how in lines}


STAGES = [
    "data", "teacher", "student", "control", "export teacher", "export student",
    "calibration set", "calibrate", "quantise s8s8", "quantise u8s8",
    "check int8", "prove s8s8, u8s8",
    "engine teacher/torch/fp32", "engine student/torch/fp32", "engine control/torch/fp32",
    "float16 student", "float16 s8s8",
    "engine student/onnxruntime-cpu/fp32", "engine student/onnxruntime-cpu/int8",
    "engine student/openvino-cpu/fp32", "engine student/openvino-cpu/int8",
    "engine student/tensorrt-rtx/fp32", "engine student/tensorrt-rtx/fp16",
    "engine student/tensorrt-rtx/int8", "emulate float16 student", "emulate float16 s8s8",
    "engine teacher/onnxruntime-cpu/fp32", "engine teacher/openvino-cpu/fp32",
    "evaluate teacher/torch/fp32", "evaluate student/torch/fp32", "evaluate control/torch/fp32",
    "evaluate teacher/onnxruntime-cpu/fp32", "evaluate teacher/openvino-cpu/fp32",
    "evaluate student/onnxruntime-cpu/fp32", "evaluate student/onnxruntime-cpu/int8",
    "evaluate student/openvino-cpu/fp32", "evaluate student/openvino-cpu/int8",
    "preview student/tensorrt-rtx/fp16", "preview student/tensorrt-rtx/int8",
    "differences to teacher", "differences to student", "golden", "bench", "camera", "profile",
    "report",
]  # fmt: skip


def test_every_stage_ran_once_in_order(built: dict[str, Path]) -> None:
    found = _stages(built["stderr"].read_text())
    assert list(found) == STAGES
    assert not any(found.values())


def test_the_networks_have_learnt(built: dict[str, Path]) -> None:
    printed = json.loads(built["stdout"].read_text())
    models = printed["models"]
    assert models["teacher"]["top1"] > 93
    assert models["student"]["top1"] > 85
    assert models["control"]["top1"] > 85
    engines = {each["name"]: each for each in printed["engines"]}
    fp32 = engines["student/torch/fp32"]["top1"]
    for name in ("onnxruntime-cpu", "openvino-cpu"):
        assert engines[f"student/{name}/fp32"]["top1"] == pytest.approx(fp32, abs=0.3)
        assert engines[f"student/{name}/int8"]["top1"] == pytest.approx(fp32, abs=2.0)
    for precision, near in (("fp16", 0.3), ("int8", 2.0)):
        preview = engines[f"student/tensorrt-rtx/{precision}"]
        assert preview["emulated"] and not preview["executed"]
        assert preview["top1"] == pytest.approx(fp32, abs=near)
        assert preview["latency_ns"] is None
    assert printed["verdict"]["status"] == "pass"
    assert (built["bundle"].parent / printed["report"]).is_file()


_SAME_AGAIN = """
import sys
from edgekd.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
heavy = {"torch", "onnx", "onnxruntime", "openvino", "tensorrt_rtx", "matplotlib", "jinja2"}
print(*sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


def test_a_second_run_takes_everything_from_the_store_and_loads_no_runtime(
    built: dict[str, Path], tmp_path: Path
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _SAME_AGAIN, *BUILT_WITH, "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "EDGEKD_STORE": str(built["store"])},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert _stages(result.stderr) == dict.fromkeys(STAGES, True)
    assert result.stderr.splitlines()[-1] == ""
    assert json.loads(result.stdout) == json.loads(built["stdout"].read_text())
    same = (tmp_path / "digits.edgekd" / "report.html").read_bytes()
    assert same == (built["bundle"] / "report.html").read_bytes()


def test_a_later_setting_remakes_only_what_depends_on_it(
    built: dict[str, Path], tmp_path: Path
) -> None:
    result = run_cli(
        "build",
        ROOT / "recipes" / "digits.toml",
        "--set",
        "calibration.method=entropy",
        "--out",
        tmp_path,
        env={"EDGEKD_STORE": str(built["store"])},
    )
    assert result.returncode == 0, result.stderr
    found = _stages(result.stderr)
    remade = {name for name, reused in found.items() if not reused}
    assert {"calibrate", "quantise s8s8", "quantise u8s8", "bench", "report"} <= remade
    assert not remade & {
        "data",
        "teacher",
        "student",
        "control",
        "export student",
        "calibration set",
    }
    assert "engine student/onnxruntime-cpu/fp32" not in remade
    assert "engine student/onnxruntime-cpu/int8" in remade


def _until(line: str, recipe: Path, store: Path) -> subprocess.Popen[str]:
    """A build in a process of its own, once it has written a line that starts so."""
    child = subprocess.Popen(
        [sys.executable, "-u", "-m", "edgekd", "build", str(recipe), "--out", str(recipe.parent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "EDGEKD_STORE": str(store)},
        # Run in the background of a script, the tests inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stderr is not None
    for each in child.stderr:
        if each.startswith(line):
            return child
    raise AssertionError(f"the build ended without '{line}'")


@pytest.mark.parametrize(
    "kind", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT]
)
def test_a_build_that_is_stopped_goes_on_from_the_last_finished_stage(
    tiny: Path, tmp_path: Path, kind: signal.Signals
) -> None:
    store = tmp_path / "store"
    with _until("✓ teacher", tiny, store) as child:
        child.send_signal(kind)
        rest = child.communicate(timeout=60)[1]
    if kind == signal.SIGINT:
        assert child.returncode == 130
        assert (
            rest.strip().splitlines()[-1].startswith("edgekd: stopped; what was finished is kept")
        )
        assert "Traceback" not in rest
    assert not list(tmp_path.glob("*.edgekd"))
    result = run_cli("build", tiny, "--out", tmp_path, env={"EDGEKD_STORE": str(store)})
    assert result.returncode == 0, result.stderr
    found = _stages(result.stderr)
    assert found["data"] and found["teacher"]
    assert not found["student"]
    assert not list((store / "tmp").iterdir())

    # A damaged entry is told, made again, and what it was the input of stays good.
    weights = next((store / "teacher").rglob("weights.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    result = run_cli("build", tiny, "--out", tmp_path, env={"EDGEKD_STORE": str(store)})
    assert result.returncode == 0, result.stderr
    assert "! the stored teacher" in result.stderr
    assert "weights.safetensors was changed); making it again" in result.stderr
    found = _stages(result.stderr)
    assert not found["teacher"]
    assert all(reused for name, reused in found.items() if name != "teacher")


def test_a_full_disk_stops_a_build_in_one_line(tiny: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        result = run_cli("build", tiny, env={"EDGEKD_STORE": str(place / "store")}, cwd=tmp_path)
        assert_one_line(result, 4, "teacher: the disk that holds", "is full", "EDGEKD_STORE")
        assert _stages(result.stderr) == {"data": False}
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_missed_budget_has_its_own_exit_code_and_a_bundle_all_the_same(
    built: dict[str, Path], tmp_path: Path
) -> None:
    common = ["build", ROOT / "recipes" / "digits.toml", "--out", tmp_path]
    env = {"EDGEKD_STORE": str(built["store"])}
    missed = run_cli(*common, "--fps", "1000000", env=env)
    assert missed.returncode == 1
    assert "FAIL" in missed.stdout
    assert (tmp_path / "digits.edgekd" / "report.html").is_file()
    few = ("--set", "bench.samples=10", "--set", "bench.camera_seconds=0.1")
    untold = run_cli(*common, "--fps", "100", *few, env=env)
    assert untold.returncode == 5
    assert "INSUFFICIENT" in untold.stdout
    assert "of 10 frames" in untold.stdout


def test_from_python_with_weights_that_are_given_and_without_int8(
    built: dict[str, Path], tmp_path: Path
) -> None:
    weights = next((built["store"] / "teacher").rglob("weights.safetensors"))
    recipe = load(
        ROOT / "recipes" / "digits.toml",
        {
            "name": "given",
            "teacher.weights": str(weights),
            "student.control": False,
            "student.train.epochs": 1,
            "engines.targets": ["onnxruntime-cpu"],
            "engines.precisions": ["fp32"],
            "bundle.teacher": False,
        },
    )
    result = build(recipe, tmp_path, store=Store(built["store"]))
    assert [each["precision"] for each in result.bundle.engines] == ["fp32"]
    assert "teacher.onnx" not in result.bundle.hashes()
    assert "student.int8.onnx" not in result.bundle.hashes()
    facts = json.loads(result.report.json.read_text())
    assert facts["models"]["teacher"]["top1"] > 93
    assert facts["quantisation"] is None
    assert edgekd.load(result.bundle.root)(result.bundle.golden_images()).shape == (8, 10)
    with pytest.raises(RecipeError, match="teacher.weights: there is no file /none"):
        build(
            load(None, {"data.source": "digits", "teacher.weights": "/none"}),
            tmp_path,
            store=Store(built["store"]),
        )


def test_a_backend_that_is_not_installed_stops_the_build_before_any_work(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"engines": {"targets": ["tensorrt"]}})
    with pytest.raises(BackendUnavailable, match=r"pip install 'edgekd\[tensorrt\]'"):
        build(recipe, tmp_path, store=Store(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_teachers_that_are_files_teach_a_network_of_the_users_own(
    onnx_model: OnnxModel, tmp_path: Path
) -> None:
    student = bundle_of(tmp_path / "first.edgekd", onnx_model.path)
    path = tmp_path / "r.toml"
    path.write_text(
        TINY.replace('"dscnn-s"', '"tests.models.nets:pooled"').replace(
            'model = "resnet8"',
            f'model = "onnx:{onnx_model.path}"\n'
            f'[[teacher.also]]\nmodel = "bundle:{student.name}"\nweight = 2.0',
        )
    )
    recipe = load(
        path, {"student.train.epochs": 1, "engines.precisions": ["fp32"], "bench.samples": 20}
    )
    result = build(recipe, tmp_path, store=Store(tmp_path / "store"))
    facts = json.loads(result.report.json.read_text())
    assert facts["models"]["teacher"]["model"] == "onnx:model.onnx + bundle:first.edgekd"
    assert facts["models"]["teacher"]["parity"] is None
    assert facts["models"]["teacher"]["macs"] > 0
    assert [each["name"] for each in facts["engines"]] == [
        "teacher/torch/fp32", "student/torch/fp32", "student/onnxruntime-cpu/fp32"
    ]  # fmt: skip
    assert any("is run by ONNX Runtime" in each for each in facts["notes"])
    assert "against it in the same runtime" not in result.report.html.read_text()
    assert "teacher.onnx" not in result.bundle.hashes()
    with pytest.raises(BundleError, match="one that ONNX Runtime runs is never in it"):
        bench_anything(
            str(result.bundle.root), against="teacher", budget=recipe.budget, load=Load(),
            profile=False, wanted=Wanted((), (), None, {}, 0, recipe.bench, tmp_path),
            watcher=Nobody(), command="",
        )  # fmt: skip
