"""Targets: every profile is whole, says what its GPUs can do, and where that is from."""

from __future__ import annotations

import dataclasses
import tomllib
from importlib.resources import files
from typing import Any

import pytest
import tensorrt_rtx

from edgekd import targets
from edgekd.backends.base import BACKENDS
from edgekd.errors import RecipeError
from edgekd.quantize.forms import FORMS

BATCHES = ("min_batch", "opt_batch", "max_batch")
OPTIONS = {*BATCHES, "compute_capabilities", "workspace_mib", "dla_cores", "provider"}
ALL = [targets.load(name) for name in targets.names()]
GPUS = [each for each in ALL if each.backend.startswith("tensorrt")]
JETSONS = [each for each in ALL if each.name.startswith("jetson-")]


def _name(target: targets.Target) -> str:
    return target.name


def _number(target: targets.Target, option: str) -> int:
    value = target.options[option]
    assert type(value) is int
    return value


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((files(targets) / f"{name}.toml").read_text("utf-8"))


@pytest.mark.parametrize("target", ALL, ids=_name)
def test_a_profile_is_whole(target: targets.Target) -> None:
    assert target.backend in BACKENDS
    assert target.built in {"anywhere", "on the device"}
    assert target.base in {"fp32", "fp16"}
    assert target.base in target.precisions
    order = ["fp32", "fp16", "int8", "fp8"]
    assert list(target.precisions) == [each for each in order if each in target.precisions]
    assert (target.form in FORMS) == ("int8" in target.precisions)
    assert target.options.keys() <= OPTIONS
    assert 0 < len(target.summary) <= 60


@pytest.mark.parametrize("target", ALL, ids=_name)
def test_a_profile_says_nothing_that_is_dropped(target: targets.Target) -> None:
    fields = {each.name for each in dataclasses.fields(targets.Target)}
    assert _table(target.name).keys() <= fields - {"name"}


@pytest.mark.parametrize("target", GPUS, ids=_name)
def test_what_is_said_of_a_gpu_has_a_source(target: targets.Target) -> None:
    assert target.sources
    for each in target.sources:
        title, _, address = each.rpartition(", ")
        assert title
        assert address.startswith("https://")
        assert " " not in address


@pytest.mark.parametrize("target", GPUS, ids=_name)
def test_a_gpu_is_asked_for_what_it_can_do(target: targets.Target) -> None:
    capabilities = [
        int(each.removeprefix("sm_")) for each in target.device.split("+") if each.startswith("sm_")
    ]
    assert capabilities or target.device == "cuda"
    assert target.base == "fp16"
    assert {"fp16", "int8"} <= set(target.precisions)
    assert ("fp8" in target.precisions) == (bool(capabilities) and min(capabilities) >= 89)
    assert ("fp32" in target.precisions) == (75 not in capabilities)


@pytest.mark.parametrize("target", GPUS, ids=_name)
def test_tensorrt_builds_on_the_device_and_tensorrt_for_rtx_for_named_ones(
    target: targets.Target,
) -> None:
    if target.backend == "tensorrt":
        assert (target.built == "on the device") == (target.device != "cuda")
        assert "compute_capabilities" not in target.options
        return
    assert target.built == "anywhere"
    named = target.options["compute_capabilities"]
    assert isinstance(named, tuple)
    short = [each.replace(".", "") for each in named]
    assert target.device == "+".join(f"sm_{each}" for each in short)
    assert {f"SM{each}" for each in short} <= tensorrt_rtx.ComputeCapability.__members__.keys()


@pytest.mark.parametrize("target", GPUS, ids=_name)
def test_the_batches_are_in_order_and_a_single_image_is_among_them(
    target: targets.Target,
) -> None:
    batches = [_number(target, each) for each in BATCHES]
    assert batches[0] == 1
    assert batches == sorted(batches)


@pytest.mark.parametrize("target", JETSONS, ids=_name)
def test_a_jetson_keeps_memory_for_its_cpu(target: targets.Target) -> None:
    assert target.memory_mib
    assert _number(target, "workspace_mib") * 4 == target.memory_mib
    assert _number(target, "dla_cores") == (2 if target.name[7:] in {"orin-nx", "agx-orin"} else 0)


def test_the_devices_that_are_known() -> None:
    assert {each.name: each.device for each in GPUS} == {
        "a100": "sm_80",
        "a2": "sm_86",
        "h100": "sm_90",
        "h200": "sm_90",
        "jetson-agx-orin": "sm_87",
        "jetson-orin-nano": "sm_87",
        "jetson-orin-nx": "sm_87",
        "jetson-thor": "sm_110",
        "l4": "sm_89",
        "rtx-30": "sm_86",
        "rtx-40": "sm_89",
        "rtx-50": "sm_120",
        "tensorrt": "cuda",
        "tensorrt-rtx": "sm_80+sm_86+sm_89+sm_120",
        "turing": "sm_75",
    }


def test_an_unknown_target_is_told_with_its_near_matches() -> None:
    with pytest.raises(RecipeError, match="engines.targets: no target is called 'tensorrt-rx'"):
        targets.load("tensorrt-rx")


def test_a_name_is_not_a_path() -> None:
    with pytest.raises(RecipeError):
        targets.load("../recipe")
