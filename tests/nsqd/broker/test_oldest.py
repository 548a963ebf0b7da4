"""How old the oldest message of a topic and of a channel is, wherever it lies."""

from __future__ import annotations

import pytest

from nsqd.broker import Channel, Topic
from nsqd.broker.oldest import OldestRead
from nsqd.log.store import StoreOptions

from .harness import SECOND_NS, WALL_NS, Harness


def published_at(source: Topic | Channel) -> float | None:
    """In seconds of the harness's clock; reads what has to be read."""
    answer = source.oldest()
    if isinstance(answer, OldestRead):
        found = answer.run()
        assert found is not None
        answer.learned(found)
        answer = source.oldest()
        assert answer == found, "what was learned is known"
    assert not isinstance(answer, OldestRead)
    return None if answer is None else (answer - WALL_NS) / SECOND_NS


@pytest.mark.parametrize(("topic", "channel"), [("t", "c"), ("t", "c#ephemeral"), ("t#ephemeral", "c")])
def test_the_oldest_that_is_not_finished(topic: str, channel: str) -> None:
    harness = Harness()
    consumer = harness.subscribe(channel, topic=topic, rdy=2)
    its = harness.channel(channel, topic)
    assert published_at(its) is None
    began = harness.now
    for _ in range(5):
        harness.publish(b"x", topic=topic)
        harness.advance(1.0)
    first, second = consumer.new()
    assert published_at(its) == began
    harness.finish(consumer, second.id)
    assert published_at(its) == began
    harness.finish(consumer, first.id)
    assert published_at(its) == began + 2
    harness.requeue(consumer, consumer.new()[0].id, 60.0)
    assert published_at(its) == began + 2, "a deferred message is not finished"
    harness.drain(consumer)
    assert published_at(its) == began + 2
    harness.advance(60.0)
    assert published_at(its) == began + 2, "nor is one that was delivered again"
    harness.rdy(consumer, 0)
    harness.requeue(consumer, consumer.in_flight[0])
    assert published_at(its) == began + 2, "nor one that waits for another delivery"
    harness.rdy(consumer, 2)
    harness.drain(consumer)
    assert published_at(its) is None


def test_a_message_that_only_the_disk_has_is_read_once() -> None:
    harness = Harness(mem_queue_size=0)
    harness.create()
    began = harness.now
    harness.publish(b"1")
    harness.advance(1.0)
    harness.publish(b"2")
    channel = harness.channel()
    assert isinstance(channel.oldest(), OldestRead)
    assert published_at(channel) == began
    consumer = harness.subscribe(rdy=1)
    harness.finish(consumer)
    assert isinstance(channel.oldest(), OldestRead), "another one is the oldest now"
    assert published_at(channel) == began + 1


def test_an_earlier_life_is_remembered() -> None:
    harness = Harness(StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=4096))
    harness.create()
    began = harness.now
    for seq in range(200):
        harness.publish(b"%0100d" % seq)
        harness.advance(0.25)
    harness.kill()
    assert published_at(harness.channel()) == began
    consumer = harness.subscribe(rdy=10)
    for _ in range(5):
        harness.finish(consumer)
    assert published_at(harness.channel()) == began + 50 * 0.25


def test_a_topic_that_waits() -> None:
    harness = Harness()
    topic = harness.topic()
    assert published_at(topic) is None
    began = harness.now
    harness.publish(b"1")
    harness.advance(5.0)
    harness.publish(b"2")
    assert published_at(topic) == began
    harness.create()
    assert published_at(topic) is None
    assert published_at(harness.channel()) == began
    topic.pause(True)
    harness.publish(b"3")
    assert published_at(topic) == began + 5.0
    topic.empty()
    assert published_at(topic) is None
    assert (topic.dropped_count, topic.message_count) == (1, 3)


def test_an_ephemeral_topic_that_waits() -> None:
    harness = Harness()
    topic = harness.topic("e#ephemeral")
    assert published_at(topic) is None
    began = harness.now
    harness.publish(b"1", topic="e#ephemeral")
    harness.advance(5.0)
    harness.publish(b"2", topic="e#ephemeral")
    assert published_at(topic) == began
    topic.empty()
    assert published_at(topic) is None
    assert topic.dropped_count == 2


def test_the_backlog_of_an_ephemeral_channel() -> None:
    harness = Harness(mem_queue_size=2)
    began = harness.now
    harness.publish(b"1")
    harness.advance(1.0)
    harness.publish(b"2", b"3", b"4", b"5")
    harness.create("c#ephemeral")
    channel = harness.channel("c#ephemeral")
    assert published_at(channel) == began
    consumer = harness.subscribe("c#ephemeral", rdy=1)
    assert published_at(channel) == began
    harness.finish(consumer)
    assert published_at(channel) == began + 1.0


def test_a_damaged_message_is_passed_over_for_the_next_readable_one() -> None:
    harness = Harness(mem_queue_size=0)
    harness.create()
    harness.publish(b"lost message")
    harness.advance(2.0)
    later = harness.now
    harness.publish(b"2")
    harness.corrupt(b"lost message")
    answer = harness.channel().oldest()
    assert isinstance(answer, OldestRead)
    assert answer.run() == WALL_NS + int(later * SECOND_NS)


def test_a_disk_that_refuses() -> None:
    harness = Harness(mem_queue_size=0)
    harness.create()
    harness.publish(b"1")
    answer = harness.channel().oldest()
    assert isinstance(answer, OldestRead)
    harness.fail("read")
    with pytest.raises(OSError, match="28"):
        answer.run()


def test_a_deleted_topic_has_none() -> None:
    harness = Harness(mem_queue_size=0)
    channel = harness.create()
    harness.publish(b"1")
    read = channel.oldest()
    assert isinstance(read, OldestRead)
    harness.broker.delete_topic("t")
    assert channel.oldest() is None
