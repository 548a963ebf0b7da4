"""Channels that go on elsewhere in the log, or begin before the high watermark."""

from __future__ import annotations

import errno

import pytest

from nsqd.broker import Channel, NotFound, NotInFlight, Refused
from nsqd.log.snapshots import SLICE
from nsqd.log.store import StoreOptions
from tests.nsqd.broker.harness import (
    SECOND_NS,
    Consumer,
    Harness,
    conserved,
    deferred_of,
    log_backlog,
    view_of,
)


def harness_with(count: int, **options: object) -> tuple[Harness, Consumer]:
    """A channel whose consumer has finished `m0`, `m1`, ..."""
    harness = Harness(**options)
    consumer = harness.subscribe(rdy=100)
    harness.publish_many(count)
    harness.drain(consumer)
    return harness, consumer


def seek(harness: Harness, start: int, channel: str = "c") -> Channel:
    harness.topic().seek_channel(channel, start)
    sought = harness.channel(channel)
    sought.invariant()
    harness.round()
    sought.invariant()
    return sought


def small_segments(**options: object) -> Harness:
    return Harness(StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=700), **options)


class TestSeek:
    def test_back(self) -> None:
        harness, consumer = harness_with(5)
        channel = seek(harness, 2)
        assert harness.drain(consumer) == [b"m2", b"m3", b"m4"]
        assert [message.attempts for message in consumer.received[5:]] == [1, 1, 1]
        assert channel.counts.entered == channel.counts.finished == 8
        assert conserved(channel)

    def test_forth(self) -> None:
        """I9: what is passed over was dropped."""
        harness = Harness()
        channel = harness.create()
        harness.publish_many(5)
        seek(harness, 3)
        assert (channel.counts.entered, channel.counts.dropped, channel.depth) == (5, 3, 2)
        assert conserved(channel)
        seek(harness, 1000)
        assert (channel.depth, channel.counts.dropped) == (0, 5)
        harness.publish(b"new")
        assert channel.depth == 1
        assert conserved(channel)

    @pytest.mark.parametrize("orderly", [False, True])
    def test_over_a_restart(self, orderly: bool) -> None:
        """I3: the finishes of the former generation are gone, those of the present one are final."""
        harness, consumer = harness_with(6)
        harness.topic().pause_channel("c", True)
        seek(harness, 1)
        harness.topic().pause_channel("c", False)
        harness.rdy(consumer, 2)
        consumer.new()
        harness.finish(consumer)
        harness.topic().pause_channel("c", True)
        generation = harness.channel().backlog.generation
        if orderly:
            harness.restart()
        else:
            harness.kill()
        channel = harness.channel()
        assert channel.paused
        assert channel.backlog.generation == generation == 2
        harness.topic().pause_channel("c", False)
        consumer = harness.subscribe(rdy=100)
        assert sorted(harness.drain(consumer)) == [b"m3", b"m4", b"m5"]

    def test_what_is_in_flight_is_not_any_more(self) -> None:
        """Its consumer has room again, and gets the usual error if it answers for a message that was passed over."""
        harness = Harness()
        consumer = harness.subscribe(rdy=2)
        harness.publish_many(4)
        first, second = consumer.in_flight
        seek(harness, 2)
        assert consumer.bodies() == [b"m0", b"m1", b"m2", b"m3"]
        assert harness.finish(consumer, first) == [first]
        with pytest.raises(NotInFlight):
            harness.requeue(consumer, second)
        assert len(consumer.in_flight) == 2

    def test_messages_of_a_consumer_that_is_gone(self) -> None:
        harness = Harness()
        gone = harness.subscribe(rdy=1)
        harness.publish(b"m")
        harness.disconnect(gone)
        gone = harness.subscribe(rdy=1)
        harness.disconnect(gone)
        channel = harness.channel()
        assert channel.delivery.disconnected
        seek(harness, 0)
        assert (channel.depth, channel.in_flight_count) == (1, 0)
        harness.advance(100.0)
        assert channel.counts.timed_out == 1

    def test_attempts_begin_anew(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1)
        harness.publish(b"m")
        for _ in range(3):
            harness.requeue(consumer, consumer.in_flight[0])
        seek(harness, 0)
        assert [message.attempts for message in consumer.received] == [1, 2, 3, 4, 1]

    def test_deferred_messages_wait(self) -> None:
        """I6: those that were published with a delay, whatever has become of them, and those that were requeued."""
        harness = Harness()
        consumer = harness.subscribe(rdy=10)
        harness.defer(b"finished", 30.0)
        harness.defer(b"waits", 20.0)
        harness.publish(b"requeued")
        harness.requeue(consumer, consumer.in_flight[0], 10.0)
        receipt = harness.defer(b"due", 1.0)
        harness.advance(1.0)
        assert harness.finish(consumer, *receipt.ids) == []
        channel = harness.channel()
        seq = min(channel.deferred)
        assert channel.finish_message(seq, b"finished, by its seq")
        consumer.new()
        seek(harness, 0)
        assert {seq: due for seq, (_, due) in deferred_of(channel).items()} == {0: 130.0, 1: 120.0, 2: 110.0}
        assert harness.drain(consumer) == [b"due"]
        harness.kill()
        assert {seq: due for seq, (_, due) in deferred_of(harness.channel()).items()} == {
            0: 130.0,
            1: 120.0,
            2: 110.0,
        }
        consumer = harness.subscribe(rdy=10)
        harness.advance(30.0)
        assert harness.drain(consumer) == [b"requeued", b"waits", b"finished"]

    def test_a_delayed_message_is_known_over_a_snapshot(self) -> None:
        """I6: also if no channel has it deferred any more, and the record of its delay is not replayed."""
        harness = Harness()
        harness.create()
        harness.defer(b"m", 50.0)
        harness.topic().delete_channel("c")
        harness.snapshot()
        harness.kill()
        channel = harness.topic().create_channel_from("d", 0)
        assert deferred_of(channel) == {0: (0, 150.0)}

    def test_numbers_without_a_message(self) -> None:
        """Aborted, lost, or dropped before any channel had them: also those of before a snapshot and a start."""
        harness = Harness()
        harness.publish(b"emptied 1", b"emptied 2")
        harness.topic().empty()
        harness.create()
        harness.publish(b"there 1")
        harness.fail("append")
        assert not harness.publish(b"aborted 1", b"aborted 2").acknowledged
        harness.heal()
        harness.publish(b"there 2")
        for _ in range(2):
            channel = seek(harness, 0)
            assert (channel.depth, channel.counts.damaged) == (2, 0)
            assert list(log_backlog(channel).settled) == [(0, 2), (3, 5)]
            harness.snapshot()
            harness.kill()
        assert seek(harness, 4).depth == 1

    def test_a_message_that_was_lost_is_counted_once(self) -> None:
        harness = Harness(mem_queue_size=0)
        consumer = harness.subscribe(rdy=0)
        for body in (b"first", b"the damaged one", b"last"):
            harness.publish(body)
        harness.corrupt(b"the damaged one")
        harness.rdy(consumer, 10)
        assert harness.drain(consumer) == [b"first", b"last"]
        channel = seek(harness, 0)
        assert harness.drain(consumer) == [b"first", b"last"]
        assert channel.counts.damaged == 1
        assert conserved(channel)

    def test_messages_that_were_removed(self) -> None:
        """The channel begins with what is left; nothing is lost."""
        harness = small_segments()
        consumer = harness.subscribe(rdy=100)
        for _ in range(20):
            harness.publish(b"x" * 200)
            harness.drain(consumer)
        for _ in range(3):
            harness.snapshot()
            harness.advance(1.0)
        first = view_of(harness.topic()).log.segments[0].first
        assert 0 < first < 20
        channel = seek(harness, 0)
        assert channel.counts.entered == 20 + 20 - first
        assert len(harness.drain(consumer)) == 20 - first
        assert channel.counts.damaged == 0
        harness.kill()
        assert harness.channel().depth == 0
        assert harness.channel().counts.damaged == 0

    def test_messages_that_are_not_in_memory(self) -> None:
        harness, consumer = harness_with(50, mem_queue_size=3)
        seek(harness, 0)
        assert harness.drain(consumer) == [b"m%d" % seq for seq in range(50)]

    def test_a_disk_that_fails_changes_nothing(self) -> None:
        """I15"""
        harness = Harness()
        consumer = harness.subscribe(rdy=1)
        harness.publish_many(4)
        harness.fail("append", errno.EIO)
        with pytest.raises(Refused):
            harness.topic().seek_channel("c", 3)
        harness.heal()
        harness.round()
        assert harness.drain(consumer) == [b"m0", b"m1", b"m2", b"m3"]
        harness.kill()
        assert harness.channel().backlog.generation == 1

    @pytest.mark.parametrize(("topic", "channel"), [("t", "c#ephemeral"), ("t#ephemeral", "c")])
    def test_ephemeral_ones_have_nothing_to_go_back_to(self, topic: str, channel: str) -> None:
        harness = Harness()
        harness.subscribe(channel, topic=topic)
        with pytest.raises(Refused, match="ephemeral"):
            harness.topic(topic).seek_channel(channel, 0)
        with pytest.raises(Refused, match="ephemeral"):
            harness.topic(topic).create_channel_from(f"x{channel}", 0)

    def test_what_comes_again_is_as_old_as_it_is(self) -> None:
        """Nobody has needed it, so its age was not looked at: `max_age` must neither drop all of it nor spare it."""
        harness = Harness()
        consumer = harness.subscribe(rdy=100)
        harness.topic().set_channel_limits("c", {"max_age": 100 * SECOND_NS})
        for _ in range(20):
            harness.advance(10.0)
            harness.publish(b"m")
            harness.drain(consumer)
        harness.advance(1.0)
        harness.rdy(consumer, 0)
        channel = seek(harness, 0)
        assert channel.depth == 20
        harness.advance(1.0)
        assert (channel.depth, channel.counts.expired, channel.counts.dropped) == (10, 10, 0)

    def test_limits_hold_for_what_comes_again(self) -> None:
        harness, consumer = harness_with(20)
        harness.rdy(consumer, 0)
        harness.topic().set_channel_limits("c", {"max_depth": 5, "policy": "drop_oldest"})
        channel = seek(harness, 0)
        assert channel.depth == 5
        assert channel.own_settings == {"max_depth": 5, "policy": "drop_oldest"}
        harness.kill()
        assert harness.channel().own_settings == {"max_depth": 5, "policy": "drop_oldest"}
        assert harness.channel().depth == 5

    def test_no_such_channel(self) -> None:
        harness = Harness()
        with pytest.raises(NotFound):
            harness.topic().seek_channel("c", 0)

    @pytest.mark.parametrize("steps", range(8))
    def test_while_a_snapshot_is_written(self, steps: int) -> None:
        """Whichever slices are there: the generation that has ended, and the one that has begun, are told apart."""
        harness = Harness()
        consumer = harness.subscribe(rdy=3)
        harness.publish_many(SLICE + 10)
        harness.finish(consumer)
        harness.broker.retentions["t"].begin_snapshot()
        for _ in range(steps):
            harness.broker.step_snapshots()
        seek(harness, 1)
        consumer.new()
        harness.finish(consumer)
        while harness.broker.step_snapshots():
            pass
        harness.round()
        depth = harness.channel().depth + len(consumer.in_flight)
        harness.kill()
        assert harness.channel().depth == depth == SLICE + 6


