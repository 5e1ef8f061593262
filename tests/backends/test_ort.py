"""ONNX Runtime: the CPU's errors, and GPU providers that are refused where they do not run."""

from __future__ import annotations

import ctypes
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as rt
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import targets
from edgekd.artifacts import EngineFile, OnnxModel, TensorSpec
from edgekd.backends import ort, ort_providers
from edgekd.backends.base import build_engine
from edgekd.errors import BackendUnavailable, BuildError, EngineIncompatible, StageError
from tests.conftest import ROOT

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
RTX = "NvTensorRTRTXExecutionProvider"
ON_GPUS = ("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-rtx")
TELLS = "get_provider_graph_assignment_info"
IMAGE = TensorSpec("x", "float32", ("N", 3, 8, 8))

without_cuda = pytest.mark.skipif(
    CUDA in rt.get_available_providers(), reason="this ONNX Runtime has CUDA"
)


@pytest.fixture
def model(tmp_path: Path) -> OnnxModel:
    """A convolution, a ReLU, and a Reshape to what a Shape says: four nodes."""
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="stem"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Shape", ["r"], ["s"], name="shape"),
        helper.make_node("Reshape", ["r", "s"], ["y"], name="flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(IMAGE.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [weight],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "given.onnx"
    onnx.save(proto, path)
    logits = TensorSpec("y", "float32", ("N", 4, 6, 6))
    return OnnxModel(path=path, opset=17, model_inputs=(IMAGE,), model_outputs=(logits,), parity=0)


def on_a_gpu(provider: str, on_cpu: Sequence[str]) -> type[rt.InferenceSession]:
    """A session that computes on the CPU and says that a provider runs all but some operators."""

    class Session(rt.InferenceSession):  # type: ignore[misc]
        def __init__(self, model: Any, options: Any, **given: Any) -> None:
            self.given = given
            super().__init__(model, options, providers=[ort_providers.CPU])

        def get_providers(self) -> list[str]:
            return [provider, ort_providers.CPU]

        def get_provider_graph_assignment_info(self) -> list[Any]:
            nodes = [
                node
                for each in super().get_provider_graph_assignment_info()
                for node in each.get_nodes()
            ]
            parts = {
                provider: [each for each in nodes if each.op_type not in on_cpu],
                ort_providers.CPU: [each for each in nodes if each.op_type in on_cpu],
            }
            return [
                SimpleNamespace(ep_name=name, get_nodes=lambda found=found: found)
                for name, found in parts.items()
            ]

    return Session


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a GPU here: a provider that runs everything, but for some operators."""

    def put(provider: str, on_cpu: Sequence[str] = ()) -> None:
        monkeypatch.setattr(rt, "InferenceSession", on_a_gpu(provider, on_cpu))
        monkeypatch.setattr(rt, "get_available_providers", lambda: [provider, ort_providers.CPU])
        monkeypatch.setattr(ort_providers, "_no_gpu", lambda: "")

    return put


def build(model: OnnxModel, target: str, folder: Path) -> EngineFile:
    out = folder / "engine"
    out.mkdir()
    return build_engine(model, "student", targets.load(target), out)


@pytest.mark.parametrize("name", ON_GPUS)
def test_a_target_names_a_provider_that_onnx_runtime_and_edgekd_know(name: str) -> None:
    target = targets.load(name)
    known = ort_providers.PROVIDERS[str(target.options["provider"])]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert known.extra in extras["optional-dependencies"]
    assert target.options["provider"] in rt.get_all_providers()
    assert target.device == "cuda"


def test_no_int8_where_no_kernel_takes_it() -> None:
    assert "int8" not in targets.load("onnxruntime-cuda").precisions


@without_cuda
@pytest.mark.parametrize("name", ON_GPUS)
def test_an_engine_is_built_without_the_provider_and_not_opened(
    name: str, model: OnnxModel, tmp_path: Path
) -> None:
    """The CPU would run it, and nobody would know."""
    engine = build(model, name, tmp_path)
    assert not engine.executed
    assert engine.path.read_bytes() == model.path.read_bytes()
    assert engine.model_inputs == model.model_inputs
    provider = engine.options["provider"]
    with pytest.raises(BackendUnavailable, match=f"onnxruntime has no {provider}: .*pip install"):
        ort.OnnxRuntime().open(engine)


@without_cuda
def test_without_a_gpu_provider_the_cpu_is_all_there_is() -> None:
    assert "cuda" not in ort.OnnxRuntime().probe().devices
    assert ort_providers.CPU in ort_providers.providers()
    assert not set(ort_providers.PROVIDERS) & set(ort_providers.providers())


def test_a_provider_that_runs_a_model_makes_a_device(gpu: Callable[..., None]) -> None:
    gpu(CUDA)
    assert ort.OnnxRuntime().probe().devices[-1] == "cuda"


def test_shapes_may_stay_on_the_cpu_and_are_counted(
    model: OnnxModel, tmp_path: Path, gpu: Callable[..., None]
) -> None:
    gpu(CUDA, on_cpu=["Shape"])
    engine = build(model, "onnxruntime-cuda", tmp_path)
    assert engine.executed
    with ort.OnnxRuntime().open(engine) as session:
        assert session.placed == {CUDA: 3, ort_providers.CPU: 1}
        assert session.run({"x": np.ones((2, 3, 8, 8), np.float32)})["y"].shape == (2, 4, 6, 6)


def test_a_product_on_the_cpu_is_refused_by_its_name(
    model: OnnxModel, tmp_path: Path, gpu: Callable[..., None]
) -> None:
    gpu(CUDA)
    engine = build(model, "onnxruntime-cuda", tmp_path)
    gpu(CUDA, on_cpu=["Conv"])
    with pytest.raises(EngineIncompatible, match=f"{CUDA}, .* leaves Conv 'stem' to CPU"):
        ort.OnnxRuntime().open(engine)


def test_options_reach_the_provider_and_falling_back_is_off(
    model: OnnxModel, gpu: Callable[..., None]
) -> None:
    gpu(CUDA)
    chosen = ort_providers.settings(CUDA, model.model_inputs, (1, 1, 8))
    session, _ = ort_providers.gpu_session(model.path, rt.SessionOptions(), CUDA, chosen)
    assert session.given["enable_fallback"] == 0
    assert session.given["providers"] == [(CUDA, chosen), ort_providers.CPU]
    assert chosen == {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}


@pytest.mark.parametrize(("provider", "prefix"), [(TENSORRT, "trt"), (RTX, "nv")])
def test_a_free_batch_gets_a_profile(provider: str, prefix: str) -> None:
    second = TensorSpec("z", "float32", ("N", 5))
    assert ort_providers.settings(provider, (IMAGE, second), (1, 2, 8)) == {
        f"{prefix}_profile_min_shapes": "x:1x3x8x8,z:1x5",
        f"{prefix}_profile_opt_shapes": "x:2x3x8x8,z:2x5",
        f"{prefix}_profile_max_shapes": "x:8x3x8x8,z:8x5",
    }
    assert ort_providers.settings(provider, (TensorSpec("x", "float32", (4, 3)),), (1, 2, 8)) == {}


def test_what_is_placed_is_read_from_onnx_runtime_s_own_objects(model: OnnxModel) -> None:
    options = rt.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = rt.InferenceSession(model.path, options, providers=[ort_providers.CPU])
    placed = session.get_provider_graph_assignment_info()
    assert ort_providers.count(placed) == {ort_providers.CPU: 4}
    assert ort_providers.computes_elsewhere(placed, CUDA) == ["Conv 'stem'"]
    assert ort_providers.computes_elsewhere(placed, ort_providers.CPU) == []


@without_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_was_left_out_is_told_with_the_reason(
    model: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime really falls back here, as it does where cuDNN is missing."""
    monkeypatch.setattr(ort_providers, "require", lambda name: None)
    with pytest.raises(BackendUnavailable, match=f"{CUDA} is unavailable: .*cannot open shared"):
        ort_providers.gpu_session(model.path, rt.SessionOptions(), CUDA, {})


@without_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_an_onnx_runtime_that_cannot_tell_may_leave_nothing_to_the_cpu(
    model: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_providers, "require", lambda name: None)
    monkeypatch.delattr(rt.capi.onnxruntime_inference_collection.Session, TELLS)
    with pytest.raises(EngineIncompatible, match="leaves at least one node to CPU"):
        ort_providers.gpu_session(model.path, rt.SessionOptions(), CUDA, {})


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("Please install TensorRT libraries", "cannot open shared object file"),
        ("CUDA failure 2: out of memory", "CUDA failure 2: out of memory"),
    ],
)
def test_what_a_provider_raises_as_it_is_loaded_is_not_the_model_s_fault(
    raised: str, said: str, model: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **options: Any) -> None:
        raise RuntimeError(raised)

    refuse.get_provider_graph_assignment_info = None  # type: ignore[attr-defined]
    monkeypatch.setattr(ort_providers, "require", lambda name: None)
    monkeypatch.setattr(rt, "InferenceSession", refuse)
    with pytest.raises(BackendUnavailable, match=f"{TENSORRT} is unavailable: .*{said}"):
        ort_providers.gpu_session(model.path, rt.SessionOptions(), TENSORRT, {})


