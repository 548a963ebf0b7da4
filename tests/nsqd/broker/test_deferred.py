"""The deferred messages of a channel, against a dictionary."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from nsqd.broker.deferred import AHEAD, Deferred

steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 8), st.integers(0, 20)),
        st.tuples(st.just("time"), st.integers(0, 4), st.integers(1, 5)),
        st.tuples(st.just("soon"), st.integers(0, 6), st.just(0)),
    ),
    max_size=40,
)


@given(steps)
def test_messages_become_due_in_order_and_once(steps: list[tuple[str, int, int]]) -> None:
    deferred, model, now = Deferred(), dict[int, tuple[int, float]](), 0.0
    for number, (step, first, second) in enumerate(steps):
        if step == "add":
            deferred.add(first, number, now + second / 4)
            model[first] = (number, now + second / 4)
        elif step == "soon":
            soon = deferred.pop_soon(now, first)
            assert all(model[seq][1] <= now + AHEAD for seq in soon)
            assert len(soon) <= first
        else:
            now += first / 4
            due = deferred.pop_due(now, second)
            expected = sorted((at, seq) for seq, (_, at) in model.items() if at <= now)[:second]
            assert due == [(seq, model[seq][0]) for _, seq in expected]
            for seq, _ in due:
                del model[seq]
        assert {seq: deferred.get(seq) for seq in deferred} == model
        assert len(deferred) == len(model)
        earliest = min((at for _, at in model.values()), default=math.inf)
        assert deferred.next_due <= earliest
        assert deferred.next_alarm(now) <= earliest


def test_many_are_looked_for_at_once_and_each_once() -> None:
    deferred = Deferred()
    for seq in range(1000):
        deferred.add(seq, 0, 10 + seq / 100)
    assert deferred.next_alarm(0.0) == 10 - AHEAD / 2
    assert deferred.pop_soon(9.0, 1000) == []
    assert deferred.pop_soon(9.5, 1000) == list(range(51))
    assert deferred.pop_soon(9.75, 1000) == []
    assert deferred.next_alarm(9.75) == 10.0
    assert deferred.pop_soon(10.25, 1000) == list(range(51, 126))
    assert deferred.get(60) == (0, 10.6)


def test_no_more_are_looked_for_than_can_be_held() -> None:
    deferred = Deferred()
    for seq in range(100):
        deferred.add(seq, 0, 10.0 + seq / 1000)
    assert deferred.pop_soon(9.75, 0) == []
    assert deferred.next_alarm(9.75) == 10.0, "an alarm before would find nothing to do"
    assert deferred.pop_soon(9.75, 10) == list(range(10))
    assert deferred.pop_soon(9.75, 10) == []
    assert len(deferred.pop_due(10.5, 1000)) == 100
