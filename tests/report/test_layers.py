"""Profiles in a report: the layers that matter, and sums over all."""

from __future__ import annotations

from edgekd.measurements import LayerTime, Profile, Roof
from edgekd.report.charts import layers as charts
from edgekd.report.layers import profiles
from edgekd.report.tables import networks


def profile(n: int) -> Profile:
    return Profile(
        engine="e",
        layers=tuple(
            LayerTime(f"l{each}", "Conv", "int8" if each % 2 else "fp32", "compute", each,
                      macs=each * 1000, bytes=100, nodes=tuple("abcdefgh"))
            for each in range(n)
        ),
        total_ns=10_000,
        islands=("l0", f"l{n - 1}"),
        roof=Roof({"int8": 1e12, "fp32": 1e11}, 1e10, 2),
    )  # fmt: skip


def test_of_many_layers_the_longest_stay_in_their_order_and_sums_are_of_all() -> None:
    found = profiles({"e": profile(200)})["e"]
    assert found["count"] == 200
    assert [each["place"] for each in found["layers"]] == list(range(120, 200))
    assert sum(found["by_precision"].values()) == sum(range(200))
    assert found["by_role"] == {"compute": sum(range(200))}
    assert found["islands"] == ["l199"]
    assert found["layers"][0]["nodes"] == ["a", "b", "c", "d"]
    assert found["roof"] == {
        "macs_per_s": {"int8": 1e12, "fp32": 1e11}, "bytes_per_s": 1e10, "threads": 2,
    }  # fmt: skip


def test_a_layer_is_held_against_the_lower_of_both_roofs() -> None:
    roof = {"macs_per_s": {"int8": 1e12}, "bytes_per_s": 1e10}
    assert charts.ceiling(roof, "int8", 10) == 1e11
    assert charts.ceiling(roof, "int8", 1000) == 1e12
    assert charts.ceiling(roof, "fp16", 1000) is None


def test_the_table_tells_how_near_each_comes() -> None:
    found = networks.layers("e", profiles({"e": profile(4)})["e"])
    # 1000 MACs a nanosecond are 1e12 a second; 1000 n MACs over 100 bytes allow at most 1e11 n.
    assert found.column("layer") == ["l3", "l2", "l1", "l0"]
    assert found.column("of its roof") == ["333 %", "1e+03 %", "1e+03 %", "—"]
    assert found.column("role") == ["island", "compute", "compute", "island"]
