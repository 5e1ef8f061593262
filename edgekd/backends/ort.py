"""ONNX Runtime on the CPU: its engine is an ONNX file."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edgekd.artifacts import Checkpoint, EngineFile, TensorSpec
from edgekd.backends.base import Arrays, Availability, Buildable
from edgekd.errors import BackendUnavailable, BuildError
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
        return Availability(onnxruntime.__version__, ("cpu",))

    def build(self, model: Buildable, target: Target, out_dir: Path) -> EngineFile:
        """Keeps the ONNX file as it is, once ONNX Runtime has read it.

        The graph that ONNX Runtime optimises is tied to one processor, so it is not stored.
        """
        if isinstance(model, Checkpoint):
            raise BuildError(f"{self.name} builds from ONNX", "export the network first")
        path = out_dir / "model.onnx"
        shutil.copyfile(model.path, path)
        with open_model(path) as session:
            inputs, outputs = session.inputs, session.outputs
        return EngineFile(
            role="",
            target=target.name,
            backend=self.name,
            backend_version=self.probe().version,
            device=target.device,
            precision=model.precision,
            path=path,
            model_inputs=inputs,
            model_outputs=outputs,
            executed=True,
        )

    def open(self, engine: EngineFile, threads: int = 1) -> OrtSession:
        """See ``Backend.open``."""
        return open_model(engine.path, threads)


class OrtSession:
    """An ``InferenceSession`` on the CPU provider."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._run = session.run
        self.inputs = tuple(_spec(each) for each in session.get_inputs())
        self.outputs = tuple(_spec(each) for each in session.get_outputs())
        self._names = [each.name for each in self.outputs]

    def run(self, feeds: Arrays) -> Arrays:
        """See ``Session.run``."""
        return dict(zip(self._names, self._run(self._names, feeds), strict=True))

    def __enter__(self) -> OrtSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._run  # the session's memory goes with its last reference


def open_model(path: Path, threads: int = 1, optimise: bool = True) -> OrtSession:
    """Opens any ONNX file.

    Args:
        threads: for one operator; operators run one after another.
        optimise: False gives the plain semantics of the graph, Q and DQ included.

    Raises:
        BackendUnavailable: ONNX Runtime is not installed.
        BuildError: ONNX Runtime refuses the model.
    """
    try:
        import onnxruntime as rt
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as error:
        raise BackendUnavailable(
            OnnxRuntime.name, OnnxRuntime.extra, "it is not installed"
        ) from error
    options = rt.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors alone
    if not optimise:
        options.graph_optimization_level = rt.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return OrtSession(rt.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    except (  # its exceptions have no base of their own
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    ) as error:
        raise BuildError(f"ONNX Runtime refuses {path}: {str(error).splitlines()[0]}") from error


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
    return TensorSpec(node.name, _TYPES.get(node.type, node.type), tuple(node.shape))
