"""The setting `retain`: which finished messages stay for replays, how long, and that they go first on a full disk."""

from __future__ import annotations

import errno

import pytest

from nsqd.broker import BrokerOptions
from nsqd.log.store import StoreOptions
from nsqd.log.topic_log import TopicLog
from nsqd.rules import Retain, parse_rules
from tests.nsqd.broker.harness import SECOND_NS, Consumer, Harness, view_of

SEGMENT = 4096
PER_SEGMENT = 8  # messages of `flow`
HOUR_NS = 3600 * SECOND_NS


def log_of(harness: Harness, topic: str = "t") -> TopicLog:
    return view_of(harness.topic(topic)).log


def retaining(age: int | None = None, size: int | None = None, **options: object) -> tuple[Harness, Consumer]:
    """A topic whose messages are finished at once, with this rule."""
    store = StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=SEGMENT)
    harness = Harness(store, **options)
    consumer = harness.subscribe(rdy=100)
    harness.topic().set_limits({"retain": Retain(age, size)})
    return harness, consumer


def flow(harness: Harness, consumer: Consumer, count: int, topic: str = "t") -> None:
    """A message a second, which is finished at once."""
    for _ in range(count):
        harness.advance(1.0)
        harness.publish(b"x" * 400, topic=topic)
        harness.drain(consumer)
        while harness.broker.step_snapshots():
            pass


def settle(harness: Harness, seconds: int = 10) -> None:
    for _ in range(seconds):
        harness.advance(1.0)
        while harness.broker.step_snapshots():
            pass


def kept(harness: Harness, topic: str = "t") -> int:
    """Bytes of the complete segments."""
    return sum(segment.file.size for segment in log_of(harness, topic).segments[:-1])


class TestByAge:
    @pytest.mark.parametrize("mem_queue_size", [0, 10_000])
    def test_messages_stay_for_so_long(self, mem_queue_size: int) -> None:
        harness, consumer = retaining(60 * SECOND_NS, mem_queue_size=mem_queue_size)
        flow(harness, consumer, 40)
        settle(harness)
        assert log_of(harness).complete_from == 0
        flow(harness, consumer, 100)
        log = log_of(harness)
        found = log.look().first_since(harness.wall_ns - 60 * SECOND_NS, 0)
        assert found is not None
        assert 140 - 61 - 3 * PER_SEGMENT < log.complete_from <= found[0] == 140 - 61

    def test_nothing_is_published_any_more(self) -> None:
        """They go when it is time, without anything else that happens."""
        harness, consumer = retaining(60 * SECOND_NS)
        flow(harness, consumer, 40)
        settle(harness, 45)
        assert log_of(harness).complete_from == 2 * PER_SEGMENT
        settle(harness, 120)
        assert kept(harness) <= SEGMENT

    def test_after_a_start(self) -> None:
        """Times are those of the messages, not those of files or of the start."""
        harness, consumer = retaining(60 * SECOND_NS)
        flow(harness, consumer, 40)
        harness.kill()
        settle(harness, 20)
        assert log_of(harness).complete_from == 0
        settle(harness, 120)
        assert log_of(harness).complete_from > 20

    def test_a_last_message_that_cannot_be_read(self) -> None:
        """I15: an error is tried again, and nothing is removed meanwhile."""
        harness, consumer = retaining(60 * SECOND_NS, mem_queue_size=0)
        flow(harness, consumer, 40)
        harness.kill()
        harness.fail("open", errno.EIO, path=".log")
        settle(harness, 100)
        assert log_of(harness).complete_from == 0
        harness.heal()
        settle(harness, 70)
        assert log_of(harness).complete_from > 20

    def test_numbers_that_were_aborted_at_the_end_of_a_segment(self) -> None:
        harness, consumer = retaining(60 * SECOND_NS, mem_queue_size=0)
        flow(harness, consumer, 5)
        harness.fail("append")
        harness.publish(*[b"aborted"] * 50)
        harness.heal()
        log_of(harness).roll()
        segment = log_of(harness).segments[0]
        assert log_of(harness).look().newest(segment) == harness.wall_ns
        flow(harness, consumer, 55)
        settle(harness, 5)
        assert segment in log_of(harness).segments
        settle(harness, 30)
        assert segment not in log_of(harness).segments


class TestBySize:
    def test_the_newest_bytes_stay(self) -> None:
        harness, consumer = retaining(size=5 * SEGMENT)
        flow(harness, consumer, 200)
        settle(harness)
        assert 3 * SEGMENT <= kept(harness) <= 6 * SEGMENT

    def test_the_first_limit_that_is_exceeded(self) -> None:
        harness, consumer = retaining(HOUR_NS, 5 * SEGMENT)
        flow(harness, consumer, 200)
        settle(harness)
        assert kept(harness) <= 6 * SEGMENT
        harness.topic().set_limits({"retain": Retain(20 * SECOND_NS, 5 * SEGMENT)})
        settle(harness, 40)
        assert kept(harness) <= SEGMENT


def test_a_rule_that_is_removed() -> None:
    harness, consumer = retaining(HOUR_NS)
    flow(harness, consumer, 100)
    settle(harness)
    assert log_of(harness).complete_from == 0
    harness.topic().set_limits({})
    settle(harness)
    assert log_of(harness).complete_from > 80


