"""The stages that quantise: what loses too much is mended, what is wrong does not ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd import targets
from edgekd.artifacts import Dataset, Int8, OnnxModel
from edgekd.errors import QuantizeError
from edgekd.int8 import Int8Stages
from edgekd.progress import Nobody
from edgekd.recipe_file import load
from edgekd.stages import Stages
from edgekd.store import Store
from tests.quantize.classifier import classifier

QUICK = {"qat.when": "never", "calibration.method": "minmax", "bench.samples": 20}


class _Listening(Nobody):
    def __init__(self) -> None:
        self.made: list[str] = []

    def end(self, stage: str, reused: bool, seconds: float) -> None:
        if not reused:
            self.made.append(stage)


def _quantised(
    model: OnnxModel, dataset: Dataset, store: Path, **changes: object
) -> tuple[Int8, list[str]]:
    """What a build makes of a model, and the stages that it had to run."""
    watching = _Listening()
    recipe = load(None, {**QUICK, **changes})
    chosen = [targets.load("onnxruntime-cpu")]
    stages = Int8Stages(Stages(recipe, chosen, Store(store), watching))
    found = stages.quantise(model, dataset, {})
    assert found is not None
    return found, watching.made


@pytest.fixture(scope="module")
def spoilt(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return classifier(dataset, tmp_path_factory.mktemp("spoilt") / "model.onnx", spoil=3000.0)


@pytest.fixture(scope="module")
def sound(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return classifier(dataset, tmp_path_factory.mktemp("sound") / "model.onnx")


def test_the_worst_layer_stays_in_float_where_int8_loses_too_much(
    spoilt: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    mended, made = _quantised(spoilt, dataset, tmp_path, **{"budget.fps": 1})
    assert mended.before is not None and mended.before.lost("u8s8") > 20
    for form in ("s8s8", "u8s8"):
        assert mended.forms[form].kept_float == ("fc2",)
        found = mended.sensitivity[form]
        assert found.layers[0].name == "fc2"
        assert found.mixes[found.chosen].kept == ("fc2",)
    # It is timed where a target takes the form: no target here takes TensorRT's.
    assert set(mended.sensitivity["u8s8"].fp32_ns) == {"onnxruntime-cpu"}
    assert not mended.sensitivity["s8s8"].fp32_ns
    (proof,) = mended.proofs
    assert min(proof.to_fp32.values()) > 15
    assert made == [
        "calibration set", "calibrate", "quantise s8s8", "quantise u8s8", "check int8",
        "sensitivity s8s8", "quantise s8s8", "sensitivity u8s8", "quantise u8s8",
        "prove s8s8, u8s8",
    ]  # fmt: skip
    again, made = _quantised(spoilt, dataset, tmp_path, **{"budget.fps": 1})
    assert again == mended
    assert made == []


def test_a_form_that_is_nothing_like_fp32_stops_the_build(
    spoilt: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    never = {"quantize.mixed": "never"}
    with pytest.raises(QuantizeError, match="dB above its difference to fp32, and 10 dB are asked"):
        _quantised(spoilt, dataset, tmp_path, **never)
    shipped, _ = _quantised(spoilt, dataset, tmp_path, **never, **{"quantize.min_sqnr": -10})
    assert shipped.before is None
    assert shipped.proofs[0].to_fp32["u8s8"] < 10


def test_layers_of_a_sound_model_are_looked_into_only_where_that_is_asked_and_none_is_kept(
    sound: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    usual, _ = _quantised(sound, dataset, tmp_path, **{"quantize.max_drop": 2.0})
    assert usual.sensitivity == {}
    asked, _ = _quantised(
        sound, dataset, tmp_path, **{"quantize.max_drop": 2.0, "quantize.mixed": "always"}
    )
    assert asked.sensitivity.keys() == {"s8s8", "u8s8"}
    for each in asked.sensitivity.values():
        assert {layer.name for layer in each.layers} == {"fc1", "fc2", "fc3"}
        assert each.mixes[each.chosen].kept == ()
    assert asked.forms == usual.forms


def test_auto_judges_the_forms_that_are_wanted_on_validation(
    sound: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    found, _ = _quantised(
        sound, dataset, tmp_path, **{"calibration.method": "auto", "quantize.mixed": "never"}
    )
    assert found.table.method != "auto"
    assert len(found.table.tried) > 3
    for each in found.table.tried:
        assert each.metric == "top1"
        assert each.values.keys() == {"s8s8", "u8s8"}


def test_no_int8_is_made_where_none_is_wanted(
    sound: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    recipe = load(None, {"engines.precisions": ["fp32"]})
    stages = Int8Stages(Stages(recipe, [], Store(tmp_path), Nobody()))
    assert stages.quantise(sound, dataset, {}) is None
    assert not list(tmp_path.iterdir())
