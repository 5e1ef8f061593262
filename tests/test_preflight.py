"""What is found out before any work is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd import preflight
from edgekd.backends.base import Availability
from edgekd.backends.tensorrt import TensorRt
from edgekd.errors import BackendUnavailable, BundleError, RecipeError
from edgekd.preflight import check
from edgekd.recipe_file import load
from edgekd.store import installed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"student.model": "dscn-s"}, "student.model: no student is called 'dscn-s': did you mean"),
        ({"teacher.model": "resnet2"}, "teacher.model: .*'resnet20'"),
        ({"data.source": "fashion"}, "data.source: .*'fashion-mnist'"),
        ({"data.source": "folder:none"}, "data.source: there is no folder 'none'"),
        ({"data.source": "no_module:load"}, "data.source: no module is called 'no_module'"),
        ({"data.unlabelled": "npz:none"}, "data.unlabelled: there is no file 'none'"),
        ({"engines.targets": ["tensorrt-rtxx"]}, "engines.targets: .*'tensorrt-rtx'"),
        ({"engines.targets": ["torch"]}, "is the baseline"),
        (
            {"distill.weights": {"hint": 1}, "distill.layers": {"layer4": "block5"}},
            "distill.layers: resnet20 has no layer 'layer4': did you mean .*'layer3'",
        ),
        (
            {"distill.weights": {"hint": 1}, "distill.layers": {"layer3:0": "blok5:0"}},
            "distill.layers: dscnn-s has no layer 'blok5': did you mean 'block5'",
        ),
        ({"distill.weights": {"kl": 0}}, "distill.weights: every weight is zero"),
        (
            {"distill.cache": "on", "student.train.flip": True},
            "distill.cache: .*every epoch draws new views: set student.train.views",
        ),
        (
            {"distill.cache": "on", "student.train.views": 2, "student.train.mixup": 0.1},
            "distill.cache: .*the teacher must see them",
        ),
        (
            {"distill.cache": "on", "student.train.views": 2, "distill.weights": {"hint": 1}},
            "distill.cache: .*'hint' needs the teacher's features",
        ),
        (
            {"distill.weights": {"crd": 1}, "student.train.cutmix": 1.0},
            "distill.weights: 'crd' contrasts one image with others",
        ),
        (
            {"engines.targets": ["tensorrt-rtx"], "tensorrt.opt_batch": 64},
            "tensorrt: the batches of tensorrt-rtx are 1, 64 and 32: min_batch, opt_batch and max",
        ),
        (
            {"engines.targets": ["jetson-orin-nano"], "tensorrt.dla_core": 0},
            "tensorrt.dla_core: there is no accelerator 0 on jetson-orin-nano: it has none",
        ),
        (
            {"engines.targets": ["rtx-40"], "tensorrt.version_compatible": True},
            "tensorrt.version_compatible: TensorRT for RTX, which rtx-40 is built with, has no",
        ),
        (
            {"engines.targets": ["turing"], "engines.precisions": ["fp32"]},
            "engines.precisions: turing is built in none of fp32: it has fp16, int8",
        ),
    ],
)
def test_names_and_what_does_not_fit(change: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=words):
        check(load(None, change), tmp_path)


def test_losses_on_layers_need_one_teacher_with_layers(tmp_path: Path) -> None:
    (tmp_path / "teacher.onnx").write_bytes(b"")
    (tmp_path / "w.safetensors").write_bytes(b"")
    weights = {"teacher.weights": str(tmp_path / "w.safetensors")}
    also = [{"model": "resnet8", "weights": str(tmp_path / "w.safetensors")}]
    for teacher, words in (
        ({"teacher.model": f"onnx:{tmp_path}/teacher.onnx"}, "a teacher that is onnx:"),
        ({"teacher.also": also, **weights}, "several teachers"),
    ):
        with pytest.raises(RecipeError, match=f"'rkd' compares layers, and {words} gives logits"):
            check(load(None, {**teacher, "distill.weights": {"ce": 1, "rkd": 1}}), tmp_path)
        check(load(None, {**teacher, "distill.weights": {"ce": 1, "dist": 1}}), tmp_path)


def test_targets_are_returned_once_each(tmp_path: Path) -> None:
    recipe = load(None, {"engines.targets": ["openvino-cpu", "onnxruntime-cpu", "openvino-cpu"]})
    assert [each.name for each in check(recipe, tmp_path)] == ["openvino-cpu", "onnxruntime-cpu"]


@pytest.mark.parametrize(
    ("package", "extra"),
    [("safetensors", "train"), ("jinja2", "report"), ("onnx", "train"), ("pillow", "train")],
)
def test_a_package_that_a_late_stage_needs(
    package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(names: list[str]) -> dict[str, str]:
        return {**installed(names), **dict.fromkeys({package} & set(names), "absent")}

    monkeypatch.setattr(preflight, "installed", without)
    with pytest.raises(BackendUnavailable, match=rf"{package} is unavailable.*edgekd\[{extra}\]"):
        check(load(None), tmp_path)


def test_a_target_that_is_built_on_a_gpu_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorRt, "packages", ("numpy",))  # as if it were installed
    monkeypatch.setattr(TensorRt, "probe", lambda self: Availability("10.13", (), "no GPU"))
    with pytest.raises(BackendUnavailable, match="it builds on the GPU, and no GPU"):
        check(load(None, {"engines.targets": ["tensorrt"]}), tmp_path)


def test_a_place_that_is_taken_or_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "model.edgekd").mkdir()
    with pytest.raises(BundleError, match="model.edgekd exists and is not a bundle"):
        check(load(None), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="is no folder that can be written"):
        check(load(None), tmp_path / "file" / "out")
