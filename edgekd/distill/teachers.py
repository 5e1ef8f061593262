"""A frozen teacher, asked once for each image of each view."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn


def bf16_autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """bf16 where the processor has instructions for it, else nothing."""
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        native = any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    else:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    autocast: contextlib.AbstractContextManager[None] = torch.autocast(
        device.type, torch.bfloat16, enabled=native
    )
    return autocast


class Teacher:
    """Logits of a network in eval mode under inference_mode; no buffer of it ever moves.

    Args:
        model: the network.
        device: where it runs.
        n: images in the split.
        keep: whether views come back, so that their logits are worth keeping: n · classes
            float32 a view.
    """

    def __init__(self, model: nn.Module, device: torch.device, n: int, keep: bool) -> None:
        self._model = model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        self._n = n
        self._keep = keep
        self._views: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def logits(self, x: torch.Tensor, view: int, ids: torch.Tensor) -> torch.Tensor:
        """Logits, shape (n, classes) float32, of the batch ``x`` that the student sees.

        Args:
            x: the augmented batch.
            view: the index of its view.
            ids: the places of its images in the split.
        """
        if not self._keep:
            return self._run(x)
        if view not in self._views:
            empty = torch.zeros(self._n, self._run(x[:1]).shape[1])
            self._views[view] = (empty, torch.zeros(self._n, dtype=torch.bool))
        known, seen = self._views[view]
        new = ~seen[ids]
        if new.any():
            known[ids[new]] = self._run(x[new.to(x.device)]).cpu()
            seen[ids[new]] = True
        return known[ids].to(self._device)

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), bf16_autocast(self._device):
            logits: torch.Tensor = self._model(x)
        return logits.float().clone()  # a plain tensor, which autograd may keep
