"""A client's window, and its answers: RDY, FIN, REQ, TOUCH, time-outs, attempts, and what happens when it goes."""

from __future__ import annotations

import time

import pytest

from nsqd.broker import NotInFlight, NotOwner, Outbox
from nsqd.broker.subscription import SAMPLES
from nsqkit.wire.frames import MAX_ATTEMPTS
from tests.nsqd.broker.harness import Harness, conserved

CHANNELS = ["c", "c#ephemeral"]


class TestWindow:
    @pytest.mark.parametrize("name", CHANNELS)
    @pytest.mark.parametrize("rdy", [0, 1, 2, 7, 100])
    def test_no_more_than_rdy_are_in_flight(self, rdy: int, name: str) -> None:
        harness = Harness()
        consumer = harness.subscribe(name, rdy=rdy)
        for _ in range(5):
            harness.publish_many(5)
            assert len(consumer.in_flight) <= rdy
        assert len(consumer.in_flight) == min(rdy, 25)

    def test_an_answer_makes_room(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=2)
        a, b, *_ = harness.publish(b"a", b"b", b"c", b"d").ids
        harness.finish(consumer, a)
        assert consumer.bodies() == [b"a", b"b", b"c"]
        harness.requeue(consumer, b, 1.0)
        assert consumer.bodies() == [b"d"]
        assert len(consumer.in_flight) == 2

    def test_a_smaller_window_takes_nothing_back(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=4)
        harness.publish_many(6)
        harness.rdy(consumer, 2)
        assert len(consumer.in_flight) == 4
        for message_id in consumer.in_flight[:2]:
            harness.finish(consumer, message_id)
        assert len(consumer.received) == 4
        harness.finish(consumer, consumer.in_flight[0])
        assert len(consumer.received) == 5

    def test_a_closed_window_gets_nothing_and_may_answer(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=2)
        harness.publish_many(4)
        consumer.subscription.close_window()
        assert harness.finish(consumer) == []
        assert len(consumer.received) == 2

    def test_nothing_comes_before_the_answer_to_sub(self) -> None:
        harness = Harness()
        harness.create()
        harness.publish(b"a")
        consumer = harness.subscribe()
        consumer.subscription.awaiting_commit = True
        harness.rdy(consumer, 1)
        assert consumer.received == []
        consumer.subscription.awaiting_commit = False
        harness.channel().offer(consumer.subscription)
        harness.round()
        assert consumer.bodies() == [b"a"]

    def test_a_full_outbox_gets_no_more_until_the_socket_took_some(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1000, limit=100)
        consumer.taking = False
        for _ in range(20):
            harness.publish(b"x" * 40)
        assert len(consumer.in_flight) == len(consumer.unsent) == 2
        harness.take(consumer)
        assert len(consumer.received) == 20
        assert conserved(harness.channel())


class TestFinish:
    @pytest.mark.parametrize("name", CHANNELS)
    def test_a_finish_is_final(self, name: str) -> None:
        harness = Harness()
        consumer = harness.subscribe(name, rdy=10, timeout=10)
        ids = harness.publish(b"a", b"b", b"c").ids
        assert harness.finish(consumer, *ids[:2]) == []
        harness.advance(10)
        assert consumer.bodies() == [b"a", b"b", b"c", b"c"]

    def test_ids_that_are_not_in_flight_are_returned_and_the_rest_is_finished(self) -> None:
        harness = Harness()
        consumer, another = harness.subscribe(rdy=10), harness.subscribe()
        ids = harness.publish(b"a", b"b").ids
        unknown = b"0" * 16
        assert harness.finish(another, ids[0]) == [ids[0]]
        assert harness.finish(consumer, ids[0], unknown, ids[0], ids[1]) == [unknown, ids[0]]
        assert harness.channel().counts.finished == 2
        assert consumer.subscription.finish_count == 2
        assert isinstance(consumer.channel.why_missing(unknown), NotInFlight)

    def test_the_two_errors_in_words(self) -> None:
        assert str(NotInFlight()) == "ID not in flight"
        assert str(NotOwner()) == "client does not own message"

    def test_in_any_order(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=100)
        ids = harness.publish(*[b"x"] * 100).ids
        for step in (7, 3, 1):
            harness.finish(consumer, *[i for i in ids[::step] if i in consumer.subscription.in_flight])
        assert harness.channel().counts.finished == 100
        harness.kill()
        assert harness.channel().depth == 0


