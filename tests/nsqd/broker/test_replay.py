"""Places in a topic's log: found by time or id, or no longer there."""

from __future__ import annotations

import pytest

from nsqd.broker.replay import Edge, Extent, MessageUnknown, NoLongerThere, Place, find_extent, find_start
from nsqd.log.store import StoreOptions
from tests.nsqd.broker.harness import SECOND_NS, Harness, view_of

SEGMENT = 700


def find(harness: Harness, place: Place) -> int:
    return find_start(harness.topic(), place)()


def published(count: int) -> tuple[Harness, list[bytes], list[int]]:
    """A message a second, all finished: their ids and times."""
    harness = Harness(StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=SEGMENT))
    consumer = harness.subscribe(rdy=100)
    ids, times = [], []
    for _ in range(count):
        harness.advance(1.0)
        ids += harness.publish(b"x" * 150).ids
        times.append(harness.wall_ns)
        harness.drain(consumer)
    return harness, ids, times


def without_the_oldest(count: int) -> tuple[Harness, list[bytes], list[int], int]:
    """As `published`, and the number of messages that were removed."""
    harness, ids, times = published(count)
    for _ in range(3):
        harness.snapshot()
        harness.advance(1.0)
    removed = view_of(harness.topic()).log.segments[0].first
    assert 0 < removed < count
    return harness, ids, times, removed


def test_the_ends() -> None:
    harness, _, _ = published(5)
    assert (find(harness, Edge.START), find(harness, Edge.END)) == (0, 5)


def test_by_time() -> None:
    harness, _, times = published(20)
    for seq, at in enumerate(times):
        assert find(harness, at) == seq
        assert find(harness, at - 1) == seq
        assert find(harness, at + 1) == seq + 1
    assert find(harness, 0) == 0
    assert find(harness, times[-1] + SECOND_NS) == 20


def test_by_id() -> None:
    harness, ids, _ = published(20)
    assert [find(harness, message_id) for message_id in ids] == list(range(20))
    with pytest.raises(MessageUnknown):
        find(harness, b"f" * 16)


def test_what_was_removed_is_no_longer_there() -> None:
    harness, ids, times, removed = without_the_oldest(20)
    there = Extent(removed, times[removed])
    assert find_extent(harness.topic())() == there
    assert find(harness, times[removed]) == removed
    assert find(harness, ids[removed]) == removed
    for place in (times[removed] - 1, times[0], 0):
        with pytest.raises(NoLongerThere) as raised:
            find(harness, place)
        assert raised.value.extent == there
    with pytest.raises(MessageUnknown):
        find(harness, ids[0])
    assert find(harness, Edge.START) == 0


def test_a_needed_message_before_a_gap_is_not_a_place() -> None:
    """From there on, the log does not have everything; `start` takes what there is."""
    harness = Harness(StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=SEGMENT))
    consumer = harness.subscribe(rdy=100)
    kept = harness.publish(b"kept").ids[0]
    for _ in range(30):
        harness.publish(b"x" * 150)
        harness.finish(consumer, *(message for message in consumer.in_flight if message != kept))
    for _ in range(5):
        harness.snapshot()
        harness.advance(1.0)
    with pytest.raises(NoLongerThere):
        find(harness, kept)
    consumer.new()
    harness.topic().seek_channel("c", find(harness, Edge.START))
    harness.round()
    assert b"kept" in harness.drain(consumer)


def test_a_log_without_any_message() -> None:
    harness = Harness()
    harness.create()
    assert find_extent(harness.topic())() == Extent(0, None)
    assert find(harness, 0) == 0
    assert find(harness, harness.wall_ns) == 0


def test_a_log_all_of_whose_messages_were_removed() -> None:
    harness, _, times = published(20)
    for _ in range(10):
        harness.advance(1.0)
        view_of(harness.topic()).log.roll()
        harness.snapshot()
    harness.advance(1.0)
    assert find_extent(harness.topic())() == Extent(20, None)
    with pytest.raises(NoLongerThere) as raised:
        find(harness, times[-1])
    assert raised.value.extent.oldest_ns is None
    assert find(harness, Edge.END) == 20
