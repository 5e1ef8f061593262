"""OpenVINO on the CPU: its engine is an IR, ``model.xml`` beside ``model.bin``."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgekd.artifacts import Checkpoint, EngineFile, TensorSpec
from edgekd.backends import openvino_profile
from edgekd.backends.base import WARM_UP, Arrays, Availability, Buildable, GpuOptions, run_times
from edgekd.errors import BackendUnavailable, BuildError, StageError
from edgekd.measurements import LayerTime
from edgekd.progress import Progress, silent
from edgekd.targets import Target


class OpenVino:
    """The backend ``openvino``."""

    name = "openvino"
    extra = "openvino"
    packages = ("openvino",)

    def probe(self) -> Availability:
        """See ``Backend.probe``."""
        try:
            import openvino
        except ImportError as error:
            return Availability("", (), f"it is not installed ({error})")
        devices = tuple(each.lower() for each in openvino.Core().available_devices)
        return Availability(openvino.__version__.split("-")[0], devices)

    def build(
        self, model: Buildable, target: Target, out_dir: Path, progress: Progress = silent
    ) -> EngineFile:
        """Converts ONNX to IR, weights uncompressed, and compiles it once to see that it can."""
        if isinstance(model, Checkpoint):
            raise BuildError(f"{self.name} builds from ONNX", "export the network first")
        openvino = _import()
        path = out_dir / "model.xml"
        try:
            converted = openvino.Core().read_model(model.path)
            openvino.save_model(converted, path, compress_to_fp16=False)
        except RuntimeError as error:
            raise BuildError(f"OpenVINO refuses {model.path}: {_first_line(error)}") from error
        with _open_ir(path, 1) as session:
            inputs, outputs = session.inputs, session.outputs
        return EngineFile(
            role="",
            target=target.name,
            backend=self.name,
            backend_version=self.probe().version,
            device=target.device,
            precision=model.precision,
            path=path,
            parts=(path.with_suffix(".bin"),),
            model_inputs=inputs,
            model_outputs=outputs,
            executed=True,
        )

    def open(
        self, engine: EngineFile, threads: int = 1, gpu: GpuOptions | None = None
    ) -> OpenVinoSession:
        """See ``Backend.open``."""
        return _open_ir(engine.path, threads)

    def profile(
        self, engine: EngineFile, feeds: Arrays, threads: int = 1, runs: int = 50
    ) -> tuple[int, tuple[LayerTime, ...]]:
        """See ``Profiles.profile``; the runs are shared out among several compilations."""
        totals: list[int] = []
        means = []
        share = max(1, runs // openvino_profile.ROUNDS)
        for _ in range(openvino_profile.ROUNDS):
            with openvino_profile.signal_stack_kept():
                compiled = _compile(engine.path, threads, PERF_COUNT=True)
                with OpenVinoSession(compiled) as session:
                    run_times(session, feeds, WARM_UP)
                    warm = openvino_profile.rows(compiled.get_runtime_model())
                    totals.extend(run_times(session, feeds, share))
                    done = openvino_profile.rows(compiled.get_runtime_model())
                del session, compiled
            means.append(openvino_profile.times(warm, done, (WARM_UP, WARM_UP + share)))
        return int(np.median(totals)), openvino_profile.layers(done, means)


class OpenVinoSession:
    """One inference request of a compiled model."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._tensor = _import().Tensor
        self.inputs = tuple(_spec(each) for each in compiled.inputs)
        self.outputs = tuple(_spec(each) for each in compiled.outputs)

    def run(self, feeds: Arrays) -> Arrays:
        """See ``Session.run``. An input that lies in one piece is read where it lies.

        Raises:
            StageError: it is not what the model takes.
        """
        request, tensor = self._request, self._tensor
        try:
            for index, spec in enumerate(self.inputs):
                fed = feeds[spec.name]
                request.set_input_tensor(index, tensor(fed, shared_memory=fed.flags.c_contiguous))
            request.infer(share_outputs=True)  # into tensors of its own, which are copied below
        except RuntimeError as error:
            raise StageError(f"OpenVINO cannot run the model: {_first_line(error)}") from error
        return {
            spec.name: request.get_output_tensor(index).data.copy()
            for index, spec in enumerate(self.outputs)
        }

    def __enter__(self) -> OpenVinoSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._request


def _import() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable(OpenVino.name, OpenVino.extra, "it is not installed") from error
    return openvino


def _open_ir(path: Path, threads: int) -> OpenVinoSession:
    return OpenVinoSession(_compile(path, threads))


def _compile(path: Path, threads: int, **more: bool) -> Any:
    openvino = _import()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        # Left to itself the plugin runs fp32 models in bf16 where the processor can.
        "INFERENCE_PRECISION_HINT": "f32",
        **more,
    }
    core = openvino.Core()
    try:
        model = core.read_model(path)
        for port in (*model.inputs, *model.outputs):
            if not port.get_names():  # as conversion from PyTorch leaves them
                port.get_tensor().set_names({port.get_node().get_friendly_name()})
        return core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise BuildError(f"OpenVINO refuses {path}: {_first_line(error)}") from error


def _spec(port: Any) -> TensorSpec:
    shape = tuple(
        each.get_length() if each.is_static else "batch" for each in port.get_partial_shape()
    )
    return TensorSpec(port.get_any_name(), port.get_element_type().to_dtype().name, shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
