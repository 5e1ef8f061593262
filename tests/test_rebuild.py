"""``verify --rebuild``: a bundle's plans built again on the device, checked there and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgekd import bundle as bundles
from edgekd import rebuild as module
from edgekd import runtime, targets
from edgekd.artifacts import OnnxModel
from edgekd.backends.base import find
from edgekd.backends.tensorrt import library
from edgekd.bundle import read
from edgekd.cli import cli
from edgekd.errors import BackendUnavailable, BuildError, BundleError, CorruptBundle
from edgekd.manifest import sealed
from edgekd.progress import Nobody
from edgekd.rebuild import rebuild
from edgekd.recipe import BenchSettings
from edgekd.targets import options
from tests.backends import fake_tensorrt
from tests.backends.fake_cuda import FakeCuda
from tests.backends.fake_tensorrt import FakeTensorRt
from tests.bench.here import measure_here

QUICK = BenchSettings(samples=20, seconds=0.5, blocks=2, batch=2)
RUNGS = ["fp16", "fp32", "int8"]


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """A box with an RTX 40, and a version of the library that did not build the bundle."""
    measure_here(monkeypatch)
    fake = FakeTensorRt(FakeCuda("sm_89"), "9.9.9.9", rtx=True)
    fake_tensorrt.install(monkeypatch, fake)
    return fake


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _rtx(bundle: Path) -> list[Any]:
    return [each for each in read(bundle).engines if each["target"] == "tensorrt-rtx"]


def _change(bundle: Path, change: Any) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(sealed(manifest))


def test_plans_that_do_not_fit_are_built_again_and_run(bundle: Path, rtx: FakeTensorRt) -> None:
    before = {each["precision"]: each["sha256"] for each in _rtx(bundle)}
    found = rebuild(bundle, QUICK, Nobody())
    status = {(each["target"], each["precision"]): each["status"] for each in found["engines"]}
    assert {status["tensorrt-rtx", each] for each in RUNGS} == {"rebuilt"}
    assert status["onnxruntime-cpu", "int8"] == "fits"
    assert all(each["difference"] is not None for each in found["engines"])
    assert found["written"]

    opened = read(bundle)
    opened.check()
    for record in _rtx(bundle):
        assert record["sha256"] != before[record["precision"]]
        assert (record["version"], record["device"]) == ("9.9.9.9", "sm_80+sm_86+sm_89+sm_120")
        assert record["executed"]
        assert [each["path"].rsplit(".")[-1] for each in record["parts"]] == ["json", "jit"]
        with runtime.Engine(opened, record, threads=1) as engine:
            assert engine.check_golden() <= record["tolerance"]
    assert not [each for each in bundle.parent.iterdir() if each.name.startswith(".copy")]


def test_what_was_measured_is_written_back(bundle: Path, rtx: FakeTensorRt) -> None:
    found = rebuild(bundle, QUICK, Nobody())
    opened = read(bundle)
    told = json.loads(opened.file("rebuild.json").read_text())
    assert told["bench"]["preferred"] == found["bench"]["preferred"]
    verdict = found["bench"]["verdict"]
    assert opened.manifest["verdict"] == {
        name: verdict[name] for name in ("status", "headline", "reasons")
    }
    first = opened.engines[0]
    assert f"student/{first['target']}/{first['precision']}" == found["bench"]["preferred"]
    assert len(found["bench"]["engines"]) == len(opened.engines)  # all of them were measured


def test_what_fits_is_left_as_it_is(bundle: Path, rtx: FakeTensorRt) -> None:
    rebuild(bundle, QUICK, Nobody())
    before = _content(bundle)
    again = rebuild(bundle, QUICK, Nobody())
    assert {each["status"] for each in again["engines"]} == {"fits"}
    assert not again["written"]
    assert _content(bundle) == before


def test_a_new_engine_that_answers_otherwise_is_refused_and_nothing_is_written(
    bundle: Path, rtx: FakeTensorRt
) -> None:
    before = _content(bundle)
    rtx.wrong = 3.0
    with pytest.raises(CorruptBundle, match=r"differs from the golden outputs by 3"):
        rebuild(bundle, QUICK, Nobody())
    assert _content(bundle) == before
    rtx.wrong = 0.0
    assert rebuild(bundle, QUICK, Nobody())["written"]


def test_an_onnx_that_the_library_refuses_is_told_and_nothing_is_written(
    bundle: Path, rtx: FakeTensorRt
) -> None:
    before = _content(bundle)
    rtx.refused = {"Conv"}
    with pytest.raises(BuildError, match="tensorrt_rtx cannot parse"):
        rebuild(bundle, QUICK, Nobody())
    assert _content(bundle) == before


@pytest.mark.parametrize("name", ["student.int8.fp16.onnx", "engines/tensorrt-rtx/int8.engine"])
def test_a_file_that_was_altered_reaches_no_library(
    name: str, bundle: Path, rtx: FakeTensorRt
) -> None:
    path = bundle / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptBundle, match=Path(name).name):
        rebuild(bundle, QUICK, Nobody())
    assert not rtx.built
    assert not rtx.loaded


def test_without_a_gpu_the_plans_are_kept(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_here(monkeypatch)
    before = _content(bundle)
    found = rebuild(bundle, QUICK, Nobody())
    status = {each["target"]: each["status"] for each in found["engines"]}
    if status["tensorrt-rtx"] != "kept":
        pytest.skip("there is a GPU here")
    assert status["onnxruntime-cpu"] == "fits"
    assert not found["written"]
    assert _content(bundle) == before


def test_a_bundle_that_cannot_be_written_is_told_before_anything_is_built(
    bundle: Path, rtx: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles.os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(BundleError, match="is no folder that can be written"):
        rebuild(bundle, QUICK, Nobody())
    assert not rtx.built


def test_the_options_of_the_plan_are_those_of_the_new_one(bundle: Path, rtx: FakeTensorRt) -> None:
    def change(manifest: Any) -> None:
        for each in manifest["engines"]:
            if each["target"] == "tensorrt-rtx":
                each["options"] = {"opt_batch": "2", "max_batch": "4", "workspace_mib": "64"}

    _change(bundle, change)
    rebuild(bundle, QUICK, Nobody())
    for built in rtx.built:
        assert built["profiles"] == [{"image": ((1, 1, 8, 8), (2, 1, 8, 8), (4, 1, 8, 8))}]
        assert built["pools"] == {"WORKSPACE": 64 << 20}
        assert built["gpus"] == ["SM80", "SM86", "SM89", "SM120"]


def test_a_rung_that_the_library_refuses_does_not_stop_the_others(
    bundle: Path, rtx: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.build_engine

    def build(model: Any, *more: Any) -> Any:
        if model.precision == "fp32":
            raise BuildError("there is not memory enough")
        return real(model, *more)

    monkeypatch.setattr(module, "build_engine", build)
    before = {each["precision"]: each["sha256"] for each in _rtx(bundle)}
    found = rebuild(bundle, QUICK, Nobody())
    status = {each["precision"]: each for each in found["engines"] if "rtx" in each["target"]}
    assert status["fp32"]["status"] == "refused"
    assert status["fp32"]["reason"] == "there is not memory enough"
    assert status["int8"]["status"] == "rebuilt"
    after = {each["precision"]: each["sha256"] for each in _rtx(bundle)}
    assert after["fp32"] == before["fp32"]
    assert after["int8"] != before["int8"]


def test_engines_of_other_devices_are_kept_and_a_guest_gets_its_own(
    bundle: Path, rtx: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(manifest: Any) -> None:
        for each in manifest["engines"]:
            if each["target"] == "tensorrt-rtx":
                each["target"] = "rtx-30"
                for file in (each, *each["parts"]):
                    file["path"] = file["path"].replace("tensorrt-rtx", "rtx-30")

    _change(bundle, rename)
    (bundle / "engines" / "tensorrt-rtx").rename(bundle / "engines" / "rtx-30")
    before = {each["path"]: each["sha256"] for each in read(bundle).engines}
    found = rebuild(bundle, QUICK, Nobody())  # the GPU is an RTX 40
    status = {(each["target"], each["precision"]): each["status"] for each in found["engines"]}
    for each in RUNGS:
        assert status["rtx-30", each] == "kept"
        assert status["tensorrt-rtx", each] == "added"
    opened = read(bundle)
    assert before.items() <= {each["path"]: each["sha256"] for each in opened.engines}.items()
    for record in _rtx(bundle):
        assert record["device"] == "sm_89"
        assert record["executed"]


def test_what_waits_for_its_device_is_built_with_the_options_that_were_asked_for(
    onnx_model: OnnxModel, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {
        "opt_batch": 2, "workspace_mib": 96, "optimization_level": 2, "timing_cache": False,
        "sparse": True, "version_compatible": True, "hardware_compatible": "ampere+",
        "dla_core": 1, "device_layer": "pycuda", "cuda_graph": False,
    }  # fmt: skip
    target = options.apply(targets.load("jetson-agx-orin"), wanted)
    left = find("tensorrt").build(onnx_model, target, tmp_path)
    aimed = module._aimed(targets.load("jetson-agx-orin"), "sm_87", left.options, narrow=False)
    assert {name: aimed.options[name] for name in wanted} == wanted
    assert {aimed.options[each] for each in options.BATCHES} == {2}


def test_a_bundle_may_be_named_by_a_link_or_from_within(
    bundle: Path, rtx: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = bundle.parent / "current.edgekd"
    link.symlink_to(bundle)
    assert rebuild(link, QUICK, Nobody())["written"]
    assert link.is_symlink()
    assert {each["version"] for each in _rtx(bundle)} == {"9.9.9.9"}
    monkeypatch.chdir(bundle)
    assert not rebuild(Path(), QUICK, Nobody())["written"]


def test_what_changes_while_plans_are_built_is_not_sealed(
    bundle: Path, rtx: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = (bundle / "report.html").read_bytes()
    real = module.build_engine

    def build(*arguments: Any) -> Any:
        (bundle / "report.html").write_text("something else")
        return real(*arguments)

    monkeypatch.setattr(module, "build_engine", build)
    rebuild(bundle, QUICK, Nobody())
    assert (bundle / "report.html").read_bytes() == report


def test_a_full_disk_is_told_and_the_bundle_is_as_it_was(
    bundle: Path, rtx: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _content(bundle)

    def full(*arguments: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "build_engine", full)
    with pytest.raises(BundleError, match="cannot be built again .No space left on device.: make"):
        rebuild(bundle, QUICK, Nobody())
    assert _content(bundle) == before


# ── On the command line ──────────────────────────────────────────────────────────────────


def _cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.setattr("edgekd.recipe.BenchSettings", lambda: QUICK)
    return CliRunner().invoke(cli, ["verify", *arguments])


def test_the_command_says_what_it_did(
    bundle: Path, rtx: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = _cli(monkeypatch, str(bundle), "--rebuild")
    assert "tensorrt-rtx int8: built again; golden outputs given, to" in result.output
    assert "this engine is for tensorrt_rtx" in result.output
    assert f"{bundle} is written anew" in result.output
    plain = _cli(monkeypatch, str(bundle), "--rebuild", "--json")
    assert json.loads(plain.stdout)["written"] is False
    assert json.loads((bundle / "rebuild.json").read_text())["written"] is True


def test_a_missing_library_for_the_gpu_that_is_here_has_its_exit_code(
    bundle: Path, rtx: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str, backend: str, extra: str) -> Any:
        raise BackendUnavailable(backend, extra, "it is not installed")

    monkeypatch.setattr(library, "load", absent)
    result = _cli(monkeypatch, str(bundle), "--rebuild")
    assert isinstance(result.exception, BackendUnavailable)
    assert result.exception.exit_code == 3
