"""A TensorRT for machines without a GPU: its plans are ONNX with a header, run by ONNX Runtime.

It has the calls of TensorRT 10, of 11 or of TensorRT for RTX that the backend makes, and what
differs among them; and the manners that matter: a plan loads in one version and on one kind of
GPU alone, an error is logged and not raised, None means failure.
"""

from __future__ import annotations

import enum
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from edgekd.backends import cuda, ort
from tests.backends.fake_cuda import FakeCuda, FakeEngine

MAGIC = b"FAKEPLAN"
REFORMAT = "Reformatting CopyNode for Input Tensor 0"  # a layer that no inspector knows


class FakeTensorRt(SimpleNamespace):
    """The module.

    Args:
        device: the GPU that is here.
        version: its version; before 11 networks have to be called strongly typed.
        rtx: whether it is TensorRT for RTX.

    Attributes:
        refused: operators that its parser does not take.
        fails: what its builder says when it fails; empty for never.
        loaded: plans that came as far as to be deserialised.
        built: what each build was configured with.
        log: counts of calls that tests ask for.
        wrong: added to every output, to be wrong with.
    """

    def __init__(self, device: FakeCuda, version: str = "10.3.0.26", rtx: bool = False) -> None:
        super().__init__()
        self.device, self.__version__, self.rtx = device, version, rtx
        self.__name__ = "tensorrt_rtx" if rtx else "tensorrt"
        self.refused: set[str] = set()
        self.fails = ""
        self.loaded: list[bytes] = []
        self.built: list[dict[str, Any]] = []
        self.log: Counter[str] = Counter()
        self.wrong = 0.0
        self.ILogger, self.IProgressMonitor, self.IProfiler = _Logger, _Monitor, _Profiler
        self.DataType = _DataType
        for each in _DataType:
            setattr(self, each.name, each)
        self.ProfilingVerbosity = enum.Enum("ProfilingVerbosity", "NONE DETAILED")
        self.MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
        self.DeviceType = enum.Enum("DeviceType", "GPU DLA")
        self.BuilderFlag = enum.Enum(
            "BuilderFlag", "VERSION_COMPATIBLE SPARSE_WEIGHTS GPU_FALLBACK"
        )
        self.HardwareCompatibilityLevel = enum.Enum(
            "HardwareCompatibilityLevel", "NONE AMPERE_PLUS SAME_COMPUTE_CAPABILITY"
        )
        self.NetworkDefinitionCreationFlag = SimpleNamespace()
        if version.startswith("10.") or rtx:
            self.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 1
        self.ExecutionContextAllocationStrategy = enum.Enum("Strategy", "STATIC USER_MANAGED")
        self.OnnxParserFlag = enum.Enum("OnnxParserFlag", "ADJUST_FOR_DLA")
        self.TensorIOMode = enum.Enum("TensorIOMode", "INPUT OUTPUT")
        self.LayerInformationFormat = enum.Enum("LayerInformationFormat", "ONELINE JSON")
        self.IBuilderConfig = type("IBuilderConfig", (_Config,), {})
        if rtx:
            self.IBuilderConfig.set_compute_capability = _set_capability  # type: ignore[attr-defined]
            self.ComputeCapability = enum.Enum("ComputeCapability", "SM75 SM80 SM86 SM89 SM120")
            self.IRuntimeCache = _RuntimeCache
            self.CudaGraphStrategy = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
        self.Builder = lambda log: _Builder(self, log)
        self.OnnxParser = lambda network, log: _Parser(self, network, log)
        self.Runtime = lambda log: _Runtime(self, log)

    def __hash__(self) -> int:  # as modules have
        return id(self)


def install(monkeypatch: pytest.MonkeyPatch, library: FakeTensorRt) -> None:
    """Puts it in the real one's place, with its GPU."""
    from edgekd.backends import tensorrt
    from edgekd.backends.tensorrt import library as module

    real = module.load

    def load(name: str, backend: str, extra: str) -> Any:
        return library if name == library.__name__ else real(name, backend, extra)

    monkeypatch.setattr(module, "load", load)
    use(monkeypatch, library.device)
    assert tensorrt.library is module


def use(monkeypatch: pytest.MonkeyPatch, device: FakeCuda) -> None:
    """Makes a fake GPU the one that is here."""
    monkeypatch.setattr(cuda, "open_device", lambda layer, extra: device)
    monkeypatch.setattr(cuda, "gpus", lambda: [device.gpu()])


