"""PyTorch eager on the CPU, the teacher's baseline: its engine is the weights of its members."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgekd.artifacts import Checkpoint, EngineFile, Member, TensorSpec
from edgekd.backends.base import Arrays, Availability, Buildable, GpuOptions, require_device
from edgekd.errors import BackendUnavailable, BuildError
from edgekd.progress import Progress, silent
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

    def build(
        self, model: Buildable, target: Target, out_dir: Path, progress: Progress = silent
    ) -> EngineFile:
        """Keeps the weights, and in ``options`` what is to be filled with them."""
        if not isinstance(model, Checkpoint):
            raise BuildError(f"{self.name} builds from a checkpoint, not from ONNX")
        given = [each.weights for each in model.members] or [model.weights]
        kept = [out_dir / f"weights{n or ''}{each.suffix}" for n, each in enumerate(given)]
        for source, copy in zip(given, kept, strict=True):
            shutil.copyfile(source, copy)
        members = [
            {name: each for name, each in dataclasses.asdict(member).items() if name != "weights"}
            for member in model.members
        ]
        return EngineFile(
            role="",
            target=target.name,
            backend=self.name,
            backend_version=self.probe().version,
            device=target.device,
            precision="fp32",
            path=kept[0],
            parts=tuple(kept[1:]),
            model_inputs=(TensorSpec("image", "float32", ("batch", *model.shape)),),
            model_outputs=(TensorSpec("logits", "float32", ("batch", model.classes)),),
            executed=True,
            options={"model": model.model, "members": json.dumps(members)},
        )

    def open(
        self,
        engine: EngineFile,
        threads: int = 1,
        gpu: GpuOptions | None = None,
        *,
        device: str | None = None,
        streams: int = 1,
    ) -> TorchSession:
        """See ``Backend.open``. Threads are the whole process's, until the session is closed."""
        require_device(self.name, device, ["cpu"])
        try:
            import torch
        except ImportError as error:
            raise BackendUnavailable(self.name, self.extra, "it is not installed") from error
        from edgekd.models import weights

        threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)
        specs = (engine.model_inputs[0], engine.model_outputs[0])
        channels, height, width, classes = (
            each for spec in specs for each in spec.shape[1:] if isinstance(each, int)
        )
        files = (engine.path, *engine.parts)
        members = json.loads(engine.options["members"])
        model = weights.load(
            Checkpoint(
                weights=engine.path,
                model=engine.options["model"],
                classes=classes,
                shape=(channels, height, width),
                params=0,
                macs=0,
                metrics={},
                members=tuple(
                    _member(record, path) for record, path in zip(members, files, strict=False)
                ),
            )
        )
        return TorchSession(model, engine.model_inputs, engine.model_outputs, threads_before)


def _member(record: Mapping[str, Any], path: Path) -> Member:
    """A member from its JSON, whose lists were tuples, and its file."""
    values: dict[str, Any] = {
        name: tuple(each) if isinstance(each, list) else each for name, each in record.items()
    }
    return Member(weights=path, **values)


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
