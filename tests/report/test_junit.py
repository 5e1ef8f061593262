"""JUnit XML: a case for each limit and each engine, as CI systems read it."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from edgekd.report.junit import junit
from tests.report.facts import measured


def read(facts: dict[str, Any]) -> tuple[ET.Element, dict[tuple[str, str], ET.Element]]:
    root = ET.fromstring(junit(facts).encode())
    cases = {
        (each.attrib["classname"], each.attrib["name"]): each for each in root.iter("testcase")
    }
    return root, cases


def test_each_limit_and_each_engine_is_a_case(facts: dict[str, Any]) -> None:
    root, cases = read(facts)
    assert root.tag == "testsuites"
    assert {name for group, name in cases if group == "edgekd.budget"} == {
        "deadline", "accuracy", "memory",
    }  # fmt: skip
    assert {name for group, name in cases if group == "edgekd.engines"} == {
        each["name"] for each in facts["engines"]
    }
    assert not list(cases["edgekd.budget", "deadline"].iter("failure"))
    memory = cases["edgekd.budget", "memory"].find("failure")
    assert memory is not None and memory.attrib["message"] == "peak memory is 612 MB"
    accuracy = cases["edgekd.budget", "accuracy"].find("skipped")
    assert accuracy is not None and accuracy.attrib["message"] == "too few test images"


def test_the_verdicts_line_is_a_property_as_it_is(facts: dict[str, Any]) -> None:
    line = "server at 50/s (20 ms): PASS; p99 3 ms; misses 0/600, <= 0.8 % at 99 % confidence"
    root, _ = read({**facts, "verdict": {**facts["verdict"], "headline": line}})
    told = {each.attrib["name"]: each.attrib["value"] for each in root.iter("property")}
    assert told["headline"] == line


def test_an_engine_that_was_not_run_is_skipped_and_one_that_stopped_fails(
    facts: dict[str, Any],
) -> None:
    _, cases = read(facts)
    for each in facts["engines"]:
        case = cases["edgekd.engines", each["name"]]
        said = {child.tag for child in case}
        if each.get("partial"):
            assert said == {"failure"}
        elif not each["executed"]:
            assert said == {"skipped"}
        else:
            assert said == {"system-out"}


def test_the_sums_are_those_of_the_cases(facts: dict[str, Any]) -> None:
    root, cases = read(facts)
    suite = root.find("testsuite")
    assert suite is not None
    for each in (root, suite):
        assert int(each.attrib["tests"]) == len(cases)
        assert int(each.attrib["failures"]) == len(list(root.iter("failure"))) == 2
        assert int(each.attrib["skipped"]) == len(list(root.iter("skipped")))


@pytest.mark.parametrize(
    ("status", "tag"), [("pass", "system-out"), ("fail", "failure"), ("insufficient", "skipped")]
)
def test_without_a_budget_the_verdict_is_the_case(
    facts: dict[str, Any], status: str, tag: str
) -> None:
    _, cases = read({**facts, "verdict": {"status": status, "reasons": ["no budget"]}})
    assert [each.tag for each in cases["edgekd.budget", "verdict"]] == [tag]


def test_what_xml_cannot_hold_is_replaced_and_markup_stays_text(facts: dict[str, Any]) -> None:
    evil = "a\x00b\x1b[31m\ud800 ]]> <failure/> & \"'"
    _, cases = read({**facts, "name": evil, "engines": [{**facts["engines"][0], "name": evil}]})
    assert ("edgekd.engines", "a�b�[31m� ]]> <failure/> & \"'") in cases


def test_what_bench_found_is_a_suite_too(facts: dict[str, Any]) -> None:
    root, cases = read(measured(facts))
    assert root[0].attrib["name"] == "digits.edgekd"
    assert len(cases) == 3 + len(facts["engines"])