def test_a_plug_in_that_is_not_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registering is ONNX Runtime's own; only the package that names the file is not here."""
    library = tmp_path / "libprovider.so"
    library.write_bytes(b"no library")
    module = SimpleNamespace(get_library_path=lambda: str(library))
    monkeypatch.setattr(ort_providers, "require", lambda name: None)
    monkeypatch.setattr(ort_providers, "import_module", lambda name: module)
    with pytest.raises(BackendUnavailable, match=f"{RTX} is unavailable: {library}: .* too short"):
        ort_providers.gpu_session(library, rt.SessionOptions(), RTX, {})
    (tmp_path / "libcudart.so.12.9").write_bytes(b"none either")
    with pytest.raises(BackendUnavailable, match=r"libcudart.so.12.9"):
        ort_providers.gpu_session(library, rt.SessionOptions(), RTX, {})


@pytest.mark.parametrize(
    ("code", "count", "said"),
    [
        (0, 1, ""),
        (0, 0, "the NVIDIA driver finds no GPU"),
        (100, 0, "the NVIDIA driver has no GPU to give (CUDA error 100)"),
    ],
)
def test_the_driver_is_asked_for_a_gpu(
    code: int, count: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Driver:
        def __init__(self, name: str) -> None:
            assert name == "libcuda.so.1"

        def cuInit(self, flags: int) -> int:
            return code

        def cuDeviceGetCount(self, found: Any) -> int:
            found._obj.value = count
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Driver)
    assert ort_providers._no_gpu() == said


def test_a_machine_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setattr(rt, "get_available_providers", lambda: [CUDA])
    with pytest.raises(BackendUnavailable, match=r"there is no NVIDIA driver \(libcuda.so.1"):
        ort_providers.require(CUDA)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[ONNXRuntimeError] : 1 : FAIL : no\nsecond", "no"),
        ("/src/a.cc:729 void f(A&, const B&) Please install TensorRT", "Please install TensorRT"),
        ("plain", "plain"),
    ],
)
def test_a_reason_is_one_line_without_what_helps_nobody(text: str, expected: str) -> None:
    assert ort_providers.reason(RuntimeError(text)) == expected


def test_the_cpu_s_own_errors_stay_as_they_are(model: OnnxModel, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(BuildError, match=f"ONNX Runtime refuses {broken}"):
        ort.open_model(broken)
    with ort.open_model(model.path) as session:
        assert session.placed == {}
        with pytest.raises(StageError, match="ONNX Runtime cannot run the model"):
            session.run({"x": np.ones((1, 3, 8, 7, 1), np.float32)})
    engine = build(model, "onnxruntime-cpu", tmp_path)
    assert engine.executed
    assert engine.options == {}
