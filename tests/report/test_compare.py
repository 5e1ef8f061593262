"""Reports side by side: ratios with intervals where they may be told, and loudly where not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from edgekd.report.compare import compare, warnings
from edgekd.report.comparison import comparison_markdown, render_comparison
from tests.report.facts import measured

NAME = "student/onnxruntime-cpu/int8"


@pytest.fixture
def faster(facts: dict[str, Any]) -> dict[str, Any]:
    """The same again, in half the time, and one engine less."""
    found: dict[str, Any] = json.loads(json.dumps({**facts, "name": "again"}))
    for each in found["engines"]:
        if each["latency_ns"]:
            each["latency_ns"] = {k: v / 2 for k, v in each["latency_ns"].items()}
            each["interval_ns"] = {
                k: v and [bound / 2 for bound in v] for k, v in each["interval_ns"].items()
            }
    found["engines"] = [each for each in found["engines"] if each["role"] != "control"]
    found["provenance"]["libraries"]["onnxruntime"] = "9.9.9"
    return found


def cell(found: dict[str, Any], name: str, place: int) -> Any:
    return next(each for each in found["engines"] if each["name"] == name)["cells"][place]


def test_engines_are_matched_by_name_and_held_against_the_first(
    facts: dict[str, Any], faster: dict[str, Any]
) -> None:
    found = compare([facts, faster])
    assert [each["label"] for each in found["reports"]] == ["A: digits", "B: again"]
    assert cell(found, "control/torch/fp32", 1) is None
    first, second = (cell(found, NAME, place) for place in (0, 1))
    assert first["ratio"] == {"p50": None, "p99": None}
    assert first["top1_delta"] is None
    ratio, low, high = second["ratio"]["p50"]
    bounds = next(each for each in facts["engines"] if each["name"] == NAME)["interval_ns"]["p50"]
    assert ratio == pytest.approx(0.5)
    assert low == pytest.approx(bounds[0] / bounds[1] / 2)
    assert high == pytest.approx(bounds[1] / bounds[0] / 2)
    delta, below, above = second["top1_delta"]
    assert delta == 0
    assert below < 0 < above
    assert {"what": "onnxruntime", "values": [
        facts["provenance"]["libraries"]["onnxruntime"], "9.9.9",
    ]} in found["differences"]  # fmt: skip
    assert warnings(found) == []


def test_newcombes_interval_is_the_published_one(facts: dict[str, Any]) -> None:
    """56 of 70 and 48 of 80: Newcombe 1998, table II (a), method 10: 0.0524 to 0.3339."""
    from edgekd.stats.compare import wilson

    def judged(right: int, n: int) -> dict[str, Any]:
        low, high = wilson(right, n)
        row = {**facts["engines"][0], "top1": 100 * right / n, "ci": [100 * low, 100 * high]}
        return {**facts, "engines": [row]}

    found = compare([judged(48, 80), judged(56, 70)])
    delta = found["engines"][0]["cells"][1]["top1_delta"]
    assert delta == pytest.approx([20.0, 5.24, 33.39], abs=0.01)


OTHERWISE: dict[str, Callable[[dict[str, Any]], None]] = {
    "processor": lambda facts: facts["host"].update(cpu="Another <b>one</b>"),
    "cores": lambda facts: facts["host"].update(cores=64),
    "GPU": lambda facts: facts["host"].update(gpus=[{"name": "Orin", "driver": "1"}]),
    "threads": lambda facts: facts["bench"].update(threads=8),
    "scenario": lambda facts: facts["bench"].update(scenario="camera"),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_another_machine_is_said_loudly_and_no_ratio_is_told(
    facts: dict[str, Any], faster: dict[str, Any], what: str
) -> None:
    OTHERWISE[what](faster)
    found = compare([facts, faster])
    assert [each["what"] for each in found["other_machine"]] == [what]
    assert cell(found, NAME, 1)["ratio"] == {"p50": None, "p99": None}
    assert cell(found, NAME, 1)["top1_delta"] is not None
    page = render_comparison(found)
    assert "Latencies are NOT COMPARABLE: another machine" in page
    assert "<b>one</b>" not in page
    assert "<svg" not in page  # no joint chart of what cannot be compared
    assert "NOT COMPARABLE" in comparison_markdown(found)


def test_other_images_are_said_loudly_and_no_difference_is_told(
    facts: dict[str, Any], faster: dict[str, Any]
) -> None:
    faster["data"]["fingerprint"] = "0" * 64
    found = compare([facts, faster])
    assert found["other_data"]
    assert cell(found, NAME, 1)["top1_delta"] is None
    assert "Accuracies are NOT COMPARABLE" in render_comparison(found)


def test_what_cannot_be_told_of_one_is_told_of_neither(
    facts: dict[str, Any], faster: dict[str, Any]
) -> None:
    for each in faster["engines"]:
        if each["name"] == NAME:
            each["untold"] = ["p50", "p99", "p99_9"]
    assert cell(compare([facts, faster]), NAME, 1)["ratio"] == {"p50": None, "p99": None}


def test_the_front_is_of_all_reports(facts: dict[str, Any], faster: dict[str, Any]) -> None:
    points = compare([facts, faster])["points"]
    assert all(each["report"] == "B: again" for each in points if each["front"])
    assert any(each["front"] for each in points)


def test_three_reports_and_one_of_bench_are_compared(facts: dict[str, Any]) -> None:
    found = compare([facts, facts, measured(facts)])
    assert [len(each["cells"]) for each in found["engines"]] == [3] * len(facts["engines"])
    assert found["other_data"]  # what bench measured knows no images
    told = comparison_markdown(found)
    rows = [line for line in told.splitlines() if line.startswith("| `")]
    assert len(rows) >= len(facts["engines"])
    assert len(told) < 65_536
    with pytest.raises(ValueError, match="nothing"):
        compare([facts])


def test_a_comparison_is_one_page_with_its_json(
    facts: dict[str, Any], faster: dict[str, Any]
) -> None:
    found = compare([facts, faster])
    page = render_comparison(found)
    assert page == render_comparison(found)
    assert 'aria-label="accuracy against latency, joint"' in page
    raw = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page)
    assert raw is not None
    assert json.loads(raw[1])["reports"][1]["name"] == "again"
    assert len(page) < 1_000_000
    assert comparison_markdown(found).startswith("### `A: digits` against `B: again`\n")
