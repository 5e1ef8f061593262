"""Tables: what a stage makes of one pass, and files of two kinds."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from edgekd import preprocessing as pre
from edgekd.artifacts import CalibrationSet, CalibrationTable, Dataset, OnnxModel, Trial
from edgekd.calibration import sets
from edgekd.calibration.collect import Collected
from edgekd.calibration.feeds import Feeds, of_images
from edgekd.calibration.methods import METHODS
from edgekd.calibration.statistics import Statistics
from edgekd.calibration.table import calibrate, load, save, tabulate
from edgekd.errors import CalibrationError
from edgekd.recipe import CalibrationSettings
from edgekd.store import hash_file
from tests.conftest import ROOT

SCHEMA = json.loads((ROOT / "calibration" / "table.schema.json").read_text())


def of(*batches: np.ndarray) -> Statistics:
    found = Statistics()
    for each in batches:
        found.see(each)
    return found


@pytest.fixture(scope="module")
def drawn(
    dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CalibrationSet, Feeds]:
    chosen = sets.choose(dataset, CalibrationSettings(samples=70), tmp_path_factory.mktemp("set"))
    images = sets.images(chosen, dataset)
    return chosen, of_images("image", images, dataset.preprocessing)


def test_the_stage_names_what_it_was_made_from(
    onnx_model: OnnxModel, dataset: Dataset, drawn: tuple[CalibrationSet, Feeds], tmp_path: Path
) -> None:
    chosen, feeds = drawn
    settings = CalibrationSettings(method="percentile", percentile=99.0)
    table = calibrate(onnx_model, feeds, settings, chosen, tmp_path)
    assert (table.method, table.percentile, table.samples) == ("percentile", 99.0, 70)
    assert table.set_sha256 == chosen.sha256
    assert table.model_sha256 == hash_file(onnx_model.path).sha256
    assert table.preprocessing_sha256 == pre.sha256(dataset.preprocessing)
    assert "logits" in table.ranges
    assert not list(tmp_path.iterdir())
    outer = calibrate(onnx_model, feeds, CalibrationSettings(method="minmax"), chosen, tmp_path)
    assert outer.percentile == 100
    assert outer.ranges == outer.extremes == table.extremes
    for name, (low, high) in table.ranges.items():
        assert outer.ranges[name][0] <= low <= 0 <= high <= outer.ranges[name][1]
        assert 0 <= table.clipped[name] <= 0.02
    narrower = [table.ranges[name][1] < 0.95 * high for name, (_, high) in outer.ranges.items()]
    assert sum(narrower) > len(narrower) / 3
    assert set(outer.clipped.values()) == {0.0}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_makes_a_table(method: str) -> None:
    rng = np.random.default_rng(0)
    collected = Collected({"x": of(rng.normal(size=5000))}, {"x": of(np.ones(1))}, 9, "a", "")
    table = tabulate(collected, method, 99.0, "b")
    low, high = table.ranges["x"]
    assert low < -1 < 1 < high
    assert (table.method, table.samples) == (method, 9)
    assert (table.model_sha256, table.set_sha256) == ("a", "b")


@pytest.mark.parametrize(
    ("half", "whole", "moved"),
    [
        ([-1.0, 3.0], [-1.0, 3.0], 0.0),
        ([-1.0, 3.0], [-2.0, 3.0], 1 / 5),
        ([-1.0, 3.0], [-1.0, 7.0], 4 / 8),
        ([0.0], [4.0], 1.0),
        ([0.0], [0.0], 0.0),
    ],
)
def test_how_far_a_range_moved(half: list[float], whole: list[float], moved: float) -> None:
    collected = Collected({"x": of(np.array(whole))}, {"x": of(np.array(half))}, 9, "", "")
    assert tabulate(collected, "minmax", 100).moved == {"x": pytest.approx(moved)}


def test_an_unknown_method(drawn: tuple[CalibrationSet, Feeds]) -> None:
    with pytest.raises(CalibrationError, match="'kl'"):
        tabulate(Collected({"x": of(np.ones(1))}, {"x": of(np.ones(1))}, 1, "", ""), "kl", 100)


TABLE = CalibrationTable(
    method="percentile",
    percentile=99.99,
    ranges={"image": (-1.5, 1.0), 'odd "name"\n': (0.0, 1 / 3)},
    set_sha256="5" * 64,
    samples=70,
    model_sha256="7" * 64,
    preprocessing_sha256="",
    extremes={"image": (-2.0, 1.0)},
    clipped={"image": 0.001},
    moved={"image": 0.25},
    tried=(Trial("mse", "top1", {"s8s8": 91.5, "u8s8": 92.0}, {"s8s8": 30.25, "u8s8": 31.0}),),
)


@pytest.mark.parametrize(
    "table", [TABLE, CalibrationTable(method="mse", ranges={"x": (0, 0)}, set_sha256="", samples=0)]
)
def test_a_table_comes_back_as_it_was(table: CalibrationTable, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    save(table, path)
    assert load(path) == table
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(json.loads(path.read_text()))


def test_it_reads_one_tensor_a_line(tmp_path: Path) -> None:
    save(TABLE, tmp_path / "t.json")
    line = '  "image": {"low": -1.5, "high": 1.0, "min": -2.0, "max": 1.0, "clipped": 0.001,'
    assert f'{line} "moved": 0.25}},' in (tmp_path / "t.json").read_text().splitlines()


def test_a_table_of_a_network_fits_the_schema(
    onnx_model: OnnxModel, drawn: tuple[CalibrationSet, Feeds], tmp_path: Path
) -> None:
    settings = CalibrationSettings(method="entropy")
    table = calibrate(onnx_model, drawn[1], settings, drawn[0], tmp_path)
    save(table, tmp_path / "t.json")
    Draft202012Validator(SCHEMA).validate(json.loads((tmp_path / "t.json").read_text()))
    assert load(tmp_path / "t.json") == table


def changed(**values: Any) -> str:
    """A good table's JSON with keys replaced; None takes one out."""
    record = {
        "schema": 1, "model_sha256": "", "set_sha256": "", "preprocessing_sha256": "",
        "samples": 1, "method": "mse", "percentile": 100, "tried": [],
        "tensors": {"x": {"low": -1, "high": 1}}, **values,
    }  # fmt: skip
    return json.dumps({key: each for key, each in record.items() if each is not None})


