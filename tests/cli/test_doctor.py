"""``edgekd doctor``: what is here, what is missing, and what each target can expect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from edgekd import cli, targets
from edgekd.backends import cuda, ort_providers
from edgekd.backends.base import BACKENDS, Availability
from edgekd.backends.tensorrt import TensorRt
from edgekd.cli import doctor
from edgekd.errors import BackendUnavailable
from tests.conftest import ROOT, run_cli

ORIN = cuda.Gpu("Orin", "sm_87", 8 << 30, 8)


def _text(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", *arguments])
    shown = capsys.readouterr()
    assert (ended.value.code, shown.err) == (0, "")
    return shown.out


def _json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(_text(capsys, "--json"))


def _targets(found: Any) -> dict[str, tuple[bool, bool, str]]:
    return {each["name"]: (each["builds"], each["runs"], each["why"]) for each in found["targets"]}


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(layer: str, extra: str) -> None:
        raise BackendUnavailable("CUDA", extra, "no NVIDIA GPU with a working driver was found")

    monkeypatch.setattr(cuda, "gpus", list)
    monkeypatch.setattr(cuda, "open_device", refuse)
    unknown = {"driver": "", "driver_cuda": "", "cuda_runtime": ""}
    monkeypatch.setattr(cuda, "versions", lambda: unknown)


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "gpus", lambda: [ORIN])
    known = {"driver": "540.4.0", "driver_cuda": "12.6", "cuda_runtime": ""}
    monkeypatch.setattr(cuda, "versions", lambda: known)
    monkeypatch.setattr(TensorRt, "probe", lambda self: Availability("10.3.0", (ORIN.sm,)))


def test_it_says_what_is_here_in_a_process_of_its_own() -> None:
    result = run_cli("doctor", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert list(found) == ["host", "nvidia", "backends", "providers", "targets"]
    assert list(found["backends"]) == list(BACKENDS)
    assert [each["name"] for each in found["targets"]] == targets.names()
    assert found["nvidia"].keys() == {"driver", "driver_cuda", "cuda_runtime", "gpus", "reason"}
    assert bool(found["nvidia"]["gpus"]) == (not found["nvidia"]["reason"])
    for name in ("onnxruntime", "openvino", "torch"):
        assert found["backends"][name]["runs_on"]
        assert found["backends"][name]["packages"]
    rows = _targets(found)
    assert rows["torch"] == (True, True, "")
    assert rows["rtx-50"][0]
    assert rows["turing"][0]


def test_without_a_gpu_what_is_unknown_and_impossible_is_said(
    no_gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TensorRt, "probe", lambda self: Availability("10.13.0", (), "no GPU"))
    found = _json(capsys)
    assert found["nvidia"] == {
        "driver": None,
        "driver_cuda": None,
        "cuda_runtime": None,
        "gpus": [],
        "reason": "CUDA is unavailable: no NVIDIA GPU with a working driver was found",
    }
    rows = _targets(found)
    why = "its ONNX waits in the bundle, for `edgekd verify --rebuild` on the device"
    assert rows["jetson-orin-nx"] == (False, False, why)
    assert rows["tensorrt"][:2] == (False, False)
    assert rows["rtx-40"][:2] == (True, False)
    text = _text(capsys)
    assert "NVIDIA driver unknown, which supports CUDA unknown; CUDA runtime unknown" in text
    assert "no NVIDIA GPU with a working driver was found" in text
    assert "can neither build nor run here: no GPU" in text
    assert "builds, cannot run here: no GPU" in text
    assert max(map(len, text.splitlines())) <= 100


def test_on_a_gpu_its_own_targets_can_be_built_and_run(
    orin: None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _json(capsys)
    rows = _targets(found)
    for name in ("jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "tensorrt"):
        assert rows[name] == (True, True, "")
    assert rows["l4"][:2] == (False, False)
    assert "verify --rebuild" in rows["l4"][2]
    assert rows["rtx-40"][:2] == (True, False)
    assert found["nvidia"]["gpus"] == [{"name": "Orin", "sm": "sm_87", "memory_bytes": 8 << 30}]
    text = _text(capsys)
    assert "NVIDIA driver 540.4.0, which supports CUDA 12.6; CUDA runtime unknown" in text
    assert "  Orin, sm_87, 8.0 GiB\n" in text
    assert "builds, and runs on sm_87" in text


@pytest.mark.parametrize(
    ("compiled_in", "works", "why"),
    [
        (False, False, "CUDAExecutionProvider is missing: edgekd[onnxruntime-gpu]"),
        (True, False, "CUDAExecutionProvider is of no use here"),
        (True, True, ""),
    ],
)
def test_a_provider_is_compiled_in_and_of_use_or_the_target_is_not_run(
    compiled_in: bool,
    works: bool,
    why: str,
    no_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cpu, gpu = "CPUExecutionProvider", "CUDAExecutionProvider"
    monkeypatch.setattr(ort_providers, "providers", lambda: (gpu, cpu) if compiled_in else (cpu,))
    monkeypatch.setattr(ort_providers, "usable", lambda name: works)
    found = _json(capsys)
    assert found["providers"] == ({gpu: works, cpu: None} if compiled_in else {cpu: None})
    assert _targets(found)["onnxruntime-cuda"] == (True, works, why)
    text = _text(capsys)
    told = {True: f"{gpu} (of use), {cpu}\n", False: f"{gpu} (of no use here), {cpu}\n"}
    assert f"ONNX Runtime has {told[works] if compiled_in else cpu}" in text


@pytest.mark.parametrize("jetson", [False, True])
def test_what_is_missing_is_told_with_what_installs_it(
    jetson: bool,
    no_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(TensorRt, "probe", lambda self: Availability("", (), "not installed"))
    monkeypatch.setattr(TensorRt, "packages", ("not-a-distribution",))
    release = tmp_path / "nv_tegra_release"
    release.touch()
    monkeypatch.setattr(doctor, "_JETSON", release)
    monkeypatch.setattr("platform.machine", lambda: "aarch64" if jetson else "x86_64")
    text = _text(capsys)
    pip = "to install tensorrt (not-a-distribution): pip install 'edgekd[tensorrt]'\n"
    assert (pip in text) == (not jetson)
    assert ("apt install python3-libnvinfer" in text) == jetson
    assert ("--system-site-packages" in text) == jetson
    rows = _targets(_json(capsys))
    assert rows["tensorrt"] == (False, False, "tensorrt is missing")
    assert rows["jetson-orin-nx"][2].startswith("its ONNX waits in the bundle")


def test_a_library_that_is_installed_and_fails_is_not_to_be_installed_again(
    no_gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = "libnvinfer.so.10: cannot open shared object file"
    monkeypatch.setattr(TensorRt, "probe", lambda self: Availability("", (), broken))
    monkeypatch.setattr(TensorRt, "packages", ("numpy",))
    each = _json(capsys)["backends"]["tensorrt"]
    assert list(each["packages"]) == ["numpy"]
    assert (each["installed"], each["install"], each["reason"]) == (False, "", broken)
    assert "installed, and of no use" in _text(capsys)


_BARE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from edgekd.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("command", [["doctor"], ["doctor", "--json"], ["targets"]])
def test_numpy_and_click_are_enough(command: list[str], tmp_path: Path) -> None:
    for name in ("click", "numpy"):
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None
        home = Path(spec.origin).parent
        for each in (home, home.with_name(f"{name}.libs")):
            if each.exists():
                (tmp_path / each.name).symlink_to(each)
    (tmp_path / "edgekd").symlink_to(ROOT / "edgekd")
    result = subprocess.run(
        [sys.executable, "-S", "-c", _BARE, str(tmp_path), *command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    if command == ["doctor"]:
        assert "cuda-python is not installed" in result.stdout
        assert "pip install 'edgekd[tensorrt-rtx]'" in result.stdout
        assert "yes" not in result.stdout