class TestTimings:
    def test_nothing_is_known_before_the_first_answer(self) -> None:
        consumer = Harness().subscribe(rdy=1)
        known = consumer.subscription
        assert (known.handling_time, known.finished_at, known.oldest_delivery()) == (None, None, None)

    @pytest.mark.parametrize("name", CHANNELS)
    def test_the_handling_time_is_from_delivery_to_finish(self, name: str) -> None:
        harness = Harness()
        consumer = harness.subscribe(name, rdy=1)
        for _ in range(3):
            harness.publish(b"a")
            harness.advance(2.5)
            harness.finish(consumer)
            assert consumer.subscription.handling_time == 2.5
            assert consumer.subscription.finished_at == harness.now
            harness.advance(7)

    def test_the_average_follows_a_consumer_that_becomes_slower(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1)
        harness.publish_many(101)
        averages = []
        for answer in range(101):
            harness.advance(0.25 if answer == 0 else 4.25)
            harness.finish(consumer)
            averages.append(consumer.subscription.handling_time)
        assert averages[0] == 0.25
        assert averages[1] == 0.25 + 4 / SAMPLES
        assert averages == sorted(averages)
        assert averages[-1] == pytest.approx(4.25, abs=0.01)

    def test_a_touch_does_not_shorten_it(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1, timeout=10)
        (message_id,) = harness.publish(b"a").ids
        for _ in range(3):
            harness.advance(8)
            harness.touch(consumer, message_id)
        assert consumer.subscription.oldest_delivery() == harness.now - 24
        harness.finish(consumer, message_id)
        assert consumer.subscription.handling_time == 24

    def test_other_answers_are_no_finish(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1, timeout=10)
        (message_id,) = harness.publish(b"a").ids
        harness.advance(1)
        harness.requeue(consumer, message_id)
        harness.advance(10)
        harness.finish(consumer, b"0" * 16)
        assert (consumer.subscription.handling_time, consumer.subscription.finished_at) == (None, None)

    def test_the_oldest_delivery_is_that_of_a_touched_message(self) -> None:
        """TOUCH moves a message behind younger ones in the table."""
        harness = Harness()
        consumer = harness.subscribe(rdy=2, timeout=10)
        (old,) = harness.publish(b"old").ids
        delivered_at = harness.now
        harness.advance(3)
        (new,) = harness.publish(b"new").ids
        harness.touch(consumer, old)
        assert consumer.in_flight == [new, old]
        assert consumer.subscription.oldest_delivery() == delivered_at
        harness.finish(consumer, old)
        assert consumer.subscription.oldest_delivery() == delivered_at + 3


class TestRequeue:
    @pytest.mark.parametrize("name", CHANNELS)
    def test_at_once(self, name: str) -> None:
        harness = Harness()
        consumer = harness.subscribe(name, rdy=1)
        (message_id,) = harness.publish(b"a").ids
        harness.requeue(consumer, message_id)
        assert [message.attempts for message in consumer.new()] == [1, 2]
        assert harness.channel(name).counts.requeued == 1

    @pytest.mark.parametrize("name", CHANNELS)
    @pytest.mark.parametrize("delay", [0.25, 1.0, 60.0, 3600.0])
    def test_a_delayed_message_is_neither_early_nor_late(self, delay: float, name: str) -> None:
        harness = Harness()
        consumer = harness.subscribe(name, rdy=1)
        (message_id,) = harness.publish(b"a").ids
        harness.requeue(consumer, message_id, delay)
        consumer.new()
        harness.advance(delay - 0.125)
        assert consumer.new() == []
        channel = harness.channel(name)
        assert (channel.depth, len(channel.deferred), channel.in_flight_count) == (0, 1, 0)
        harness.advance(0.125)
        assert [message.attempts for message in consumer.new()] == [2]

    def test_in_the_order_of_their_times(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=5)
        ids = harness.publish(*[b"%d" % delay for delay in (3, 1, 5, 2, 4)]).ids
        for message_id, delay in zip(ids, (3, 1, 5, 2, 4), strict=True):
            harness.requeue(consumer, message_id, float(delay))
        consumer.new()
        for second in range(1, 6):
            harness.advance(1)
            assert consumer.bodies() == [b"%d" % second]