def trial(**values: Any) -> list[dict[str, Any]]:
    return [{"method": "mse", "metric": "top1", "values": {}, "sqnr": {}, **values}]


def tensor(**values: Any) -> dict[str, Any]:
    return {"x\n": {"low": -1, "high": 1, **values}}


HUGE = 10**400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON, or is cut short"),
        (changed()[:-9], "not JSON, or is cut short"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "it has no 'tensors'"),
        ('{"ids": []}', "it has no 'tensors'"),
        (changed(schema=2), "has schema 2, and this version reads 1: calibrate anew"),
        (changed(schema="a\nb"), r"has schema 'a\\nb'"),
        (changed(model_sha256=None), "its 'model_sha256' is not a sha256"),
        (changed(set_sha256=7), "its 'set_sha256' is not a sha256"),
        (changed(preprocessing_sha256="beef"), "its 'preprocessing_sha256' is not a sha256"),
        (changed(samples=True), "its 'samples' is not a number"),
        (changed(samples=-1), "its 'samples' is not a number"),
        (changed(method=["mse"]), "its 'method' is not"),
        (changed(percentile="all"), "its 'percentile' is not"),
        (changed(percentile=101), "its 'percentile' is not"),
        (changed(tried="mse"), "its 'tried' is not a list of trials"),
        (changed(tried=[{"method": "mse"}]), "its 'tried' is not a list of trials"),
        (changed(tried=trial(metric="luck")), "its 'tried' is not a list of trials"),
        (changed(tried=trial(values={"s8s8": "good"})), "its 'tried' is not a list of trials"),
        (changed(tensors={}), "its 'tensors' is not tensors by name"),
        (changed(tensors=[1]), "its 'tensors' is not tensors by name"),
        (changed(tensors={"x": [-1, 1]}), "tensor 'x' is not described by finite numbers"),
        (changed(tensors=tensor(low="-1")), r"tensor 'x\\n' is not described by finite"),
        (changed(tensors=tensor(high=float("nan"))), "is not described by finite numbers"),
        (changed(tensors=tensor(high=float("inf"))), "is not described by finite numbers"),
        (changed(tensors=tensor(high=1e39)), "is not described by finite numbers"),
        (changed(tensors=tensor(high=HUGE)), "is not described by finite numbers"),
        (changed(tensors=tensor(low=2, high=1)), "zero is not from 'low' to 'high'"),
        (changed(tensors=tensor(low=0.5)), "zero is not from 'low' to 'high'"),
        (changed(tensors={"x": {"low": -1}}), "zero is not from 'low' to 'high'"),
        (changed(tensors=tensor(min=-1)), "zero is not from 'min' to 'max'"),
        (changed(tensors=tensor(min=1, max=2)), "zero is not from 'min' to 'max'"),
        ("TRT-8601-EntropyCalibration2\n", "it holds no tensor"),
        ("TRT-8601-EntropyCalibration2\nx 3c010a14\n", "line 2 is not a tensor's name"),
        ("TRT-8601-EntropyCalibration2\nx: 3c010a14\ny: 3c0g0a14\n", "line 3 is not"),
        ("TRT-8601-EntropyCalibration2\nx: 3c010a140\n", "line 2 is not"),
        ("TRT-8601-EntropyCalibration2\nx: 7fc00000\n", "line 2 holds the scale nan"),
        ("TRT-8601-EntropyCalibration2\nx: bc010a14\n", "line 2 holds the scale -0.007"),
        ("TRT-8601-EntropyCalibration2\nx: 7f000000\n", "line 2 holds the scale 1.7.*e.38"),
    ],
)
def test_what_is_no_table(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"none.json cannot be read \(No such file"):
        load(tmp_path / "none.json")
    (tmp_path / "t.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match="it is not text"):
        load(tmp_path / "t.json")


def test_tensorrts_cache(tmp_path: Path) -> None:
    """Its scales are the bits of a float32, most significant first, without leading zeros."""
    scales = {"image": 0.00787593797, "(Unnamed Layer* 7) [Scale]: out": 2.5, "dead": 0.0}
    bits = {name: struct.pack(">f", each).hex().lstrip("0") for name, each in scales.items()}
    text = "".join(f"{name}: {each or '0'}\n" for name, each in bits.items())
    path = tmp_path / "calibration.cache"
    path.write_text(f"TRT-8601-EntropyCalibration2\n{text}\n")
    table = load(path)
    assert table.method == "TRT-8601-EntropyCalibration2"
    assert (table.model_sha256, table.set_sha256, table.samples) == ("", "", 0)
    assert table.ranges.keys() == scales.keys()
    for name, scale in scales.items():
        assert table.ranges[name] == pytest.approx((-127 * scale, 127 * scale), rel=1e-6)
    assert "3c010a14" in text
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load(path) == table
    save(replace(table), tmp_path / "t.json")
    assert load(tmp_path / "t.json") == table
