"""Markdown for a pull request: tables that are tables, names that stay names, not too long."""

from __future__ import annotations

import re
from typing import Any

import pytest

from edgekd.report.markdown import LIMIT, code, fenced, markdown, text
from tests.report.facts import measured


def test_verdict_and_table_come_first(facts: dict[str, Any]) -> None:
    lines = markdown(facts).splitlines()
    assert lines[0] == "### ✅ `digits`: PASS"
    assert lines[2].startswith("60 FPS (16.67 ms); p99.9 9.8 ms ")
    assert lines[2].endswith("confidence")
    assert "In brackets 95 % intervals." in lines
    assert "- ❌ memory: peak memory is 612 MB" in lines
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == len(facts["engines"]) + 2
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert re.fullmatch(r"\|:--(\|--:)+\|", rows[1])
    assert [row.startswith("| **`") for row in rows].count(True) == 1
    for note in facts["notes"][:2]:
        assert f"- {text(note)}" in lines
    assert lines[-1] == "```"


def test_there_is_no_html(facts: dict[str, Any]) -> None:
    assert not re.search(r"(?<!\\)<", markdown(facts))


@pytest.mark.parametrize("status", ["pass", "fail", "insufficient"])
def test_each_verdict_has_its_sign(facts: dict[str, Any], status: str) -> None:
    found = markdown({**facts, "verdict": {"status": status, "reasons": ["because"]}})
    assert found.splitlines()[0].endswith(f"`digits`: {status.upper()}")
    assert "- because" in found


EVIL = "`<img src=x>` | **x** @someone #1 [a](b)\n| --- |\n# x"


def test_names_that_look_like_markup_stay_text(facts: dict[str, Any]) -> None:
    engines = [{**each, "name": f"{EVIL}{place}"} for place, each in enumerate(facts["engines"])]
    found = markdown({**facts, "name": EVIL, "notes": [EVIL], "command": f"```\n{EVIL}",
                      "engines": engines})  # fmt: skip
    body, _, block = found.partition("````sh")
    assert block.count("````") == 1
    for line in body.splitlines():
        assert not line.startswith("# ")
        told = re.sub(r"`[^`]*`", "", re.sub(r"\\.", "", line))  # but for code and what is escaped
        assert not re.search(r"[<>\[\]]|@\w|#\d|\*\*x", told.removeprefix("###"))
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert len(rows) == len(engines) + 2
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_text_code_and_blocks() -> None:
    assert text("a_b*c | d") == r"a\_b\*c \| d"
    assert text("two\nlines") == "two lines"
    assert code("a`b|c") == "`a'b¦c`"
    assert fenced("x ```` y")[0] == "`````sh"


def test_a_comment_is_never_longer_than_github_takes(facts: dict[str, Any]) -> None:
    engines = [{**facts["engines"][0], "name": f"student/{each}/int8"} for each in range(900)]
    found = markdown({**facts, "engines": engines, "notes": ["n" * 500] * 300,
                      "command": "c" * 99_999})  # fmt: skip
    assert len(found) < LIMIT
    assert "lines more in the report." in found


def test_what_bench_found_is_told_too(facts: dict[str, Any]) -> None:
    found = markdown(measured(facts))
    assert "top-1" not in found.splitlines()[8]
    assert "- ship int8" in found
