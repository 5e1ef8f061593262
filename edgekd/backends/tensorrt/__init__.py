"""TensorRT 10 and 11, and TensorRT for RTX: one API, one code path, three libraries.

Networks are strongly typed: precision comes from the ONNX, int8 from its Q/DQ. What a
library has of its own is read from the library, never from a version number.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.artifacts import Checkpoint, EngineFile, OnnxModel, QuantizedModel
from edgekd.backends import cuda
from edgekd.backends.base import Arrays, Availability, Buildable, GpuOptions, require_device
from edgekd.backends.tensorrt import builder, inspector, library, profiler, sidecar
from edgekd.backends.tensorrt.session import TensorRtSession
from edgekd.errors import (
    BackendUnavailable,
    BuildError,
    CorruptBundle,
    EngineIncompatible,
    StageError,
)
from edgekd.measurements import LayerTime
from edgekd.progress import Progress, silent
from edgekd.store import default_root, hash_file
from edgekd.targets import Target
from edgekd.targets.options import to_text

if TYPE_CHECKING:
    import tensorrt as trt

BACKENDS = ("tensorrt", "tensorrt-rtx")
"""Those here, whose engines are bound to a GPU and to a version."""
UNBUILT = ".onnx"
"""The ending of an engine that is yet to be built, on the device: it is the ONNX itself."""
COMPILED = ".jit"
"""The ending of what TensorRT for RTX compiled on the device that runs the engine."""
_NUMPY = {
    "FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64", "INT8": "int8",
    "UINT8": "uint8", "BOOL": "bool",
}  # fmt: skip


class TensorRt:
    """The backend ``tensorrt``: it builds on the GPU that is to run the engine."""

    name = "tensorrt"
    extra = "tensorrt"
    packages: tuple[str, ...] = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
    library = "tensorrt"

    def probe(self) -> Availability:
        """See ``Backend.probe``."""
        try:
            version: str = self._library().__version__
        except BackendUnavailable as error:
            return Availability("", (), error.reason)
        try:
            gpu = cuda.open_device(GpuOptions.device_layer, self.extra).gpu()
        except BackendUnavailable as error:
            return Availability(version, (), error.reason)
        except StageError as error:
            return Availability(version, (), error.message)
        return Availability(version, (gpu.sm,))

    def build(
        self, model: Buildable, target: Target, out_dir: Path, progress: Progress = silent
    ) -> EngineFile:
        """Writes the plan, untouched, and its side-car.

        Where the target is built on the device alone and this is not it, the ONNX is kept
        instead, to be built there by ``edgekd verify --rebuild``.
        """
        if isinstance(model, Checkpoint):
            raise BuildError(f"{self.name} builds from ONNX", "export the network first")
        if is_elsewhere(target, cuda.sm_here()):
            return self._leave(model, target, out_dir)
        lib = self._library()
        can = library.capabilities(lib)
        capabilities, gpu, times = _capabilities(target) if can.names_gpus else [], "", None
        device = "+".join(f"sm_{each}" for each in capabilities)
        if not can.names_gpus:
            found = cuda.open_device(GpuOptions.device_layer, self.extra).gpu()
            device, gpu = found.sm, sidecar.model_of(found)
            if target.options.get("timing_cache", True):
                times = _timing_cache(self.library, lib.__version__, found)
        plan, options = builder.build(
            lib, can, model.path, target, [f"SM{each}" for each in capabilities], times, progress
        )
        path = out_dir / "model.engine"
        path.write_bytes(plan)
        facts = sidecar.SideCar(
            sha256=hashlib.sha256(plan).hexdigest(),
            bytes=len(plan),
            library=self.library,
            version=lib.__version__,
            system=library.system(),
            device=device,
            gpu=gpu,
            hardware=options.get("hardware_compatible", "none"),
            version_compatible="version_compatible" in options,
            precision=model.precision,
            onnx_sha256=hash_file(model.path).sha256,
            calibration_sha256=getattr(model, "calibration_sha256", ""),
            compiled_sha256="",
            flags=to_text(target) | options,
            inputs=[asdict(each) for each in model.model_inputs],
            outputs=[asdict(each) for each in model.model_outputs],
        )
        engine = EngineFile(
            role="",
            target=target.name,
            backend=self.name,
            backend_version=lib.__version__,
            device=device,
            precision=model.precision,
            path=path,
            parts=(sidecar.write(path, facts),),
            model_inputs=model.model_inputs,
            model_outputs=model.model_outputs,
            executed=bool(set(device.split("+")) & set(self.probe().devices)),
            options=to_text(target) | options,
        )
        if can.compiles_later and engine.executed:
            engine = self._compile(engine, facts)
        return engine

    def open(
        self,
        engine: EngineFile,
        threads: int = 1,
        gpu: GpuOptions | None = None,
        *,
        device: str | None = None,
        streams: int = 1,
    ) -> TensorRtSession:
        """See ``Backend.open``. The library sees no byte of a plan that its side-car refuses.

        The device is the one that CUDA uses, which CUDA_VISIBLE_DEVICES decides. There is one
        execution context, whatever the number of streams.
        """
        if engine.path.suffix == UNBUILT:
            raise EngineIncompatible(
                engine.device,
                "its ONNX, not built yet",
                "run `edgekd verify BUNDLE --rebuild` on the device",
            )
        chosen = gpu or _built_with(engine)
        host_code = chosen.host_code or os.environ.get(sidecar.HOST_CODE) == "1"
        lib = self._library()
        facts = sidecar.read(_part(engine, sidecar.SUFFIX), engine.read)
        here = (self.library, lib.__version__, library.system())
        sidecar.check(facts, *here, "", host_code)
        used = cuda.open_device(chosen.device_layer, self.extra)
        require_device(self.name, device, ["cuda", f"cuda:{used.ordinal}"])
        gpu_here = used.gpu()
        sidecar.check(facts, *here, gpu_here.sm, host_code, sidecar.model_of(gpu_here))
        plan = sidecar.checked(engine.path, facts.sha256, engine.read)
        if "max_batch" not in engine.options:
            raise CorruptBundle(f"{engine.path}: nobody says for which batches it was built")
        log = library.logger(lib)
        log.errors.clear()
        runtime: trt.Runtime = lib.Runtime(log)
        runtime.engine_host_code_allowed = facts.version_compatible and host_code
        if "dla_core" in facts.flags:
            runtime.DLA_core = int(facts.flags["dla_core"])
        loaded: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
        if loaded is None:
            raise BuildError(f"{self.library} cannot load {engine.path.name}: {log.told()}")
        can = library.capabilities(lib)
        context = _context(lib, can, loaded, engine, chosen, facts)
        if context is None:
            free, total = used.memory()
            raise StageError(
                f"{self.library} cannot make an execution context of {engine.path.name}:"
                f" {log.told()}; {free >> 20} of {total >> 20} MiB of the GPU are free"
            )
        own = chosen.cuda_graph and not can.own_graphs
        types = {getattr(lib, name): dtype for name, dtype in _NUMPY.items() if hasattr(lib, name)}
        return TensorRtSession(loaded, context, used, engine, types, cuda_graph=own)

    def inspect(self, engine: EngineFile) -> inspector.Inspection:
        """What an engine's layers compute in; it is opened for that.

        Raises:
            As ``open``, and StageError where the library tells nothing.
        """
        with self.open(engine) as session:
            return inspector.inspect(self._library(), session.context.engine)

    def profile(
        self, engine: EngineFile, feeds: Arrays, threads: int = 1, runs: int = 50
    ) -> tuple[int, tuple[LayerTime, ...]]:
        """See ``Profiles.profile``; without CUDA graphs, of which no layer's time is told."""
        gpu = replace(_built_with(engine), cuda_graph=False)
        with self.open(engine, threads, gpu) as session:
            facts = inspector.inspect(self._library(), session.context.engine).layers
            return profiler.profile(self._library(), session, facts, feeds, runs)

    def _library(self) -> Any:
        return library.load(self.library, self.name, self.extra)

    def _leave(
        self, model: OnnxModel | QuantizedModel, target: Target, out_dir: Path
    ) -> EngineFile:
        """An engine that is yet to be built."""
        path = out_dir / f"model{UNBUILT}"
        shutil.copyfile(model.path, path)
        return EngineFile(
            role="",
            target=target.name,
            backend=self.name,
            backend_version="",
            device=target.device,
            precision=model.precision,
            path=path,
            model_inputs=model.model_inputs,
            model_outputs=model.model_outputs,
            executed=False,
            options=to_text(target),
        )

    def _compile(self, engine: EngineFile, facts: sidecar.SideCar) -> EngineFile:
        """Runs it once, and keeps what that made the library compile for this GPU."""
        with self.open(engine) as session:
            batch = int(engine.options["opt_batch"])
            session.run(
                {
                    each.name: np.zeros([batch, *map(int, each.shape[1:])], each.dtype)
                    for each in session.inputs
                }
            )
            compiled = session.context.get_runtime_config().get_runtime_cache().serialize()
        path = engine.path.with_suffix(COMPILED)
        content = bytes(memoryview(compiled))
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        sidecar.write(engine.path, replace(facts, compiled_sha256=digest))
        return replace(engine, parts=(*engine.parts, path))


