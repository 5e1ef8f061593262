"""Claim: without a GPU, ``edgekd build`` makes TensorRT for RTX engines for five generations.

    python benchmarks/rtx_engines.py --work DIR

Ten students in every precision of ``turing`` (7.5), ``rtx-30`` (8.6), ``rtx-40`` (8.9), ``rtx-50``
(12.0) and ``tensorrt-rtx`` (8.0, 8.6, 8.9 and 12.0 in one). They are trained for one short epoch:
what is claimed is that the engines are built, nothing of accuracy or of speed. Needs torchvision
and timm; what is done stays in DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import record

from edgekd import targets

TARGETS = ("turing", "rtx-30", "rtx-40", "rtx-50", "tensorrt-rtx")
PRECISIONS = ("fp32", "fp16", "int8", "fp8")
PHOTOS = {
    "resnet18": "torchvision:resnet18",
    "mobilenetv2": "torchvision:mobilenet_v2",
    "mobilenetv3s": "torchvision:mobilenet_v3_small",
    "efficientnetb0": "torchvision:efficientnet_b0",
    "vgg11": "torchvision:vgg11",
    "vit": "timm:vit_tiny_patch16_224",
}
CLOTHES = ("dscnn-s", "dscnn-m", "dscnn-l", "resnet8")
CLASSES = 4

RECIPE = """
[data]
source = "{source}"
labelled = {labelled}

[teacher]
model = "{teacher}"

[teacher.train]
epochs = 1
batch = 16
learning_rate = 0.01

[student]
model = "{student}"
control = false

[student.train]
epochs = 1
batch = 16
learning_rate = 0.01

[calibration]
method = "minmax"
samples = 32

[quantize]
mixed = "never"
min_sqnr = -100.0

[qat]
when = "never"

[engines]
targets = [{targets}]

[bench]
samples = 20
seconds = 1.0
blocks = 2
"""


def photos(path: Path) -> None:
    """Images of 224² in four classes: noise as coarse as the class."""
    rng = np.random.default_rng(0)
    images, labels = [], []
    for place in range(96):
        label = place % CLASSES
        small = rng.integers(0, 256, (3, 7 << label, 7 << label), np.uint8)
        images.append(np.kron(small, np.ones((1, 32 >> label, 32 >> label), np.uint8)))
        labels.append(label)
    np.savez(path, images=np.stack(images).transpose(0, 2, 3, 1), labels=np.array(labels))


def build(name: str, recipe: str, work: Path) -> float:
    """Seconds that ``edgekd build`` took; it is not run again where its bundle is there."""
    told = work / f"{name}.json"
    if not told.exists():
        path = work / f"{name}.toml"
        path.write_text(recipe)
        begin = time.monotonic()
        command = [sys.executable, "-m", "edgekd", "build", path, "--out", work / "bundles"]
        environment = {**os.environ, "EDGEKD_STORE": str(work / "store")}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        told.write_text(json.dumps(time.monotonic() - begin))
    seconds: float = json.loads(told.read_text())
    return seconds


def row(name: str, target: str, work: Path) -> list[str]:
    """Mebibytes of a student's engines by precision."""
    bundle = work / "bundles" / f"{name}.edgekd"
    manifest = json.loads((bundle / "manifest.json").read_text())
    sizes = {}
    for each in manifest["engines"]:
        if each["target"] == target:
            aside = json.loads((bundle / each["parts"][0]["path"]).read_text())
            assert aside["sha256"] == each["sha256"]
            assert aside["device"] == targets.load(target).device
            sizes[each["precision"]] = f"{each['bytes'] / 2**20:.2f}"
    return [sizes.get(each, "·") for each in PRECISIONS]


def main() -> None:
    """Builds what is not built yet, and writes ``results/rtx-engines.md``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=[*PHOTOS, *CLOTHES])
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    if not (chosen.work / "photos.npz").exists():
        photos(chosen.work / "photos.npz")
    listed = ", ".join(f'"{each}"' for each in TARGETS)
    rows = []
    for name in chosen.only:
        photo = name in PHOTOS
        recipe = RECIPE.format(
            source="npz:photos.npz" if photo else "fashion-mnist",
            labelled=1.0 if photo else 0.02,
            teacher="resnet20",
            student=PHOTOS.get(name, name),
            targets=listed,
        )
        seconds = build(name, recipe, chosen.work)
        for target in TARGETS:
            sm = targets.load(target).device.replace("+", ", ")
            rows.append([name, f"{target} ({sm})", *row(name, target, chosen.work)])
        print(f"{name}: {seconds:.0f} s", file=sys.stderr)
    headings = ("student", "target", *(f"{each}, MiB" for each in PRECISIONS))
    missing = sum(line[2:].count("·") for line in rows)
    body = [
        (
            "A figure is the size of an engine that was built and stands in a bundle with its"
            " side-car; a dot is a precision that the target's profile does not have: fp32 on 7.5,"
            " where the library refuses FP32 matrix products, and fp8 before 8.9. int8 and fp8 have"
            " float16 between their quantised layers. None of these engines was run: there was no"
            " GPU, and nothing is claimed of their speed."
        ),
        "",
        record.table(headings, rows),
        "",
        f"{len(rows) * len(PRECISIONS) - missing} engines.",
    ]
    record.write(
        "rtx-engines",
        "TensorRT for RTX engines built without a GPU",
        ["tensorrt-rtx-cu12", "onnx", "onnxruntime", "torch", "torchvision", "timm"],
        "\n".join(body),
    )


if __name__ == "__main__":
    main()
