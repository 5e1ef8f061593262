"""ONNX Runtime on the CPU, and on a GPU by a provider: its engine is an ONNX file."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType, TracebackType
from typing import TYPE_CHECKING

import numpy as np

from edgekd.artifacts import Checkpoint, EngineFile, OnnxModel, QuantizedModel, TensorSpec
from edgekd.backends import cuda, ort_profile, ort_providers
from edgekd.backends.base import (
    Arrays,
    Availability,
    Buildable,
    GpuOptions,
    require_device,
    sized,
)
from edgekd.errors import (
    BackendUnavailable,
    BuildError,
    CorruptBundle,
    EngineIncompatible,
    StageError,
)
from edgekd.measurements import LayerTime
from edgekd.progress import Progress, silent
from edgekd.targets import Target

if TYPE_CHECKING:
    import onnxruntime


class OnnxRuntime:
    """The backend ``onnxruntime``."""

    name = "onnxruntime"
    extra = "onnxruntime"
    packages = ("onnxruntime", "onnxruntime-gpu")

    def probe(self) -> Availability:
        """See ``Backend.probe``."""
        try:
            import onnxruntime
        except ImportError as error:
            return Availability("", (), f"it is not installed ({error})")
        here = [each for each in ort_providers.providers() if each in ort_providers.PROVIDERS]
        gpu = ("cuda",) if any(map(ort_providers.usable, here)) else ()
        return Availability(onnxruntime.__version__, (*_devices(), *gpu))

    def build(
        self, model: Buildable, target: Target, out_dir: Path, progress: Progress = silent
    ) -> EngineFile:
        """Keeps the ONNX file as it is, once ONNX Runtime has read it where it can.

        The graph that ONNX Runtime optimises is tied to one processor, so it is not stored, nor
        is the engine that a provider makes of it.
        """
        if isinstance(model, Checkpoint):
            raise BuildError(f"{self.name} builds from ONNX", "export the network first")
        path = out_dir / "model.onnx"
        shutil.copyfile(model.path, path)
        return self.in_place(path, model, target)

    def in_place(self, path: Path, model: OnnxModel | QuantizedModel, target: Target) -> EngineFile:
        """As ``build``, of a file where it lies: its external tensors need not be copied too."""
        provider = target.options.get("provider")
        engine = EngineFile(
            role="",
            target=target.name,
            backend=self.name,
            backend_version=import_runtime().__version__,
            device=target.device,
            precision=model.precision,
            path=path,
            model_inputs=model.model_inputs,
            model_outputs=model.model_outputs,
            executed=target.device in _devices(),
            options=_options(target) if provider else {},
        )
        if provider:
            return replace(engine, executed=self._runs(engine))
        with open_model(path) as session:
            return replace(engine, model_inputs=session.inputs, model_outputs=session.outputs)

    def open(
        self,
        engine: EngineFile,
        threads: int = 1,
        gpu: GpuOptions | None = None,
        *,
        device: str | None = None,
        streams: int = 1,
    ) -> OrtSession:
        """See ``Backend.open``; a form for another processor would run, and say nothing of it.

        One session is made to be run in any number of threads, each of which takes a processor
        for itself.
        """
        if "provider" in engine.options:
            return _open_on_gpu(engine, threads, device)
        require_device(self.name, device, ["cpu"])
        _check_device(engine)
        import_runtime()
        return OrtSession(_session(_model(engine), _alone(engine, threads), str(engine.path)))

    def profile(
        self, engine: EngineFile, feeds: Arrays, threads: int = 1, runs: int = 50
    ) -> tuple[int, tuple[LayerTime, ...]]:
        """See ``Profiles.profile``; of a GPU's kernels ONNX Runtime times the launch alone."""
        if "provider" in engine.options:
            with _open_on_gpu(engine, threads) as on_gpu:
                return ort_profile.total(on_gpu, feeds, runs), ()
        _check_device(engine)
        options = _threaded(threads)
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            options.profile_file_prefix = str(Path(folder, "trace"))
            session = _session(engine.path, options, str(engine.path))
            with OrtSession(session) as opened:
                whole = ort_profile.total(opened, feeds, runs)
            return whole, ort_profile.read(Path(session.end_profiling()), runs)

    def _runs(self, engine: EngineFile) -> bool:
        try:
            with self.open(engine):
                return True
        except BackendUnavailable:
            return False


