"""Bodies of messages that wait for another delivery or for the end of their delay: kept, or read ahead."""

from __future__ import annotations

import errno
import random

import pytest

from nsqd.testing.faulty_storage import Fail
from tests.nsqd.broker.harness import Consumer, Harness, conserved, log_backlog

BODY = b"%0100d"


class Reads:
    """Counts the reads of segments."""

    def __init__(self, harness: Harness) -> None:
        self.count = 0
        harness.storage.fault = self._note

    def _note(self, operation: str, path: str) -> None:
        self.count += operation == "read" and path.endswith(".log")


def publish(harness: Harness, count: int) -> list[bytes]:
    bodies = [BODY % seq for seq in range(count)]
    for at in range(0, count, 50):
        harness.publish(*bodies[at : at + 50])
    return bodies


def read_jobs(harness: Harness) -> list[int]:
    """Which of the jobs that are held back are reads."""
    return [at for at, job in enumerate(harness.jobs) if job.name == "read"]


def requeue_all(harness: Harness, consumer: Consumer, seed: int = 1) -> list[bytes]:
    """REQ 0 for all that is in flight, in random order; returns the ids."""
    ids = consumer.in_flight
    random.Random(seed).shuffle(ids)
    for message_id in ids:
        consumer.channel.requeue(consumer.subscription, message_id, 0)
    harness.round()
    return ids


def defer_at_random(harness: Harness, count: int, first: float, last: float) -> list[tuple[float, bytes]]:
    """Publish messages that are due between these moments from now; returns (due, body), the earliest first."""
    chance, due = random.Random(2), []
    for seq in range(count):
        at = chance.randrange(int(first * 1000), int(last * 1000)) / 1000
        topic = harness.topic()
        topic.publish_deferred(harness._frame(BODY % seq), int(at * 1e9))
        due.append((harness.now + at, BODY % seq))
    harness.round()
    return sorted(due)


class TestKept:
    def test_what_was_delivered_and_comes_back_is_not_read(self) -> None:
        """The window has only the newest; the others were in it when they were delivered."""
        harness = Harness(mem_queue_size=100)
        consumer = harness.subscribe(rdy=2000)
        publish(harness, 2000)
        harness.rdy(consumer, 0)
        ids = requeue_all(harness, consumer)
        reads = Reads(harness)
        consumer.new()
        harness.rdy(consumer, 2000)
        assert [message.id for message in consumer.new()] == ids
        assert reads.count == 0

    def test_nor_is_it_when_the_cursor_had_read_it(self) -> None:
        harness = Harness(mem_queue_size=0)
        harness.create()
        publish(harness, 20_000)  # more than one read
        consumer = harness.subscribe(rdy=20_000)
        harness.rdy(consumer, 0)
        ids = requeue_all(harness, consumer)
        reads = Reads(harness)
        consumer.new()
        harness.rdy(consumer, 20_000)
        assert [message.id for message in consumer.new()] == ids
        assert reads.count == 0

    def test_nor_what_is_deferred(self) -> None:
        harness = Harness(mem_queue_size=100)
        consumer = harness.subscribe(rdy=2000)
        due = defer_at_random(harness, 1000, 5.0, 6.0)
        publish(harness, 2000)
        harness.finish(consumer)
        consumer.new()
        reads = Reads(harness)
        harness.advance(6)
        assert consumer.bodies() == [body for _, body in due]
        assert reads.count == 0

    def test_a_consumer_that_rejects_everything_is_served_from_memory(self) -> None:
        harness = Harness(mem_queue_size=0)
        harness.create()
        publish(harness, 500)
        consumer = harness.subscribe(rdy=500)
        requeue_all(harness, consumer)
        reads = Reads(harness)
        for seed in range(5):
            requeue_all(harness, consumer, seed)
        assert len(consumer.in_flight) == 500
        assert reads.count == 0
        assert conserved(harness.channel())

    def test_what_is_finished_is_dropped(self) -> None:
        harness = Harness(mem_queue_size=100)
        consumer = harness.subscribe(rdy=2000)
        publish(harness, 2000)
        budget = harness.broker.context.read_ahead
        assert budget.used > 1800 * 100
        requeue_all(harness, consumer)
        harness.finish(consumer)
        assert budget.used == 0

    def test_what_was_finished_before_it_leaves_the_window_is_not_kept(self) -> None:
        harness = Harness(mem_queue_size=100)
        consumer = harness.subscribe(rdy=2000)
        for _ in range(20):
            publish(harness, 100)
            harness.finish(consumer)
        assert harness.broker.context.read_ahead.used == 0

    def test_what_waits_unread_is_not_kept(self) -> None:
        harness = Harness(mem_queue_size=100)
        harness.subscribe(rdy=0)
        publish(harness, 2000)
        assert harness.broker.context.read_ahead.used == 0

    @pytest.mark.parametrize("drop", ["empty", "delete"])
    def test_nothing_is_left_of_a_channel(self, drop: str) -> None:
        harness = Harness(mem_queue_size=100)
        harness.subscribe(rdy=2000)
        publish(harness, 2000)
        assert harness.broker.context.read_ahead.used > 0
        if drop == "empty":
            harness.topic().empty_channel("c")
        else:
            harness.topic().delete_channel("c")
        assert harness.broker.context.read_ahead.used == 0

    @pytest.mark.parametrize("mem_queue_bytes", [0, 5_000, 100_000])
    def test_the_limit_holds_and_everything_comes(self, mem_queue_bytes: int) -> None:
        harness = Harness(mem_queue_size=100, mem_queue_bytes=mem_queue_bytes)
        consumer = harness.subscribe(rdy=3000)
        bodies = publish(harness, 3000)
        consumer.new()
        budget = harness.broker.context.read_ahead
        for _ in range(2):
            requeue_all(harness, consumer)
            assert sorted(consumer.bodies()) == bodies
            assert budget.used <= mem_queue_bytes + 200
        assert all(message.attempts == 3 for message in consumer.received[-3000:])

    def test_two_channels_share_the_limit(self) -> None:
        harness = Harness(mem_queue_size=100, mem_queue_bytes=100_000)
        consumers = [harness.subscribe(name, rdy=3000) for name in ("c", "d")]
        bodies = publish(harness, 3000)
        for consumer in consumers:
            consumer.new()
            requeue_all(harness, consumer)
            assert sorted(consumer.bodies()) == bodies
            assert harness.broker.context.read_ahead.used <= 100_000


