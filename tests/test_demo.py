"""The demo's promises, on all of Fashion-MNIST: minutes, so run by `make test-slow`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import edgekd
from edgekd.data import open_source
from edgekd.data.fashion_mnist import DEBIAN
from tests.conftest import ROOT, run_cli

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs dataset-fashion-mnist"),
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The demo, built twice.

    Whether its camera loses frames is a matter of what else the machine does meanwhile: here a
    fifth of them may be late.
    """
    folder = tmp_path_factory.mktemp("demo")
    arguments = ["build", str(ROOT / "recipes" / "demo.toml"), "--out", str(folder), "--json"]
    arguments += ["--set", "budget.miss_rate=0.2"]
    env = {"EDGEKD_STORE": str(folder / "store")}
    first = run_cli(*arguments, env=env, timeout=1800)
    assert first.returncode == 0, first.stderr
    second = run_cli(*arguments, env=env)
    bundle = folder / "fashion-mnist-demo.edgekd"
    return {
        "bundle": bundle,
        "report": json.loads((bundle / "report.json").read_text()),
        "first": first,
        "second": second,
    }


def test_accuracy_and_cost(demo: dict[str, Any]) -> None:
    models = demo["report"]["models"]
    assert models["teacher"]["top1"] >= 92.5
    assert models["student"]["model"] == "dscnn-s"
    assert models["student"]["top1"] >= 90.5
    assert models["student"]["macs"] * 40 < models["teacher"]["macs"]
    sizes = demo["report"]["data"]["sizes"]
    assert sizes["train"] + sizes["validation"] == 60_000
    assert sizes["test"] == 10_000


def test_int8_engines_stay_with_the_fp32_student(demo: dict[str, Any]) -> None:
    engines = {each["name"]: each for each in demo["report"]["engines"]}
    for target in ("onnxruntime-cpu", "openvino-cpu"):
        int8 = engines[f"student/{target}/int8"]
        assert int8["executed"]
        assert abs(int8["top1"] - engines[f"student/{target}/fp32"]["top1"]) <= 0.3
        assert abs(int8["to_student"][0]) <= 0.3
    for precision in ("fp32", "int8"):
        rtx = engines[f"student/tensorrt-rtx/{precision}"]
        assert rtx["bytes"] > 100_000
        assert rtx["executed"] == (rtx["latency_ns"] is not None)


def test_the_bundle_is_right_on_images_that_it_never_saw(demo: dict[str, Any]) -> None:
    images, labels = open_source("fashion-mnist").read("test")
    with edgekd.load(demo["bundle"]) as engine:
        predicted = np.concatenate([engine(each) for each in np.split(images, 100)]).argmax(1)
    top1 = 100 * (predicted == labels).mean()
    best = next(
        each for each in demo["report"]["engines"] if each["name"] == demo["report"]["preferred"]
    )
    assert top1 == pytest.approx(best["top1"], abs=0.05)


def test_the_second_run_makes_nothing(demo: dict[str, Any]) -> None:
    second = demo["second"]
    assert second.returncode == 0, second.stderr
    stages = [line for line in second.stderr.splitlines() if line.startswith("✓ ")]
    assert len(stages) > 30
    assert all(line.endswith(": from the store") for line in stages)
    assert second.stdout == demo["first"].stdout
