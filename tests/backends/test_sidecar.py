"""The side-car: which plan may be loaded where, told before a library sees a byte of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.backends.cuda import Gpu
from edgekd.backends.tensorrt import sidecar
from edgekd.backends.tensorrt.sidecar import SideCar
from edgekd.errors import CorruptBundle, EngineIncompatible

FACTS = SideCar(
    sha256=hashlib.sha256(b"plan").hexdigest(),
    bytes=4,
    library="tensorrt",
    version="10.13.0.35",
    system="linux-x86_64",
    device="sm_86+sm_89",
    gpu="",
    hardware="none",
    version_compatible=False,
    precision="int8",
    onnx_sha256="0" * 64,
    calibration_sha256="1" * 64,
    compiled_sha256="",
    flags={"max_batch": "8"},
    inputs=[{"name": "image", "dtype": "float32", "shape": ["batch", 1, 8, 8]}],
    outputs=[{"name": "logits", "dtype": "float32", "shape": ["batch", 10]}],
)
HERE = ("tensorrt", "10.13.0.35", "linux-x86_64", "sm_86")


def _refusal(facts: SideCar, *here: str, host_code: bool = False) -> str:
    try:
        sidecar.check(facts, *here, host_code=host_code)  # type: ignore[misc]
    except EngineIncompatible as error:
        return str(error)
    return ""


def test_what_is_written_is_read(tmp_path: Path) -> None:
    plan = tmp_path / "model.engine"
    path = sidecar.write(plan, FACTS)
    assert path == sidecar.path_of(plan) == tmp_path / "model.engine.json"
    assert sidecar.read(path) == FACTS


@pytest.mark.parametrize(
    ("place", "found", "told"),
    [
        (0, "tensorrt_rtx", "is for tensorrt 10.13.0.35, and this is tensorrt_rtx 10.13.0.35"),
        (1, "10.13.0.36", "is for tensorrt 10.13.0.35, and this is tensorrt 10.13.0.36"),
        (1, "11.0.0.1", "and this is tensorrt 11.0.0.1"),
        (2, "linux-aarch64", "is for linux-x86_64, and this is linux-aarch64"),
        (3, "sm_87", "is for sm_86+sm_89, and this is a GPU of sm_87"),
        (3, "sm_8", "a GPU of sm_8"),
    ],
)
def test_another_library_version_system_or_gpu_is_refused(
    place: int, found: str, told: str
) -> None:
    assert not _refusal(FACTS, *HERE)
    here = list(HERE)
    here[place] = found
    assert told in _refusal(FACTS, *here)


def test_without_a_gpu_the_rest_is_still_checked() -> None:
    assert not _refusal(FACTS, *HERE[:3], "")
    assert _refusal(FACTS, "tensorrt", "10.12", "linux-x86_64", "")


@pytest.mark.parametrize(
    ("hardware", "sm", "taken"),
    [
        ("none", "sm_89", True),
        ("none", "sm_120", False),
        ("same_compute_capability", "sm_86", True),
        ("same_compute_capability", "sm_87", False),
        ("ampere+", "sm_80", True),
        ("ampere+", "sm_120", True),
        ("ampere+", "sm_75", False),
    ],
)
def test_hardware_compatibility(hardware: str, sm: str, taken: bool) -> None:
    told = _refusal(replace(FACTS, hardware=hardware), *HERE[:3], sm)
    assert (not told) is taken
    if hardware == "ampere+" and told:
        assert "is for sm_80 and later" in told


@given(st.tuples(*[st.integers(0, 30)] * 3), st.tuples(*[st.integers(0, 30)] * 3))
def test_a_version_compatible_plan_goes_with_what_follows_in_its_major(
    built: tuple[int, ...], here: tuple[int, ...]
) -> None:
    facts = replace(FACTS, version=".".join(map(str, built)), version_compatible=True)
    told = _refusal(facts, "tensorrt", ".".join(map(str, here)), *HERE[2:], host_code=True)
    assert (not told) is (built[0] == here[0] and built <= here)


def test_host_code_is_let_in_by_the_user_alone() -> None:
    facts = replace(FACTS, version_compatible=True)
    assert "set EDGEKD_HOST_CODE=1 if you trust where it is from" in _refusal(facts, *HERE)
    assert not _refusal(facts, *HERE, host_code=True)
    assert not _refusal(FACTS, *HERE, host_code=True)


@pytest.mark.parametrize("content", [b"", b"pla", b"plans", b"plaN"])
def test_a_plan_that_is_truncated_or_altered_is_not_given_on(
    content: bytes, tmp_path: Path
) -> None:
    plan = tmp_path / "model.engine"
    plan.write_bytes(b"plan")
    assert sidecar.checked(plan, FACTS.sha256) == b"plan"
    plan.write_bytes(content)
    with pytest.raises(CorruptBundle, match="is not the file that its side-car names: build"):
        sidecar.checked(plan, FACTS.sha256)
    plan.unlink()
    with pytest.raises(CorruptBundle, match="No such file"):
        sidecar.checked(plan, FACTS.sha256)


@pytest.mark.parametrize(
    ("hardware", "taken"),
    [("none", False), ("same_compute_capability", True), ("ampere+", True)],
)
def test_a_plan_is_for_the_model_that_built_it_unless_it_is_compatible(
    hardware: str, taken: bool
) -> None:
    """The three Orins have one compute capability and one name."""
    agx = sidecar.model_of(Gpu("Orin", "sm_87", 1, 16))
    nano = sidecar.model_of(Gpu("Orin", "sm_87", 1, 8))
    facts = replace(FACTS, device="sm_87", gpu=agx, hardware=hardware)
    here = (*HERE[:3], "sm_87", False)
    sidecar.check(facts, *here, agx)
    if taken:
        sidecar.check(facts, *here, nano)
    else:
        with pytest.raises(EngineIncompatible, match="is for Orin with 16 multiprocessors, and"):
            sidecar.check(facts, *here, nano)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is not a side-car"),
        ("[]", "is not a side-car"),
        ("{}", "is not a side-car ('schema')"),
        (json.dumps({"schema": "1.0", **asdict(FACTS), "bytes": "4"}), "misstates bytes"),
        (json.dumps({"schema": "1.0", **asdict(FACTS), "device": None}), "misstates device"),
        (json.dumps({"schema": 1, **asdict(FACTS)}), "is not a side-car"),
        (json.dumps({"schema": "2.0", **asdict(FACTS)}), "has schema 2.0, later than 1.0"),
    ],
)
def test_what_is_no_side_car_is_told(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "model.engine.json"
    path.write_text(text)
    with pytest.raises(CorruptBundle) as caught:
        sidecar.read(path)
    assert told in str(caught.value)


def test_a_missing_side_car_is_told(tmp_path: Path) -> None:
    with pytest.raises(CorruptBundle, match="No such file or directory: build the engine again"):
        sidecar.read(tmp_path / "none.json")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists) | st.binary())
def test_anything_else_is_no_side_car_and_no_crash(anything: object) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        raw = anything if isinstance(anything, bytes) else json.dumps(anything).encode()
        path.write_bytes(raw)
        with pytest.raises(CorruptBundle):
            sidecar.read(path)


def test_a_later_minor_schema_with_more_in_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"schema": "1.7", **asdict(FACTS), "news": [1]}))
    assert sidecar.read(path) == FACTS
