"""How many copies have a publish, and which followers count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqd.replication.safety import Safety, Standing

TIMEOUT = 5.0


def follower(acknowledged: int = -1, *, in_step: bool = True) -> Standing:
    return Standing("f:4159", acknowledged, in_step)


def safety(*followers: Standing, ack: int = 2, least: int = 1) -> Safety:
    return Safety(ack, least, TIMEOUT, followers)


def test_a_follower_is_in_step_when_it_has_what_was_sent_when_its_copy_had_no_gap() -> None:
    standing = follower(in_step=False)
    assert not standing.sent(7, complete=False)
    standing.acknowledge(7)
    assert not standing.in_step
    assert not standing.sent(8, complete=True)
    standing.acknowledge(7)
    assert not standing.in_step
    standing.acknowledge(8)
    assert standing.in_step
    assert not standing.sent(9, complete=True)


def test_a_follower_that_has_everything_is_in_step_at_once() -> None:
    standing = follower(4, in_step=False)
    assert standing.sent(4, complete=True)
    assert standing.in_step


def test_a_follower_comes_into_step_under_a_load_that_never_pauses() -> None:
    standing = follower(in_step=False)
    for ticket in range(1, 10):
        standing.sent(ticket, complete=True)
        standing.acknowledge(ticket - 1)
    assert standing.in_step


def test_a_gap_puts_out_of_step_until_it_is_closed_and_acknowledged() -> None:
    standing = follower(5)
    assert standing.sent(6, complete=False)
    standing.acknowledge(6)
    assert not standing.in_step
    standing.sent(6, complete=True)
    assert standing.in_step


def test_a_gap_that_opens_before_the_goal_was_acknowledged_asks_for_another_goal() -> None:
    """Acknowledgements are joined: one of what came after the gap says nothing about the time before it."""
    standing = follower(in_step=False)
    standing.sent(5, complete=True)
    standing.sent(6, complete=False)
    standing.acknowledge(6)
    assert not standing.in_step


def test_an_overdue_acknowledgement_puts_out_of_step_once() -> None:
    standing = follower(3)
    assert not standing.check(4, 0.0, TIMEOUT)
    assert not standing.check(9, TIMEOUT, TIMEOUT)
    assert standing.check(9, TIMEOUT + 0.25, TIMEOUT)
    assert not standing.in_step
    assert not standing.check(9, TIMEOUT + 0.5, TIMEOUT)


def test_a_follower_that_is_late_comes_back_only_when_its_copy_has_no_gap() -> None:
    standing = follower(3)
    standing.check(4, 0.0, TIMEOUT)
    assert standing.check(9, TIMEOUT + 0.25, TIMEOUT)
    standing.acknowledge(9)
    assert not standing.in_step
    standing.sent(9, complete=True)
    assert standing.in_step


def test_a_follower_that_is_always_late_is_out_of_step_all_the_time() -> None:
    """It is not in step again for having acknowledged what was sent before, however often it is looked at."""
    standing = follower(0)
    for tick in range(400):
        written = 1 + tick // 4  # a ticket a second, and each is acknowledged ten seconds later
        fell_out = standing.check(written, tick / 4, TIMEOUT)
        standing.acknowledge(max(0, written - 10))
        standing.sent(max(0, written - 1), complete=True)
        assert standing.in_step is (tick / 4 <= TIMEOUT)
        assert fell_out is (tick / 4 == TIMEOUT + 0.25)


def test_a_follower_that_was_late_is_in_step_when_it_keeps_up_under_load() -> None:
    standing = follower(0)
    for written in range(1, 100):
        standing.check(written, written / 4, TIMEOUT)
        standing.sent(written, complete=True)
        if written > 50:
            standing.acknowledge(written - 1)
    assert standing.in_step


def test_a_follower_that_acknowledges_under_load_is_never_late() -> None:
    standing = follower(0)
    for second in range(100):
        assert not standing.check(second + 2, float(second), TIMEOUT)
        standing.acknowledge(second)
    assert standing.in_step


def test_the_end_of_a_session_forgets_what_it_acknowledged() -> None:
    standing = follower(9)
    standing.check(12, 0.0, TIMEOUT)
    standing.session_ended("gone")
    assert (standing.acknowledged, standing.in_step, standing.state) == (-1, False, "gone")
    standing.sent(12, complete=True)
    assert not standing.in_step
    # What the last session owed is not owed by this one since then.
    assert not standing.check(12, 100.0, TIMEOUT)
    standing.acknowledge(12)
    assert standing.in_step
    assert not standing.check(12, 101.0, TIMEOUT)


@pytest.mark.parametrize(
    ("ack", "followers", "safe"),
    [
        (1, [], 10),
        (2, [], 10),
        (2, [follower(4)], 4),
        (2, [follower(12)], 10),
        (2, [follower(4, in_step=False)], 10),
        (2, [follower(4), follower(7)], 7),
        (3, [follower(4), follower(7)], 4),
        (3, [follower(4), follower(7, in_step=False)], 4),
        (3, [follower(4), follower(7), follower(8)], 7),
    ],
)
def test_a_publish_is_safe_when_enough_copies_have_it(ack: int, followers: list[Standing], safe: int) -> None:
    assert safety(*followers, ack=ack).safe(10) == safe


@given(
    own=st.integers(0, 20),
    ack=st.integers(1, 5),
    followers=st.lists(st.tuples(st.integers(-1, 20), st.booleans()), max_size=4),
)
def test_what_is_safe_is_with_as_many_copies_as_are_claimed(
    own: int, ack: int, followers: list[tuple[int, bool]]
) -> None:
    whole = safety(*(follower(acked, in_step=step) for acked, step in followers), ack=ack)
    safe = whole.safe(own)
    have = (own >= safe) + sum(acked >= safe for acked, step in followers if step)
    claimed = min(ack, whole.copies_in_step)
    assert have >= claimed
    assert (whole.degraded is None) == (claimed == ack)


def test_too_few_copies_refuse_and_fewer_than_wanted_are_said() -> None:
    whole = safety(follower(in_step=False), follower(), ack=3, least=3)
    assert whole.refusal == "2 of at least 3 copies are in step"
    assert whole.degraded == "2 of 3 copies"
    whole.followers[0].in_step = True
    assert [whole.refusal, whole.degraded] == [None, None]


def test_those_that_are_late_are_named_once() -> None:
    late, punctual = follower(1), follower(9)
    whole = safety(late, punctual)
    assert whole.check(9, 0.0) == []
    assert whole.check(9, TIMEOUT + 1) == [late]
    assert whole.check(9, TIMEOUT + 2) == []
    assert whole.copies_in_step == 2
