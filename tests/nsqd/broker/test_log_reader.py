"""Bodies that are not in memory any more: read in place, read by a job, read late, read in vain."""

from __future__ import annotations

import errno
import random
import time

import pytest

from nsqd.broker import Outbox
from nsqd.log.store import StoreOptions
from tests.nsqd.broker.harness import Consumer, Harness, conserved

SMALL_SEGMENTS = StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=600)


def cold_harness(mem_queue_size: int = 0) -> Harness:
    """Nothing is in the page cache, and jobs are held back."""
    harness = Harness(mem_queue_size=mem_queue_size)
    harness.memory.cold = True
    harness.run_jobs = False
    return harness


@pytest.mark.parametrize("mem_queue_size", [0, 1, 10])
@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("segment_bytes", [500, 1 << 20])
class TestBehindTheWindow:
    def harness(self, mem_queue_size: int, cold: bool, segment_bytes: int) -> Harness:
        options = StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=segment_bytes)
        harness = Harness(options, mem_queue_size=mem_queue_size)
        harness.memory.cold = cold
        return harness

    def test_everything_comes_once_and_in_order(
        self, mem_queue_size: int, cold: bool, segment_bytes: int
    ) -> None:
        harness = self.harness(mem_queue_size, cold, segment_bytes)
        harness.create()
        bodies = [body for _ in range(30) for body in harness.publish_many(7)]
        channel = harness.channel()
        assert (channel.depth, channel.backend_depth) == (210, 210 - mem_queue_size)
        consumer = harness.subscribe(rdy=9)
        assert harness.drain(consumer) == bodies
        assert len({message.id for message in consumer.received}) == 210
        assert (channel.depth, channel.backend_depth, channel.counts.damaged) == (0, 0, 0)
        assert conserved(channel)

    def test_from_the_disk_into_the_window_without_a_gap(
        self, mem_queue_size: int, cold: bool, segment_bytes: int
    ) -> None:
        harness = self.harness(mem_queue_size, cold, segment_bytes)
        harness.create()
        bodies = harness.publish_many(50)
        consumer, got = harness.subscribe(rdy=3), []
        for _ in range(40):
            bodies += harness.publish_many(2)
            got += consumer.bodies()
            harness.finish(consumer)
        assert got + harness.drain(consumer) == bodies

    def test_requeued_ones_come_with_the_same_bytes(
        self, mem_queue_size: int, cold: bool, segment_bytes: int
    ) -> None:
        harness = self.harness(mem_queue_size, cold, segment_bytes)
        consumer = harness.subscribe(rdy=100)
        harness.publish_many(60)
        first = consumer.new()
        for message_id in consumer.in_flight[::2]:
            harness.requeue(consumer, message_id, 1.0)
        harness.publish_many(30)
        consumer.new()
        harness.advance(1)
        again = consumer.new()
        assert sorted(m.id for m in again) == sorted(m.id for m in first[::2])
        originals = {m.id: m for m in first}
        for message in again:
            original = originals[message.id]
            assert (message.body, message.timestamp_ns) == (original.body, original.timestamp_ns)
            assert message.attempts == 2

    def test_deferred_ones_too(self, mem_queue_size: int, cold: bool, segment_bytes: int) -> None:
        harness = self.harness(mem_queue_size, cold, segment_bytes)
        consumer = harness.subscribe(rdy=100)
        for seq in range(20):
            harness.defer(b"d%d" % seq, 5.0)
            harness.publish(b"m%d" % seq)
        assert consumer.bodies() == [b"m%d" % seq for seq in range(20)]
        harness.advance(5)
        assert sorted(consumer.bodies()) == sorted(b"d%d" % seq for seq in range(20))

    def test_channels_read_on_their_own(self, mem_queue_size: int, cold: bool, segment_bytes: int) -> None:
        harness = self.harness(mem_queue_size, cold, segment_bytes)
        for name in ("c", "d", "e"):
            harness.create(name)
        bodies = harness.publish_many(100)
        for rdy, name in ((1, "c"), (10, "d"), (100, "e")):
            assert harness.drain(harness.subscribe(name, rdy=rdy)) == bodies


