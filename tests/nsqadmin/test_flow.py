"""What moved between two answers, and how much of it in the last minute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqadmin.cluster.flow import Flow, LastMinute, flows_between
from nsqadmin.cluster.model import ChannelStats, TopicStats
from nsqkit.yielder import Yielder


def topics(*given: TopicStats) -> dict[str, TopicStats]:
    return {each.topic_name: each for each in given}


async def flows(old: TopicStats | None, new: TopicStats) -> dict[tuple[str, str], Flow]:
    return await flows_between(topics(old) if old else {}, topics(new), 10.0, Yielder())


async def test_what_stands_still_is_not_in_it() -> None:
    still = TopicStats("t", [ChannelStats("c", depth=5, message_count=5)], message_count=5)
    assert await flows(still, still) == {}


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        ({"message_count": 10, "depth": 10}, {"message_count": 10, "depth": 4}, 0.6),
        ({"message_count": 10, "depth": 10}, {"message_count": 10, "depth": 4, "in_flight_count": 6}, 0.0),
        ({"message_count": 10, "depth": 10}, {"message_count": 10, "depth": 0, "deferred_count": 3}, 0.7),
        ({"message_count": 10, "depth": 0}, {"message_count": 40, "depth": 10}, 2.0),
        ({"message_count": 10, "depth": 0}, {"message_count": 10, "depth": 10}, 0.0),
    ],
)
async def test_what_left_is_what_came_and_is_no_longer_there(
    old: dict[str, int], new: dict[str, int], left: float
) -> None:
    found = await flows(
        TopicStats("t", [ChannelStats("c", **old)]), TopicStats("t", [ChannelStats("c", **new)])
    )
    assert found.get(("t", "c"), Flow(0, 0, 0, 0)).out_rate == left


async def test_what_is_new_counts_from_zero() -> None:
    new = TopicStats(
        "t", [ChannelStats("c", message_count=20, requeue_count=3, timeout_count=1)], message_count=20
    )
    assert await flows(None, new) == {("t", ""): Flow(2.0, 0.0, 0, 0), ("t", "c"): Flow(2.0, 0.0, 3, 1)}


async def test_counters_that_began_again_count_from_zero() -> None:
    old = TopicStats("t", [ChannelStats("c", message_count=900, requeue_count=50)], message_count=900)
    new = TopicStats("t", [ChannelStats("c", message_count=20, requeue_count=1)], message_count=20)
    assert await flows(old, new) == {("t", ""): Flow(2.0, 0.0, 0, 0), ("t", "c"): Flow(2.0, 0.0, 1, 0)}


def test_a_minute_later_nothing_is_left_of_it() -> None:
    minute = LastMinute()
    minute.add(0, {("t", "c"): (5, 1)})
    minute.add(30, {("t", "c"): (1, 0), ("t", "d"): (2, 2)})
    assert minute.sums == {("t", "c"): (6, 1), ("t", "d"): (2, 2)}
    minute.add(60, {})
    assert minute.sums == {("t", "c"): (1, 0), ("t", "d"): (2, 2)}
    minute.add(90, {})
    assert minute.sums == {}


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5), st.integers(0, 5)), max_size=40))
def test_sums_are_those_of_the_last_sixty_seconds(steps: list[tuple[int, int, int]]) -> None:
    minute, now, past = LastMinute(), 0, []
    for after, requeues, timeouts in steps:
        now += after
        past.append((now, requeues, timeouts))
        minute.add(now, {("t", "c"): (requeues, timeouts)} if requeues or timeouts else {})
        recent = [(r, t) for at, r, t in past if at > now - 60]
        expected = sum(r for r, _ in recent), sum(t for _, t in recent)
        assert minute.sums.get(("t", "c"), (0, 0)) == expected
