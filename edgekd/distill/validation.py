"""Accuracy on the validation split while a network is in training."""

from __future__ import annotations

import torch
from torch import nn

from edgekd.artifacts import Preprocessing
from edgekd.data.batches import slices
from edgekd.data.splits import Samples
from edgekd.distill.optim import autocast
from edgekd.distill.sampling import tensor
from edgekd.recipe import TrainSettings

_BATCH = 500


def accuracy(
    model: nn.Module,
    samples: Samples,
    preprocessing: Preprocessing,
    settings: TrainSettings,
    device: torch.device,
) -> float:
    """Top-1 in percent; leaves the network in eval mode."""
    model.eval()
    correct = 0
    with torch.inference_mode(), autocast(settings, device):
        for part in slices(len(samples), _BATCH):
            x = tensor(samples.images[part], preprocessing).to(device)
            predicted = model(x).argmax(1).cpu().numpy()
            correct += int((predicted == samples.labels[part]).sum())
    return 100 * correct / len(samples)