class TestHeldBack:
    def test_nothing_comes_before_the_read_has_ended(self) -> None:
        harness = cold_harness()
        consumer = harness.subscribe(rdy=10)
        bodies = harness.publish_many(5)
        harness.advance(0.5)
        assert (consumer.received, [job.name for job in harness.jobs]) == ([], ["read"])
        harness.run_job()
        assert consumer.bodies() == bodies

    def test_one_read_at_a_time_for_each_channel(self) -> None:
        harness = cold_harness()
        consumers = [harness.subscribe(name, rdy=1) for name in ("c", "d") for _ in range(3)]
        for _ in range(5):
            harness.publish_many(5)
        assert [job.name for job in harness.jobs] == ["read", "read"]
        while harness.jobs:
            harness.run_job()
        assert all(len(consumer.in_flight) == 1 for consumer in consumers)

    def test_a_slow_read_stops_no_other_topic(self) -> None:
        harness = cold_harness()
        slow = harness.subscribe(topic="slow", rdy=1)
        harness.publish(b"a", topic="slow")
        harness.memory.cold = False
        fast = harness.subscribe(topic="fast", rdy=1)
        harness.publish(b"b", topic="fast")
        assert (slow.received, fast.bodies()) == ([], [b"b"])

    def test_messages_published_during_a_read_follow(self) -> None:
        harness = cold_harness(mem_queue_size=2)
        consumer = harness.subscribe()
        bodies = harness.publish_many(6)
        harness.rdy(consumer, 20)
        bodies += harness.publish_many(3)
        assert consumer.received == []
        while harness.jobs:
            harness.run_job()
        assert consumer.bodies() == bodies

    def test_a_client_that_left_gets_nothing(self) -> None:
        harness = cold_harness()
        other = harness.subscribe()
        consumer = harness.subscribe(rdy=5)
        harness.publish(b"a")
        harness.disconnect(consumer)
        harness.run_job()
        assert (consumer.outbox.items, harness.channel().depth) == ([], 1)
        harness.rdy(other, 1)
        while harness.jobs:
            harness.run_job()
        assert other.bodies() == [b"a"]

    def test_a_channel_paused_meanwhile_gets_nothing(self) -> None:
        harness = cold_harness()
        consumer = harness.subscribe(rdy=5)
        harness.publish(b"a")
        harness.topic().pause_channel("c", True)
        harness.run_job()
        assert consumer.received == []
        harness.topic().pause_channel("c", False)
        harness.round()
        assert consumer.bodies() == [b"a"]


class TestEarlierLives:
    def test_emptied_while_a_read_is_under_way(self) -> None:
        harness = cold_harness()
        consumer = harness.subscribe(rdy=5)
        harness.publish(b"old", b"older")
        harness.topic().empty_channel("c")
        harness.publish(b"new")
        assert len(harness.jobs) == 2
        harness.run_job()
        assert consumer.received == []
        harness.run_job()
        assert consumer.bodies() == [b"new"]
        assert conserved(harness.channel())

    def test_in_the_other_order(self) -> None:
        harness = cold_harness()
        consumer = harness.subscribe(rdy=5)
        harness.publish(b"old")
        harness.topic().empty_channel("c")
        harness.publish(b"new")
        harness.run_job(1)
        assert consumer.bodies() == [b"new"]
        harness.run_job()
        assert consumer.bodies() == []

    def test_the_channel_was_made_again(self) -> None:
        harness = cold_harness()
        harness.subscribe(rdy=5)
        harness.publish(b"old")
        harness.topic().delete_channel("c")
        consumer = harness.subscribe(rdy=5)
        harness.publish(b"new")
        while harness.jobs:
            harness.run_job()
        assert consumer.bodies() == [b"new"]

    @pytest.mark.parametrize("order", [0, -1])
    def test_the_topic_was_made_again(self, order: int) -> None:
        harness = cold_harness()
        harness.subscribe(rdy=5)
        harness.publish(b"old")
        harness.broker.delete_topic("t")
        consumer = harness.subscribe(rdy=5)
        harness.publish(b"new")
        while harness.jobs:
            harness.run_job(order)
        assert consumer.bodies() == [b"new"]
        assert harness.broker.store.fatal is None


