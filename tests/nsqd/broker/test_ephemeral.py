"""What lives in memory only: bounded, droppable, gone with its last client."""

from __future__ import annotations

import errno

import pytest

from nsqd.broker import NotFound
from nsqd.log.store import StoreOptions
from tests.nsqd.broker.harness import Harness, conserved, held_bytes, view_of


class TestOverflow:
    @pytest.mark.parametrize("topic", ["t", "t#ephemeral"])
    def test_the_newest_are_dropped_and_counted(self, topic: str) -> None:
        harness = Harness(mem_queue_size=2)
        harness.create("c#ephemeral", topic)
        for seq in range(6):
            harness.publish(b"%d" % seq, topic=topic)
        channel = harness.channel("c#ephemeral", topic)
        assert (channel.depth, channel.counts.entered, channel.counts.dropped) == (2, 6, 4)
        assert channel.backend_depth == 0
        assert conserved(channel)
        assert harness.drain(harness.subscribe("c#ephemeral", topic=topic, rdy=10)) == [b"0", b"1"]

    def test_in_one_piece(self) -> None:
        harness = Harness(mem_queue_size=2)
        harness.create("c#ephemeral")
        harness.publish_many(6)
        channel = harness.channel("c#ephemeral")
        assert (channel.depth, channel.counts.entered, channel.counts.dropped) == (2, 6, 4)

    def test_a_durable_channel_of_the_same_topic_loses_nothing(self) -> None:
        harness = Harness(mem_queue_size=2)
        harness.create("c#ephemeral")
        harness.create("d")
        bodies = harness.publish_many(6)
        assert harness.drain(harness.subscribe("d", rdy=1)) == bodies

    @pytest.mark.parametrize("mem_queue_size", [0, 3])
    def test_messages_that_are_delivered_at_once_need_no_queue(self, mem_queue_size: int) -> None:
        harness = Harness(mem_queue_size=mem_queue_size)
        consumer = harness.subscribe("c#ephemeral", rdy=5)
        for _ in range(4):
            bodies = harness.publish_many(5)
            assert consumer.bodies() == bodies
            harness.finish(consumer)
        assert harness.channel("c#ephemeral").counts.dropped == 0

    def test_bytes_are_bounded_too(self) -> None:
        harness = Harness(mem_queue_bytes=10_000)
        consumer = harness.subscribe("c#ephemeral", rdy=3)
        harness.publish(*[bytes(1000)] * 20)
        channel = harness.channel("c#ephemeral")
        assert channel.counts.dropped == 11
        assert len(harness.drain(consumer)) == 9
        assert conserved(channel)
        harness.publish(*[bytes(1000)] * 9)
        assert channel.counts.dropped == 11, "what is finished makes room"

    def test_sampled_out_and_emptied_messages_make_room(self) -> None:
        harness = Harness(mem_queue_bytes=10_000)
        harness.create("c#ephemeral")
        for _ in range(3):
            harness.publish(*[bytes(1000)] * 9)
            harness.topic().empty_channel("c#ephemeral")
        channel = harness.channel("c#ephemeral")
        assert (channel.depth, channel.counts.dropped) == (0, 27)
        assert conserved(channel)

    def test_a_topic_without_a_channel_keeps_the_oldest(self) -> None:
        harness = Harness(mem_queue_size=3)
        for seq in range(6):
            harness.publish(b"%d" % seq, topic="t#ephemeral")
        topic = harness.topic("t#ephemeral")
        assert (topic.depth, topic.backend_depth, topic.message_count) == (3, 0, 6)
        assert harness.drain(harness.subscribe(topic="t#ephemeral", rdy=10)) == [b"0", b"1", b"2"]