def test_a_rule_of_the_configuration_file() -> None:
    harness = Harness(
        StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=SEGMENT),
        rules=parse_rules([{"topic": "keep*", "retain": "1h"}]),
    )
    assert isinstance(harness.options, BrokerOptions)
    for topic in ("keep-it", "t"):
        flow(harness, harness.subscribe("c", topic=topic, rdy=10), 50, topic)
    settle(harness)
    assert log_of(harness, "keep-it").complete_from == 0
    assert log_of(harness).complete_from > 30


def test_it_is_no_backlog() -> None:
    harness, consumer = retaining(HOUR_NS)
    flow(harness, consumer, 100)
    channel, retention = harness.channel(), harness.broker.retentions["t"]
    assert retention.retained_bytes == kept(harness) > 0
    harness.topic().seek_channel("c", 0)
    harness.rdy(consumer, 0)
    settle(harness, 2)
    assert retention.retained_bytes < kept(harness) / 3, "all of it is a backlog"
    harness.topic().seek_channel("c", 100)
    settle(harness, 2)
    assert retention.retained_bytes == kept(harness)
    assert (channel.depth, channel.backend_depth, harness.topic().depth, channel.oldest()) == (0, 0, 0, None)


def test_nothing_is_moved_out_of_what_stays() -> None:
    """I16: a message that waits for long costs nothing there; it is moved when its segment is about to go."""
    harness, consumer = retaining(100 * SECOND_NS)
    harness.defer(b"old", 1000.0)
    flow(harness, consumer, 80)
    settle(harness)
    assert not log_of(harness).moved
    settle(harness, 200)
    assert list(log_of(harness).moved) == [0]
    assert len(log_of(harness).segments) <= 3


def test_what_is_too_old_and_needed_is_read_once() -> None:
    """A backlog that is older than the rule says: its times are not read again and again."""
    harness, consumer = retaining(2 * SECOND_NS, mem_queue_size=0)
    harness.rdy(consumer, 0)
    flow(harness, consumer, 50)
    harness.run_jobs = False
    reads = 0
    for _ in range(100):
        harness.advance(1.0)
        for _ in harness.jobs:
            reads += harness.run_job().name == "read"
        while harness.broker.step_snapshots():
            pass
    assert reads <= len(log_of(harness).segments)
    assert harness.channel().depth == 50


def test_a_replay_of_what_stays() -> None:
    harness, consumer = retaining(HOUR_NS, mem_queue_size=3)
    flow(harness, consumer, 60)
    harness.kill()
    settle(harness)
    consumer = harness.subscribe(rdy=100)
    assert harness.drain(consumer) == []
    harness.topic().seek_channel("c", 0)
    harness.round()
    assert len(harness.drain(consumer)) == 60
    settle(harness)
    assert log_of(harness).complete_from == 0


class TestNoRoom:
    MIN_FREE = 80_000

    def crowded(self, capacity: int, topics: list[str]) -> tuple[Harness, list[Consumer]]:
        harness = Harness(
            StoreOptions(min_free_space=self.MIN_FREE, ballast_bytes=0, max_segment_bytes=SEGMENT),
            rules=parse_rules([{"retain": "24h"}]),
        )
        harness.memory.__init__(capacity)  # type: ignore[misc]
        harness.broker = harness._boot()
        return harness, [harness.subscribe("c", topic=topic, rdy=10) for topic in topics]

    def test_nothing_is_refused_while_anything_is_retained(self, caplog: pytest.LogCaptureFixture) -> None:
        harness, (consumer,) = self.crowded(240_000, ["t"])
        for _ in range(600):
            harness.advance(1.0)
            assert harness.publish(b"x" * 400).acknowledged
            assert harness.broker.health == "OK"
            harness.drain(consumer)
            while harness.broker.step_snapshots():
                pass
        assert harness.memory.free_space() >= self.MIN_FREE
        assert kept(harness) > 40_000, "no more than needed goes"
        assert any("not retained any longer" in message for message in caplog.messages)

    def test_the_oldest_of_all_topics_go_first(self) -> None:
        harness, (old, new) = self.crowded(220_000, ["old", "new"])
        flow(harness, old, 150, "old")
        settle(harness)
        before = kept(harness, "old")
        flow(harness, new, 150, "new")
        settle(harness)
        assert log_of(harness, "new").complete_from == 0
        assert kept(harness, "old") < before

    def test_only_what_is_retained_goes(self) -> None:
        """Messages that a channel needs stay, and publishes are refused in the end."""
        harness, (consumer,) = self.crowded(240_000, ["t"])
        flow(harness, consumer, 50)
        harness.rdy(consumer, 0)
        accepted = 0
        for _ in range(600):
            harness.advance(1.0)
            if harness.broker.store.space.full:
                break
            accepted += harness.publish(b"y" * 400).acknowledged
            while harness.broker.step_snapshots():
                pass
        assert 100 < accepted < 600
        settle(harness)
        harness.rdy(consumer, 10)
        assert harness.drain(consumer) == [b"y" * 400] * accepted
