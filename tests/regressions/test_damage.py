"""What damaged records may do to the state of a topic. Every test here states what should hold, and failed once."""

from __future__ import annotations

import errno
import random

import pytest

from nsqd.broker.log_channel import LogChannel
from nsqd.log.records import FILE_HEADER_SIZE
from nsqd.log.store import StoreOptions
from nsqd.testing.faulty_storage import Fail, Fault
from tests.nsqd.broker.harness import Consumer, Harness

SMALL_SEGMENTS = StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=8192)


def segments(h: Harness) -> list[str]:
    return [name for name in h.memory.files("topic-t") if name.endswith(".log")]


def invert(h: Harness, name: str, start: int, end: int) -> None:
    """These bytes of a file of the topic."""
    data = h.memory._folder("topic-t").names[name].data  # type: ignore[union-attr]
    data[start:end] = bytes(byte ^ 0xFF for byte in data[start:end])  # type: ignore[index]


# --- what came before a channel whose record is missing


def test_a_backlog_is_there_when_the_record_of_its_first_channel_is_damaged() -> None:
    """I1: what came before is whole, and was never delivered. It waits for the next channel."""
    h = Harness()
    h.publish_many(100)
    h.defer(b"later", 5.0)
    h.create("first-channel")
    h.publish(b"one more")
    h.defer(b"later, too", 5.0)
    h.corrupt(b"first-channel")
    h.kill()
    assert h.topic().depth == 103


def test_a_segment_behind_an_unreadable_one_is_there() -> None:
    """I1: the channel's record was in the first one."""
    h = Harness(SMALL_SEGMENTS)
    h.create("first-channel")
    h.publish(b"x" * 9000)
    h.publish(b"in the second segment")
    assert len(segments(h)) == 2
    invert(h, segments(h)[0], 0, 4096)
    h.kill()
    assert b"in the second segment" in h.drain(h.subscribe("first-channel", rdy=10))


def test_what_is_left_is_there_when_no_snapshot_can_be_read() -> None:
    """I1: and the log begins behind the channel's record."""
    h = Harness(SMALL_SEGMENTS)
    consumer = h.subscribe("first-channel", rdy=10)
    for _ in range(4):
        h.publish(b"x" * 9000)
        h.drain(consumer)
        h.snapshot()
    h.disconnect(consumer)
    h.advance(5)
    assert segments(h)[0] > "00000000000000000000.log"
    h.publish(b"the last")
    for name in h.memory.files("topic-t"):
        if name.endswith(".snap"):
            invert(h, name, 0, FILE_HEADER_SIZE)
    h.kill()
    assert b"the last" in h.drain(h.subscribe("first-channel", rdy=10))


# --- a channel that was made later


def test_a_later_channel_does_not_get_what_came_before_it() -> None:
    h = Harness()
    h.create("first-channel")
    h.publish(b"before")
    h.defer(b"before, too", 5.0)
    h.create("later")
    h.publish(b"after")
    h.corrupt(b"first-channel")
    h.kill()
    consumer = h.subscribe("later", rdy=10)
    h.advance(10)
    assert h.drain(consumer) == [b"after"]


def test_what_an_ephemeral_channel_has_consumed_does_not_come_again() -> None:
    h = Harness()
    consumer = h.subscribe("e#ephemeral", rdy=100)
    h.publish(b"damaged-one")
    h.publish_many(50)
    h.drain(consumer)
    h.create("durable")
    h.corrupt(b"damaged-one")
    h.kill()
    assert h.channel("durable").depth == 0


# --- whatever is damaged


def history(chance: random.Random) -> Harness:
    """A topic with up to three channels, after a little of everything."""
    h = Harness(StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=3000))
    h.topic()
    consumers: dict[str, Consumer] = {}
    for step in range(chance.randrange(5, 25)):
        kind = chance.random()
        if kind < 0.35:
            padding = b"." * chance.choice([0, 300])
            h.publish(*[b"%d %d %s" % (step, seq, padding) for seq in range(chance.randrange(1, 5))])
        elif kind < 0.5:
            h.defer(b"%d" % step, chance.choice([1.0, 5.0]))
        elif kind < 0.7:
            name = chance.choice(["one", "two", "e#ephemeral"])
            if name not in consumers:
                consumers[name] = h.subscribe(name, rdy=chance.choice([0, 3, 100]))
        elif kind < 0.85 and consumers:
            h.finish(chance.choice(list(consumers.values())))
        elif kind < 0.9:
            h.advance(1.0)
        elif kind < 0.95:
            h.snapshot()
        else:
            h.topic().pause(chance.random() < 0.5)
    return h


def damage(h: Harness, chance: random.Random) -> None:
    """A byte or some hundred of them, here and there."""
    for _ in range(chance.choice([0, 1, 1, 2])):
        name = chance.choice(h.memory.files("topic-t"))
        start = chance.randrange(3000)
        invert(h, name, start, start + chance.choice([1, 1, 40, 600]))


def waiting(h: Harness) -> dict[str, int]:
    """How many messages of each channel do; none of them may be settled: its segment might go before it does."""
    counts = {}
    topic = h.broker.topics.get("t")
    for channel in topic.channels.values() if topic else ():
        assert isinstance(channel, LogChannel)
        assert topic is not None
        assert topic.depth >= 0
        assert channel.fresh >= 0
        fresh = [n for n in range(channel.cursor, channel.topic.high_watermark) if n not in channel.skip]
        for seq in (*fresh, *channel.deferred, *(entry[0] for entry in channel.requeued)):
            assert seq not in channel.settled
        counts[channel.name] = channel.depth + len(channel.deferred)
    return counts


@pytest.mark.parametrize("seeds", [range(at, at + 100) for at in range(0, 500, 100)], ids=str)
def test_a_second_restart_finds_what_the_first_one_has_found(seeds: range) -> None:
    """I13."""
    for seed in seeds:
        chance = random.Random(seed)
        h = history(chance)
        damage(h, chance)
        h.kill()
        found = waiting(h)
        h.kill()
        assert waiting(h) == found, f"seed {seed}"


# --- the end


def test_a_stop_that_has_written_everything_at_the_second_try_is_in_order() -> None:
    """The ballast has made room for what is finished."""
    h = Harness()
    consumer = h.subscribe(rdy=5)
    h.publish(b"a", b"b")
    consumer.subscription.finish(consumer.in_flight)
    failures = [Fail(errno.ENOSPC)]

    def fault(operation: str, path: str) -> Fault | None:
        return failures.pop() if operation == "append" and "topic-" in path and failures else None

    h.storage.fault = fault
    h.restart()
    assert not failures
    assert h.broker.store.clean
    assert h.channel().depth == 0