class TestBacklog:
    @pytest.mark.parametrize("mem_queue_size", [5, 1000])
    @pytest.mark.parametrize("cold", [False, True])
    def test_the_first_channel_gets_that_of_its_topic(self, mem_queue_size: int, cold: bool) -> None:
        harness = Harness(mem_queue_size=mem_queue_size)
        harness.memory.cold = cold
        bodies = harness.publish_many(20)
        consumer = harness.subscribe("c#ephemeral", rdy=4)
        channel = harness.channel("c#ephemeral")
        harness.publish(b"new")
        assert harness.drain(consumer) == [*bodies[:mem_queue_size], b"new"]
        assert channel.counts.entered == 21
        assert conserved(channel)

    def test_numbers_that_an_append_gave_up_are_no_part_of_the_backlog(self) -> None:
        harness = Harness()
        harness.publish(b"a")
        harness.fail("append", errno.EIO)
        harness.publish(b"lost", b"lost")
        harness.heal()
        harness.publish(b"b")
        consumer = harness.subscribe("c#ephemeral", rdy=5)
        assert consumer.bodies() == [b"a", b"b"]
        channel = harness.channel("c#ephemeral")
        assert (channel.counts.entered, channel.counts.damaged) == (2, 0)

    def test_the_backlog_on_disk_is_read_until_it_is_consumed(self) -> None:
        harness = Harness()
        bodies = harness.publish_many(20)
        harness.create("c#ephemeral")
        for _ in range(3):
            harness.snapshot()
            harness.advance(1)
        assert harness.drain(harness.subscribe("c#ephemeral", rdy=3)) == bodies

    def test_a_second_one_behind_live_messages_is_kept_on_disk_too(self) -> None:
        """I1: what was gathered while the topic was paused stands behind messages that are in memory."""
        harness = Harness(StoreOptions(max_segment_bytes=300))
        harness.create("c#ephemeral")
        live = harness.publish_many(3)
        harness.topic().pause(True)
        gathered = harness.publish_many(20)
        harness.topic().pause(False)
        for _ in range(4):
            harness.snapshot()
            harness.advance(1)
        view_of(harness.topic()).window.reset(harness.topic().store.end)
        assert harness.drain(harness.subscribe("c#ephemeral", rdy=3)) == live + gathered

    @pytest.mark.parametrize("restart", [False, True])
    @pytest.mark.parametrize("mem_queue_size", [0, 2, 5])
    def test_a_backlog_that_is_delivered_at_once_needs_no_queue(
        self, mem_queue_size: int, restart: bool
    ) -> None:
        """Gathered while the topic was paused; deferred messages need no room in the queue either."""
        harness = Harness(mem_queue_size=mem_queue_size)
        harness.topic().pause(True)
        bodies = harness.publish_many(5)
        harness.defer(b"later", 5)
        if restart:
            harness.restart()
        consumer = harness.subscribe("c#ephemeral", rdy=10)
        assert consumer.bodies() == []
        harness.topic().pause(False)
        harness.round()
        assert consumer.bodies() == bodies
        harness.advance(5)
        assert consumer.bodies() == [b"later"]
        assert harness.channel("c#ephemeral").counts.dropped == 0

    def test_deferred_ones_keep_their_delay(self) -> None:
        harness = Harness()
        harness.publish(b"a")
        harness.defer(b"later", 5)
        harness.publish(b"b")
        harness.advance(100)
        consumer = harness.subscribe("c#ephemeral", rdy=5)
        assert consumer.bodies() == [b"a", b"b"]
        harness.advance(4.75)
        assert consumer.bodies() == []
        harness.advance(0.25)
        assert consumer.bodies() == [b"later"]
        assert conserved(harness.channel("c#ephemeral"))

    def test_a_deferred_one_that_is_damaged_is_counted_and_holds_nothing_back(self) -> None:
        """Its body is read from the log when it is due; damage found there settles it."""
        harness = Harness()
        harness.defer(b"damaged", 5)
        harness.defer(b"whole", 5)
        harness.restart()
        harness.create("c#ephemeral")
        harness.corrupt(b"damaged")
        consumer = harness.subscribe("c#ephemeral", rdy=5)
        harness.advance(5)
        assert harness.drain(consumer) == [b"whole"]
        channel = harness.channel("c#ephemeral")
        assert (channel.counts.damaged, channel.depth, channel.in_flight_count) == (1, 0, 0)
        channel.invariant()