class TestTouch:
    @pytest.mark.parametrize("name", CHANNELS)
    def test_the_time_begins_anew(self, name: str) -> None:
        harness = Harness(max_msg_timeout=100.0)
        consumer = harness.subscribe(name, rdy=1, timeout=10)
        (message_id,) = harness.publish(b"a").ids
        for _ in range(5):
            harness.advance(9.5)
            harness.touch(consumer, message_id)
        harness.advance(9.5)
        assert len(consumer.new()) == 1
        harness.advance(0.5)
        assert [message.attempts for message in consumer.new()] == [2]

    def test_never_past_the_limit(self) -> None:
        harness = Harness(max_msg_timeout=25.0)
        consumer = harness.subscribe(rdy=2, timeout=10)
        first, other = harness.publish(b"touched", b"other").ids
        harness.finish(consumer, other)
        begin = harness.now
        while harness.now < begin + 24.5:
            harness.advance(0.5)
            harness.touch(consumer, first)
        assert len(consumer.new()) == 2
        harness.advance(0.5)
        assert consumer.bodies() == [b"touched"]
        assert harness.channel().counts.timed_out == 1

    def test_a_message_at_the_touch_limit_times_out_before_later_ones(self) -> None:
        harness = Harness(max_msg_timeout=12.0)
        consumer = harness.subscribe(rdy=10, timeout=10)
        old = harness.publish(b"old").ids[0]
        harness.advance(8)
        harness.publish(b"new")  # until 18
        harness.touch(consumer, old)  # until 12, and behind the other in the table
        consumer.new()
        harness.advance(3.5)
        assert consumer.bodies() == []
        harness.advance(0.5)
        assert consumer.bodies() == [b"old"]
        harness.advance(6)
        assert consumer.bodies() == [b"new"]

    def test_the_limit_is_that_of_this_delivery(self) -> None:
        harness = Harness(max_msg_timeout=15.0)
        consumer = harness.subscribe(rdy=1, timeout=10)
        (message_id,) = harness.publish(b"a").ids
        harness.advance(8)
        harness.touch(consumer, message_id)  # until 15
        harness.advance(1)
        harness.requeue(consumer, message_id)  # delivered at once: until 19
        consumer.new()
        harness.advance(9.5)
        assert consumer.new() == [], "the limit of the first delivery means nothing now"
        harness.advance(0.5)
        assert [message.attempts for message in consumer.new()] == [3]

    def test_many_at_the_limit_take_no_room(self) -> None:
        harness = Harness(max_msg_timeout=10.0)
        consumer = harness.subscribe(rdy=2, timeout=10)
        touched, requeued = harness.publish(b"touched", b"requeued").ids
        harness.advance(0.25)
        for _ in range(500):
            harness.touch(consumer, touched)
            harness.touch(consumer, requeued)
            harness.requeue(consumer, requeued)
            harness.now += 0.001
        assert len(consumer.subscription._capped) < 200
        consumer.new()
        harness.advance(10)
        assert consumer.bodies() == [b"touched", b"requeued"]

    def test_attempts_do_not_change(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1)
        (message_id,) = harness.publish(b"a").ids
        harness.touch(consumer, message_id)
        harness.requeue(consumer, message_id)
        assert [message.attempts for message in consumer.new()] == [1, 2]