def _options(target: Target) -> dict[str, str]:
    names = ("provider", "min_batch", "opt_batch", "max_batch")
    return {name: str(target.options[name]) for name in names}


def _model(engine: EngineFile) -> Path | bytes:
    return engine.contents[0] if engine.contents else engine.path


def _alone(engine: EngineFile, threads: int) -> onnxruntime.SessionOptions:
    """Options; a model in memory has no folder to take tensors from, which nobody hashed."""
    options = _threaded(threads)
    if engine.contents:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", os.devnull
        )
    return options


def _open_on_gpu(engine: EngineFile, threads: int, device: str | None = None) -> OrtSession:
    import_runtime()
    name = engine.options["provider"]
    if name not in ort_providers.PROVIDERS:
        raise EngineIncompatible(name, "an EdgeKD that does not know it", "update edgekd")
    words = ("min_batch", "opt_batch", "max_batch")
    if not {*words} <= {*engine.options}:
        raise CorruptBundle(f"{engine.path}: nobody says for which batches it was built")
    batches = [int(engine.options[word]) for word in words]
    chosen = ort_providers.settings(name, engine.model_inputs, batches)
    if device is not None:
        ort_providers.require(name)
        here = [f"cuda:{number}" for number in range(len(cuda.gpus()))]
        require_device(name, device, here)
        chosen["device_id"] = device.rpartition(":")[2]
    options = _alone(engine, threads)
    session, placed = ort_providers.gpu_session(_model(engine), options, name, chosen)
    return OrtSession(_without_model(session), placed)


def _check_device(engine: EngineFile) -> None:
    if engine.device not in _devices():
        raise EngineIncompatible(engine.device, _devices()[-1])


def _devices() -> tuple[str, ...]:
    """What targets call this processor."""
    machine = platform.machine().lower()
    return "cpu", {"aarch64": "arm64", "amd64": "x86_64"}.get(machine, machine)


class OrtSession:
    """An ``InferenceSession``.

    Attributes:
        placed: how many nodes run on which provider, where it is not the CPU alone.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, placed: Mapping[str, int] | None = None
    ) -> None:
        self._session = session
        self._run = session.run
        self.placed = dict(placed or {})
        self.inputs = tuple(_spec(each) for each in session.get_inputs())
        self.outputs = tuple(_spec(each) for each in session.get_outputs())
        self._names = [each.name for each in self.outputs]

    def run(self, feeds: Arrays) -> Arrays:
        """See ``Session.run``.

        Raises:
            StageError: an operator fails on what it is given.
        """
        try:
            found = self._run(self._names, feeds, None)
        except ort_providers.errors() as error:
            raise _failed(error) from error
        if len(found) == 1:  # which saves half a microsecond
            return {self._names[0]: found[0]}
        return dict(zip(self._names, found, strict=True))

    def bind(self, batch: int) -> OrtBinding:
        """See ``Binds.bind``."""
        return OrtBinding(self._session, self.inputs, self.outputs, batch)

    def another(self) -> OrtSession:
        """See ``Shares.another``: the same session, which any thread may run."""
        return OrtSession(self._session, self.placed)

    def __enter__(self) -> OrtSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._run, self._session  # whose memory goes with its last reference


class OrtBinding:
    """An ``IOBinding`` to arrays of the host; a provider on a GPU copies from and to them."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        batch: int,
    ) -> None:
        import onnxruntime as rt

        read, written = (
            {each.name: np.zeros(sized(each, batch), each.dtype) for each in specs}
            for specs in (inputs, outputs)
        )
        # ONNX Runtime does not hold what it writes: nobody shall be able to replace an array.
        self.inputs, self.outputs = MappingProxyType(read), MappingProxyType(written)
        self._run = session.run_with_iobinding
        self._bound = session.io_binding()
        for name, array in self.inputs.items():
            self._bound.bind_ortvalue_input(name, rt.OrtValue.ortvalue_from_numpy(array))
        for name, array in self.outputs.items():
            self._bound.bind_ortvalue_output(name, rt.OrtValue.ortvalue_from_numpy(array))

    def run(self) -> None:
        """See ``Binding.run``.

        Raises:
            StageError: an operator fails on what it is given.
        """
        try:
            self._run(self._bound)
        except ort_providers.errors() as error:
            raise _failed(error) from error


