"""Makes the six networks at 224² and the photographs that ``quantisation.py`` works on.

    .venv-zoo/bin/python benchmarks/quantisation_networks.py FOLDER

Weights are drawn, not trained, and none are downloaded: speed does not depend on them. Noise does,
so that decibels rank the files on these networks and foretell no trained network's. Batch norm's
statistics are taken from photographs, so that activations are scaled as in a trained network.
Needs torchvision, timm and scikit-learn, whose two photographs are cropped.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

SIZE, SMALLEST, LARGEST = 224, 224, 420
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETS = {"calibration": (128, 1), "validation": (64, 2)}
"""How many crops, and the seed that they are drawn with."""


def _networks() -> dict[str, Callable[[], nn.Module]]:
    import timm
    import torchvision.models as zoo

    return {
        "resnet18": zoo.resnet18,
        "mobilenetv2": zoo.mobilenet_v2,
        "mobilenetv3s": zoo.mobilenet_v3_small,
        "efficientnetb0": zoo.efficientnet_b0,
        "vgg11": zoo.vgg11,
        "vit": lambda: timm.create_model("vit_tiny_patch16_224", pretrained=False),
    }


def crops(count: int, seed: int) -> npt.NDArray[np.uint8]:
    """Crops of photographs, uint8 (count, 3, 224, 224)."""
    from sklearn.datasets import load_sample_images

    pictures: list[Any] = load_sample_images().images
    rng = np.random.default_rng(seed)
    found = np.empty((count, 3, SIZE, SIZE), np.uint8)
    for index in range(count):
        picture = pictures[rng.integers(len(pictures))]
        side = int(rng.integers(SMALLEST, LARGEST))
        top = rng.integers(0, picture.shape[0] - side + 1)
        left = rng.integers(0, picture.shape[1] - side + 1)
        part = torch.from_numpy(picture[top : top + side, left : left + side].copy())
        made = nn.functional.interpolate(
            part.permute(2, 0, 1)[None].float(), (SIZE, SIZE), mode="bilinear", antialias=True
        )[0]
        if rng.random() < 0.5:
            made = made.flip(-1)
        found[index] = made.clamp(0, 255).round().byte().numpy()
    return found


def settled(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """The model in eval mode, with batch norm's statistics measured on ``x``."""
    norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    if norms:
        for each in norms:
            each.momentum = None  # the plain mean over batches
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout) or "Stochastic" in type(module).__name__:
                module.eval()
        with torch.no_grad():
            for part in x.split(32):
                model(part)
    return model.eval()


def main() -> None:
    """Writes what the folder lacks."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    images = {name: crops(*how) for name, how in SETS.items()}
    np.savez(folder / "images.npz", **images)
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    x = (torch.from_numpy(images["calibration"][:64]) / 255 - mean) / std
    for name, make in _networks().items():
        path = folder / f"{name}.onnx"
        if path.exists():
            continue
        torch.manual_seed(0)
        batch = torch.export.Dim("batch", min=1, max=4096)
        program = torch.onnx.export(
            settled(make(), x),
            (x[:2],),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(path, external_data=False)
        print(name, flush=True)


if __name__ == "__main__":
    main()
