"""Waiting until a moment: never early, and the thread's timers as they were afterwards."""

from __future__ import annotations

import ctypes
import sys
from time import perf_counter_ns

import pytest

from edgekd.bench import timer
from edgekd.bench.timer import SPIN_NS, fine_timers, wait_until


@pytest.mark.parametrize("ahead_ns", [-1_000_000, 0, SPIN_NS // 2, SPIN_NS * 10])
def test_a_moment_is_never_come_back_from_too_early(ahead_ns: int) -> None:
    moment = perf_counter_ns() + ahead_ns
    wait_until(moment)
    assert perf_counter_ns() >= moment


def test_most_of_a_long_wait_is_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(timer, "sleep", slept.append)
    wait_until(perf_counter_ns() + 20 * SPIN_NS)
    wait_until(perf_counter_ns() + SPIN_NS // 2)
    (seconds,) = slept
    assert 0 < seconds <= 19 * SPIN_NS / 1e9


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="timer slack is Linux's")
def test_timers_are_fine_within_and_as_before_afterwards() -> None:
    libc = ctypes.CDLL(None)

    def slack() -> int:
        found: int = libc.prctl(30, 0, 0, 0, 0)
        return found

    before = slack()
    assert before > 1
    with fine_timers():
        assert slack() == 1
    assert slack() == before
