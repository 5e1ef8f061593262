"""The facts of a real build, and the page of everything that there may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd.report.render import render
from tests.report.facts import whole


@pytest.fixture(scope="session")
def raw(built: dict[str, Path]) -> dict[str, Any]:
    """``report.json`` as a build writes it."""
    found: dict[str, Any] = json.loads((built["bundle"] / "report.json").read_text())
    return found


@pytest.fixture(scope="session")
def facts(raw: dict[str, Any]) -> dict[str, Any]:
    """The same with every part that there may be."""
    return whole(raw)


@pytest.fixture(scope="session")
def page(facts: dict[str, Any]) -> str:
    return render(facts)


@pytest.fixture(scope="session")
def built_page(raw: dict[str, Any]) -> str:
    """That of the real build."""
    return render(raw)
