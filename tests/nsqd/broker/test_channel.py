"""How channels share out and what they count. The life of a message is in `test_life.py`."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest

from nsqd.broker import NotFound, NotInFlight, Refused
from nsqd.broker.log_backlog import LogBacklog
from tests.nsqd.broker.harness import Harness, conserved


class TestSharing:
    def test_consumers_get_fair_shares(self) -> None:
        harness = Harness()
        consumers = [harness.subscribe(rdy=100) for _ in range(4)]
        harness.publish_many(200)
        assert [len(consumer.new()) for consumer in consumers] == [50] * 4

    def test_shares_differ_by_one_at_most(self) -> None:
        harness = Harness()
        consumers = [harness.subscribe(rdy=100) for _ in range(4)]
        harness.publish_many(203)
        assert sorted(len(consumer.new()) for consumer in consumers) == [50, 51, 51, 51]

    def test_small_windows_are_filled_in_turn(self) -> None:
        harness = Harness()
        harness.create()
        harness.publish_many(1000)
        consumers = [harness.subscribe(rdy=0) for _ in range(5)]
        for consumer in consumers:
            consumer.channel.set_rdy(consumer.subscription, 10)
        counts = [0] * len(consumers)
        for _ in range(10):
            harness.round()
            for at, consumer in enumerate(consumers):
                counts[at] += len(consumer.new())
                consumer.channel.finish(consumer.subscription, consumer.in_flight)
        assert counts == [100] * 5

    def test_one_message_at_a_time_goes_round(self) -> None:
        harness = Harness()
        consumers = [harness.subscribe(rdy=1) for _ in range(3)]
        for _ in range(30):
            harness.publish(b"x")
            for consumer in consumers:
                if consumer.in_flight:
                    harness.finish(consumer)
        assert [len(consumer.new()) for consumer in consumers] == [10] * 3

    def test_large_bodies_are_shared_in_turns_of_bounded_bytes(self) -> None:
        harness = Harness()
        consumers = [harness.subscribe(rdy=100, limit=1 << 30) for _ in range(2)]
        harness.publish(*[bytes(40_000)] * 100)
        counts = [len(consumer.new()) for consumer in consumers]
        assert sum(counts) == 100
        assert max(counts) - min(counts) <= 2, "the first turn does not take it all"

    def test_requeued_and_fresh_come_in_turn(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=20)
        harness.publish_many(20)
        old = {message.id for message in consumer.new()}
        harness.rdy(consumer, 1)
        for message_id in old:
            harness.requeue(consumer, message_id)
        harness.publish_many(20)
        order = []
        while consumer.in_flight:
            order += [message.id in old for message in consumer.new()]
            harness.finish(consumer)
        assert sorted(order) == [False] * 20 + [True] * 20
        # The first was in flight already, and one kind ends before the other.
        assert order[1:-1] == [True, False] * 19

    def test_order_is_kept_while_nothing_is_requeued(self) -> None:
        harness = Harness(mem_queue_size=7)
        harness.create()
        bodies = [body for _ in range(5) for body in harness.publish_many(20)]
        consumer = harness.subscribe(rdy=3)
        assert harness.drain(consumer) == bodies

    def test_one_blocked_consumer_stops_no_other(self) -> None:
        harness = Harness()
        blocked = harness.subscribe(rdy=1000, limit=1)
        blocked.taking = False
        harness.publish(b"first")
        other = harness.subscribe(rdy=10)
        bodies = harness.publish_many(100)
        stuck = [message.body for message in blocked.unsent]
        assert len(stuck) <= 2
        assert sorted(harness.drain(other) + stuck) == sorted([b"first", *bodies])
        assert conserved(harness.channel())

    def test_one_blocked_channel_stops_no_other(self) -> None:
        harness = Harness(mem_queue_size=1)
        blocked = harness.subscribe("blocked", rdy=1000, limit=1)
        blocked.taking = False
        free = harness.subscribe("free", rdy=10)
        bodies = harness.publish_many(100)
        assert harness.drain(free) == bodies
        harness.take(blocked)
        assert harness.drain(blocked) == bodies


class TestPause:
    def test_nothing_is_delivered_while_paused(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=10)
        harness.topic().pause_channel("c", True)
        harness.publish(b"a", b"b")
        harness.rdy(consumer, 5)
        harness.advance(1)
        assert (consumer.received, harness.channel().depth) == ([], 2)
        harness.topic().pause_channel("c", False)
        harness.round()
        assert consumer.bodies() == [b"a", b"b"]

    def test_answers_and_time_outs_go_on(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=4, timeout=10)
        a, b, c, _ = harness.publish(b"a", b"b", b"c", b"d").ids
        harness.topic().pause_channel("c", True)
        harness.finish(consumer, a)
        harness.requeue(consumer, b, 5)
        harness.now += 6
        harness.touch(consumer, c)
        channel = harness.channel()
        assert (channel.depth, channel.in_flight_count, len(channel.deferred)) == (1, 2, 0)
        harness.advance(5)
        assert (channel.depth, channel.in_flight_count, channel.counts.timed_out) == (2, 1, 1)
        assert len(consumer.received) == 4

    @pytest.mark.parametrize("paused", [True, False])
    def test_a_pause_survives_a_kill(self, paused: bool) -> None:
        harness = Harness()
        harness.create()
        harness.topic().pause_channel("c", True)
        harness.topic().pause_channel("c", paused)
        harness.kill()
        assert harness.channel().paused is paused

    def test_pausing_what_is_not_there(self) -> None:
        with pytest.raises(NotFound):
            Harness().topic().pause_channel("c", True)


class TestEmpty:
    @pytest.mark.parametrize("name", ["c", "c#ephemeral"])
    def test_everything_goes_and_delivery_goes_on(self, name: str) -> None:
        harness = Harness()
        consumer = harness.subscribe(name, rdy=2)
        ids = harness.publish(b"a", b"b", b"c", b"d").ids
        harness.requeue(consumer, ids[0], 5)
        harness.defer(b"later", 5)
        assert len(consumer.in_flight) == 2
        harness.topic().empty_channel(name)
        harness.round()
        channel = harness.channel(name)
        assert (channel.depth, channel.in_flight_count, len(channel.deferred)) == (0, 0, 0)
        assert channel.counts.entered == 5, "counters stay"
        assert harness.finish(consumer, ids[1]) == [ids[1]], "its FIN comes too late"
        consumer.new()
        harness.publish(b"new", b"newer")
        assert consumer.bodies() == [b"new", b"newer"], "the window is free again"
        harness.advance(10)
        assert consumer.bodies() == []
        assert conserved(channel)

    def test_an_emptied_channel_is_empty_after_a_kill(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1)
        (first, *_) = harness.publish(b"a", b"b").ids
        harness.requeue(consumer, first, 5)
        harness.topic().empty_channel("c")
        harness.kill()
        channel = harness.channel()
        assert (channel.depth, len(channel.deferred)) == (0, 0)

    def test_other_channels_keep_theirs(self) -> None:
        harness = Harness()
        harness.create("c")
        harness.create("d")
        harness.publish(b"a", b"b")
        harness.topic().empty_channel("c")
        assert (harness.channel("c").depth, harness.channel("d").depth) == (0, 2)


class TestDelete:
    def test_clients_of_a_deleted_channel_are_disconnected(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1)
        (message_id, _) = harness.publish(b"a", b"b").ids
        harness.topic().delete_channel("c")
        assert consumer.disconnected
        assert harness.finish(consumer, message_id) == [message_id]
        with pytest.raises(NotInFlight):
            harness.touch(consumer, message_id)
        harness.rdy(consumer, 10)
        harness.disconnect(consumer)
        with pytest.raises(NotFound):
            harness.channel()

    def test_a_channel_made_again_is_new(self) -> None:
        harness = Harness()
        harness.create("other")
        harness.create("c")
        harness.publish(b"old")
        harness.topic().delete_channel("c")
        harness.create("c")
        assert harness.channel().depth == 0
        harness.publish(b"new")
        harness.kill()
        assert harness.channel().depth == 1
        assert harness.drain(harness.subscribe(rdy=5)) == [b"new"]

    @pytest.mark.parametrize("stop", [Harness.kill, Harness.restart])
    def test_a_deletion_survives_a_restart(self, stop: Callable[[Harness], None]) -> None:
        harness = Harness()
        harness.create()
        harness.publish(b"old")
        harness.topic().delete_channel("c")
        stop(harness)
        assert harness.topic().channels == {}

    def test_messages_in_flight_to_a_departed_client_are_forgotten(self) -> None:
        harness = Harness()
        for _ in range(2):
            consumer = harness.subscribe(rdy=1, timeout=10)
            if not harness.channel().counts.entered:
                harness.publish(b"a")
            harness.disconnect(consumer)
        assert harness.channel().in_flight_count == 1
        harness.broker.delete_topic("t")
        harness.advance(10)
        assert harness.broker.store.space.health == "OK", (
            "nothing is written to the log of a topic that is gone"
        )


class TestConsumers:
    def test_there_may_be_a_limit(self) -> None:
        harness = Harness(max_channel_consumers=2)
        first, _ = harness.subscribe(), harness.subscribe()
        with pytest.raises(Refused, match=r"consumers for t:c exceeds limit of 2"):
            harness.subscribe()
        assert len(harness.channel().subscriptions) == 2
        harness.subscribe("other")
        harness.disconnect(first)
        assert harness.subscribe(rdy=1).subscription.rdy == 1

    def test_a_sampling_client_finishes_the_rest(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=10_000, sample=30)
        harness.publish_many(2000)
        channel = harness.channel()
        got = len(consumer.new())
        assert 400 < got < 900, "about thirty in a hundred"
        assert (channel.depth, channel.counts.dropped) == (0, 2000 - got)
        assert conserved(channel)
        harness.finish(consumer)
        harness.kill()
        assert harness.channel().depth == 0, "what was sampled out is finished"

    def test_without_sampling_everything_comes(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1000, sample=0)
        assert harness.publish_many(500) == consumer.bodies()


class TestCounters:
    def test_each_counts_its_own(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=3, timeout=10)
        a, b, _ = harness.publish(b"a", b"b", b"c").ids
        harness.finish(consumer, a)
        harness.requeue(consumer, b)
        harness.advance(10)
        channel, client = harness.channel(), consumer.subscription
        assert (channel.counts.entered, channel.counts.finished) == (3, 1)
        assert (channel.counts.requeued, channel.counts.timed_out) == (1, 2)
        assert (client.message_count, client.finish_count, client.requeue_count) == (6, 1, 1)
        assert channel.counts.delivered == 6

    def test_counters_begin_at_zero_after_a_restart(self) -> None:
        harness = Harness()
        harness.create()
        harness.publish(b"a", b"b")
        harness.restart()
        channel, topic = harness.channel(), harness.topic()
        assert (channel.depth, channel.counts.entered, topic.message_count) == (2, 0, 0)


def test_subscriptions_that_come_and_go_leave_no_entries_in_the_queue_of_waiting_consumers() -> None:
    harness = Harness()
    harness.create()
    for _ in range(1000):
        harness.disconnect(harness.subscribe(rdy=1))
    assert len(harness.channel().delivery.queues[0]) <= 10


def test_a_deleted_channel_is_freed_though_it_had_deferred_messages() -> None:
    harness = Harness()
    harness.create()
    for n in range(100):
        harness.defer(b"x", 3000.0 + n)
    gone = weakref.ref(harness.channel())
    harness.topic().delete_channel("c")
    harness.round()
    gc.collect()
    assert gone() is None


class TestFinishedElsewhere:
    def test_what_is_ready_is_finished_for_good(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=2)
        ids = harness.publish(*[b"m"] * 10).ids
        assert [message.id for message in consumer.new()] == ids[:2]
        for _ in range(2):  # also when it is said twice
            harness.channel().finish_elsewhere([(0, 4), (6, 9)])
            harness.round()
        assert harness.channel().depth == 3
        harness.finish(consumer)
        harness.kill()
        assert [message.id for message in harness.subscribe(rdy=10).new()] == [ids[4], ids[5], ids[9]]

    def test_a_billion_messages_cost_no_more_than_one(self) -> None:
        harness = Harness()
        harness.create()
        backlog = harness.channel().backlog
        assert isinstance(backlog, LogBacklog)
        backlog.view.high_watermark = 10**12
        assert backlog.finish_ready([(0, 10), (0, 10**12 - 1)]) == 10**12 - 1
        assert list(backlog.settled) == [(0, 10**12 - 1)]
        assert backlog.ready == 1
