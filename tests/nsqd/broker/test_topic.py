"""Topics: who gets the backlog, publishing as a whole or not at all, pause, empty, delete, start."""

from __future__ import annotations

import errno

import pytest

from nsqd.broker import Broker, Channel, Listener, NotFound, Refused, Topic
from nsqd.log.topic_log import TopicLog
from nsqd.testing.faulty_storage import Fail, Fault
from tests.nsqd.broker.harness import SECOND_NS, Harness, conserved


class Log(Listener):
    """What a listener is told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []

    def topic_created(self, topic: Topic) -> None:
        self.events.append(("topic created", topic.name))

    def topic_deleted(self, topic: Topic) -> None:
        self.events.append(("topic deleted", topic.name))

    def channel_created(self, topic: Topic, channel: Channel) -> None:
        self.events.append(("channel created", topic.name, channel.name))

    def channel_deleted(self, topic: Topic, channel: Channel) -> None:
        self.events.append(("channel deleted", topic.name, channel.name))


class TestBacklog:
    @pytest.mark.parametrize("topic", ["t", "t#ephemeral"])
    def test_the_first_channel_gets_the_backlog_and_later_ones_do_not(self, topic: str) -> None:
        harness = Harness()
        bodies = harness.publish_many(3, topic=topic)
        assert (harness.topic(topic).depth, harness.topic(topic).message_count) == (3, 3)
        first = harness.subscribe("first", topic=topic, rdy=10)
        second = harness.subscribe("second", topic=topic, rdy=10)
        assert (first.bodies(), second.bodies()) == (bodies, [])
        assert harness.topic(topic).depth == 0
        harness.publish(b"new", topic=topic)
        assert (first.bodies(), second.bodies()) == ([b"new"], [b"new"])

    def test_messages_gather_again_after_the_last_channel_is_deleted(self) -> None:
        harness = Harness()
        harness.create()
        harness.publish(b"gone")
        harness.topic().delete_channel("c")
        harness.publish(b"a", b"b")
        assert harness.topic().depth == 2
        assert harness.drain(harness.subscribe("d", rdy=10)) == [b"a", b"b"]

    @pytest.mark.parametrize("mem_queue_size", [0, 1, 10])
    def test_the_part_on_disk_is_told(self, mem_queue_size: int) -> None:
        harness = Harness(mem_queue_size=mem_queue_size)
        harness.publish_many(100)
        topic = harness.topic()
        assert (topic.depth, topic.backend_depth) == (100, 100 - mem_queue_size)

    def test_every_channel_gets_every_message(self) -> None:
        harness = Harness()
        consumers = [harness.subscribe(name, rdy=100) for name in ("c", "d", "e#ephemeral")]
        bodies = harness.publish_many(50)
        assert [consumer.bodies() for consumer in consumers] == [bodies] * 3
        assert len({message.id for message in consumers[0].received}) == 50


class TestPublish:
    def test_nothing_is_offered_before_the_commit(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=10)
        receipt = harness.send(b"a")
        while harness.broker.pump():
            pass
        assert not consumer.outbox.items
        assert not receipt.done
        harness.round()
        assert receipt.acknowledged
        assert consumer.bodies() == [b"a"]

    def test_a_round_is_one_append(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=10)
        harness.publish(b"a", b"b")
        before = harness.storage.counts["append"]
        for body in (b"c", b"d"):
            harness.send(body)
        consumer.channel.finish(consumer.subscription, consumer.in_flight)
        harness.round()
        assert harness.storage.counts["append"] == before + 1

    @pytest.mark.parametrize("seq", [errno.ENOSPC, errno.EIO])
    def test_a_failed_append_is_told_and_leaves_nothing(self, seq: int) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=10)
        harness.publish(b"a")
        harness.fail("append", seq)
        receipts = [harness.send(b"b", b"c"), harness.send(b"d")]
        harness.round()
        assert [receipt.error is not None for receipt in receipts] == [True, True]
        topic, channel = harness.topic(), harness.channel()
        assert (topic.message_count, topic.message_bytes, topic.depth) == (1, 1, 0)
        assert (channel.counts.entered, channel.depth, channel.in_flight_count) == (1, 0, 1)
        assert harness.broker.store.space.health.startswith("NOK - ")
        harness.heal()
        harness.advance(1)
        assert harness.publish(b"e").acknowledged
        assert harness.broker.store.space.health == "OK"
        assert consumer.bodies() == [b"a", b"e"]
        assert conserved(channel)

    def test_numbers_of_a_failed_append_are_never_used_again(self) -> None:
        harness = Harness()
        harness.create()
        harness.publish(b"a")
        topic = harness.topic()
        end = topic.store.end
        harness.fail("append", errno.EIO)
        lost = harness.publish(b"b", b"c")
        harness.heal()
        kept = harness.publish(b"d")
        assert topic.store.end == end + 3
        assert not set(lost.ids) & set(kept.ids)

    @pytest.mark.parametrize("flowing", [True, False])
    @pytest.mark.parametrize("mem_queue_size", [0, 10])
    def test_after_a_failed_append_and_a_kill(self, flowing: bool, mem_queue_size: int) -> None:
        """What was written behind the numbers that were given up is read back, and nothing is taken for damage."""
        harness = Harness(mem_queue_size=mem_queue_size)
        harness.create()
        harness.topic().pause(not flowing)
        harness.publish(b"a")
        harness.fail("append", errno.EIO)
        harness.publish(b"lost", b"lost")
        harness.heal()
        harness.topic().pause_channel("c", True)  # a record without messages, behind the gap
        harness.topic().pause_channel("c", False)
        for body in (b"b", b"c"):
            harness.kill()
            channel = harness.channel()
            assert channel.depth >= 0
            assert harness.publish(body).acknowledged
        harness.kill()
        assert harness.broker.store.notes == []
        harness.topic().pause(False)
        assert harness.drain(harness.subscribe(rdy=10)) == [b"a", b"b", b"c"]
        assert harness.channel().counts.damaged == 0

    def test_given_up_numbers_behind_the_mark_make_no_depth_below_zero(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1)
        harness.publish(b"a")
        harness.finish(consumer)
        harness.topic().pause(True)
        harness.fail("append", errno.EIO)
        harness.publish(b"lost", b"lost")
        harness.heal()
        harness.publish(b"b")
        harness.kill()
        assert (harness.topic().depth, harness.channel().depth) == (1, 0)
        harness.topic().pause(False)
        assert harness.drain(harness.subscribe(rdy=5)) == [b"b"]

    def test_given_up_numbers_are_not_counted_as_messages(self) -> None:
        harness = Harness()
        harness.publish(b"a")
        harness.fail("append", errno.EIO)
        harness.publish(b"lost", b"lost")
        harness.heal()
        harness.publish(b"b")
        durable, ephemeral = harness.subscribe("c", rdy=10), harness.subscribe("d#ephemeral", rdy=10)
        assert durable.bodies() == [b"a", b"b"]
        assert harness.channel("c").counts.entered == 2
        assert ephemeral.bodies() == []

    def test_while_the_disk_is_full_nothing_is_made(self) -> None:
        harness = Harness()
        harness.create()
        harness.fail("append", errno.ENOSPC)
        harness.publish(b"a")
        for make in (lambda: harness.topic("u"), lambda: harness.topic().channel("d")):
            with pytest.raises(Refused):
                make()
        with pytest.raises(Refused):
            harness.broker.context.refuse_when_full()
        harness.heal()
        harness.advance(1)
        harness.broker.context.refuse_when_full()
        harness.create("d")
        harness.create("c", "u")
        assert set(harness.broker.topics) == {"t", "u"}

    @pytest.mark.parametrize("seq", [errno.ENOSPC, errno.EIO])
    @pytest.mark.parametrize("seconds_at_rest", [0, 5])
    def test_finishes_stay_applied_and_are_written_later(self, seq: int, seconds_at_rest: int) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=2)
        bodies = harness.publish_many(4)
        for _ in range(seconds_at_rest):
            harness.advance(1)
        harness.fail("append", seq)
        harness.finish(consumer)
        assert (harness.channel().counts.finished, consumer.bodies()) == (2, bodies), "consumers drain on"
        harness.finish(consumer)
        harness.heal()
        harness.advance(1)
        harness.kill()
        assert harness.channel().depth == 0

    def test_finishes_after_the_disk_has_healed_are_written_with_their_round(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=2)
        harness.publish_many(4)
        harness.fail("append", errno.EIO)
        harness.finish(consumer)
        harness.heal()
        harness.finish(consumer)
        harness.kill()
        assert harness.channel().depth == 0

    def test_requeues_while_the_disk_is_full_are_written_later(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1)
        (message_id,) = harness.publish(b"a").ids
        harness.fail("append", errno.ENOSPC)
        harness.publish(b"refused")
        harness.requeue(consumer, message_id, 100.0)
        harness.heal()
        harness.advance(1)
        harness.advance(1)
        harness.kill()
        consumer = harness.subscribe(rdy=1)
        assert consumer.bodies() == []
        harness.advance(98)
        assert [message.attempts for message in consumer.new()] == [2]


class TestPause:
    @pytest.mark.parametrize("topic", ["t", "t#ephemeral"])
    def test_publishing_goes_on_and_delivery_does_not(self, topic: str) -> None:
        harness = Harness()
        consumer = harness.subscribe(topic=topic, rdy=10)
        harness.publish(b"a", topic=topic)
        harness.topic(topic).pause(True)
        harness.publish(b"b", topic=topic)
        assert (consumer.bodies(), harness.topic(topic).depth) == ([b"a"], 1)
        harness.finish(consumer)
        harness.topic(topic).pause(False)
        harness.round()
        assert (consumer.bodies(), harness.topic(topic).depth) == ([b"b"], 0)
        assert conserved(harness.channel(topic=topic))

    def test_channels_of_a_paused_topic_deliver_their_messages(self) -> None:
        harness = Harness()
        harness.create()
        harness.publish(b"a")
        harness.topic().pause(True)
        assert harness.subscribe(rdy=1).bodies() == [b"a"]

    def test_a_channel_made_meanwhile_gets_what_gathers(self) -> None:
        harness = Harness()
        harness.create("c")
        harness.topic().pause(True)
        harness.publish(b"a")
        harness.create("d")
        harness.topic().pause(False)
        assert harness.drain(harness.subscribe("d", rdy=1)) == [b"a"]

    @pytest.mark.parametrize("paused", [True, False])
    def test_a_pause_survives_a_kill(self, paused: bool) -> None:
        harness = Harness()
        harness.create()
        harness.topic().pause(True)
        harness.publish(b"a")
        harness.topic().pause(paused)
        harness.kill()
        assert harness.topic().paused is paused
        assert (harness.topic().depth, harness.channel().depth) == ((1, 0) if paused else (0, 1))

    def test_a_pause_that_the_disk_refuses_has_not_happened(self) -> None:
        harness = Harness()
        harness.create()
        harness.fail("append", errno.EIO)
        with pytest.raises(Refused, match="Input/output error"):
            harness.topic().pause(True)
        assert not harness.topic().paused
        harness.heal()
        harness.publish(b"a")
        assert harness.channel().depth == 1


class TestEmpty:
    @pytest.mark.parametrize("topic", ["t", "t#ephemeral"])
    def test_channels_keep_theirs(self, topic: str) -> None:
        harness = Harness()
        harness.create(topic=topic)
        harness.publish(b"a", topic=topic)
        harness.topic(topic).pause(True)
        harness.publish(b"b", b"c", topic=topic)
        harness.defer(b"d", 5, topic=topic)
        harness.topic(topic).empty()
        harness.topic(topic).pause(False)
        harness.publish(b"e", topic=topic)
        assert harness.topic(topic).depth == 0
        assert harness.drain(harness.subscribe(topic=topic, rdy=10)) == [b"a", b"e"]
        assert not harness.channel(topic=topic).deferred
        assert conserved(harness.channel(topic=topic))

    def test_an_emptied_topic_is_empty_after_a_kill(self) -> None:
        harness = Harness()
        harness.publish(b"a", b"b")
        harness.defer(b"later", 5)
        harness.topic().empty()
        harness.publish(b"c")
        harness.kill()
        assert harness.topic().depth == 1
        consumer = harness.subscribe(rdy=10)
        harness.advance(10)
        assert consumer.bodies() == [b"c"]

    def test_emptying_an_empty_topic_writes_nothing(self) -> None:
        harness = Harness()
        harness.topic()
        before = harness.storage.counts["append"]
        harness.topic().empty()
        assert harness.storage.counts["append"] == before


class TestDelete:
    @pytest.mark.parametrize("topic", ["t", "t#ephemeral"])
    def test_channels_and_messages_go_with_the_topic(self, topic: str) -> None:
        harness = Harness()
        harness.broker.listener = log = Log()
        consumers = [harness.subscribe(name, topic=topic, rdy=10) for name in ("c", "d#ephemeral")]
        harness.publish(b"a", topic=topic)
        harness.broker.delete_topic(topic)
        assert all(consumer.disconnected for consumer in consumers)
        with pytest.raises(NotFound):
            harness.broker.existing(topic)
        with pytest.raises(NotFound):
            harness.broker.delete_topic(topic)
        assert log.events[-1] == ("topic deleted", topic)
        harness.round()
        harness.kill()
        assert harness.broker.topics == {}
        assert [folder for folder in harness.memory.folders() if not folder.startswith("trash-")] == []

    @pytest.mark.parametrize("topic", ["t", "t#ephemeral"])
    def test_clients_that_leave_late_do_not_touch_its_successor(self, topic: str) -> None:
        harness = Harness()
        consumer = harness.subscribe("c#ephemeral", topic=topic, rdy=1)
        harness.broker.delete_topic(topic)
        harness.broker.listener = log = Log()
        new = harness.topic(topic)
        harness.round()
        harness.broker.unsubscribe(consumer.channel, consumer.subscription, set())
        harness.round()
        assert harness.broker.topics == {topic: new}
        assert log.events == [("topic created", topic)]

    def test_a_topic_made_again_is_empty(self) -> None:
        harness = Harness()
        harness.create()
        old = harness.publish(b"old")
        harness.broker.delete_topic("t")
        new = harness.publish(b"new")
        assert not set(old.ids) & set(new.ids), "ids never repeat"
        harness.kill()
        assert harness.drain(harness.subscribe(rdy=10)) == [b"new"]

    def test_a_topic_whose_deletion_is_refused_stays(self) -> None:
        harness = Harness()
        harness.create()
        harness.publish(b"a")
        harness.fail("rename_folder", errno.EIO)
        with pytest.raises(Refused):
            harness.broker.delete_topic("t")
        harness.heal()
        assert harness.drain(harness.subscribe(rdy=1)) == [b"a"]

    def test_files_go_later_and_the_name_is_free_at_once(self) -> None:
        harness = Harness()
        harness.run_jobs = False
        harness.publish(b"old")
        harness.broker.delete_topic("t")
        harness.publish(b"new")
        assert [folder.split("-")[0] for folder in harness.memory.folders()] == ["topic", "trash"]
        while harness.jobs:
            harness.run_job()
        assert harness.memory.folders() == ["topic-t"]


class TestStart:
    def held_back(self, harness: Harness) -> Broker:
        harness.broker.lookup_first = lambda topic: True
        return harness.broker

    @pytest.mark.parametrize("topic", ["t", "t#ephemeral"])
    def test_a_topic_waits_until_its_channels_are_known(self, topic: str) -> None:
        harness = Harness()
        self.held_back(harness)
        consumer = harness.subscribe("c", topic=topic, rdy=10)
        assert harness.publish(b"a", topic=topic).acknowledged
        assert consumer.bodies() == []
        harness.create("d", topic)
        harness.topic(topic).start()
        harness.round()
        assert consumer.bodies() == [b"a"]
        assert harness.channel("d", topic).depth == 1

    def test_a_paused_one_stays_paused(self) -> None:
        harness = Harness()
        self.held_back(harness)
        harness.create()
        harness.topic().pause(True)
        harness.publish(b"a")
        harness.topic().start()
        assert harness.channel().depth == 0
        harness.topic().pause(False)
        assert harness.channel().depth == 1

    def test_a_topic_flows_after_a_kill(self) -> None:
        harness = Harness()
        self.held_back(harness)
        harness.create()
        harness.publish(b"a")
        harness.kill()
        assert harness.drain(harness.subscribe(rdy=1)) == [b"a"]


def test_listeners_are_told_what_comes_and_goes() -> None:
    harness = Harness()
    harness.broker.listener = log = Log()
    harness.create("c", "t")
    harness.create("d#ephemeral", "t")
    harness.topic().delete_channel("c")
    harness.broker.delete_topic("t")
    assert log.events == [
        ("topic created", "t"),
        ("channel created", "t", "c"),
        ("channel created", "t", "d#ephemeral"),
        ("channel deleted", "t", "c"),
        ("topic deleted", "t"),
    ]


def test_counters_of_a_topic() -> None:
    harness = Harness()
    harness.publish(b"abc", b"de")
    harness.defer(b"f", 1)
    topic = harness.topic()
    assert (topic.message_count, topic.message_bytes) == (3, 6)


@pytest.mark.parametrize("name", [".", "..", "a.b-c_D", "x" * 64])
def test_every_legal_name_is_one_folder(name: str) -> None:
    harness = Harness()
    harness.create(topic=name)
    harness.publish(b"a", topic=name)
    harness.kill()
    assert list(harness.broker.topics) == [name]
    assert harness.channel(topic=name).depth == 1


def test_the_clock_of_a_message_is_the_wall() -> None:
    harness = Harness()
    consumer = harness.subscribe(rdy=1)
    harness.now += 0.5
    harness.publish(b"a")
    assert consumer.received[0].timestamp_ns == harness.wall_ns
    assert consumer.received[0].timestamp_ns % SECOND_NS == SECOND_NS // 2


def test_a_publish_with_neither_room_nor_descriptors_is_refused() -> None:
    """ENOSPC asks for the ballast, and the ballast for a descriptor: the publish is refused, nothing is raised."""
    harness = Harness()
    harness.create()
    receipt = harness.send(b"x")

    def fault(operation: str, path: str) -> Fault | None:
        if operation == "append" and "topic-" in path:
            return Fail(errno.ENOSPC)
        return Fail(errno.EMFILE) if operation == "files" and not path else None

    harness.storage.fault = fault
    harness.round()
    assert receipt.error


def test_a_topic_delivers_again_after_a_commit_that_ran_out_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The numbers of the messages were given up, but nobody was told: from then on the pump span."""
    harness = Harness()
    consumer = harness.subscribe(rdy=100)

    def exhausted(*_: object, **__: object) -> list[bytes]:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(TopicLog, "_encode", exhausted)
        harness.send(b"lost", b"lost too")
        with pytest.raises(MemoryError):
            harness.broker.commit()
    harness._receipts.clear()
    harness.publish(b"one")
    harness.publish(b"two")
    assert consumer.bodies() == [b"one", b"two"]
