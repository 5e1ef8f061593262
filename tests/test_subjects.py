"""What a name stands for: every kind of thing that ``edgekd bench`` measures, and what is none."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import remeasure, subjects, targets
from edgekd.artifacts import EngineFile, OnnxModel
from edgekd.backends.base import batches, build_engine, find
from edgekd.backends.ort import open_model
from edgekd.bench import layers
from edgekd.bench.scenarios import Load, cut
from edgekd.errors import (
    BackendUnavailable,
    BuildError,
    BundleError,
    CorruptBundle,
    EdgekdError,
    EngineIncompatible,
    RecipeError,
    TrainError,
)
from edgekd.recipe import BenchSettings, BudgetSettings
from edgekd.subjects import Subject, Wanted, named
from tests import small_onnx
from tests.backends import fake_tensorrt
from tests.backends.fake_cuda import FakeCuda
from tests.backends.fake_tensorrt import FakeTensorRt
from tests.bench import planted
from tests.bench.here import Quiet, measure_here
from tests.bench.planted import backend  # noqa: F401
from tests.small_onnx import FLOAT, INT64, STRING

Make = Callable[..., EngineFile]


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    folder = tmp_path / "work"
    folder.mkdir()
    return Wanted((), (), None, {}, 10, BenchSettings(), folder)


def answers(subject: Subject) -> dict[str, np.ndarray]:
    """The engine opened, and run as a measurement runs it; its bytes are there to be counted."""
    engine = subject.engine
    assert all(each.stat().st_size for each in (engine.path, *engine.parts))
    with find(engine.backend).open(engine) as session:
        return dict(session.run(cut(subject.feeds, batches(engine)[0])[0]))


def only(what: Path | str, wanted: Wanted) -> Subject:
    (subject,) = named(str(what), wanted)
    return subject


def refused(what: Path | str, wanted: Wanted, kind: type[EdgekdError], *words: str) -> None:
    with pytest.raises(kind) as told:
        named(str(what), wanted)
    for word in words:
        assert word in str(told.value)
    assert "\n" not in str(told.value)


# ONNX


def test_an_onnx_file_is_measured_where_it_lies(wanted: Wanted, tmp_path: Path) -> None:
    path = small_onnx.relu(tmp_path / "net.onnx")
    found = only(path, wanted)
    assert found.engine.name == "net/onnxruntime-cpu/onnx"
    assert found.engine.path == found.model == path
    assert batches(found.engine) == (1, None)
    assert found.feeds["x"].shape == (64, 3)
    assert np.array_equal(answers(found)["y"], np.maximum(found.feeds["x"][:1], 0))


def test_its_tensors_may_lie_beside_it(wanted: Wanted, tmp_path: Path) -> None:
    path = small_onnx.product(tmp_path / "net.onnx", external=True)
    found = only(path, wanted)
    assert answers(found)["y"].shape == (1, 300)
    assert found.engine.parts == (tmp_path / "net.bin",)  # which counts as its size
    assert layers.profile(found.engine, path, cut(found.feeds, 1)[0], runs=4).layers[0].macs == 9000


def test_one_engine_for_each_target(wanted: Wanted, tmp_path: Path) -> None:
    path = small_onnx.product(tmp_path / "net.onnx", external=True)
    names = ("onnxruntime-cpu", "openvino-cpu", "onnxruntime-cpu")
    found = named(str(path), replace(wanted, targets=names))
    assert [each.engine.target for each in found] == ["onnxruntime-cpu", "openvino-cpu"]
    one, other = (answers(each)["y"] for each in found)
    assert np.allclose(one, other, atol=1e-4)


def test_targets_that_an_onnx_file_cannot_be_built_for(wanted: Wanted, tmp_path: Path) -> None:
    path = small_onnx.relu(tmp_path / "net.onnx")
    for target, kind, words in (
        ("nonsense", RecipeError, "no target is called 'nonsense'"),
        ("jetson-orin-nano", EngineIncompatible, "this engine is for sm_87"),
        ("torch", BuildError, "torch builds from a checkpoint"),
    ):
        refused(path, replace(wanted, targets=(target,)), kind, words)


def test_several_inputs_and_numbers_of_places(wanted: Wanted, tmp_path: Path) -> None:
    path = small_onnx.write(
        tmp_path / "net.onnx",
        "GatherElements",
        {"x": (FLOAT, ["n", 3]), "places": (INT64, ["n", 2])},
        ["n", 2],
        axis=1,
    )
    found = only(path, wanted)
    assert {name: each.dtype for name, each in found.feeds.items()} == {
        "x": np.float32,
        "places": np.int64,
    }
    assert answers(found)["y"].shape == (1, 2)
    given = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "places": np.array([[2, 1]] * 2)}
    np.savez(tmp_path / "in.npz", **given)  # type: ignore[arg-type]
    fed = only(path, replace(wanted, inputs=tmp_path / "in.npz"))
    assert answers(fed)["y"].tolist() == [[2, 1]]
    np.save(tmp_path / "x.npy", given["x"])
    refused(path, replace(wanted, inputs=tmp_path / "x.npy"), RecipeError, "no array 'places'")


@pytest.mark.parametrize("free", [("n", 3, "h", "w"), (None, 3, None, None)])
def test_a_free_dimension_has_to_be_said(free: Any, wanted: Wanted, tmp_path: Path) -> None:
    path = small_onnx.relu(tmp_path / "net.onnx", free)
    refused(path, wanted, RecipeError, "--shape: input 'x'", "as in --shape x=3,224,224")
    for name in ("x", ""):  # a model with one input needs no name
        found = only(path, replace(wanted, shapes={name: (3, 4, 5)}))
        assert answers(found)["y"].shape == (1, 3, 4, 5)
    known = small_onnx.relu(tmp_path / "known.onnx")  # as where it is held against another
    assert only(known, replace(wanted, shapes={"": (3, 4, 5)})).feeds["x"].shape == (64, 3)


def test_a_fixed_batch_is_kept(wanted: Wanted, tmp_path: Path) -> None:
    found = only(small_onnx.relu(tmp_path / "net.onnx", (4, 3)), wanted)
    assert batches(found.engine) == (4, 4)
    assert answers(found)["y"].shape == (4, 3)
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))  # fewer than one batch: in turn
    fed = only(tmp_path / "net.onnx", replace(wanted, inputs=tmp_path / "x.npy"))
    assert answers(fed)["y"].tolist() == [[1, 1, 1]] * 4


def test_a_file_named_as_a_bundle_s_teacher_is_none(wanted: Wanted, tmp_path: Path) -> None:
    for role in ("teacher", "control", "student"):
        found = only(small_onnx.relu(tmp_path / f"{role}.onnx"), wanted)
        assert found.engine.role == f"{role}.onnx"


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"x": (STRING, ["n", 3])}, "'x' takes tensor(string), of which no samples can be made"),
        ({"x": (FLOAT, [])}, "input 'x' has shape ()"),
        ({"x": (FLOAT, ["n", 3]), "m": (FLOAT, [3])}, "the inputs are not of one batch"),
        ({}, "net takes no input"),
    ],
)
def test_inputs_that_cannot_be_fed(
    inputs: dict[str, Any], words: str, wanted: Wanted, tmp_path: Path
) -> None:
    node = {0: "Constant", 1: "Identity", 2: "Add"}[len(inputs)]
    attributes = {} if inputs else {"value_float": 1.0}
    path = small_onnx.write(tmp_path / "net.onnx", node, inputs, None, **attributes)
    refused(path, wanted, RecipeError, words)


def test_what_is_no_onnx(wanted: Wanted, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"nonsense")
    refused(tmp_path / "net.onnx", wanted, BuildError, "ONNX Runtime refuses", "net.onnx")


# OpenVINO


@pytest.fixture
def ir(tmp_path: Path) -> Path:
    """An IR with its weights."""
    path = small_onnx.product(tmp_path / "net.onnx")
    with open_model(path) as session:
        model = OnnxModel(
            path=path, opset=17, model_inputs=session.inputs, model_outputs=session.outputs,
            parity=0.0,
        )  # fmt: skip
    folder = tmp_path / "ir"
    folder.mkdir()
    return build_engine(model, "", targets.load("openvino-cpu"), folder).path


def test_an_ir_with_its_weights(ir: Path, wanted: Wanted) -> None:
    found = only(ir, wanted)
    assert found.engine.name == "model/openvino-cpu/ir"
    assert found.engine.parts == (ir.with_suffix(".bin"),)
    expected = np.maximum(found.feeds["x"][:1].sum(1), 0)
    assert answers(found)["y"] == pytest.approx(np.repeat(expected, 300)[None], abs=1e-4)


def test_an_ir_without_its_weights(ir: Path, wanted: Wanted) -> None:
    ir.with_suffix(".bin").unlink()
    refused(ir, wanted, BuildError, f"OpenVINO refuses {ir}")


def test_an_ir_that_has_no_weights_or_no_names(tmp_path: Path, wanted: Wanted) -> None:
    import openvino
    from openvino import opset13

    x = opset13.parameter([2, 3], np.float32, name="x")
    openvino.save_model(openvino.Model([opset13.relu(x)], [x], "bare"), tmp_path / "bare.xml")
    (tmp_path / "bare.bin").unlink()  # it is empty
    found = only(tmp_path / "bare.xml", wanted)
    assert found.engine.parts == ()
    assert batches(found.engine) == (2, 2)
    assert list(found.feeds) == ["x"]
    (y,) = answers(found).values()
    assert np.array_equal(y, np.maximum(found.feeds["x"][:2], 0))


def test_what_is_no_ir(tmp_path: Path, wanted: Wanted) -> None:
    (tmp_path / "net.xml").write_text("<net/>")
    refused(tmp_path / "net.xml", wanted, BuildError, "OpenVINO refuses")


# TensorRT, on a GPU that is not here


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRt:
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    fake = FakeTensorRt(FakeCuda("sm_86"))
    fake_tensorrt.install(monkeypatch, fake)
    return fake


def plan(target: str, folder: Path) -> Path:
    """A plan of that library, with what lies beside it."""
    path = small_onnx.relu(folder / "net.onnx")
    with open_model(path) as session:
        model = OnnxModel(
            path=path, opset=17, model_inputs=session.inputs, model_outputs=session.outputs,
            parity=0.0,
        )  # fmt: skip
    return build_engine(model, "", targets.load(target), folder).path


def test_a_plan_and_its_side_car_are_measured(
    gpu: FakeTensorRt, tmp_path: Path, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plan("tensorrt", tmp_path)
    found = only(path, wanted)
    assert found.engine.name == "model/tensorrt/fp32"
    assert (found.engine.device, found.engine.backend_version) == ("sm_86", "10.3.0.26")
    assert np.array_equal(answers(found)["y"], np.maximum(found.feeds["x"][:1], 0))
    for suffix in (".plan", ".trt"):
        shutil.copy(path, tmp_path / f"net{suffix}")
        shutil.copy(f"{path}.json", tmp_path / f"net{suffix}.json")
        assert only(tmp_path / f"net{suffix}", wanted).engine.role == "net"
    measure_here(monkeypatch)

    facts, _ = remeasure.bench_anything(
        str(path), against="", budget=BudgetSettings(fps=100), profile=True, wanted=wanted,
        load=Load(frames=20, seconds=1, blocks=2, batches=(1,)), watcher=Quiet(), command="",  # type: ignore[arg-type]
    )  # fmt: skip
    (row,) = facts["engines"]
    assert row["samples"] == 20
    assert set(row["split_ns"]) == {"h2d", "gpu", "d2h"}
    assert facts["profiles"][row["name"]]["layers"]
    assert not any(gpu.device.live().values())


def test_what_was_compiled_for_the_gpu_goes_with_a_plan(
    tmp_path: Path, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt(FakeCuda("sm_86"), "1.7.1.116", rtx=True)
    fake_tensorrt.install(monkeypatch, fake)
    path = plan("tensorrt-rtx", tmp_path)
    found = only(path, wanted)
    assert [each.suffix for each in found.engine.parts] == [".json", ".jit"]
    assert fake.log["reused"]


def test_a_plan_that_nobody_knows(gpu: FakeTensorRt, tmp_path: Path, wanted: Wanted) -> None:
    path = plan("tensorrt", tmp_path)
    place = Path(f"{path}.json")
    record = json.loads(place.read_text())
    loaded = len(gpu.loaded)
    for name, value, kind, words in (
        ("device", "sm_87", EngineIncompatible, "this engine is for sm_87"),
        ("library", "tensor_rust", RecipeError, "no backend is called 'tensor-rust'"),
        ("sha256", "0" * 64, CorruptBundle, "is not the file that its side-car names"),
        ("inputs", [{"name": "x"}], CorruptBundle, "misstates the plan's inputs or outputs"),
        ("outputs", [3], CorruptBundle, "misstates the plan's inputs or outputs"),
        ("flags", {}, CorruptBundle, "nobody says for which batches it was built"),
    ):
        place.write_text(json.dumps({**record, name: value}))
        refused(path, wanted, kind, words)
    place.unlink()
    refused(path, wanted, CorruptBundle, f"{place}: No such file")
    assert len(gpu.loaded) == loaded  # the library saw none of them


def test_a_plan_where_there_is_no_gpu(tmp_path: Path, wanted: Wanted) -> None:
    with pytest.MonkeyPatch.context() as whole:
        whole.setenv("EDGEKD_STORE", str(tmp_path / "store"))
        fake_tensorrt.install(whole, FakeTensorRt(FakeCuda("sm_86")))
        path = plan("tensorrt", tmp_path)
    if find("tensorrt").probe().devices:
        pytest.skip("there is one")
    refused(path, wanted, BackendUnavailable, "tensorrt is unavailable")


# torch


def test_a_network_of_ours_and_one_of_the_user_s(
    tmp_path: Path, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    shaped = replace(wanted, shapes={"": (1, 8, 8)})
    found = only("dscnn-s", shaped)
    assert found.engine.name == "dscnn-s/torch/fp32"
    assert answers(found)["logits"].shape == (1, 10)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "usersnet.py").write_text(
        "from torch import nn\n"
        "def make(classes, channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 16, classes))\n"
        "def broken(classes, channels):\n    return 3\n"
    )
    own = only("usersnet:make", replace(wanted, shapes={"": (2, 4, 4)}))
    assert own.engine.name == "usersnet.make/torch/fp32"
    assert answers(own)["logits"].shape == (1, 10)
    refused("usersnet:make", shaped, TrainError, "usersnet:make fails on images of shape (1, 8, 8)")
    refused("usersnet:none", shaped, RecipeError, "usersnet has no 'none'")
    refused("usersnet:broken", shaped, TrainError, "returned a int, and not a torch.nn.Module")
    refused("nosuch:make", shaped, RecipeError, "no module is called 'nosuch'")


@pytest.mark.parametrize("shapes", [{}, {"": (3, 8)}, {"image": (3, 8, 8)}])
def test_a_network_does_not_say_what_it_takes(shapes: Any, wanted: Wanted) -> None:
    given = replace(wanted, shapes=shapes)
    refused("resnet8", given, RecipeError, "--shape: resnet8 does not say", "--shape 3,224,224")


# a bundle


def test_a_bundle_by_target_and_precision(
    backend: Make,  # noqa: F811
    tmp_path: Path,
    wanted: Wanted,
) -> None:
    backend()
    bundle = planted.bundle(tmp_path / "p.edgekd", {}, {"took_ms": 1}, {"min_batch": 2})
    found = named(str(bundle), wanted)
    assert [each.engine.precision for each in found] == ["P0", "P1", "P2"]
    assert found[0].feeds["x"].shape == (64, 1, 2, 2)  # golden images, in turn
    assert answers(found[2])["y"].shape == (2, 2)
    chosen = replace(wanted, targets=("planted",), precisions=("P1", "P2"))
    assert [each.engine.precision for each in named(str(bundle), chosen)] == ["P1", "P2"]
    np.save(tmp_path / "x.npy", np.ones((3, 1, 2, 2), np.float32))
    given = named(str(bundle), replace(wanted, inputs=tmp_path / "x.npy"))
    assert [each.feeds["x"].sum() for each in given] == [12, 12, 12]
    refused(
        bundle, replace(wanted, targets=("plonted",)), BundleError, "no engine for", "'planted'"
    )
    refused(
        bundle, replace(wanted, precisions=("int4",)), BundleError, "no engine of int4", "P0, P1"
    )
    with pytest.raises(BundleError, match="does not hold the teacher"):
        subjects.teacher_of(subjects.bundles.read(bundle), ["planted"], wanted)


def test_a_bundle_of_what_is_not_installed(tmp_path: Path, wanted: Wanted) -> None:
    bundle = planted.bundle(tmp_path / "p.edgekd", {})
    refused(bundle, wanted, RecipeError, "no backend is called 'planted'")


# nothing


def test_what_is_nothing_that_can_be_measured(tmp_path: Path, wanted: Wanted) -> None:
    (tmp_path / "net.pt").touch()
    refused(tmp_path / "net.pt", wanted, RecipeError, "is nothing that can be measured", ".onnx")
    refused(tmp_path / "none.onnx", wanted, RecipeError, "there is no ", "none.onnx")
    refused(tmp_path, wanted, BundleError, "is not a bundle")
    refused(tmp_path / "none.edgekd", wanted, BundleError, "is not a bundle")
