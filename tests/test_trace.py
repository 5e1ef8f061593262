"""What can be read from a trace, on one in which everything happened."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgekd import trace

# Due, begun, answered. The first is waited for; the second comes 20 early and waits until the
# first is done; the third is dropped; the fourth is begun 3 late; the fifth never came back.
HAPPENED = np.array(
    [[100, 101, 150], [130, 150, 190], [160, -1, -1], [200, 203, 250], [230, 251, -1], [-1, -1, -1]]
)


def test_frames_that_were_never_due_are_not_told_of() -> None:
    assert len(trace.reached(HAPPENED)) == 5
    assert len(trace.decided(HAPPENED)) == 4  # the one in which the run ended may yet have come


def test_service_runs_from_the_call_and_response_from_when_a_frame_was_due() -> None:
    assert trace.service(HAPPENED).tolist() == [49, 40, 47]
    assert trace.response(HAPPENED).tolist() == [50, 60, 50]


def test_late_and_dropped_frames_miss() -> None:
    assert trace.missed(HAPPENED, 60).tolist() == [False, False, True, False]
    assert trace.missed(HAPPENED, 59).tolist() == [False, True, True, False]
    assert trace.missed(HAPPENED, 1).all()


def test_only_frames_that_found_the_session_idle_tell_of_the_generator() -> None:
    assert trace.waited_for(HAPPENED).tolist() == [True, False, True]
    assert trace.lateness(HAPPENED).tolist() == [1, 3]


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=50))
def test_in_a_closed_loop_response_is_service(calls: list[tuple[int, int]]) -> None:
    moments = np.cumsum([[gap, took] for gap, took in calls])
    record = np.array([[a, a, b] for a, b in moments.reshape(-1, 2)])
    assert (trace.response(record) == trace.service(record)).all()
    assert trace.service(record).tolist() == [took for _, took in calls]
    assert not trace.missed(record, 50).any()


def test_an_empty_trace_holds_nothing() -> None:
    for read in (trace.reached, trace.decided, trace.service, trace.response, trace.lateness):
        assert len(read(trace.empty(3))) == 0
    assert len(trace.missed(trace.empty(3), 1)) == 0