class TestTimeOut:
    @pytest.mark.parametrize("name", CHANNELS)
    def test_to_the_moment(self, name: str) -> None:
        harness = Harness()
        consumer = harness.subscribe(name, rdy=10, timeout=10)
        for second in range(4):
            harness.publish(b"%d" % second)
            harness.advance(1)
        consumer.new()
        harness.advance(5.75)
        assert consumer.bodies() == []
        for second in range(4):
            harness.advance(0.25)
            assert consumer.bodies() == [b"%d" % second]
            harness.advance(0.75)
        assert harness.channel(name).counts.timed_out == 4

    def test_many_at_once_are_spread_over_rounds(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=10_000, timeout=1.0)
        harness.publish_many(10_000)
        harness.rdy(consumer, 0)
        harness.now += 1
        harness.broker.advance(harness.now, harness.wall_ns)
        harness.broker.fire_timers()
        assert 0 < harness.channel().counts.timed_out < 5000
        harness.round()
        assert harness.channel().counts.timed_out == 10_000
        assert conserved(harness.channel())

    def test_each_client_has_its_own(self) -> None:
        harness = Harness()
        quick, slow = harness.subscribe(rdy=1, timeout=2), harness.subscribe(rdy=1, timeout=20)
        harness.publish(b"a", b"b")
        assert len(quick.new()) == len(slow.new()) == 1
        harness.advance(2)
        assert (len(quick.new()), len(slow.new())) == (1, 0)

    def test_the_window_is_free_again(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1, timeout=5)
        harness.publish(b"a", b"b")
        seen = consumer.bodies()
        for _ in range(3):
            harness.advance(5)
            seen += consumer.bodies()
        assert sorted(seen) == [b"a", b"a", b"b", b"b"]

    def test_an_answer_that_comes_too_late_is_told(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1, timeout=5)
        (message_id,) = harness.publish(b"a").ids
        harness.rdy(consumer, 0)
        harness.advance(5)
        with pytest.raises(NotInFlight):
            harness.requeue(consumer, message_id)
        with pytest.raises(NotInFlight):
            harness.touch(consumer, message_id)
        assert harness.finish(consumer, message_id) == [message_id]
        assert harness.channel().depth == 1

    def test_after_a_long_sleep_all_come_back(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=100, timeout=5)
        bodies = harness.publish_many(100)
        harness.rdy(consumer, 0)
        harness.advance(100_000)
        assert harness.channel().depth == 100
        other = harness.subscribe(rdy=100)
        assert sorted(harness.drain(other)) == sorted(bodies)


class TestAttempts:
    @pytest.mark.parametrize("name", CHANNELS)
    def test_one_more_with_each_delivery(self, name: str) -> None:
        harness = Harness()
        consumer = harness.subscribe(name, rdy=1, timeout=5)
        (message_id,) = harness.publish(b"a").ids
        harness.requeue(consumer, message_id)
        harness.advance(5)
        harness.requeue(consumer, message_id, 2.0)
        harness.advance(2)
        assert [message.attempts for message in consumer.new()] == [1, 2, 3, 4]
        assert {message.body for message in consumer.received} == {b"a"}

    @pytest.mark.parametrize("name", CHANNELS)
    def test_attempts_saturate(self, name: str) -> None:
        harness = Harness()
        consumer = harness.subscribe(name, rdy=1)
        (message_id,) = harness.publish(b"a").ids
        consumer.subscription.rdy = 0
        harness.requeue(consumer, message_id)
        requeued = harness.channel(name).requeued
        requeued[0] = (requeued[0][0], MAX_ATTEMPTS - 1)
        harness.rdy(consumer, 1)
        for _ in range(2):
            harness.requeue(consumer, message_id)
        assert [message.attempts for message in consumer.new()] == [1, *[MAX_ATTEMPTS] * 3]

    def test_each_channel_counts_its_own(self) -> None:
        harness = Harness()
        first, second = harness.subscribe("c", rdy=1), harness.subscribe("d", rdy=1)
        (message_id,) = harness.publish(b"a").ids
        harness.requeue(first, message_id)
        assert (first.received[-1].attempts, second.received[-1].attempts) == (2, 1)


