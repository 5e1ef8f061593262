"""PyTorch eager on the CPU, the teacher's baseline: its engine is a safetensors file."""

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
    from torch import nn


class TorchEager:
    """The backend ``torch``."""

    name = "torch"
    extra = "train"
    packages = ("torch",)

    def probe(self) -> Availability:
        """See ``Backend.probe``."""
        try:
            import torch
        except ImportError as error:
            return Availability("", (), f"it is not installed ({error})")
        return Availability(torch.__version__, ("cpu",))

    def build(self, model: Buildable, target: Target, out_dir: Path) -> EngineFile:
        """Keeps the weights, and in ``options`` the architecture to fill with them."""
        if not isinstance(model, Checkpoint):
            raise BuildError(f"{self.name} builds from a checkpoint, not from ONNX")
        path = out_dir / "weights.safetensors"
        shutil.copyfile(model.weights, path)
        return EngineFile(
            role="",
            target=target.name,
            backend=self.name,
            backend_version=self.probe().version,
            device=target.device,
            precision="fp32",
            path=path,
            model_inputs=(TensorSpec("image", "float32", ("batch", *model.shape)),),
            model_outputs=(TensorSpec("logits", "float32", ("batch", model.classes)),),
            executed=True,
            options={"model": model.model},
        )

    def open(self, engine: EngineFile, threads: int = 1) -> TorchSession:
        """See ``Backend.open``. Threads are the whole process's, until the session is closed."""
        try:
            import torch
        except ImportError as error:
            raise BackendUnavailable(self.name, self.extra, "it is not installed") from error
        from edgekd import models
        from edgekd.models import weights

        threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)
        classes, channels = engine.model_outputs[0].shape[-1], engine.model_inputs[0].shape[1]
        assert isinstance(classes, int)
        assert isinstance(channels, int)
        model = models.create(engine.options["model"], classes, channels)
        weights.fill(model, engine.path)
        return TorchSession(model.eval(), engine.model_inputs, engine.model_outputs, threads_before)


class TorchSession:
    """A module in eval mode, called under inference_mode."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        threads_before: int,
    ) -> None:
        import torch

        self._torch = torch
        self._model = model
        self._threads_before = threads_before
        self.inputs = inputs
        self.outputs = outputs

    def run(self, feeds: Arrays) -> Arrays:
        """See ``Session.run``."""
        with self._torch.inference_mode():
            out = self._model(self._torch.from_numpy(feeds[self.inputs[0].name]))
        return {self.outputs[0].name: out.numpy()}

    def __enter__(self) -> TorchSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._model
        self._torch.set_num_threads(self._threads_before)
