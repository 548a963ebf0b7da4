"""Damaged records, and the state of the topic and its channels after a restart."""

from __future__ import annotations

import random

import pytest

from nsqd.log.records import FILE_HEADER_SIZE
from nsqd.log.segment import Damage
from nsqd.log.store import StoreOptions
from tests.nsqd.broker.harness import Consumer, Harness

SMALL_SEGMENTS = StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=8192)


def segments(harness: Harness) -> list[str]:
    return [name for name in harness.memory.files("topic-t") if name.endswith(".log")]


def invert(harness: Harness, name: str, start: int, end: int) -> None:
    """Inverts these bytes of a file of the topic."""
    data = harness.memory._folder("topic-t").names[name].data  # type: ignore[union-attr]
    data[start:end] = bytes(byte ^ 0xFF for byte in data[start:end])  # type: ignore[index]


# --- messages from before a channel whose record is missing


@pytest.mark.parametrize("manifest", [True, False])
def test_a_backlog_is_there_when_the_record_of_its_first_channel_is_damaged(manifest: bool) -> None:
    """I1: the manifest has the channel. Without one, too, what came before waits for the next channel."""
    harness = Harness()
    bodies = harness.publish_many(100)
    harness.defer(b"later", 5.0)
    harness.create("first-channel")
    harness.publish(b"one more")
    harness.defer(b"later, too", 5.0)
    harness.corrupt(b"first-channel")
    if not manifest:
        harness.memory.remove("topic-t/manifest")
    harness.kill()
    if manifest:
        assert harness.drain(harness.subscribe("first-channel", rdy=10)) == [*bodies, b"one more"]
        assert len(harness.channel("first-channel").deferred) == 2
    else:
        assert harness.topic().depth == 103


def manifest_bytes(harness: Harness) -> bytes:
    """The manifest has a random number, so one that is written again differs."""
    return bytes(harness.memory._folder("topic-t").names["manifest"].data)  # type: ignore[union-attr, arg-type]


def test_a_start_does_not_write_a_manifest_that_is_current() -> None:
    """Else each start with thousands of topics would write as many files, and each stop once more."""
    harness = Harness()
    harness.create("c")
    harness.publish(b"a")
    harness.restart()
    written = manifest_bytes(harness)
    harness.advance(5.0)
    assert manifest_bytes(harness) == written
    harness.restart()
    assert manifest_bytes(harness) == written


def test_a_start_writes_a_manifest_that_is_missing_or_has_another_channel() -> None:
    """I1: the channel that a kill has kept out of it would be in one place only."""
    harness = Harness()
    harness.create("c")
    old = manifest_bytes(harness)
    harness.create("d")
    harness.memory._folder("topic-t").names["manifest"].data[:] = old  # type: ignore[union-attr, index]
    harness.kill()
    harness.advance(5.0)
    written = manifest_bytes(harness)
    assert b"d" in written
    assert written != old
    harness.memory.remove("topic-t/manifest")
    harness.kill()
    harness.advance(5.0)
    assert "manifest" in harness.memory.files("topic-t")


def test_a_segment_after_an_unreadable_one_is_read() -> None:
    """I1: the channel's record was in the first one."""
    harness = Harness(SMALL_SEGMENTS)
    harness.create("first-channel")
    harness.publish(b"x" * 9000)
    harness.publish(b"in the second segment")
    assert len(segments(harness)) == 2
    invert(harness, segments(harness)[0], 0, 4096)
    harness.kill()
    assert b"in the second segment" in harness.drain(harness.subscribe("first-channel", rdy=10))


def test_the_rest_of_a_log_is_read_when_no_snapshot_can_be_read() -> None:
    """I1: and the log begins behind the channel's record."""
    harness = Harness(SMALL_SEGMENTS)
    consumer = harness.subscribe("first-channel", rdy=10)
    for _ in range(4):
        harness.publish(b"x" * 9000)
        harness.drain(consumer)
        harness.snapshot()
    harness.disconnect(consumer)
    harness.advance(5)
    assert segments(harness)[0] > "00000000000000000000.log"
    harness.publish(b"the last")
    for name in harness.memory.files("topic-t"):
        if name.endswith(".snap"):
            invert(harness, name, 0, FILE_HEADER_SIZE)
    harness.kill()
    assert b"the last" in harness.drain(harness.subscribe("first-channel", rdy=10))


