"""TensorRT 10 and 11, and TensorRT for RTX: one API, one code path, three libraries.

Networks are strongly typed: precision comes from the ONNX, int8 from its Q/DQ. What a
library has of its own is read from the library, never from a version number.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.artifacts import Checkpoint, EngineFile, TensorSpec
from edgekd.backends.base import Arrays, Availability, Buildable
from edgekd.backends.cuda import Cuda
from edgekd.errors import BackendUnavailable, BuildError, EngineIncompatible, StageError
from edgekd.targets import Target

if TYPE_CHECKING:
    import tensorrt as trt

_OPT_BATCH = 1


class TensorRt:
    """The backend ``tensorrt``: it builds on the GPU that is to run the engine."""

    name = "tensorrt"
    extra = "tensorrt"
    packages: tuple[str, ...] = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
    library = "tensorrt"

    def probe(self) -> Availability:
        """See ``Backend.probe``."""
        try:
            version: str = self._import().__version__
        except BackendUnavailable as error:
            return Availability("", (), error.reason)
        try:
            gpu = Cuda(self.extra).gpu()
        except BackendUnavailable as error:
            return Availability(version, (), error.reason)
        except StageError as error:
            return Availability(version, (), error.message)
        return Availability(version, (gpu.sm,))

    def build(self, model: Buildable, target: Target, out_dir: Path) -> EngineFile:
        """Parses the ONNX and writes the plan, untouched, for batches 1 to ``max_batch``."""
        if isinstance(model, Checkpoint):
            raise BuildError(f"{self.name} builds from ONNX", "export the network first")
        lib = self._import()
        log = _log(lib)
        builder: trt.Builder = lib.Builder(log)
        flags = lib.NetworkDefinitionCreationFlag
        strongly_typed = getattr(flags, "STRONGLY_TYPED", None)  # from 11 on, the only kind
        network: trt.INetworkDefinition = builder.create_network(
            0 if strongly_typed is None else 1 << int(strongly_typed)
        )
        parser: trt.OnnxParser = lib.OnnxParser(network, log)
        if not parser.parse(model.path.read_bytes()):
            error: trt.ParserError = parser.get_error(0)
            raise BuildError(
                f"{self.name} cannot parse {model.path.name}: node"
                f" '{error.node_name()}' ({error.node_operator()}): {error.desc()}"
            )
        config: trt.IBuilderConfig = builder.create_builder_config()
        config.add_optimization_profile(_profile(builder, network, target))
        device = self._aim(lib, config, target)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(f"{self.name} cannot build {model.path.name}: {log.last}")
        path = out_dir / "model.engine"
        path.write_bytes(memoryview(plan))
        return EngineFile(
            role="",
            target=target.name,
            backend=self.name,
            backend_version=lib.__version__,
            device=device,
            precision=model.precision,
            path=path,
            model_inputs=model.model_inputs,
            model_outputs=model.model_outputs,
            executed=bool(set(device.split("+")) & set(self.probe().devices)),
            options={"max_batch": str(_largest_batch(network, target))},
        )

    def open(self, engine: EngineFile, threads: int = 1) -> TensorRtSession:
        """See ``Backend.open``; ``threads`` means nothing on a GPU."""
        lib = self._import()
        found: str = lib.__version__
        if engine.backend_version != found:  # a plan belongs to one build of the library
            raise EngineIncompatible(
                f"{self.library} {engine.backend_version}", f"{self.library} {found}"
            )
        cuda = Cuda(self.extra)
        gpu = cuda.gpu()
        if gpu.sm not in engine.device.split("+"):
            raise EngineIncompatible(engine.device, f"{gpu.name} ({gpu.sm})")
        log = _log(lib)
        runtime: trt.Runtime = lib.Runtime(log)
        loaded: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(engine.path.read_bytes())
        if loaded is None:
            raise BuildError(f"{self.name} cannot load {engine.path.name}: {log.last}")
        return TensorRtSession(loaded, cuda, engine, _numpy_types(lib))

    def _import(self) -> Any:
        try:
            module = import_module(self.library)
        except (ImportError, OSError) as error:
            reason = f"{self.library} cannot be imported ({error})"
            raise BackendUnavailable(self.name, self.extra, reason) from error
        if not hasattr(module, "Builder"):  # type stubs alone make an empty package
            raise BackendUnavailable(self.name, self.extra, f"{self.library} is not installed")
        return module

    def _aim(self, lib: Any, config: trt.IBuilderConfig, target: Target) -> str:
        """Says what the plan is for, and returns that: here, the GPU that is present."""
        return Cuda(self.extra).gpu().sm


class TensorRtRtx(TensorRt):
    """The backend ``tensorrt-rtx``: it builds without a GPU for a list of capabilities."""

    name = "tensorrt-rtx"
    extra = "tensorrt-rtx"
    packages = ("tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "tensorrt-rtx")
    library = "tensorrt_rtx"

    def _aim(self, lib: Any, config: Any, target: Target) -> str:
        wanted = target.options["compute_capabilities"]
        assert isinstance(wanted, tuple)
        names = ["SM" + each.replace(".", "") for each in wanted]
        known = lib.ComputeCapability.__members__
        config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            if name not in known or not config.set_compute_capability(known[name], index):
                has = ", ".join(each for each in known if each.startswith("SM"))
                raise BuildError(f"{self.name} does not build for {name}", f"it knows {has}")
        return "+".join("sm_" + name.removeprefix("SM") for name in names)


class TensorRtSession:
    """An execution context with device memory for its largest batch, allocated at open."""

    def __init__(
        self, engine: trt.ICudaEngine, cuda: Cuda, file: EngineFile, types: dict[Any, str]
    ) -> None:
        self._engine = engine
        context: trt.IExecutionContext | None = engine.create_execution_context()
        if context is None:
            raise StageError(f"{file.name}: no execution context; is device memory exhausted?")
        self._context = context
        self._cuda = cuda
        self._max_batch = int(file.options["max_batch"])
        self.inputs = file.model_inputs
        self.outputs = file.model_outputs
        for spec in (*self.inputs, *self.outputs):
            declared = types[engine.get_tensor_dtype(spec.name)]
            if declared != spec.dtype:
                raise EngineIncompatible(f"{spec.name} of {spec.dtype}", declared)
        self._memory: dict[str, int] = {}
        self._stream = cuda.stream()
        try:
            for spec in (*self.inputs, *self.outputs):
                items = int(np.prod([self._max_batch, *_fixed(spec)]))
                self._memory[spec.name] = cuda.malloc(items * np.dtype(spec.dtype).itemsize)
                context.set_tensor_address(spec.name, self._memory[spec.name])
        except StageError:
            self._release()
            raise

    def run(self, feeds: Arrays) -> Arrays:
        """See ``Session.run``."""
        batch = len(feeds[self.inputs[0].name])
        if not 1 <= batch <= self._max_batch:
            raise StageError(
                f"a batch of {batch} was given to an engine built for 1 to {self._max_batch}",
                "split the batch, or raise max_batch of the target and build again",
            )
        for spec in self.inputs:
            array = np.ascontiguousarray(feeds[spec.name], spec.dtype)
            self._context.set_input_shape(spec.name, array.shape)
            self._cuda.upload(self._memory[spec.name], array, self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise StageError("TensorRT could not enqueue the engine")
        results = {}
        for spec in self.outputs:
            results[spec.name] = np.empty((batch, *_fixed(spec)), spec.dtype)
            self._cuda.download(results[spec.name], self._memory[spec.name], self._stream)
        self._cuda.wait(self._stream)
        return results

    def __enter__(self) -> TensorRtSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._context, self._engine
        self._release()

    def _release(self) -> None:
        for pointer in self._memory.values():
            self._cuda.free(pointer)
        self._memory.clear()
        self._cuda.destroy(self._stream)


def _fixed(spec: TensorSpec) -> list[int]:
    """The dimensions after the batch, which are all numbers."""
    return [int(each) for each in spec.shape[1:]]


def _profile(
    builder: trt.Builder, network: trt.INetworkDefinition, target: Target
) -> trt.IOptimizationProfile:
    """Batches 1 to ``max_batch``, tuned for one image; a batch that is fixed stays as it is."""
    profile: trt.IOptimizationProfile = builder.create_optimization_profile()
    largest = target.options["max_batch"]
    for index in range(network.num_inputs):
        tensor: trt.ITensor = network.get_input(index)
        shape: Any = tensor.shape  # the stubs know Dims alone; the library gives and takes tuples
        fixed: Any = tuple(shape)
        if not fixed:  # what has no shape is taken for a number, without a word
            raise BuildError(f"input '{tensor.name}' has no shape", "give it one in the model")
        if -1 in fixed[1:]:
            raise BuildError(f"input '{tensor.name}' leaves more than the batch free: {fixed}")
        if -1 not in fixed:
            continue
        sizes: list[Any] = [(batch, *fixed[1:]) for batch in (1, _OPT_BATCH, largest)]
        profile.set_shape(tensor.name, *sizes)
    return profile


def _largest_batch(network: trt.INetworkDefinition, target: Target) -> Any:
    shapes: list[Any] = [network.get_input(index).shape for index in range(network.num_inputs)]
    batches = [int(each[0]) for each in shapes if len(each)]
    return max(batches) if batches and min(batches) > 0 else target.options["max_batch"]


def _numpy_types(lib: Any) -> dict[Any, str]:
    known = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64"}
    return {getattr(lib, name): dtype for name, dtype in known.items()}


def _log(lib: Any) -> Any:
    """A logger that keeps the last error, so that a failure can be told in one line."""

    class Log(lib.ILogger):  # type: ignore[misc]
        last = "no reason was given"

        def log(self, severity: Any, text: str) -> None:
            if severity in (lib.ILogger.ERROR, lib.ILogger.INTERNAL_ERROR):
                self.last = text.strip()

    return Log()
