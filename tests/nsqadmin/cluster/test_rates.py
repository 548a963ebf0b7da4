"""Rates between two responses, and the counts of the last minute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqadmin.cluster.rates import LastMinute, Rates, rates_between
from nsqadmin.model import ChannelStats, TopicStats
from nsqkit.yielder import Yielder


def topics(*given: TopicStats) -> dict[str, TopicStats]:
    return {each.topic_name: each for each in given}


async def flows(old: TopicStats | None, new: TopicStats) -> dict[tuple[str, str], Rates]:
    return await rates_between(topics(old) if old else {}, topics(new), 10.0, Yielder())


async def test_idle_topics_and_channels_are_left_out() -> None:
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
async def test_messages_that_left_are_those_that_entered_and_are_not_there_any_more(
    old: dict[str, int], new: dict[str, int], left: float
) -> None:
    found = await flows(
        TopicStats("t", [ChannelStats("c", **old)]), TopicStats("t", [ChannelStats("c", **new)])
    )
    assert found.get(("t", "c"), Rates(0, 0, 0, 0)).out_rate == left


async def test_new_topics_count_from_zero() -> None:
    new = TopicStats(
        "t", [ChannelStats("c", message_count=20, requeue_count=3, timeout_count=1)], message_count=20
    )
    assert await flows(None, new) == {("t", ""): Rates(2.0, 0.0, 0, 0), ("t", "c"): Rates(2.0, 0.0, 3, 1)}


async def test_counters_that_restarted_count_from_zero() -> None:
    old = TopicStats("t", [ChannelStats("c", message_count=900, requeue_count=50)], message_count=900)
    new = TopicStats("t", [ChannelStats("c", message_count=20, requeue_count=1)], message_count=20)
    assert await flows(old, new) == {("t", ""): Rates(2.0, 0.0, 0, 0), ("t", "c"): Rates(2.0, 0.0, 1, 0)}


def test_counts_are_dropped_after_a_minute() -> None:
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