class TestCreateFrom:
    def test_beside_the_live_one(self) -> None:
        """A replay beside the channel that has finished all of it, which sees nothing of it."""
        harness, live = harness_with(5)
        channel = harness.topic().create_channel_from("replay", 3)
        channel.invariant()
        side = harness.subscribe("replay", rdy=10)
        assert harness.drain(side) == [b"m3", b"m4"]
        harness.publish(b"new")
        assert (live.bodies()[-1:], harness.drain(side)) == ([b"new"], [b"new"])
        assert conserved(channel)
        assert harness.channel().counts.entered == 6

    @pytest.mark.parametrize("orderly", [False, True])
    def test_over_a_restart(self, orderly: bool) -> None:
        harness, _ = harness_with(5)
        harness.topic().create_channel_from("replay", 3)
        if orderly:
            harness.restart()
        else:
            harness.kill()
        assert (harness.channel("replay").depth, harness.channel().depth) == (2, 0)

    def test_the_first_channel_of_a_topic(self) -> None:
        """It gets what it asks for, and not all that has waited for a first channel."""
        harness = Harness()
        harness.publish_many(3)
        harness.defer(b"later", 5.0)
        channel = harness.topic().create_channel_from("c", 2)
        channel.invariant()
        assert (channel.depth, deferred_of(channel)) == (1, {3: (0, 105.0)})
        assert harness.topic().depth == 0
        harness.kill()
        channel = harness.channel()
        assert (channel.depth, deferred_of(channel)) == (1, {3: (0, 105.0)})

    def test_a_paused_topic(self) -> None:
        """What no channel has been given yet waits for all channels, wherever they begin."""
        harness, consumer = harness_with(2)
        harness.topic().pause(True)
        harness.publish(b"waits 1", b"waits 2")
        channel = harness.topic().create_channel_from("d", 1000)
        assert channel.depth == 0
        harness.topic().pause(False)
        harness.round()
        assert (channel.depth, consumer.bodies()) == (2, [b"waits 1", b"waits 2"])

    def test_a_disk_that_fails_changes_nothing(self) -> None:
        harness = Harness()
        harness.publish_many(3)
        harness.fail("append", errno.EIO)
        with pytest.raises(Refused):
            harness.topic().create_channel_from("c", 1)
        harness.heal()
        assert (harness.topic().channels, harness.topic().depth) == ({}, 3)
        assert harness.create().depth == 3