class TestTrouble:
    def test_an_error_of_the_disk_is_no_damage(self) -> None:
        harness = Harness(mem_queue_size=0)
        harness.create()
        bodies = harness.publish_many(3)
        harness.fail("read", errno.EIO)
        consumer = harness.subscribe(rdy=5)
        assert consumer.received == []
        harness.advance(2)
        harness.heal()
        harness.round()
        assert consumer.received == [], "it is tried again in a second"
        harness.advance(1)
        assert consumer.bodies() == bodies
        assert harness.channel().counts.damaged == 0

    def test_an_error_in_a_job_is_no_damage_either(self) -> None:
        harness = cold_harness()
        consumer = harness.subscribe(rdy=5)
        harness.publish(b"a")
        harness.fail("read", errno.EIO)
        harness.run_job()
        assert harness.jobs == []
        harness.heal()
        harness.advance(1)
        harness.run_job()
        assert consumer.bodies() == [b"a"]

    @pytest.mark.parametrize("cold", [False, True])
    @pytest.mark.parametrize("bad", [0, 5, 9])
    def test_damage_is_counted_and_skipped(self, bad: int, cold: bool) -> None:
        harness = Harness(mem_queue_size=0)
        harness.memory.cold = cold
        harness.create("c")
        harness.create("d")
        bodies = [b"body-%d" % seq for seq in range(10)]
        for body in bodies:
            harness.publish(body)
        harness.corrupt(bodies[bad])
        kept = [body for body in bodies if body != bodies[bad]]
        for name in ("c", "d"):
            consumer = harness.subscribe(name, rdy=3)
            assert harness.drain(consumer) == kept
            channel = harness.channel(name)
            assert (channel.counts.damaged, channel.depth) == (1, 0)
            assert conserved(channel)
        harness.publish(b"new")
        assert harness.drain(consumer) == [b"new"]
        aside = [name for name in harness.memory.files("topic-t") if name.endswith(".damaged")]
        assert len(aside) == 1, "the bytes are kept"

    @pytest.mark.parametrize("cold", [False, True])
    def test_damage_to_all_there_is(self, cold: bool) -> None:
        harness = Harness(mem_queue_size=0)
        harness.memory.cold = cold
        harness.create()
        harness.publish(b"only-one")
        harness.corrupt(b"only-one")
        consumer = harness.subscribe(rdy=3)
        assert harness.drain(consumer) == []
        assert (harness.channel().counts.damaged, harness.channel().depth) == (1, 0)
        harness.publish(b"new")
        assert harness.drain(consumer) == [b"new"]

    @pytest.mark.parametrize("cold", [False, True])
    def test_damage_to_what_waits_for_another_delivery(self, cold: bool) -> None:
        harness = Harness(mem_queue_size=0, mem_queue_bytes=0)
        harness.memory.cold = cold
        consumer = harness.subscribe(rdy=10)
        ids = [harness.publish(b"body-%d" % seq).ids[0] for seq in range(3)]
        harness.rdy(consumer, 0)
        for message_id in ids:
            harness.requeue(consumer, message_id)
        harness.corrupt(b"body-1")
        consumer.new()
        harness.rdy(consumer, 10)
        assert consumer.bodies() == [b"body-0", b"body-2"]
        channel = harness.channel()
        assert (channel.counts.damaged, channel.depth) == (1, 0)
        assert conserved(channel)

    def test_after_a_kill_the_damage_is_known(self) -> None:
        harness = Harness(mem_queue_size=0)
        harness.create()
        for seq in range(5):
            harness.publish(b"body-%d" % seq)
        harness.corrupt(b"body-2")
        harness.kill()
        channel = harness.channel()
        assert (channel.depth, channel.counts.damaged) == (4, 1)
        assert harness.drain(harness.subscribe(rdy=2)) == [b"body-0", b"body-1", b"body-3", b"body-4"]
        harness.kill()
        assert harness.channel().counts.damaged == 1, "counted once"


