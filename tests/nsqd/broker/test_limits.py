"""Limits: what is refused, what is dropped, what expires, and which channels end when nobody consumes them."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from nsqd.broker import Channel, LimitReached, Republished
from nsqd.log.store import StoreOptions
from nsqd.rules import parse_rules
from nsqkit.wire.frames import BODY
from tests.nsqd.broker.harness import Harness, conserved, log_backlog, view_of

KINDS = ["c", "e#ephemeral"]


def limited(*, segment_bytes: int = 1 << 20, **given: Any) -> Harness:
    """All topics and channels have these settings, as a rule of the file gives them."""
    options = StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=segment_bytes)
    queue = given.pop("mem_queue_size", 10_000)
    return Harness(options, mem_queue_size=queue, rules=parse_rules([given]))


def bodies(first: int, count: int, size: int = 10) -> list[bytes]:
    return [b"%0*d" % (size, number) for number in range(first, first + count)]


def left(harness: Harness, name: str = "c", topic: str = "t") -> list[bytes]:
    """What a consumer gets of what waits, in order."""
    channel = harness.channel(name, topic)
    channel.invariant()
    consumer = harness.subscribe(name, topic=topic, rdy=1000)
    received = harness.drain(consumer)
    if not name.endswith("#ephemeral"):
        harness.disconnect(consumer)
    return received


class TestReject:
    @pytest.mark.parametrize("name", KINDS)
    def test_a_publish_that_does_not_fit_is_refused(self, name: str) -> None:
        harness = limited(max_depth=5)
        harness.create(name)
        harness.submit(*bodies(0, 3))
        harness.submit(*bodies(3, 2))
        with pytest.raises(LimitReached, match=f"^max_depth of channel {name} is 5, and 5 messages wait$"):
            harness.submit(b"x")
        assert harness.topic().rejected == {name: {"max_depth": 1}}
        assert harness.topic().message_count == 5
        assert left(harness, name) == bodies(0, 5)
        harness.submit(b"x")

    def test_a_batch_is_taken_as_a_whole_or_not_at_all(self) -> None:
        harness = limited(max_depth=5)
        harness.create()
        harness.submit(*bodies(0, 3))
        with pytest.raises(LimitReached):
            harness.submit(*bodies(3, 3))
        harness.submit(*bodies(3, 2))
        assert left(harness) == bodies(0, 5)
        assert harness.topic().rejected == {"c": {"max_depth": 3}}

    def test_what_the_round_has_taken_counts(self) -> None:
        """Also when the clock is set anew within it, as for a DPUB."""
        harness = limited(max_depth=5)
        harness.create()
        broker, topic = harness.broker, harness.topic()
        broker.publish(topic, bodies(0, 2))
        broker.advance(harness.now, harness.wall_ns)
        broker.publish(topic, bodies(2, 1), 10**9)
        broker.publish_one(topic, b"one")
        first_id = broker.reserve_ids(2)
        frames = [harness._frame(body) for body in bodies(4, 2)]
        with pytest.raises(LimitReached):
            broker.publish_frames(topic, frames, sum(map(len, frames)))
        assert first_id
        broker.publish_one(topic, b"two")
        with pytest.raises(LimitReached):
            broker.publish_one(topic, b"three")
        harness.round()
        assert topic.message_count == 5

    def test_the_channel_with_the_least_room_decides(self) -> None:
        harness = limited(max_depth=10)
        for name in ("a", "b", "c"):
            harness.create(name)
        harness.topic().set_channel_limits("b", {"max_depth": 4})
        harness.submit(*bodies(0, 4))
        with pytest.raises(LimitReached, match="max_depth of channel b is 4, and 4 messages wait"):
            harness.submit(b"x")
        assert left(harness, "b") == bodies(0, 4)
        harness.submit(*bodies(4, 4))
        assert left(harness, "b") == bodies(4, 4)
        with pytest.raises(LimitReached, match="max_depth of channel a is 10, and 8 messages wait"):
            harness.submit(*bodies(8, 3))

    def test_what_is_in_flight_does_not_wait_and_what_is_deferred_does(self) -> None:
        harness = limited(max_depth=3)
        consumer = harness.subscribe(rdy=2)
        harness.submit(*bodies(0, 3))
        assert consumer.bodies() == bodies(0, 2)
        harness.submit(b"deferred", delay=60.0)
        harness.submit(b"ready")
        with pytest.raises(LimitReached):
            harness.submit(b"x")
        harness.requeue(consumer, consumer.in_flight[0], 5.0)
        assert harness.channel().waiting == 3, "one was delivered instead"
        harness.finish(consumer, consumer.in_flight[0])
        assert harness.channel().waiting == 2
        harness.submit(b"x")

    def test_without_a_channel_the_topic_counts_its_own(self) -> None:
        harness = limited(max_depth=2)
        harness.submit(*bodies(0, 2))
        with pytest.raises(LimitReached, match=r"^max_depth of topic t is 2, and 2 messages wait$"):
            harness.submit(b"x")
        assert harness.topic().rejected == {"": {"max_depth": 1}}
        harness.create()
        assert left(harness) == bodies(0, 2)
        harness.topic().pause(True)
        harness.submit(*bodies(2, 2))
        with pytest.raises(LimitReached):
            harness.submit(b"x")

    def test_bytes(self) -> None:
        harness = limited(max_bytes=3 * (BODY + 10))
        harness.create()
        harness.submit(*bodies(0, 2))
        with pytest.raises(LimitReached, match=r"^max_bytes of channel c is 132, and 88 bytes wait$"):
            harness.submit(b"x" * 11)
        harness.submit(b"x" * 10)
        with pytest.raises(LimitReached):
            harness.submit(b"")
        assert harness.topic().rejected == {"c": {"max_bytes": 2}}

    def test_a_refusal_is_logged_once_a_second(self, caplog: pytest.LogCaptureFixture) -> None:
        harness = limited(max_depth=1)
        harness.create()
        harness.submit(b"x")
        for _ in range(5):
            with pytest.raises(LimitReached):
                harness.submit(b"x")
        assert [record.getMessage() for record in caplog.records] == [
            "TOPIC(t): publish refused - max_depth of channel c is 1, and 1 messages wait; add consumers, or raise"
            " the limit"
        ]

    def test_messages_that_were_accepted_before_are_not_refused(self) -> None:
        """What a follower has, and is published again."""
        harness = limited(max_depth=1)
        harness.create()
        frames = [Republished(harness._frame(body)) for body in bodies(0, 3)]
        harness.broker.publish_again(harness.topic(), frames)
        harness.round()
        assert left(harness) == bodies(0, 3)

    def test_topics_without_limits_have_no_guard(self) -> None:
        harness = Harness(
            rules=parse_rules([{"topic": "t", "max_depth": 1}, {"topic": "u", "max_attempts": 5}])
        )
        for name in ("t", "u", "v"):
            harness.create(topic=name)
        topics = [harness.topic(name) for name in ("t", "u", "v")]
        assert [topic.guard is not None for topic in topics] == [True, False, False]
        assert [topic.limits is not None for topic in topics] == [True, False, False]
        topics[2].set_channel_limits("c", {"max_depth": 1})
        assert topics[2].guard is not None
        topics[2].delete_channel("c")
        assert topics[2].guard is topics[2].limits is None
        harness.broker.delete_topic("t")
        assert not harness.broker.context.limited

    def test_a_channel_takes_its_count_with_it(self) -> None:
        harness = limited(max_depth=1)
        harness.create()
        with pytest.raises(LimitReached):
            harness.submit(*bodies(0, 2))
        assert harness.topic().rejected == {"c": {"max_depth": 2}}
        harness.topic().delete_channel("c")
        assert not harness.topic().rejected


class TestDropOldest:
    @pytest.mark.parametrize("name", KINDS)
    def test_the_oldest_are_dropped(self, name: str) -> None:
        harness = limited(max_depth=3, policy="drop_oldest")
        channel = harness.create(name)
        for number in range(10):
            harness.submit(*bodies(number, 1))
            assert channel.waiting <= 3
        assert (channel.counts.dropped, channel.counts.dropped_by) == (7, {"max_depth": 7})
        assert conserved(channel)
        assert left(harness, name) == bodies(7, 3)

    def test_a_large_batch_is_trimmed(self) -> None:
        harness = limited(max_depth=3, policy="drop_oldest")
        harness.create()
        harness.submit(*bodies(0, 1000))
        assert left(harness) == bodies(997, 3)

    @pytest.mark.parametrize("name", KINDS)
    def test_what_is_in_flight_is_never_dropped(self, name: str) -> None:
        harness = limited(max_depth=2, policy="drop_oldest")
        consumer = harness.subscribe(name, rdy=3)
        harness.submit(*bodies(0, 3))
        harness.submit(*bodies(3, 5))
        assert consumer.bodies() == bodies(0, 3)
        assert consumer.channel.waiting == 2
        assert harness.finish(consumer, *consumer.in_flight[:1]) == []
        assert consumer.bodies() == bodies(6, 1)
        assert conserved(consumer.channel)

    @pytest.mark.parametrize("name", KINDS)
    def test_first_those_that_come_next(self, name: str) -> None:
        """Requeued ones, then ready ones, then deferred ones."""
        harness = limited(max_depth=4, policy="drop_oldest")
        consumer = harness.subscribe(name, rdy=1)
        harness.submit(*bodies(0, 1))
        consumer.new()
        harness.rdy(consumer, 0)
        harness.submit(b"late", delay=60.0)
        harness.submit(b"soon", delay=30.0)
        harness.requeue(consumer, consumer.in_flight[0])
        harness.submit(*bodies(1, 2))
        channel = consumer.channel
        assert (len(channel.requeued), channel.backlog.ready, len(channel.deferred)) == (0, 2, 2)
        harness.topic().set_channel_limits(name, {"max_depth": 1})
        harness.round()
        assert (len(channel.requeued), channel.backlog.ready, len(channel.deferred)) == (0, 0, 1)
        harness.advance(60.0)
        harness.rdy(consumer, 10)
        assert consumer.bodies() == [b"late"]
        assert conserved(channel)

    def test_what_comes_back_is_over_the_limit(self) -> None:
        harness = limited(max_depth=1, policy="drop_oldest")
        consumer = harness.subscribe(rdy=5)
        harness.submit(*bodies(0, 5))
        harness.rdy(consumer, 0)
        harness.submit(b"new")
        for message_id in consumer.in_flight:
            harness.requeue(consumer, message_id)
        assert consumer.channel.waiting == 1
        assert consumer.channel.counts.dropped_by == {"max_depth": 5}
        assert conserved(consumer.channel)

    @pytest.mark.parametrize("queue", [0, 10_000])
    @pytest.mark.parametrize("size", [1, 200])
    def test_bytes(self, queue: int, size: int) -> None:
        frame = BODY + 10 * size
        harness = limited(max_bytes=5 * frame, policy="drop_oldest", mem_queue_size=queue, segment_bytes=4096)
        channel = harness.create()
        for number in range(0, 60, 3):
            harness.submit(*bodies(number, 3, 10 * size))
            assert min(number + 3, 5) == channel.waiting, "exact if all are of one size"
        assert channel.counts.dropped_by == {"max_bytes": 60 - channel.waiting}
        waiting = channel.waiting
        assert left(harness) == bodies(60 - waiting, waiting, 10 * size)

    def test_bytes_of_messages_in_memory_are_exact(self) -> None:
        harness = limited(max_bytes=1000, policy="drop_oldest")
        channel = harness.create()
        harness.submit(b"x" * 900)
        harness.submit(*[b""] * 3)
        assert channel.waiting == 3
        harness.submit(b"y" * 2000)
        assert channel.waiting == 0, "it is too large itself"

    @pytest.mark.parametrize("name", KINDS)
    def test_with_a_sampling_of_sizes_no_trim_ends_early(self, name: str) -> None:
        harness = limited(max_bytes=5000, policy="drop_oldest", mem_queue_size=100)
        channel = harness.create(name)
        for number in range(200):
            harness.submit(b"z" * (number * 37 % 1000))
            assert channel.waiting_bytes() <= 5000
        assert 2 <= channel.waiting <= 60
        assert conserved(channel)

    def test_one_without_a_channel(self) -> None:
        harness = limited(max_depth=3, policy="drop_oldest")
        harness.submit(*bodies(0, 2))
        harness.submit(b"deferred", delay=60.0)
        harness.submit(*bodies(2, 2))
        topic = harness.topic()
        assert (topic.depth, topic.dropped_count, topic.dropped_by) == (3, 2, {"max_depth": 2})
        harness.submit(*bodies(4, 2))
        assert not topic.deferred
        harness.kill()
        assert harness.topic().depth == 3
        harness.create()
        assert left(harness) == bodies(3, 3)

    def test_a_paused_topic_with_channels(self) -> None:
        harness = limited(max_depth=3, policy="drop_oldest")
        harness.create()
        harness.topic().pause(True)
        harness.submit(*bodies(0, 10))
        assert harness.topic().depth == 3
        harness.topic().pause(False)
        harness.round()
        assert left(harness) == bodies(7, 3)
        harness.kill()
        assert left(harness) == []

    def test_an_ephemeral_topic(self) -> None:
        harness = limited(max_depth=3, policy="drop_oldest")
        harness.submit(*bodies(0, 10), topic="t#ephemeral")
        assert harness.topic("t#ephemeral").depth == 3
        assert harness.broker.context.ephemeral_bytes.used == 3 * (BODY + 10)
        harness.create(topic="t#ephemeral")
        assert left(harness, topic="t#ephemeral") == bodies(7, 3)
        assert harness.broker.context.ephemeral_bytes.used == 0

    @pytest.mark.parametrize("orderly", [False, True])
    def test_what_was_dropped_is_dropped_after_a_restart(self, orderly: bool) -> None:
        harness = limited(max_depth=3, policy="drop_oldest")
        harness.create()
        harness.submit(*bodies(0, 20))
        harness.round()
        if orderly:
            harness.restart()
        else:
            harness.kill()
        assert list(harness.channel().backlog.settled) == [(0, 17)]
        assert harness.channel().counts.dropped == 0, "counted from the start on"
        assert left(harness) == bodies(17, 3)

    def test_a_lower_limit_holds_at_once(self) -> None:
        harness = limited(max_depth=30, policy="drop_oldest")
        harness.create()
        harness.submit(*bodies(0, 20))
        harness.topic().set_limits({"max_depth": 2})
        harness.round()
        assert left(harness) == bodies(18, 2)

    def test_nothing_is_dropped_for_what_could_not_be_written(self) -> None:
        harness = limited(max_depth=3, policy="drop_oldest")
        channel = harness.create()
        harness.submit(*bodies(0, 3))
        harness.fail("append")
        harness.submit(*bodies(3, 3))
        assert (channel.waiting, channel.counts.dropped) == (3, 0)
        harness.heal()
        assert left(harness) == bodies(0, 3)

    def test_segments_of_dropped_messages_are_removed(self) -> None:
        harness = limited(max_depth=5, policy="drop_oldest", segment_bytes=4096)
        harness.create()
        for number in range(100):
            harness.submit(*bodies(number * 10, 10, 100))
        for _ in range(20):
            harness.advance(1.0)
            while harness.broker.has_snapshots:
                harness.broker.step_snapshots()
                harness.round()
        assert len(view_of(harness.topic()).log.segments) <= 3
        assert left(harness) == bodies(995, 5, 100)

    def test_a_channel_that_reads_from_disk_goes_on_behind_the_dropped(self) -> None:
        harness = limited(max_depth=50, policy="drop_oldest", mem_queue_size=5, segment_bytes=2000)
        consumer = harness.subscribe(rdy=0)
        harness.submit(*bodies(0, 50))
        harness.memory.cold = True
        harness.run_jobs = False
        harness.rdy(consumer, 1)
        assert not consumer.received
        harness.submit(*bodies(50, 30))
        harness.run_jobs = True
        harness.round()
        harness.memory.cold = False
        harness.rdy(consumer, 100)
        assert harness.drain(consumer) == bodies(30, 50)


class TestMaxAge:
    @pytest.mark.parametrize("name", KINDS)
    @pytest.mark.parametrize("topic", ["t", "t#ephemeral"])
    def test_messages_expire_to_a_second(self, name: str, topic: str) -> None:
        harness = limited(max_age="60s")
        channel = harness.create(name, topic)
        for number in range(10):
            harness.submit(*bodies(number, 1), topic=topic)
            for _ in range(10):
                harness.advance(1.0)
        # The oldest is 100 s old.
        assert channel.depth in (5, 6)
        harness.advance(1.0)
        assert channel.depth == 5
        assert channel.counts.expired == 5
        assert conserved(channel)
        assert left(harness, name, topic) == bodies(5, 5)

    def test_what_is_in_flight_does_not_expire(self) -> None:
        harness = limited(max_age="5s")
        consumer = harness.subscribe(rdy=1, timeout=60.0)
        harness.submit(*bodies(0, 2))
        harness.advance(10.0)
        assert (consumer.channel.in_flight_count, consumer.channel.depth) == (1, 0)
        harness.rdy(consumer, 0)
        harness.requeue(consumer, consumer.in_flight[0])
        assert consumer.channel.depth == 1
        harness.advance(1.0)
        assert consumer.channel.depth == 0
        assert consumer.channel.counts.expired == 2
        assert conserved(consumer.channel)

    @pytest.mark.parametrize("name", KINDS)
    def test_a_deferred_message_counts_from_its_due_time(self, name: str) -> None:
        harness = limited(max_age="10s")
        channel = harness.create(name)
        harness.submit(b"deferred", delay=30.0)
        harness.advance(30.0)
        assert (len(channel.requeued), channel.counts.expired) == (1, 0)
        harness.advance(9.0)
        assert channel.depth == 1
        harness.advance(2.0)
        assert (channel.depth, channel.counts.expired) == (0, 1)
        assert conserved(channel)

    def test_a_message_that_came_due_before_a_restart(self) -> None:
        harness = limited(max_age="10s")
        harness.create()
        harness.submit(b"deferred", delay=30.0)
        harness.advance(31.0)
        harness.kill()
        assert harness.channel().depth == 1
        harness.advance(8.0)
        assert harness.channel().depth == 1
        harness.advance(2.0)
        assert harness.channel().depth == 0

    @pytest.mark.parametrize("queue", [0, 7, 10_000])
    def test_messages_of_before_a_restart_expire(self, queue: int) -> None:
        """Their ages are only on the disk."""
        harness = limited(max_age="60s", mem_queue_size=queue, segment_bytes=600)
        harness.create()
        for number in range(40):
            harness.submit(*bodies(number, 1))
            harness.advance(1.0)
        harness.kill()
        harness.advance(30.0)
        harness.submit(b"new")
        assert len(view_of(harness.topic()).log.segments) > 3
        # 72 s after the first one.
        harness.advance(1.0)
        harness.advance(1.0)
        assert harness.channel().depth == 41 - 13
        assert left(harness) == [*bodies(13, 27), b"new"]

    def test_each_channel_has_its_own(self) -> None:
        harness = limited(max_age="60s")
        harness.create("short")
        harness.create("long")
        harness.create("none")
        harness.topic().set_channel_limits("short", {"max_age": 5 * 10**9})
        harness.topic().set_channel_limits("none", {"max_age": 10**18})
        harness.submit(*bodies(0, 4))
        harness.advance(10.0)
        depths = [harness.channel(name).depth for name in ("short", "long", "none")]
        assert depths == [0, 4, 4]
        harness.advance(60.0)
        depths = [harness.channel(name).depth for name in ("short", "long", "none")]
        assert depths == [0, 0, 4]
        assert left(harness, "none") == bodies(0, 4)

    def test_messages_that_keep_an_old_time_do_not_take_younger_ones_with_them(self) -> None:
        """What was published again is as old as it was, and behind younger messages."""
        harness = limited(max_age="60s", mem_queue_size=10_000)
        harness.create()
        old = [Republished(harness._frame(body)) for body in bodies(100, 600)]
        harness.advance(50.0)
        harness.submit(*bodies(0, 5))
        harness.broker.publish_again(harness.topic(), old)
        harness.advance(20.0)
        harness.advance(1.0)
        assert harness.channel().depth == 605, "behind younger ones they wait for these"
        harness.advance(50.0)
        assert harness.channel().depth == 0

    def test_a_topic_expires_its_own_but_not_what_is_deferred(self) -> None:
        harness = limited(max_age="10s")
        harness.submit(*bodies(0, 3))
        harness.submit(b"deferred", delay=5.0)
        harness.submit(*bodies(3, 3))
        harness.advance(5.0)
        harness.submit(*bodies(6, 1))
        harness.advance(7.0)
        topic = harness.topic()
        assert (topic.depth, topic.expired_count) == (2, 6)
        harness.kill()
        assert harness.topic().depth == 2
        harness.create()
        harness.advance(6.0)
        assert sorted(left(harness)) == sorted([b"deferred"])

    @pytest.mark.parametrize("queue", [0, 10_000])
    def test_what_a_channel_gets_again_expires_by_its_age(self, queue: int) -> None:
        """It was finished by everybody, and nobody has looked how old it is."""
        harness = limited(max_age="60s", retain="1h", mem_queue_size=queue)
        consumer = harness.subscribe(rdy=100)
        for number in range(10):
            harness.submit(*bodies(number, 1))
            harness.finish(consumer)
            for _ in range(10):
                harness.advance(1.0)
        harness.topic().create_channel_from("again", 0)
        for _ in range(3):
            harness.advance(1.0)
        assert harness.channel("again").counts.expired == 5
        assert left(harness, "again") == bodies(5, 5)

    def test_the_topic_of_a_leader_that_is_fenced_loses_nothing(self) -> None:
        harness = limited(max_age="5s")
        harness.create()
        harness.submit(*bodies(0, 3))
        harness.broker.fence("cut off")
        for _ in range(20):
            harness.advance(1.0)
            harness.broker.context.commit_soon("t")
        assert harness.channel().depth == 3
        assert not harness.broker._to_trim
        harness.broker.fence(None)
        harness.advance(1.0)
        assert harness.channel().depth == 0

    def test_reads_that_fail_are_tried_again(self) -> None:
        harness = limited(max_age="5s", mem_queue_size=0)
        harness.create()
        harness.submit(*bodies(0, 3))
        harness.kill()
        harness.fail("open")
        harness.advance(10.0)
        assert harness.channel().depth == 3
        harness.heal()
        harness.advance(1.0)
        assert harness.channel().depth == 0


def depth_of(channel: Channel) -> tuple[int, int]:
    return channel.depth, channel.counts.expired


class TestManyMessages:
    def test_they_expire_as_ranges(self) -> None:
        """A hundred thousand cost as many ranges as there are skipped places, and a few reads."""
        harness = limited(max_age="60s", mem_queue_size=0, segment_bytes=1 << 20)
        harness.create()
        for number in range(100):
            harness.send(*[b"x" * 100] * 1000)
            if number % 10 == 0:
                harness.round()
        harness.round()
        reads: list[int] = []
        harness.storage.fault = lambda operation, _path: reads.append(1) if operation == "read" else None
        harness.advance(100.0)
        harness.advance(1.0)
        assert depth_of(harness.channel()) == (0, 100_000)
        assert len(log_backlog(harness.channel()).settled) == 1
        assert len(reads) < 100 * len(view_of(harness.topic()).log.segments)


class TestIdle:
    def test_a_channel_without_a_consumer_is_deleted(self, caplog: pytest.LogCaptureFixture) -> None:
        harness = limited(idle_ttl="100s")
        harness.create()
        harness.publish(*bodies(0, 3))
        consumer = harness.subscribe()
        harness.advance(200.0)
        harness.disconnect(consumer)
        with caplog.at_level(logging.WARNING):
            for _ in range(98):
                harness.advance(1.0)
            assert [record.getMessage() for record in caplog.records] == [
                "CHANNEL(t/c): no consumer for 75 s; deleted with 3 messages in 25 s unless one comes (idle_ttl)"
            ]
            assert harness.channel().idle_alarm
            for _ in range(4):
                harness.advance(1.0)
        assert "c" not in harness.topic().channels
        assert caplog.records[-1].getMessage() == (
            "CHANNEL(t/c): deleted with 3 messages, after 100 s without a consumer (idle_ttl)"
        )
        harness.kill()
        assert "c" not in harness.topic().channels

    def test_a_consumer_in_between_begins_anew(self) -> None:
        harness = limited(idle_ttl="100s")
        harness.create()
        harness.advance(1.0)
        harness.advance(90.0)
        assert harness.channel().idle_alarm
        consumer = harness.subscribe()
        harness.advance(1.0)
        assert not harness.channel().idle_alarm
        harness.disconnect(consumer)
        harness.advance(1.0)
        harness.advance(90.0)
        assert "c" in harness.topic().channels

    def test_a_restart_begins_anew(self) -> None:
        harness = limited(idle_ttl="100s")
        harness.create()
        harness.advance(1.0)
        harness.advance(90.0)
        harness.kill()
        harness.advance(90.0)
        assert "c" in harness.topic().channels
        harness.advance(50.0)
        harness.advance(51.0)
        assert "c" not in harness.topic().channels

    def test_it_may_be_paused_instead(self) -> None:
        harness = limited(idle_ttl="10s", idle_action="pause")
        harness.create()
        harness.advance(1.0)
        harness.advance(11.0)
        assert harness.channel().paused
        harness.topic().pause_channel("c", False)
        harness.advance(1.0)
        assert not harness.channel().paused, "an operator has another ten seconds"
        harness.advance(11.0)
        assert harness.channel().paused
        harness.kill()
        assert harness.channel().paused

    def test_a_full_disk_does_not_stop_the_daemon(self, caplog: pytest.LogCaptureFixture) -> None:
        harness = limited(idle_ttl="10s")
        harness.create()
        harness.advance(1.0)
        harness.fail("append")
        harness.advance(11.0)
        assert "c" in harness.topic().channels
        assert any("cannot be deleted" in record.getMessage() for record in caplog.records)
        harness.heal()
        harness.advance(1.0)
        assert "c" not in harness.topic().channels

    def test_ephemeral_channels_go_with_their_last_consumer_anyway(self) -> None:
        harness = limited(idle_ttl="10s")
        harness.create("e#ephemeral")
        harness.advance(1.0)
        harness.advance(20.0)
        assert "e#ephemeral" in harness.topic().channels
