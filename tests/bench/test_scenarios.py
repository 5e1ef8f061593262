"""Scenarios by name: what each gives a session, and in which batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekd import trace
from edgekd.artifacts import TensorSpec
from edgekd.bench.scenarios import SCENARIOS, Load, call_size, cut, driver, frame_size
from tests.bench.planted import Clock

PULSE = np.zeros(1, np.int64)
FEEDS = {"x": np.arange(10, dtype=np.float32).reshape(10, 1)}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_asks_a_session_that_it_knows_nothing_of(
    scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session: Any = Clock(monkeypatch).session(lambda call: 1000)
    load = Load(scenario=scenario, period_ns=5000, rate_per_s=1000, streams=4)
    record = trace.empty(6)
    assert driver(session, FEEDS, 1, None, load)(record, 0, 10**12, PULSE) == 6
    assert (trace.service(record) == 1000).all()


def test_streams_come_in_one_batch_where_the_engine_takes_it_and_else_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = Load(scenario="multi-stream", streams=4)
    sizes = ((1, None, 4, 1000, 4), (1, 8, 4, 1000, 4), (1, 2, 1, 4000, 4), (3, 3, 3, 2000, 6))
    for least, most, size, took, timed in sizes:
        session: Any = Clock(monkeypatch).session(lambda call: 1000)
        record = trace.empty(3)
        driver(session, FEEDS, least, most, load)(record, 0, 10**12, PULSE)
        assert {len(each["x"]) for each in session.fed} == {size}
        assert set(trace.service(record)) == {took}
        assert call_size(load, least, most) == size
        assert frame_size(load, least, most) == timed == took // 1000 * size


def test_an_engine_of_larger_batches_alone_is_given_those(monkeypatch: pytest.MonkeyPatch) -> None:
    session: Any = Clock(monkeypatch).session(lambda call: 1000)
    session.inputs = (TensorSpec("x", "float32", (8, 1)),)
    driver(session, FEEDS, 8, 8, Load())(trace.empty(2), 0, 10**12, PULSE)
    assert [len(each["x"]) for each in session.fed] == [8, 8]
    assert frame_size(Load(), 8, 8) == 8


def test_samples_are_cut_into_batches_and_begun_again() -> None:
    assert [each["x"].ravel().tolist() for each in cut(FEEDS, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    (all_of_them,) = cut(FEEDS, 12)
    assert all_of_them["x"].ravel().tolist() == [*range(10), 0, 1]
    assert all(each["x"].flags.c_contiguous for each in cut(FEEDS, 3))


def test_only_frames_that_come_by_themselves_are_an_open_loop() -> None:
    assert {name for name in SCENARIOS if Load(scenario=name).is_open} == {"server", "camera"}
