"""The machine's roof, measured small, and where layers lie under a known one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.backends import ort
from edgekd.backends.base import find
from edgekd.bench import roofline
from edgekd.bench.roofline import bound_by
from edgekd.measurements import LayerTime, Roof

ROOF = Roof({"fp32": 100e9, "int8": 400e9}, 10e9, 1)
LAYER = LayerTime("n", "Conv", "fp32", "compute", 1000, macs=50_000, bytes=1000)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(roofline, "_SIZES", (32, 64))
    monkeypatch.setattr(roofline, "_COPIED", 1 << 16)
    monkeypatch.setattr(roofline, "_LIMIT_NS", 0)
    roofline.roof.cache_clear()
    yield
    roofline.roof.cache_clear()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_roof_is_measured_with_the_runtimes_that_are_here(threads: int) -> None:
    found = roofline.roof(threads)
    assert found is not None
    assert found.threads == threads
    assert found.macs_per_s.keys() == {"fp32", "int8"}
    assert all(rate > 1e6 for rate in (*found.macs_per_s.values(), found.bytes_per_s))
    assert roofline.roof(threads) is found


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("name", "value"), [("RUNTIMES", ()), ("find_spec", lambda name: None)])
def test_without_a_runtime_or_a_product_for_it_there_is_none(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline, name, value)
    assert roofline.roof(1) is None


@pytest.mark.parametrize("runtime", roofline.RUNTIMES)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_each_product_is_computed_in_its_precision(
    precision: str, runtime: str, tmp_path: Path
) -> None:
    path = tmp_path / "product.onnx"
    path.write_bytes(roofline._product(precision, 64).SerializeToString())
    feeds = {"x": np.ones((64, 64), np.float32 if precision == "fp32" else np.uint8)}
    engine = roofline._engine(runtime, path)
    _, layers = find(runtime).profile(engine, feeds, runs=5)  # type: ignore[attr-defined]
    (product,) = [each for each in layers if each.role == "compute"]
    assert product.precision == precision


def test_the_int8_product_is_a_product(tmp_path: Path) -> None:
    path = tmp_path / "product.onnx"
    path.write_bytes(roofline._product("int8", 8).SerializeToString())
    with ort.open_model(path) as session:
        (found,) = session.run({"x": np.full((8, 8), 100, np.uint8)}).values()
    assert np.array_equal(found, np.full((8, 8), round(100 * 0.01 * 0.01 * 8 / 0.01)))


@pytest.mark.parametrize(
    ("layer", "kind", "share"),
    [
        (LAYER, "compute", 0.5),  # 500 ns of 1000
        (replace(LAYER, precision="int8"), "compute", 0.125),
        (replace(LAYER, bytes=8000), "memory", 0.8),
        (replace(LAYER, macs=0), "memory", 0.1),  # no product: bytes alone count
        (replace(LAYER, macs=0, precision="unknown"), "memory", 0.1),
        (replace(LAYER, bytes=20_000), "memory", 2.0),  # from caches
    ],
)
def test_the_slower_of_computing_and_moving_is_the_bound(
    layer: LayerTime, kind: str, share: float
) -> None:
    assert bound_by(layer, ROOF) == (kind, pytest.approx(share))


@pytest.mark.parametrize(
    "unknown", [{"macs": None}, {"bytes": None}, {"ns": 0}, {"precision": "fp16"}]
)
def test_what_is_not_known_has_no_place_under_the_roof(unknown: dict[str, object]) -> None:
    assert bound_by(replace(LAYER, **unknown), ROOF) is None  # type: ignore[arg-type]


COUNTS = st.integers(1, 10**12)


@given(macs=COUNTS, nbytes=COUNTS, ns=COUNTS)
def test_the_share_is_that_of_the_attainable_rate(macs: int, nbytes: int, ns: int) -> None:
    """As the roofline model writes it: the lesser of the peak and intensity times bandwidth."""
    found = bound_by(replace(LAYER, macs=macs, bytes=nbytes, ns=ns), ROOF)
    assert found is not None
    peak, slope = ROOF.macs_per_s["fp32"], macs / nbytes * ROOF.bytes_per_s
    assert found[1] == pytest.approx(macs / (ns / 1e9) / min(peak, slope))
    assert found[0] == ("compute" if peak <= slope else "memory")