class TestDisconnect:
    @pytest.mark.parametrize("name", CHANNELS)
    def test_unsent_messages_go_back_without_an_attempt(self, name: str) -> None:
        harness = Harness()
        other = harness.subscribe(name)
        consumer = harness.subscribe(name, rdy=3)
        consumer.taking = False
        harness.publish(b"a", b"b", b"c")
        assert len(consumer.in_flight) == 3
        harness.disconnect(consumer)
        harness.rdy(other, 10)
        assert [(message.body, message.attempts) for message in other.new()] == [
            (b"a", 1),
            (b"b", 1),
            (b"c", 1),
        ]
        assert harness.channel(name).counts.timed_out == 0

    def test_unsent_after_a_requeue(self) -> None:
        harness = Harness()
        other = harness.subscribe()
        consumer = harness.subscribe(rdy=1)
        (message_id,) = harness.publish(b"a").ids
        consumer.taking = False
        harness.requeue(consumer, message_id)
        assert [message.attempts for message in consumer.unsent] == [2]
        harness.disconnect(consumer)
        harness.rdy(other, 1)
        assert [message.attempts for message in other.new()] == [2]

    @pytest.mark.parametrize("name", CHANNELS)
    def test_the_first_loss_comes_back_at_once_the_second_waits(self, name: str) -> None:
        harness = Harness()
        harness.subscribe(name)
        first = harness.subscribe(name, rdy=1, timeout=10)
        harness.publish(b"a")
        harness.disconnect(first)
        second = harness.subscribe(name, rdy=1, timeout=10)
        assert [message.attempts for message in second.new()] == [2]
        harness.advance(4)
        harness.disconnect(second)
        third = harness.subscribe(name, rdy=1, timeout=10)
        harness.advance(5.5)
        assert third.new() == []
        assert harness.channel(name).in_flight_count == 1
        harness.advance(0.5)
        assert [message.attempts for message in third.new()] == [3]
        channel = harness.channel(name)
        assert (channel.counts.timed_out, len(channel.delivery.disconnected)) == (2, 0)
        assert conserved(channel)

    def test_a_finished_message_is_no_loss(self) -> None:
        harness = Harness()
        for _ in range(2):
            consumer = harness.subscribe(rdy=1, timeout=10)
            harness.publish(b"a")
            harness.finish(consumer)
            harness.disconnect(consumer)
        assert harness.channel().counts.timed_out == 0
        assert not harness.channel().delivery.disconnected

    def test_others_go_on(self) -> None:
        harness = Harness()
        stays, goes = harness.subscribe(rdy=50), harness.subscribe(rdy=50)
        bodies = harness.publish_many(100)
        harness.disconnect(goes)
        assert sorted(harness.drain(stays)) == sorted(bodies)

    def test_commands_after_a_disconnect_have_no_effect(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1)
        (message_id, _) = harness.publish(b"a", b"b").ids
        harness.disconnect(consumer)
        harness.rdy(consumer, 10)
        assert harness.finish(consumer, message_id) == [message_id]
        assert harness.channel().depth == 2
        harness.channel().detach(consumer.subscription, set())
        assert conserved(harness.channel())


def unknown_finish_seconds(subscriptions: int) -> float:
    """CPU seconds of a chunk of FINs with unknown ids, on a channel with so many subscriptions."""
    harness = Harness()
    harness.create()
    first, *_ = [
        harness.topic().subscribe("c", Outbox(None, 1 << 20), 60.0)  # type: ignore[arg-type]
        for _ in range(subscriptions)
    ]
    ids = [b"%016x" % number for number in range(5000)]
    began = time.thread_time()
    channel, subscription = first
    for message_id in channel.finish(subscription, ids):
        channel.why_missing(message_id)
    return time.thread_time() - began


def test_finishing_unknown_ids_does_not_cost_more_with_every_subscription() -> None:
    assert unknown_finish_seconds(2000) < 50 * unknown_finish_seconds(2)  # measured: 4 times