class _DataType(enum.Enum):
    FLOAT = "float32"
    HALF = "float16"
    INT32 = "int32"
    INT64 = "int64"
    INT8 = "int8"
    UINT8 = "uint8"
    BOOL = "bool"


class _Logger:
    ERROR, INTERNAL_ERROR, WARNING = "error", "internal error", "warning"

    def log(self, severity: Any, text: str) -> None:
        raise NotImplementedError


class _Monitor:
    pass


class _Profiler:
    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class _Config:
    def __init__(self, library: FakeTensorRt) -> None:
        self.library = library
        self.profiles: list[dict[str, Any]] = []
        self.flags: set[str] = set()
        self.pools: dict[str, int] = {}
        self.capabilities: dict[int, str] = {}
        self.cache: Any = None
        self.progress_monitor: Any = None

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile.shapes)

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.pools[pool.name] = size

    def create_timing_cache(self, content: bytes) -> Any:
        if content and not content.startswith(self.library.__version__.encode()):
            return None
        return SimpleNamespace(content=content, serialize=lambda: self._times(content))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return True

    def _times(self, content: bytes) -> bytes:
        return (content or self.library.__version__.encode()) + b"+"


def _set_capability(self: Any, capability: Any, index: int) -> bool:
    self.capabilities[index] = capability.name
    return True


class _Builder:
    def __init__(self, library: FakeTensorRt, log: Any) -> None:
        self.library, self.log = library, log

    def create_network(self, flags: int) -> Any:
        strongly_typed = self.library.__version__ >= "11" and not self.library.rtx
        assert flags == (0 if strongly_typed else 2), "a network must be strongly typed"
        return SimpleNamespace(model=None, num_inputs=0)

    def create_builder_config(self) -> Any:
        return self.library.IBuilderConfig(self.library)

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, Any] = {}
        return SimpleNamespace(
            shapes=shapes,
            set_shape=lambda name, *sizes: shapes.update({name: tuple(map(tuple, sizes))}),
        )

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        watch = config.progress_monitor
        watch.phase_start("Building engine", None, 2)
        for step in range(2):
            if not watch.step_complete("Building engine", step):
                self.log.log(_Logger.ERROR, "Build canceled by user")
                return None
        watch.phase_finish("Building engine")
        if self.library.fails:
            self.log.log(_Logger.ERROR, self.library.fails)
            return None
        facts = {
            "version": self.library.__version__,
            "gpus": [*config.capabilities.values()]
            or [self.library.device.gpu().sm.upper().replace("_", "")],
            "host_code": "VERSION_COMPATIBLE" in config.flags,
            "profile": config.profiles[0],
        }
        self.library.built.append(vars(config) | facts | {"timed": config.cache})
        head = json.dumps(facts).encode()
        return MAGIC + len(head).to_bytes(4, "little") + head + network.model


class _Parser:
    def __init__(self, library: FakeTensorRt, network: Any, log: Any) -> None:
        self.library, self.network, self.log = library, network, log
        self.errors: list[Any] = []

    def set_flag(self, flag: Any) -> None:
        self.library.log[flag.name] += 1

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> Any:
        return self.errors[index]

    def parse_from_file(self, path: str) -> bool:
        proto = onnx.load(path)
        for node in proto.graph.node:
            if node.op_type in self.library.refused:
                self.errors.append(
                    SimpleNamespace(
                        node_name=lambda node=node: node.name,
                        node_operator=lambda node=node: node.op_type,
                        desc=lambda: "no importer registered for it",
                    )
                )
        if self.errors:
            return False
        self.network.model = Path(path).read_bytes()
        inputs = [
            SimpleNamespace(
                name=each.name,
                shape=tuple(
                    size.dim_value if size.HasField("dim_value") else -1
                    for size in each.type.tensor_type.shape.dim
                ),
            )
            for each in proto.graph.input
        ]
        self.network.num_inputs = len(inputs)
        self.network.get_input = inputs.__getitem__
        return True


