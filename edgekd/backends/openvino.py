"""OpenVINO, on the CPU or another of its devices.

Its engine is an IR, ``model.xml`` beside ``model.bin``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import Checkpoint, EngineFile, TensorSpec
from edgekd.backends import openvino_profile
from edgekd.backends.base import (
    WARM_UP,
    Arrays,
    Availability,
    Buildable,
    GpuOptions,
    require_device,
    run_times,
    sized,
)
from edgekd.errors import BackendUnavailable, BuildError, CorruptBundle, StageError
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
        engine = EngineFile(
            role="",
            target=target.name,
            backend=self.name,
            backend_version=self.probe().version,
            device=target.device,
            precision=model.precision,
            path=path,
            parts=(path.with_suffix(".bin"),),
            model_inputs=model.model_inputs,
            model_outputs=model.model_outputs,
            executed=True,
        )
        with self.open(engine) as session:
            return replace(engine, model_inputs=session.inputs, model_outputs=session.outputs)

    def open(
        self,
        engine: EngineFile,
        threads: int = 1,
        gpu: GpuOptions | None = None,
        *,
        device: str | None = None,
        streams: int = 1,
    ) -> OpenVinoSession:
        """See ``Backend.open``; any device of OpenVINO's takes an IR."""
        return OpenVinoSession(_compile(engine, threads, device or "CPU", streams))

    def profile(
        self, engine: EngineFile, feeds: Arrays, threads: int = 1, runs: int = 50
    ) -> tuple[int, tuple[LayerTime, ...]]:
        """See ``Profiles.profile``; the runs are shared out among several compilations."""
        totals: list[int] = []
        means = []
        share = max(1, runs // openvino_profile.ROUNDS)
        for _ in range(openvino_profile.ROUNDS):
            with openvino_profile.signal_stack_kept():
                compiled = _compile(engine, threads, PERF_COUNT=True)
                with OpenVinoSession(compiled) as session:
                    run_times(session, feeds, WARM_UP)
                    warm = openvino_profile.rows(compiled.get_runtime_model())
                    totals.extend(run_times(session, feeds, share))
                    done = openvino_profile.rows(compiled.get_runtime_model())
                del session, compiled
            means.append(openvino_profile.times(warm, done, (WARM_UP, WARM_UP + share)))
        return int(np.median(totals)), openvino_profile.layers(done, means)


_SMALL = 1 << 16
"""Bytes that are copied sooner than OpenVINO makes a tensor of them where they lie."""
_KEPT = 8
"""For how many batches a session keeps memory to copy to."""


class OpenVinoSession:
    """One inference request of a compiled model; for small inputs, one for each batch."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._tensor = _import().Tensor
        self.inputs = tuple(_spec(each) for each in compiled.inputs)
        self.outputs = tuple(_spec(each) for each in compiled.outputs)
        self._input, self._output = self.inputs[0].name, self.outputs[0].name
        self._dtype = np.dtype(self.inputs[0].dtype)
        self._bound: dict[tuple[int, ...], OpenVinoBinding] = {}

    def run(self, feeds: Arrays) -> Arrays:
        """See ``Session.run``. A large input that lies in one piece is read where it lies.

        Raises:
            StageError: it is not what the model takes.
        """
        fed = feeds[self._input]
        bound = self._bound.get(fed.shape)
        if bound is not None and fed.dtype is self._dtype:
            bound.inputs[self._input][...] = fed
            bound.run()
            return {self._output: bound.outputs[self._output].copy()}
        try:
            for index, spec in enumerate(self.inputs):
                fed = feeds[spec.name]
                shared = self._tensor(fed, shared_memory=fed.flags.c_contiguous)
                self._request.set_input_tensor(index, shared)
            found = list(self._request.infer().values())  # copies, in the order of the outputs
        except RuntimeError as error:
            raise _failed(error) from error
        self._keep(fed, found[0])
        return {each.name: array for each, array in zip(self.outputs, found, strict=True)}

    def _keep(self, fed: npt.NDArray[Any], found: npt.NDArray[Any]) -> None:
        """Has memory for a batch that was run, if it is small and all that there is."""
        single = len(self.inputs) == len(self.outputs) == 1
        if single and 0 < fed.nbytes <= _SMALL and len(self._bound) < _KEPT:
            self._bound[fed.shape] = OpenVinoBinding(
                self._compiled,
                {self._input: np.zeros_like(fed, order="C")},
                {self._output: np.zeros_like(found)},
            )

    def bind(self, batch: int) -> OpenVinoBinding:
        """See ``Binds.bind``."""
        arrays = (
            {each.name: np.zeros(sized(each, batch), each.dtype) for each in specs}
            for specs in (self.inputs, self.outputs)
        )
        return OpenVinoBinding(self._compiled, *arrays)

    def another(self) -> OpenVinoSession:
        """See ``Shares.another``: another request of the compiled model."""
        return OpenVinoSession(self._compiled)

    def __enter__(self) -> OpenVinoSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._request, self._compiled, self._bound


class OpenVinoBinding:
    """A request whose tensors lie in arrays of the host."""

    def __init__(self, compiled: Any, inputs: Arrays, outputs: Arrays) -> None:
        tensor = _import().Tensor
        # A tensor does not hold the array it is of: nobody shall be able to replace one.
        self.inputs, self.outputs = MappingProxyType(dict(inputs)), MappingProxyType(dict(outputs))
        self._request = compiled.create_infer_request()
        for index, array in enumerate(self.inputs.values()):
            self._request.set_input_tensor(index, tensor(array, shared_memory=True))
        for index, array in enumerate(self.outputs.values()):
            self._request.set_output_tensor(index, tensor(array, shared_memory=True))

    def run(self) -> None:
        """See ``Binding.run``.

        Raises:
            StageError: OpenVINO fails.
        """
        try:
            self._request.infer(share_outputs=True)
        except RuntimeError as error:
            raise _failed(error) from error


def _failed(error: Exception) -> StageError:
    return StageError(f"OpenVINO cannot run the model: {_first_line(error)}")


def _import() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable(OpenVino.name, OpenVino.extra, "it is not installed") from error
    return openvino


def _read(core: Any, engine: EngineFile) -> Any:
    if not engine.contents:
        return core.read_model(engine.path)
    weights = [each for each in engine.parts if each.suffix == ".bin"]
    if engine.path.suffix != ".xml" or len(weights) > 1:
        # Other kinds of models may name files of their own, which nobody hashed.
        raise CorruptBundle(f"{engine.path} is no IR of OpenVINO", "build the engine again")
    # Copied to memory of OpenVINO's own: its wrappers would not keep these bytes alive.
    return core.read_model(*(engine.read(each) for each in (engine.path, *weights)))


def _compile(
    engine: EngineFile, threads: int, device: str = "CPU", streams: int = 1, **more: bool
) -> Any:
    openvino = _import()
    core = openvino.Core()
    # A device that is there twice is called GPU.0 and GPU.1, and GPU is the first.
    here = [*core.available_devices, *(each.split(".")[0] for each in core.available_devices)]
    require_device(OpenVino.name, device, list(dict.fromkeys(here)))
    settings = {"PERFORMANCE_HINT": "LATENCY", **more}
    kind = device.upper().split(".")[0]
    if kind in ("CPU", "GPU"):
        # Left to themselves the plugins run fp32 models in bf16 or fp16 where the device can.
        settings |= {"NUM_STREAMS": str(streams), "INFERENCE_PRECISION_HINT": "f32"}
    if kind == "CPU":
        settings["INFERENCE_NUM_THREADS"] = threads * streams  # of all streams together
    try:
        model = _read(core, engine)
        for port in (*model.inputs, *model.outputs):
            if not port.get_names():  # as conversion from PyTorch leaves them
                port.get_tensor().set_names({port.get_node().get_friendly_name()})
        return core.compile_model(model, device.upper(), settings)
    except RuntimeError as error:
        raise BuildError(f"OpenVINO refuses {engine.path}: {_first_line(error)}") from error


def _spec(port: Any) -> TensorSpec:
    shape = tuple(
        each.get_length() if each.is_static else "batch" for each in port.get_partial_shape()
    )
    return TensorSpec(port.get_any_name(), port.get_element_type().to_dtype().name, shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