class TestSegments:
    def test_segments_are_removed_when_every_channel_is_done_and_a_snapshot_says_so(self) -> None:
        harness = Harness(SMALL_SEGMENTS, mem_queue_size=0)
        quick, slow = harness.subscribe("quick", rdy=5), harness.subscribe("slow")
        bodies = [body for _ in range(20) for body in harness.publish_many(5)]
        assert harness.drain(quick) == bodies

        def segments() -> int:
            return sum(name.endswith(".log") for name in harness.memory.files("topic-t"))

        before = segments()
        for _ in range(3):
            harness.snapshot()
            harness.advance(1)
        # One may have only finishes in it.
        assert segments() >= before - 1 > 3, "the other channel needs them"
        harness.rdy(slow, 5)
        assert harness.drain(slow) == bodies
        for _ in range(3):
            harness.publish(bytes(600))
            harness.drain(quick)
            harness.drain(slow)
            harness.snapshot()
            harness.advance(1)
        assert segments() <= 3
        harness.kill()
        for name in ("quick", "slow"):
            channel = harness.channel(name)
            assert (channel.depth, channel.counts.damaged) == (0, 0)

    def test_finishes_that_could_not_be_written_let_none_go(self) -> None:
        harness = Harness(SMALL_SEGMENTS, mem_queue_size=0)
        consumer = harness.subscribe(rdy=100)
        bodies = [body for _ in range(20) for body in harness.publish_many(5)]
        for _ in range(2):
            harness.snapshot()
        harness.fail("append", errno.EIO)
        harness.finish(consumer)
        harness.advance(1)
        harness.advance(1)
        harness.kill()
        assert harness.broker.store.notes == []
        assert harness.drain(harness.subscribe(rdy=100)) == bodies

    def test_a_backlog_of_the_topic_keeps_segments(self) -> None:
        harness = Harness(SMALL_SEGMENTS, mem_queue_size=0)
        bodies = [body for _ in range(20) for body in harness.publish_many(5)]
        for _ in range(3):
            harness.snapshot()
            harness.advance(1)
        assert harness.drain(harness.subscribe(rdy=7)) == bodies

    def test_a_sync_that_ends_after_its_segment_went_is_no_failure(self) -> None:
        harness = Harness(SMALL_SEGMENTS, mem_queue_size=0)
        consumer = harness.subscribe(rdy=100)
        for _ in range(5):
            harness.publish(bytes(600))
            harness.drain(consumer)
        harness.snapshot()
        harness.run_jobs = False
        harness.snapshot()
        harness.run_job()
        store = harness.broker.store
        store.syncer.want(store.syncer.written)
        names = [job.name for job in harness.jobs]
        assert {"sync", "remove"} <= set(names)
        harness.run_job(names.index("remove"))
        while harness.jobs:
            harness.run_job()
        assert store.fatal is None
        assert store.syncer.synced > 0


def test_read_ahead_of_all_channels_is_bounded() -> None:
    harness = Harness(mem_queue_size=0, mem_queue_bytes=200_000)
    for name in "abcdef":
        harness.create(name)
    for _ in range(50):
        harness.publish(*[bytes(1000)] * 10)
    consumers = [harness.subscribe(name, rdy=3) for name in "abcdef"]
    assert harness.broker.context.read_ahead.used <= 200_000
    for consumer in consumers:
        assert len(harness.drain(consumer)) == 500
    assert harness.channel("a").depth == 0


def pump_seconds(delays_ns: list[int]) -> float:
    """CPU seconds of one `Broker.pump` when deferred bodies that only the disk has are due to one consumer."""
    harness = Harness(mem_queue_size=100)
    harness.create()
    topic = harness.topic()
    harness.broker.advance(harness.now, harness.wall_ns)
    for delay_ns in delays_ns:
        topic.publish_deferred(harness._frame(b"x" * 200), delay_ns)
    harness.round()
    harness.advance(60.0)
    assert harness.channel().depth == len(delays_ns)
    consumer = Consumer()
    consumer.outbox = Outbox(consumer, 128 * 1024)
    consumer.channel, consumer.subscription = topic.subscribe("c", consumer.outbox, 60.0)
    consumer.channel.set_rdy(consumer.subscription, 2500)
    harness.broker.advance(harness.now, harness.wall_ns)
    began = time.thread_time()
    harness.broker.pump()
    seconds = time.thread_time() - began
    assert consumer.outbox.items
    return seconds


def test_deferred_messages_out_of_order_do_not_stop_the_loop() -> None:
    """A pump that finds 20,000 messages due in random order does not read for all of them."""
    rng = random.Random(1)
    delays_ns = [int(rng.random() * 50e9) + 10**9 for _ in range(20_000)]
    assert pump_seconds(delays_ns) < 30 * pump_seconds(sorted(delays_ns))  # measured: 4 times


def test_damage_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message near a damaged one is handed out again and again; its neighbour is not lost anew each time."""
    harness = Harness(mem_queue_size=0)
    harness.create()
    harness.publish(b"damaged-one")
    harness.publish(b"b")
    harness.corrupt(b"damaged-one")
    reported = []
    monkeypatch.setattr(harness.broker.context, "report_damage", lambda name, damage: reported.append(damage))
    consumer = harness.subscribe(rdy=1)
    for _ in range(50):
        harness.requeue(consumer, consumer.in_flight[0])
    assert [m.body for m in consumer.received] == [b"b"] * 51
    assert len(reported) <= 2
