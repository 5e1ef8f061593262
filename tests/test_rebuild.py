"""``verify --rebuild``: a bundle's plans built again on the device, checked there and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgekd import bundle as bundles
from edgekd import rebuild as module
from edgekd import runtime
from edgekd.bench import measure
from edgekd.bundle import read
from edgekd.cli import cli
from edgekd.errors import BuildError, BundleError, CorruptBundle
from edgekd.progress import Nobody
from edgekd.rebuild import rebuild
from edgekd.recipe import BenchSettings
from tests.backends import fake_tensorrt
from tests.backends.fake_cuda import FakeCuda
from tests.backends.fake_tensorrt import FakeTensorRt

QUICK = BenchSettings(samples=20, seconds=0.5, blocks=2, batch=2)
RUNGS = ["fp16", "fp32", "int8"]


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """A box with an RTX 40, and a version of the library that did not build the bundle."""
    monkeypatch.setattr(measure, "peak_memory", lambda engine, threads: None)  # has no fake
    monkeypatch.setattr(measure, "_THROUGHPUT_NS", 10_000_000)
    fake = FakeTensorRt(FakeCuda("sm_89"), "9.9.9.9", rtx=True)
    fake_tensorrt.install(monkeypatch, fake)
    return fake


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _rtx(bundle: Path) -> list[Any]:
    return [each for each in read(bundle).engines if each["target"] == "tensorrt-rtx"]


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
        assert (record["version"], record["device"]) == ("9.9.9.9", "sm_89")
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
    assert opened.manifest["verdict"] == found["bench"]["verdict"]
    first = opened.engines[0]
    assert f"student/{first['target']}/{first['precision']}" == found["bench"]["preferred"]
    assert len(found["bench"]["engines"]) == len(opened.engines)  # all of them were measured
    assert opened.manifest["content"] != ""


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
    monkeypatch.setattr(measure, "peak_memory", lambda engine, threads: None)
    monkeypatch.setattr(measure, "_THROUGHPUT_NS", 10_000_000)
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
    def refuse(path: Path) -> None:
        raise BundleError(f"{path.parent} is no folder that can be written")

    monkeypatch.setattr(bundles, "check_place", refuse)
    with pytest.raises(BundleError, match="can be written"):
        rebuild(bundle, QUICK, Nobody())
    assert not rtx.built


def test_the_options_of_the_plan_are_those_of_the_new_one(bundle: Path, rtx: FakeTensorRt) -> None:
    def change(manifest: Any) -> None:
        for each in manifest["engines"]:
            if each["target"] == "tensorrt-rtx":
                each["options"] = {"opt_batch": "2", "max_batch": "4", "workspace_mib": "64"}

    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(bundles.sealed(manifest))
    rebuild(bundle, QUICK, Nobody())
    for built in rtx.built:
        assert built["profiles"] == [{"image": ((1, 1, 8, 8), (2, 1, 8, 8), (4, 1, 8, 8))}]
        assert built["pools"] == {"WORKSPACE": 64 << 20}
        assert built["gpus"] == ["SM89"]


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
    assert module.RESULT == "rebuild.json"
    assert np.load(bundle / "golden" / "images.npy").dtype == np.uint8
