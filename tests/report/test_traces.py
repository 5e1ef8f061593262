"""What a trace tells: the tail as it was, and what would be missed at other rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.measurements import Measurement, Measurements
from edgekd.recipe import BudgetSettings
from edgekd.report import traces
from edgekd.report.traces import curve, miss_rate_by_fps, replay

POLICIES = ("queue", "drop-oldest", "skip")
SERVICES = st.lists(st.integers(1, 1000), min_size=1, max_size=60)


def trace(*frames: tuple[int, int, int]) -> np.ndarray:
    return np.array(frames, np.int64)


def test_the_tail_ends_at_the_slowest_frame_and_begins_with_all() -> None:
    found = curve(trace((0, 0, 5), (10, 10, 40), (20, 40, 41)))
    assert found == [[5, 1.0], [21, 2 / 3], [30, 1 / 3]]


def test_frames_that_were_dropped_are_slower_than_any() -> None:
    found = curve(trace((0, 0, 5), (10, -1, -1), (20, 20, 24), (30, -1, -1)))
    assert found == [[4, 1.0], [5, 0.75]]


def test_the_frame_that_a_run_ended_in_is_in_no_tail() -> None:
    assert curve(trace((0, 0, 5), (10, 10, -1))) == [[5, 1.0]]
    assert curve(trace((0, 0, -1))) == []


def test_a_long_tail_is_told_in_a_hundred_points() -> None:
    n = 50_000
    took = np.arange(1, n + 1)
    due = np.arange(n) * 10**6
    found = curve(np.stack([due, due, due + took], 1))
    assert len(found) <= 100
    assert found[0] == [1, 1.0]
    assert found[-1] == [n, 1 / n]


@pytest.mark.parametrize(
    ("policy", "share"), [("queue", 3 / 4), ("drop-oldest", 6 / 8), ("skip", 6 / 10)]
)
def test_a_stall_is_charged_to_the_frames_that_it_held_up(policy: str, share: float) -> None:
    """Four services of 25, a frame every 10, a deadline of 25; worked out by hand.

    queue: frames 0 to 3 are answered at 25, 50, 75, 100: after 25, 40, 55, 70.
    drop-oldest: frame 0 at 25, then frame 2 at 50 (30), frame 5 at 75 (25), frame 7 at 100 (30).
    skip: frames 0, 3, 6 and 9 each after 25; the six between are never seen.
    """
    assert replay([25] * 4, 10, policy, 25) == pytest.approx(share)


@given(SERVICES, st.sampled_from(POLICIES))
def test_nothing_is_missed_where_every_frame_is_done_before_the_next(
    services: list[int], policy: str
) -> None:
    assert replay(services, max(services), policy, max(services)) == 0


@given(SERVICES, st.integers(1, 1000), st.sampled_from(POLICIES))
def test_everything_is_missed_where_no_service_meets_the_deadline(
    services: list[int], period: int, policy: str
) -> None:
    assert replay(services, period, policy, min(services) - 1) == 1


@given(SERVICES, st.integers(1, 1000), st.sampled_from(POLICIES), st.integers(1, 2000))
def test_a_longer_deadline_never_misses_more(
    services: list[int], period: int, policy: str, deadline: int
) -> None:
    assert replay(services, period, policy, 2 * deadline) <= replay(
        services, period, policy, deadline
    )


@given(st.integers(1, 500), st.integers(1, 40), st.sampled_from(["queue", "skip"]),
       st.integers(1, 1000), st.integers(1, 1000))  # fmt: skip
def test_a_constant_service_misses_no_fewer_at_a_higher_rate(
    service: int, n: int, policy: str, one: int, other: int
) -> None:
    slower, faster = max(one, other), min(one, other)
    deadline = 2 * service
    assert replay([service] * n, faster, policy, deadline) >= replay(
        [service] * n, slower, policy, deadline
    )


@given(SERVICES, st.integers(1, 1000), st.integers(1, 2000))
def test_a_queue_is_what_a_queue_is(services: list[int], period: int, deadline: int) -> None:
    """Lindley's recursion: each waits for what is left of those before."""
    late, left = 0, 0
    for service in services:
        left = max(0, left) + service
        late += left > deadline
        left -= period
    assert replay(services, period, "queue", deadline) == pytest.approx(late / len(services))


def test_rates_reach_from_easy_to_hopeless_and_hold_the_budget() -> None:
    n, service = 50, 10_000_000
    due = np.arange(n) * 20_000_000
    found = miss_rate_by_fps(np.stack([due, due, due + service], 1), "queue", None, 61.5)
    rates = [each[0] for each in found]
    assert rates == sorted(rates)
    assert 61.5 in rates
    assert dict(map(tuple, found))[61.5] == 0
    assert found[0][0] == pytest.approx(25) and found[0][1] == 0
    assert found[-1][0] == pytest.approx(200) and found[-1][1] == 1
    assert miss_rate_by_fps(trace((0, -1, -1)), "queue", None, 60) == []


def test_a_fixed_deadline_is_kept_at_every_rate() -> None:
    due = np.arange(20) * 20_000_000
    found = miss_rate_by_fps(np.stack([due, due, due + 10_000_000], 1), "skip", 15.0, None)
    at_most = [share for rate, share in found if rate <= 100]
    assert set(at_most) == {0.0}
    assert found[-1][1] == pytest.approx(19 / 39)  # every other frame is never seen, none is late


def test_a_camera_run_is_told_as_it_was(tmp_path: Path) -> None:
    frames = [(each * 20_000_000, each * 20_000_000, each * 20_000_000 + 5_000_000)
              for each in range(100)]  # fmt: skip
    frames[50] = (50 * 20_000_000, -1, -1)
    path = tmp_path / "trace.npy"
    np.save(path, trace(*frames))
    p50 = {"p50": 5_000_000, "p90": 5_000_000, "p99": 5_000_000, "p99_9": 5_000_000,
           "max": 5_000_000}  # fmt: skip
    timing = Measurement(
        engine="student/torch/fp32", batch=1, samples=99, latency_ns=p50,
        interval_ns=dict.fromkeys(p50), early_ns={}, untold=(), trace=path, blocks=(0,),
        throughput_per_s={},
    )  # fmt: skip
    run = Measurements(
        scenario="camera", load={"policy": "drop-oldest", "period_ns": 2e7}, threads=1, clock="",
        host={}, watch={"samples": []}, items=(timing,),
    )  # fmt: skip
    found = traces.camera(run, BudgetSettings(fps=50))
    assert found is not None
    assert found["misses"]["missed"] == found["misses"]["dropped"] == 1
    assert sum(each[3] for each in found["series"]) == 1
    assert found["curve"][0] == [5_000_000, 1.0]
    assert found["curve"][-1] == [5_000_000, 0.02]  # the slowest answer, and the frame without
    assert 50.0 in [each[0] for each in found["miss_rate_by_fps"]]


def test_of_many_readings_the_worst_are_kept() -> None:
    samples = [
        {"t_ns": each, "mhz": 1000 + each, "celsius": None, "load": each, "steal": 0.0,
         "others": None, "gpus": [{"mhz": 900 - each, "celsius": 40, "watts": 9}]}
        for each in range(400)
    ]  # fmt: skip
    found = traces.watch({"samples": samples, "disturbances": ["kept"], "steal_share": 0.0})
    assert found["disturbances"] == ["kept"]
    assert len(found["samples"]) == 200
    assert found["samples"][1] == {
        "t_ns": 2, "mhz": 1002, "celsius": None, "load": 3, "steal": 0.0, "others": None,
        "gpu_mhz": 897, "gpu_celsius": 40,
    }  # fmt: skip
