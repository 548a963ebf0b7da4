"""The time from publish to finish, for messages that came whatever way."""

from __future__ import annotations

import pytest

from nsqd.broker.latency import BITS, ChannelLatency, LatencyHistogram, published_ns
from nsqkit.wire import encode_message

from .harness import SECOND_NS, Harness

WINDOW = 600.0


def measuring(**options: object) -> Harness:
    return Harness(latency_window=WINDOW, **options)


def samples(harness: Harness, channel: str = "c", topic: str = "t") -> LatencyHistogram:
    latency = harness.channel(channel, topic).latency
    assert latency is not None
    return latency.samples(harness.now)


def seconds(harness: Harness, channel: str = "c", topic: str = "t") -> list[float]:
    """Shortest and longest latency."""
    found = samples(harness, channel, topic)
    return [found.quantile(1e-9) / SECOND_NS, found.quantile(1.0) / SECOND_NS] if found.count else []


def test_off_by_default() -> None:
    harness = Harness()
    harness.create()
    assert harness.channel().latency is None


def test_the_publish_time_of_a_frame() -> None:
    assert (
        published_ns(encode_message(1_700_000_000_123_456_789, 3, b"0" * 16, b"x"))
        == 1_700_000_000_123_456_789
    )


@pytest.mark.parametrize(("topic", "channel"), [("t", "c"), ("t", "c#ephemeral"), ("t#ephemeral", "c")])
def test_from_publish_to_finish(topic: str, channel: str) -> None:
    harness = measuring()
    consumer = harness.subscribe(channel, topic=topic, rdy=10)
    harness.publish(b"1", topic=topic)
    harness.advance(2.5)
    harness.publish(b"2", topic=topic)
    harness.advance(0.5)
    assert seconds(harness, channel, topic) == []
    harness.finish(consumer)
    assert samples(harness, channel, topic).count == 2
    assert seconds(harness, channel, topic) == pytest.approx([0.5, 3.0], rel=2**-BITS)


def test_a_requeue_and_a_timeout_do_not_count_and_do_not_begin_anew() -> None:
    harness = measuring()
    consumer = harness.subscribe(rdy=10, timeout=8.0)
    harness.publish(b"1")
    (message,) = consumer.new()
    harness.requeue(consumer, message.id)
    harness.requeue(consumer, message.id, delay=2.0)
    harness.advance(2.0)
    harness.advance(8.0)
    assert samples(harness).count == 0
    assert consumer.new()[-1].attempts == 4
    harness.advance(1.0)
    harness.finish(consumer)
    assert seconds(harness) == [11.0, 11.0]


def test_a_deferred_message_counts_from_its_publish() -> None:
    harness = measuring()
    consumer = harness.subscribe(rdy=10)
    harness.defer(b"later", 5.0)
    harness.advance(5.0)
    harness.advance(1.0)
    harness.finish(consumer)
    assert seconds(harness) == [6.0, 6.0]


def test_messages_read_back_from_disk_count() -> None:
    harness = measuring(mem_queue_size=0)
    harness.create()
    harness.publish_many(10)
    harness.advance(4.0)
    consumer = harness.subscribe(rdy=10)
    harness.finish(consumer)
    assert (samples(harness).count, seconds(harness)) == (10, [4.0, 4.0])


def test_messages_of_an_earlier_life_count() -> None:
    harness = measuring()
    harness.create()
    harness.publish(b"1")
    harness.advance(3.0)
    harness.kill()
    consumer = harness.subscribe(rdy=1)
    harness.finish(consumer)
    assert seconds(harness) == [3.0, 3.0]


def test_a_lost_connection_does_not_lose_the_time() -> None:
    harness = measuring()
    first = harness.subscribe(rdy=10)
    first.taking = False
    harness.publish(b"never taken")
    harness.disconnect(first)
    second = harness.subscribe(rdy=10)
    harness.advance(1.0)
    harness.disconnect(second)
    third = harness.subscribe(rdy=10)
    harness.advance(1.0)
    assert harness.finish(third) == []
    assert seconds(harness) == [2.0, 2.0]


def test_a_sampled_out_message_is_no_sample() -> None:
    harness = measuring()
    consumer = harness.subscribe(rdy=100, sample=1)
    harness.publish_many(500)
    finished = len(harness.drain(consumer))
    assert finished < 200
    assert samples(harness).count == finished


def test_nothing_is_kept_of_what_is_not_in_flight() -> None:
    harness = measuring()
    consumer = harness.subscribe(rdy=100)
    harness.publish_many(40)
    kept = harness.channel().latency._published  # type: ignore[union-attr]
    assert len(kept) == 40
    ids = consumer.in_flight
    harness.requeue(consumer, ids[0], delay=60.0)
    assert len(kept) == 39
    harness.finish(consumer, *ids[1:10])
    assert len(kept) == 30
    harness.topic().empty_channel("c")
    assert not kept
    assert samples(harness).count == 9


def test_a_clock_set_back_makes_no_negative_times() -> None:
    latency = ChannelLatency(WINDOW, 0.0)
    latency.delivered([1], [encode_message(5 * SECOND_NS, 1, b"0" * 16, b"x")])
    latency.finished([1], 1.0, 2 * SECOND_NS)
    assert latency.samples(1.0).quantile(1.0) == 0


def test_the_window_turns_by_halves() -> None:
    latency = ChannelLatency(10.0, 100.0)

    def finish(at: float) -> None:
        latency.delivered([1], [encode_message(0, 1, b"0" * 16, b"x")])
        latency.finished([1], at, int(at * SECOND_NS))

    finish(101.0)
    finish(104.0)
    assert latency.samples(104.5).count == 2
    finish(105.5)  # a new half
    assert latency.samples(109.5).count == 3
    assert latency.samples(110.0).count == 1  # the first half is gone
    assert latency.samples(114.9).count == 1
    assert latency.samples(115.0).count == 0
    finish(116.0)
    assert latency.samples(1000.0).count == 0  # nobody looked for a long time
    finish(1001.0)
    assert latency.samples(1004.9).count == 1
    assert latency.samples(1005.0).count == 1
    assert latency.samples(1010.0).count == 0
    finish(2003.5)  # the halves begin at multiples of five still
    assert latency.samples(2009.9).count == 1
    assert latency.samples(2010.0).count == 0