class TestAutoDeletion:
    def test_a_channel_goes_with_its_last_client(self) -> None:
        harness = Harness()
        first, second = harness.subscribe("c#ephemeral"), harness.subscribe("c#ephemeral")
        harness.disconnect(first)
        assert "c#ephemeral" in harness.topic().channels
        harness.disconnect(second)
        assert harness.topic().channels == {}

    def test_a_channel_without_any_client_yet_stays(self) -> None:
        harness = Harness()
        harness.create("c#ephemeral")
        harness.advance(10)
        assert "c#ephemeral" in harness.topic().channels

    def test_a_topic_goes_with_its_last_channel(self) -> None:
        harness = Harness()
        clients = [harness.subscribe(name, topic="t#ephemeral") for name in ("c#ephemeral", "d#ephemeral")]
        harness.disconnect(clients[0])
        assert "t#ephemeral" in harness.broker.topics
        harness.disconnect(clients[1])
        assert harness.broker.topics == {}

    def test_a_channel_without_the_suffix_stays_and_so_does_the_topic(self) -> None:
        harness = Harness()
        client = harness.subscribe("c", topic="t#ephemeral")
        harness.disconnect(client)
        assert list(harness.topic("t#ephemeral").channels) == ["c"]
        harness.topic("t#ephemeral").delete_channel("c")
        with pytest.raises(NotFound):
            harness.broker.existing("t#ephemeral")

    def test_a_topic_that_never_had_a_channel_stays(self) -> None:
        harness = Harness()
        harness.publish(b"a", topic="t#ephemeral")
        harness.advance(10)
        assert harness.broker.existing("t#ephemeral").depth == 1

    def test_a_durable_topic_stays_and_gathers_again(self) -> None:
        harness = Harness()
        harness.disconnect(harness.subscribe("c#ephemeral"))
        harness.publish(b"a")
        assert harness.topic().depth == 1


class TestNothingIsKept:
    @pytest.mark.parametrize("stop", [Harness.kill, Harness.restart])
    def test_over_a_restart(self, stop: object) -> None:
        harness = Harness()
        harness.create("c#ephemeral", "t")
        harness.create("c", "u#ephemeral")
        harness.publish(b"a", topic="t")
        stop(harness)  # type: ignore[operator]
        assert list(harness.broker.topics) == ["t"]
        topic = harness.topic()
        assert (topic.channels, topic.depth) == ({}, 0)

    def test_an_ephemeral_topic_writes_nothing(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(topic="t#ephemeral", rdy=5)
        harness.publish(b"a", topic="t#ephemeral")
        harness.finish(consumer)
        harness.topic("t#ephemeral").pause(True)
        harness.topic("t#ephemeral").pause_channel("c", True)
        assert harness.memory.folders() == []

    def test_a_segment_that_only_an_ephemeral_channel_needs_is_removed(self) -> None:
        harness = Harness()
        harness.create("c#ephemeral")
        harness.publish(b"a")
        topic = harness.topic()
        assert topic.needed_at_least(0, topic.store.end) == 0
        assert not topic.needed(0, topic.store.end)


def test_a_full_disk_is_no_concern() -> None:
    harness = Harness()
    consumer = harness.subscribe(topic="t#ephemeral", rdy=5)
    harness.fail("append", path="")
    assert harness.publish(b"a", topic="t#ephemeral").acknowledged
    assert consumer.bodies() == [b"a"]


def test_ephemeral_queues_share_the_memory_of_the_daemon() -> None:
    """`mem-queue-bytes` is for the whole daemon; ephemeral topics hold it once each."""
    harness = Harness(mem_queue_bytes=1 << 20)
    for n in range(10):
        harness.create("c", topic=f"t{n}#ephemeral")
        harness.publish(*[b"x" * 10_000] * 200, topic=f"t{n}#ephemeral")
    held = sum(held_bytes(harness.channel("c", f"t{n}#ephemeral")) for n in range(10))
    assert held <= 2 << 20


def test_an_ephemeral_channel_gets_the_deferred_backlog() -> None:
    """Deferred messages that wait behind the mark, after a restart: the channel has room for them."""
    harness = Harness()
    assert harness.defer(b"later", 5.0).acknowledged
    harness.restart()
    consumer = harness.subscribe("e#ephemeral", rdy=1)
    harness.advance(6.0)
    assert consumer.bodies() == [b"later"]


def test_a_deleted_channel_of_an_ephemeral_topic_gives_its_memory_back() -> None:
    harness = Harness()
    harness.create("c", topic="t#ephemeral")
    harness.publish(b"x" * 1000, b"y" * 1000, topic="t#ephemeral")
    harness.topic("t#ephemeral").delete_channel("c")
    assert harness.broker.context.ephemeral_bytes.used == 0


def test_clients_that_come_and_go_do_not_use_up_the_memory_of_ephemeral_queues() -> None:
    """What each left unfinished was counted for ever; in the end every message for such a queue was dropped."""
    harness = Harness(mem_queue_bytes=10_000)
    got = []
    for _ in range(20):
        consumer = harness.subscribe("c#ephemeral", topic="t#ephemeral", rdy=1)
        harness.publish(b"x" * 1000, topic="t#ephemeral")
        got.append(len(consumer.bodies()))
        harness.disconnect(consumer)
    assert got == [1] * 20
