"""What is found out before any work is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd import preflight
from edgekd.backends.base import Availability
from edgekd.backends.tensorrt import TensorRt
from edgekd.errors import BackendUnavailable, BundleError, RecipeError
from edgekd.preflight import check
from edgekd.recipe import load
from edgekd.store import installed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"student.model": "dscn-s"}, "student.model: no student is called 'dscn-s': did you mean"),
        ({"teacher.model": "resnet2"}, "teacher.model: .*'resnet20'"),
        ({"data.source": "fashion"}, "data.source: .*'fashion-mnist'"),
        ({"engines.targets": ["tensorrt-rtxx"]}, "engines.targets: .*'tensorrt-rtx'"),
        ({"engines.targets": ["torch"]}, "is the baseline"),
        (
            {"engines.targets": ["tensorrt-rtx"], "bench.batch": 64},
            "bench.batch: 64 is more than the 32 that tensorrt-rtx is built for: lower it",
        ),
    ],
)
def test_names_and_what_does_not_fit(change: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=words):
        check(load(None, change), tmp_path)


def test_targets_are_returned_once_each(tmp_path: Path) -> None:
    recipe = load(None, {"engines.targets": ["openvino-cpu", "onnxruntime-cpu", "openvino-cpu"]})
    assert [each.name for each in check(recipe, tmp_path)] == ["openvino-cpu", "onnxruntime-cpu"]


@pytest.mark.parametrize(
    ("package", "extra"), [("safetensors", "train"), ("jinja2", "report"), ("onnx", "train")]
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
