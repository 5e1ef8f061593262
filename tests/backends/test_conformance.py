"""What every backend that can run here has in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd import targets
from edgekd.artifacts import Checkpoint, EngineFile, OnnxModel
from edgekd.backends.base import BACKENDS, build_engine, find, require, usable_cores
from edgekd.errors import BackendUnavailable, BuildError, EdgekdError, RecipeError
from edgekd.models import weights

RUNNABLE = ("torch", "onnxruntime-cpu", "openvino-cpu")


@pytest.fixture(params=RUNNABLE)
def engine(
    request: pytest.FixtureRequest, checkpoint: Checkpoint, onnx_model: OnnxModel, tmp_path: Path
) -> EngineFile:
    target = targets.load(request.param)
    model = checkpoint if target.backend == "torch" else onnx_model
    return build_engine(model, "student", target, tmp_path)


def test_a_built_engine_says_what_it_is(engine: EngineFile, tmp_path: Path) -> None:
    assert engine.executed
    assert engine.role == "student"
    assert engine.name == f"student/{engine.target}/fp32"
    assert engine.backend_version == find(engine.backend).probe().version
    assert engine.model_inputs[0].name == "image"
    assert engine.model_inputs[0].dtype == engine.model_outputs[0].dtype == "float32"
    assert engine.model_inputs[0].shape[1:] == (1, 8, 8)
    assert engine.model_outputs[0].shape[1:] == (10,)
    assert isinstance(engine.model_inputs[0].shape[0], str)
    for path in (engine.path, *engine.parts):
        assert path.is_file()
        assert path.parent == tmp_path


@pytest.mark.parametrize("batch", [1, 2, 33])
def test_any_batch_gives_torchs_logits(
    engine: EngineFile, checkpoint: Checkpoint, batch: int, rng: np.random.Generator
) -> None:
    import torch

    x = rng.normal(size=(batch, 1, 8, 8)).astype(np.float32)
    with torch.inference_mode():
        expected = weights.load(checkpoint)(torch.from_numpy(x)).numpy()
    with find(engine.backend).open(engine) as session:
        assert [each.name for each in session.inputs] == ["image"]
        assert [each.name for each in session.outputs] == ["logits"]
        found = session.run({"image": x})
    assert found["logits"].dtype == np.float32
    np.testing.assert_allclose(found["logits"], expected, atol=1e-3 * np.abs(expected).max())


def test_a_result_is_the_callers_own(engine: EngineFile, rng: np.random.Generator) -> None:
    """What one run returned is not overwritten by the next, nor the input by either."""
    x, y = rng.normal(size=(2, 1, 1, 8, 8)).astype(np.float32)
    with find(engine.backend).open(engine) as session:
        first = session.run({"image": x})["logits"]
        kept = first.copy()
        x_before = x.copy()
        session.run({"image": y})
        assert np.array_equal(first, kept)
        assert np.array_equal(x, x_before)
        assert np.array_equal(session.run({"image": x})["logits"], kept)


def test_two_sessions_do_not_disturb_each_other(
    engine: EngineFile, rng: np.random.Generator
) -> None:
    x = rng.normal(size=(4, 1, 8, 8)).astype(np.float32)
    backend = find(engine.backend)
    with backend.open(engine) as one, backend.open(engine, threads=2) as other:
        a, b = one.run({"image": x})["logits"], other.run({"image": x})["logits"]
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max())


@pytest.mark.parametrize("name", ["onnxruntime-cpu", "openvino-cpu", "tensorrt-rtx"])
@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_model_that_is_none_is_a_build_error(
    name: str, content: bytes | None, onnx_model: OnnxModel, tmp_path: Path
) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content if content is not None else onnx_model.path.read_bytes()[:-5000])
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError):
        build_engine(
            replace(onnx_model, path=path), "student", targets.load(name), tmp_path / "out"
        )


@pytest.mark.parametrize("name", ["onnxruntime-cpu", "openvino-cpu", "tensorrt-rtx"])
def test_those_that_build_from_onnx_say_so(
    name: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match="builds from ONNX"):
        build_engine(checkpoint, "student", targets.load(name), tmp_path)


def test_torch_builds_from_a_checkpoint(onnx_model: OnnxModel, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="builds from a checkpoint"):
        build_engine(onnx_model, "student", targets.load("torch"), tmp_path)


@pytest.mark.parametrize("name", BACKENDS)
def test_probing_never_raises_and_tells_why_not(name: str) -> None:
    found = find(name).probe()
    assert found.installed == bool(found.version)
    if not found.devices:
        assert found.reason


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_names_the_extra_and_the_packages_that_bring_it(name: str) -> None:
    from importlib.metadata import metadata

    backend = find(name)
    extras = metadata("edgekd").get_all("Provides-Extra") or []
    assert backend.name == name
    assert backend.extra in extras
    assert backend.packages


def test_a_backend_that_is_not_installed_is_refused_by_name() -> None:
    with pytest.raises(BackendUnavailable, match=r"pip install 'edgekd\[tensorrt\]'") as caught:
        require(find("tensorrt"))
    assert caught.value.exit_code == 3
    require(find("onnxruntime"))


def test_an_unknown_backend_names_the_near_ones() -> None:
    with pytest.raises(RecipeError, match="did you mean 'onnxruntime'"):
        find("onnxruntimes")


def test_a_third_partys_backend_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme.py").write_text('class Npu:\n    name = "acme-npu"\n')
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgekd.backends]\nacme-npu = acme:Npu\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find("acme-npu").name == "acme-npu"


def test_there_is_a_core_to_run_on() -> None:
    assert usable_cores() >= 1


def test_every_error_of_a_backend_is_ours(engine: EngineFile, tmp_path: Path) -> None:
    """A vendor's exception never reaches the caller of ``open``."""
    bad = tmp_path / "bad" / engine.path.name
    bad.parent.mkdir()
    bad.write_bytes(b"\x00" * 100)
    with pytest.raises(EdgekdError):
        find(engine.backend).open(replace(engine, path=bad))