def _failed(error: Exception) -> StageError:
    return StageError(f"ONNX Runtime cannot run the model: {ort_providers.reason(error)}")


def open_model(path: Path, threads: int = 1, optimise: bool = True) -> OrtSession:
    """Opens any ONNX file.

    Args:
        threads: for one operator; operators run one after another.
        optimise: False gives the plain semantics of the graph, Q and DQ included.

    Raises:
        BackendUnavailable: ONNX Runtime is not installed.
        BuildError: ONNX Runtime refuses the model.
    """
    rt = import_runtime()
    options = _threaded(threads)
    if not optimise:
        options.graph_optimization_level = rt.GraphOptimizationLevel.ORT_DISABLE_ALL
    return OrtSession(_session(path, options, str(path)))


def simplify(model: bytes, folder: Path, out: Path, without: Collection[str] = ()) -> None:
    """Writes a model as ONNX Runtime's basic optimiser makes it: constants and batch norm folded.

    Args:
        model: a serialised ONNX model.
        folder: where the files lie that hold its external tensors.
        out: the file to write; tensors of more than a kilobyte go to ``<out>.data``.
        without: names of the optimiser's passes to leave out.

    Raises:
        BackendUnavailable: ONNX Runtime is not installed.
        BuildError: ONNX Runtime refuses the model.
    """
    rt = import_runtime()
    options = rt.SessionOptions()
    options.graph_optimization_level = rt.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    for name, value in {
        "model_external_initializers_file_folder_path": str(folder.resolve()),
        "optimized_model_external_initializers_file_name": f"{out.name}.data",
        "optimized_model_external_initializers_min_size_in_bytes": "1024",
        "disable_prepacking": "1",  # for a run, and there will be none
    }.items():
        options.add_session_config_entry(f"session.{name}", value)
    _session(model, options, "the model", without)


def import_runtime() -> ModuleType:
    """Imports ONNX Runtime.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(
            OnnxRuntime.name, OnnxRuntime.extra, "it is not installed"
        ) from error
    module: ModuleType = onnxruntime
    return module


def _threaded(threads: int) -> onnxruntime.SessionOptions:
    options = import_runtime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return options


def _session(
    model: Path | bytes,
    options: onnxruntime.SessionOptions,
    name: str,
    without: Collection[str] = (),
) -> onnxruntime.InferenceSession:
    import onnxruntime as rt

    options.log_severity_level = 4  # its errors are raised, and need not be logged as well
    try:
        session = rt.InferenceSession(
            model,
            options,
            providers=[ort_providers.CPU],
            disabled_optimizers=list(without),
        )
    except ort_providers.errors() as error:
        raise BuildError(f"ONNX Runtime refuses {name}: {ort_providers.reason(error)}") from error
    return _without_model(session)


def _without_model(session: onnxruntime.InferenceSession) -> onnxruntime.InferenceSession:
    """Lets go of the model's bytes, which a session keeps to begin anew with other providers."""
    session.disable_fallback()
    session._model_bytes = None
    return session


_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def _spec(node: onnxruntime.NodeArg) -> TensorSpec:
    shape = tuple("any" if each is None else each for each in node.shape)
    return TensorSpec(node.name, _TYPES.get(node.type, node.type), shape)
