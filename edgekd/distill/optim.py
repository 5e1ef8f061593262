"""Optimizer, learning rate, averaged weights and autocast of a recipe."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from edgekd.recipe import TrainSettings


def optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay on matrices and kernels, not on biases and batch norm."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, settings.learning_rate, (settings.momentum, 0.999))
    return torch.optim.SGD(
        groups, settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0
    )


def scheduler(
    chosen: torch.optim.Optimizer, settings: TrainSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate over ``steps``: it rises for a share of them and falls to zero."""
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR

    if settings.schedule == "one-cycle":
        return OneCycleLR(
            chosen,
            settings.learning_rate,
            total_steps=steps + 1,
            pct_start=max(settings.warmup, 2 / (steps + 1)),  # its rise may not be of 0 steps
            cycle_momentum=False,
        )
    rising = min(max(1, round(settings.warmup * steps)), steps)
    return SequentialLR(
        chosen,
        [
            LinearLR(chosen, 1 / rising, total_iters=rising),
            CosineAnnealingLR(chosen, max(1, steps - rising)),
        ],
        [rising],
    )


def average(
    model: nn.Module, settings: TrainSettings
) -> torch.optim.swa_utils.AveragedModel | None:
    """A network whose weights and buffers are the running mean of another's, or None."""
    if not settings.ema:
        return None
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    running = get_ema_multi_avg_fn(settings.ema)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=running, use_buffers=True)


def autocast(
    settings: TrainSettings, device: torch.device
) -> contextlib.AbstractContextManager[None]:
    """Half precision as the recipe says."""
    if settings.autocast == "auto":
        return bf16_autocast(device)
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if settings.autocast not in halves:
        return contextlib.nullcontext()
    chosen: contextlib.AbstractContextManager[None] = torch.autocast(
        device.type, halves[settings.autocast]
    )
    return chosen


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
