"""A verdict as JUnit XML, which CI systems show: a test case for each limit and each engine.

The form is the one that Jenkins' and GitLab's readers share: ``testsuites`` of ``testsuite`` of
``testcase``, with ``failure`` or ``skipped`` in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree as ET

from edgekd.report import figures, shape
from edgekd.report.tables.engines import missed

# What XML 1.0 cannot hold, section 2.2.
_ILLEGAL = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")

Case = tuple[str, str, str, str]
"""Class, name, status (``pass``, ``fail`` or ``insufficient``), and what is to be said."""


def junit(facts: Mapping[str, Any]) -> str:
    """The document: what fails the budget is a failure, what cannot be told is skipped."""
    found = shape.complete(facts)
    cases = [*_criteria(found), *_engines(found)]
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(status == "fail" for *_, status, _ in cases)),
        "errors": "0",
        "skipped": str(sum(status == "insufficient" for *_, status, _ in cases)),
    }
    root = ET.Element("testsuites", {"name": "edgekd", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": _legal(found["name"]), **counts, "time": "0"})
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(found):
        ET.SubElement(properties, "property", {"name": name, "value": _legal(value)})
    for group, name, status, said in cases:
        case = ET.SubElement(
            suite, "testcase", {"classname": group, "name": _legal(name), "time": "0"}
        )
        if status == "fail":
            failure = ET.SubElement(case, "failure", {"message": _legal(said), "type": group})
            failure.text = _legal(said)
        elif status == "insufficient":
            ET.SubElement(case, "skipped", {"message": _legal(said)})
        else:
            ET.SubElement(case, "system-out").text = _legal(said)
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _criteria(facts: Mapping[str, Any]) -> Iterator[Case]:
    """The budget's limits; where it has none, the verdict."""
    verdict = facts["verdict"]
    for each in verdict["criteria"]:
        yield "edgekd.budget", each["name"], each["status"], each["reason"]
    if not verdict["criteria"]:
        yield "edgekd.budget", "verdict", verdict["status"], "; ".join(verdict["reasons"])


def _engines(facts: Mapping[str, Any]) -> Iterator[Case]:
    """Whether each engine was measured to the end."""
    for each in facts["engines"]:
        if each["partial"]:
            yield "edgekd.engines", each["name"], "fail", f"ended early: {each['partial']}"
        elif not each["built"]:
            yield "edgekd.engines", each["name"], "insufficient", "is built on the device alone"
        elif not each["executed"]:
            yield "edgekd.engines", each["name"], "insufficient", "no device here can run it"
        else:
            yield "edgekd.engines", each["name"], "pass", _told(each)


def _told(row: Mapping[str, Any]) -> str:
    parts = []
    if row["latency_ns"]:
        parts.append(
            f"p50 {figures.milliseconds(row['latency_ns']['p50'])} ms, p99"
            f" {figures.milliseconds(row['latency_ns']['p99'])} ms"
        )
    if row["top1"] is not None:
        parts.append(f"top-1 {figures.accuracy(row['top1'])} %")
    if row["misses"]:
        cell = missed(row)
        parts.append(f"misses {cell.text} {cell.under}")
    return "; ".join([*parts, *row["warnings"]]) or "was not timed"


def _properties(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "status", facts["verdict"]["status"]
    yield "headline", facts["verdict"]["headline"]
    yield "preferred", facts["preferred"]
    yield "cpu", str(facts["host"].get("cpu", ""))
    yield "command", facts["command"]


def _legal(value: str) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", value)