class TensorRtRtx(TensorRt):
    """The backend ``tensorrt-rtx``: it builds without a GPU for a list of capabilities."""

    name = "tensorrt-rtx"
    extra = "tensorrt-rtx"
    packages = ("tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "tensorrt-rtx")
    library = "tensorrt_rtx"


def is_elsewhere(target: Target, here: str) -> bool:
    """Whether a target's engines are built on a device of its own, and this is none.

    Args:
        target: of this backend.
        here: the GPU that is here, such as ``sm_87``; empty without one.
    """
    return target.built != "anywhere" and target.device not in ("cuda", here)


def _built_with(engine: EngineFile) -> GpuOptions:
    return GpuOptions(
        device_layer=engine.options.get("device_layer", GpuOptions.device_layer),
        cuda_graph=engine.options.get("cuda_graph", "true") == "true",
    )


def _capabilities(target: Target) -> list[str]:
    """Those to build for, such as ``86``."""
    wanted = target.options["compute_capabilities"]
    assert isinstance(wanted, tuple)
    return [each.replace(".", "") for each in wanted]


def _timing_cache(name: str, version: str, gpu: cuda.Gpu) -> Path:
    """Kernel times hold for one build of the library on one kind of GPU."""
    model = re.sub(r"\W+", "-", gpu.name).strip("-").lower()
    return default_root() / "timing" / f"{name}-{version}-{gpu.sm}-{model}.cache"


def _context(
    lib: Any,
    can: library.Capabilities,
    loaded: Any,
    engine: EngineFile,
    chosen: GpuOptions,
    facts: sidecar.SideCar,
) -> Any:
    """An execution context; with what was compiled before, and the library's own graphs."""
    if not can.compiles_later:
        return loaded.create_execution_context()
    config = loaded.create_runtime_config()
    cache = config.create_runtime_cache()
    for part in engine.parts:
        if part.suffix == COMPILED:  # refused, and compiled anew, on another GPU or driver
            cache.deserialize(sidecar.checked(part, facts.compiled_sha256, engine.read))
    config.set_runtime_cache(cache)
    if can.own_graphs and chosen.cuda_graph:
        config.cuda_graph_strategy = lib.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return loaded.create_execution_context(config)


def _part(engine: EngineFile, suffix: str) -> Path:
    for each in engine.parts:
        if each.suffix == suffix:
            return each
    raise CorruptBundle(
        f"{engine.path} has no side-car, so nobody knows what it is", "build the engine again"
    )