class _Runtime:
    def __init__(self, library: FakeTensorRt, log: Any) -> None:
        self.library, self.log = library, log
        self.engine_host_code_allowed = False
        self.DLA_core = -1

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        self.library.loaded.append(plan)
        if not plan.startswith(MAGIC):
            self.log.log(_Logger.ERROR, "the plan has a wrong magic tag")
            return None
        size = int.from_bytes(plan[8:12], "little")
        facts = json.loads(plan[12 : 12 + size])
        here = self.library.device.gpu().sm.upper().replace("_", "")
        if facts["version"] != self.library.__version__ or here not in facts["gpus"]:
            self.log.log(_Logger.ERROR, "the plan is for another version or GPU")
            return None
        if facts["host_code"] and not self.engine_host_code_allowed:
            self.log.log(_Logger.ERROR, "host code is not allowed")
            return None
        return _engine(self.library, plan[12 + size :], facts["profile"])


def _engine(library: FakeTensorRt, model: bytes, profile: dict[str, Any]) -> Any:
    session = ort._session(model, _options(), "the plan")
    opened = ort.OrtSession(session)

    def compute(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = opened.run({name: np.array(each) for name, each in feeds.items()})
        return {name: np.asarray(each) + library.wrong for name, each in found.items()}

    engine = _Engine(library.device, opened.inputs, opened.outputs, compute, library)
    engine.profile, engine.layers = profile, _layers(onnx.load_from_string(model))
    told = ((each["Name"], 0.001 * index) for index, each in enumerate(engine.layers, start=1))
    engine.layer_ms = ((REFORMAT, 0.5), *told)
    return engine


def _layers(proto: onnx.ModelProto) -> list[dict[str, Any]]:
    """What an inspector tells of convolutions and products, as TensorRT 10 writes it."""
    made_by = {name: node for node in proto.graph.node for name in node.output}
    halves = any(each.data_type == onnx.TensorProto.FLOAT16 for each in proto.graph.initializer)
    layers = []
    for node in proto.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            source = made_by.get(node.input[0])
            quantised = source is not None and source.op_type == "DequantizeLinear"
            word = "Int8" if quantised else "Half" if halves else "Float"
            tensor = {"Name": "x", "Dimensions": [1], "Format/Datatype": word}
            layers.append(
                {
                    "Name": node.name,
                    "LayerType": "CaskConvolution",
                    "Inputs": [tensor],
                    "Outputs": [tensor],
                    "Metadata": f"[ONNX Layer: {node.name}]",
                }
            )
    return layers


class _Engine(FakeEngine):
    def __init__(self, device: FakeCuda, inputs: Any, outputs: Any, compute: Any, library: Any):
        super().__init__(device, inputs, outputs, compute)
        self.library = library
        self.capturable = True if library.rtx else None
        self.profile: dict[str, Any] = {}
        self.layers: list[dict[str, Any]] = []

    def get_tensor_dtype(self, name: str) -> Any:
        return _DataType(super().get_tensor_dtype(name))

    def create_runtime_config(self) -> Any:
        assert self.library.rtx
        return _RuntimeConfig(self.library)

    def create_execution_context(self, *given: Any) -> Any:
        context = super().create_execution_context()
        if given and context is not None:
            context.get_runtime_config = lambda: given[0]  # type: ignore[attr-defined]
        return context

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index].name

    def get_tensor_mode(self, name: str) -> Any:
        modes = self.library.TensorIOMode
        return modes.INPUT if name in {each.name for each in self.inputs} else modes.OUTPUT

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return self.profile[name]

    def create_engine_inspector(self) -> Any:
        told = json.dumps({"Layers": self.layers, "Bindings": []})
        return SimpleNamespace(execution_context=None, get_engine_information=lambda form: told)


class _RuntimeConfig:
    def __init__(self, library: FakeTensorRt) -> None:
        self.library, self.cache = library, None
        self.cuda_graph_strategy: Any = None

    def create_runtime_cache(self) -> Any:
        return _RuntimeCache(self.library)

    def set_runtime_cache(self, cache: Any) -> bool:
        self.cache = cache
        return True

    def get_runtime_cache(self) -> Any:
        return self.cache


class _RuntimeCache:
    def __init__(self, library: FakeTensorRt) -> None:
        self.library = library

    def serialize(self) -> bytes:
        self.library.log["compiled"] += 1
        return b"JIT " + self.library.device.gpu().sm.encode()

    def deserialize(self, content: bytes) -> bool:
        fits = content == b"JIT " + self.library.device.gpu().sm.encode()
        self.library.log["reused" if fits else "stale"] += 1
        return fits


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return options