def test_damage_that_takes_the_record_of_a_seek() -> None:
    """The manifest knows the generation that began: there is one channel of that name, and it has no finishes."""
    harness = Harness()
    consumer = harness.subscribe(rdy=10)
    harness.publish_many(4)
    harness.drain(consumer)
    log = view_of(harness.topic()).log
    before = log.segments[-1].file.size
    seek(harness, 1)
    data = harness.memory._folder("topic-t").names[log.segments[-1].path.rpartition("/")[2]].data  # type: ignore[union-attr]
    data[before + 40] ^= 1
    harness.publish(b"after")
    harness.kill()
    channel = harness.channel()
    assert channel.backlog.generation == 2
    channel.invariant()
    consumer = harness.subscribe(rdy=10)
    assert harness.drain(consumer) == [b"m1", b"m2", b"m3", b"after"]
    harness.kill()
    assert harness.channel().backlog.generation == 2


def test_a_move_that_was_read_before_a_seek_does_not_count() -> None:
    """A segment whose few needed messages are being moved is needed as a whole again: it must not be removed."""
    harness = small_segments(mem_queue_size=0)
    consumer = harness.subscribe(rdy=100)
    kept = harness.publish(b"kept" * 50).ids
    for _ in range(20):
        harness.publish(b"x" * 200)
        harness.finish(consumer, *(message for message in consumer.in_flight if message not in kept))
    harness.run_jobs = False
    log = view_of(harness.topic()).log
    while not any(job.name == "read" for job in harness.jobs):
        harness.advance(1.0)
        for _ in harness.jobs:
            if harness.jobs[0].name != "read":
                harness.run_job()
        while harness.broker.step_snapshots():
            pass
    removed = sum(end - start for start, end in log.removed(0, log.end))
    consumer.new()
    harness.rdy(consumer, 0)
    seek(harness, 0)
    harness.run_jobs = True
    for _ in range(10):
        harness.advance(1.0)
        harness.snapshot()
    harness.rdy(consumer, 100)
    assert len(harness.drain(consumer)) == log.end - removed > 10
    assert harness.channel().counts.damaged == 0