class TestRead:
    def harness(self, *, cold: bool = False, count: int = 5000) -> tuple[Harness, list[tuple[float, bytes]]]:
        """After a kill, with deferred messages in random order."""
        harness = Harness()
        harness.create()
        due = defer_at_random(harness, count, 10.0, 12.0)
        harness.kill()
        harness.memory.cold = cold
        return harness, due

    @pytest.mark.parametrize("cold", [False, True])
    def test_many_come_with_one_read(self, cold: bool) -> None:
        harness, due = self.harness(cold=cold)
        harness.advance(12)
        assert harness.channel().depth == 5000
        reads = Reads(harness)
        consumer = harness.subscribe(rdy=5000)
        assert consumer.bodies() == [body for _, body in due]
        # A stretch of 64 KiB is searched once, and messages with less than 4 KiB between them are one read.
        assert reads.count < 4000

    def test_a_message_is_read_before_it_is_due(self) -> None:
        harness, due = self.harness()
        consumer = harness.subscribe(rdy=5000)
        harness.advance(9.5)
        reads = Reads(harness)
        expected = list(due)
        while expected:
            harness.advance(0.25)
            if harness.now >= expected[-1][0] - 0.5:
                reads.count = 0
            now = [body for at, body in expected if at <= harness.now]
            assert consumer.bodies() == now
            del expected[: len(now)]
        assert reads.count == 0, "those that were due in the last half second were there"

    def test_without_a_consumer_nothing_is_read(self) -> None:
        harness, _ = self.harness()
        reads = Reads(harness)
        harness.advance(9.75)
        harness.advance(5)
        assert reads.count == 0
        assert harness.broker.context.read_ahead.used == 0

    def test_a_read_in_place_is_small(self) -> None:
        """The loop is not held for all of them: a round brings some, and the next one more."""
        harness, _ = self.harness()
        harness.advance(12)
        consumer = Consumer()
        harness.run_jobs = False
        consumer = harness.subscribe()
        consumer.channel.set_rdy(consumer.subscription, 5000)
        harness.broker.advance(harness.now, harness.wall_ns)
        reads = Reads(harness)
        harness.broker.pump()
        assert 0 < reads.count < 600
        assert len(consumer.in_flight) <= 600
        harness.round()
        assert len(consumer.in_flight) == 5000

    def test_a_read_that_would_block_is_a_job_and_the_next_one_is_larger(self) -> None:
        harness, due = self.harness(cold=True)
        harness.advance(12)
        harness.run_jobs = False
        consumer = harness.subscribe(rdy=5000)
        counts = []
        while len(consumer.received) < 5000:
            (at,) = read_jobs(harness)
            harness.run_job(at)
            counts.append(len(consumer.received) - sum(counts))
        assert consumer.bodies() == [body for _, body in due]
        assert counts == sorted(counts[:-1]) + counts[-1:]
        assert len(counts) <= 4

    def test_messages_that_become_due_do_not_wait_for_a_read_ahead(self) -> None:
        harness, due = self.harness(cold=True)
        consumer = harness.subscribe(rdy=5000)
        harness.run_jobs = False
        harness.advance(9.75)
        assert len(read_jobs(harness)) == 1
        harness.advance(0.5)
        _, at = read_jobs(harness)
        harness.run_job(at)
        assert consumer.bodies() == [body for at, body in due if at <= harness.now][: len(consumer.received)]
        assert consumer.received

    def test_what_was_finished_during_a_read_ahead_is_not_kept(self) -> None:
        harness, _ = self.harness(cold=True)
        consumer = harness.subscribe(rdy=5000)
        harness.run_jobs = False
        harness.advance(9.75)
        harness.advance(0.5)
        late, now = read_jobs(harness)
        harness.run_job(now)
        finished = len(consumer.received)
        assert finished
        harness.finish(consumer)
        harness.run_job(late)
        held = log_backlog(harness.channel()).cache._frames
        assert held
        assert not any(seq in log_backlog(harness.channel()).settled for seq in held)

    def test_an_error_of_the_disk_is_tried_again(self) -> None:
        harness, due = self.harness(count=50)
        consumer = harness.subscribe(rdy=50)
        harness.storage.fault = lambda operation, _path: Fail(errno.EIO) if operation == "read" else None
        harness.advance(12)
        assert consumer.received == []
        harness.heal()
        harness.advance(1)
        assert consumer.bodies() == [body for _, body in due]
        assert harness.channel().counts.damaged == 0

    @pytest.mark.parametrize("cold", [False, True])
    def test_damage_costs_the_damaged_message_only(self, cold: bool) -> None:
        harness, due = self.harness(cold=cold, count=300)
        harness.corrupt(BODY % 77)
        consumer = harness.subscribe(rdy=300)
        for _ in range(12):
            harness.advance(1)
        assert consumer.bodies() == [body for _, body in due if body != BODY % 77]
        channel = harness.channel()
        assert (channel.counts.damaged, channel.depth, len(channel.deferred)) == (1, 0, 0)

    def test_emptied_while_a_read_is_under_way(self) -> None:
        harness, _ = self.harness(cold=True, count=50)
        harness.run_jobs = False
        harness.advance(12)
        consumer = harness.subscribe(rdy=50)
        (at,) = read_jobs(harness)
        harness.topic().empty_channel("c")
        harness.run_job(at)
        assert consumer.received == []
        assert harness.broker.context.read_ahead.used == 0

    def test_large_bodies_come_one_after_the_other(self) -> None:
        harness = Harness(mem_queue_bytes=1_000_000)
        harness.create()
        for seq in range(40):
            harness.topic().publish_deferred(harness._frame(b"%0200000d" % seq), int((40 - seq) * 1e9))
        harness.round()
        harness.kill()
        harness.memory.cold = True
        harness.advance(40)
        consumer = harness.subscribe(rdy=1, limit=1000)
        budget, got = harness.broker.context.read_ahead, list[bytes]()
        while consumer.in_flight:
            assert budget.used <= 1_000_000
            got += consumer.bodies()
            harness.finish(consumer)
        assert got == [b"%0200000d" % seq for seq in reversed(range(40))]

    def test_the_cache_holds_nothing_of_what_was_delivered_and_finished(self) -> None:
        harness, _ = self.harness()
        harness.advance(12)
        consumer = harness.subscribe(rdy=5000)
        harness.finish(consumer)
        assert harness.broker.context.read_ahead.used == 0
        assert log_backlog(harness.channel()).cache._frames == {}