# --- a channel that was made later


def test_a_later_channel_does_not_get_older_messages() -> None:
    harness = Harness()
    harness.create("first-channel")
    harness.publish(b"before")
    harness.defer(b"before, too", 5.0)
    harness.create("later")
    harness.publish(b"after")
    harness.corrupt(b"first-channel")
    harness.kill()
    consumer = harness.subscribe("later", rdy=10)
    harness.advance(10)
    assert harness.drain(consumer) == [b"after"]


def test_messages_that_an_ephemeral_channel_has_consumed_are_not_redelivered() -> None:
    harness = Harness()
    consumer = harness.subscribe("e#ephemeral", rdy=100)
    harness.publish(b"damaged-one")
    harness.publish_many(50)
    harness.drain(consumer)
    harness.create("durable")
    harness.corrupt(b"damaged-one")
    harness.kill()
    assert harness.channel("durable").depth == 0


# --- damage at random


def history(chance: random.Random) -> Harness:
    """A topic with up to three channels, after a little of everything."""
    harness = Harness(StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=3000))
    harness.topic()
    consumers: dict[str, Consumer] = {}
    for step in range(chance.randrange(5, 25)):
        kind = chance.random()
        if kind < 0.35:
            padding = b"." * chance.choice([0, 300])
            harness.publish(
                *[b"%d %d %s" % (step, number, padding) for number in range(chance.randrange(1, 5))]
            )
        elif kind < 0.5:
            harness.defer(b"%d" % step, chance.choice([1.0, 5.0]))
        elif kind < 0.7:
            name = chance.choice(["one", "two", "e#ephemeral"])
            if name not in consumers:
                consumers[name] = harness.subscribe(name, rdy=chance.choice([0, 3, 100]))
        elif kind < 0.85 and consumers:
            harness.finish(chance.choice(list(consumers.values())))
        elif kind < 0.9:
            harness.advance(1.0)
        elif kind < 0.95:
            harness.snapshot()
        else:
            harness.topic().pause(chance.random() < 0.5)
    return harness


def damage(harness: Harness, chance: random.Random) -> None:
    """A byte or some hundred of them, here and there."""
    for _ in range(chance.choice([0, 1, 1, 2])):
        name = chance.choice(harness.memory.files("topic-t"))
        start = chance.randrange(3000)
        invert(harness, name, start, start + chance.choice([1, 1, 40, 600]))


def waiting(harness: Harness) -> dict[str, int]:
    """Counts the messages that each channel has yet to settle. None may be marked as settled: its segment might go."""
    counts = {}
    topic = harness.broker.topics.get("t")
    for channel in topic.channels.values() if topic else ():
        assert topic is not None
        assert topic.depth >= 0
        channel.invariant()
        counts[channel.name] = channel.depth + len(channel.deferred)
    return counts


@pytest.mark.parametrize("seeds", [range(at, at + 100) for at in range(0, 500, 100)], ids=str)
def test_a_second_restart_finds_what_the_first_one_has_found(seeds: range) -> None:
    """I13."""
    for seed in seeds:
        chance = random.Random(seed)
        harness = history(chance)
        damage(harness, chance)
        harness.kill()
        found = waiting(harness)
        harness.kill()
        assert waiting(harness) == found, f"seed {seed}"


@pytest.mark.parametrize(
    ("end", "said"), [(9, "messages 7 to 8 are lost"), (7, "no message is lost")], ids=["two", "none"]
)
def test_what_is_lost_is_said_as_it_is(end: int, said: str, caplog: pytest.LogCaptureFixture) -> None:
    Harness().broker.context.report_damage("t", Damage("topic-t/0.log", 5, 37, 7, end, "bad"))
    assert caplog.messages == [
        f"TOPIC(t): topic-t/0.log is damaged at byte 5 (bad): 37 bytes set aside, {said}"
    ]
