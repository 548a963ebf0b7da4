"""What a daemon finds of the one before it: after an orderly stop, and after `kill -9`."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest

from nsqd.broker import retention
from nsqd.testing.faulty_storage import Fail, Fault
from tests.nsqd.broker.harness import Harness, deferred_of

Stop = Callable[[Harness], None]
either = pytest.mark.parametrize("stop", [Harness.kill, Harness.restart])


class TestMessages:
    @either
    def test_nothing_that_was_acknowledged_is_lost(self, stop: Stop) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=10)
        bodies = harness.publish_many(30)
        done = consumer.bodies()
        harness.finish(consumer)
        stop(harness)
        assert harness.channel().depth == 20
        assert sorted(done + harness.drain(harness.subscribe(rdy=50))) == sorted(bodies)

    @either
    def test_uncommitted_messages_are_not_acknowledged(self, stop: Stop) -> None:
        harness = Harness()
        harness.create()
        receipt = harness.send(b"a")
        stop(harness)
        assert not receipt.acknowledged
        assert harness.channel().depth == (1 if stop is Harness.restart else 0)

    @either
    def test_ids_and_times_stay(self, stop: Stop) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=5)
        harness.publish_many(5)
        before = {(m.id, m.timestamp_ns, m.body) for m in consumer.received}
        harness.now += 1000
        stop(harness)
        consumer = harness.subscribe(rdy=5)
        assert {(m.id, m.timestamp_ns, m.body) for m in consumer.received} == before

    @either
    def test_new_ids_are_higher(self, stop: Stop) -> None:
        harness = Harness()
        ids = []
        for _ in range(5):
            ids += harness.publish(b"a").ids
            stop(harness)
        assert ids == sorted(set(ids))

    @either
    def test_many_restarts_change_nothing(self, stop: Stop) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=4)
        harness.publish_many(10)
        harness.requeue(consumer, consumer.in_flight[0], 50.0)
        stop(harness)
        sizes = {name: self.size(harness, name) for name in harness.memory.files("topic-t")}
        for _ in range(5):
            harness.kill()
            assert {name: self.size(harness, name) for name in harness.memory.files("topic-t")} == sizes
            assert (harness.channel().depth, len(harness.channel().deferred)) == (9, 1)
            assert harness.broker.store.notes == []

    def size(self, harness: Harness, name: str) -> int:
        file = harness.memory.open(f"topic-t/{name}")
        file.close()
        return file.size

    @either
    def test_finished_in_any_order_stays_finished(self, stop: Stop) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1000)
        harness.publish_many(200)
        chance = random.Random(3)
        finished = set(chance.sample(consumer.in_flight, 120))
        for message_id in finished:
            consumer.channel.finish(consumer.subscription, [message_id])
        harness.round()
        stop(harness)
        consumer = harness.subscribe(rdy=1000)
        assert len(consumer.received) == 80
        assert not finished & {message.id for message in consumer.received}


class TestAttempts:
    def test_a_kill_keeps_what_requeues_and_time_outs_wrote(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=3, timeout=5)
        a, b, _ = harness.publish(b"a", b"b", b"c").ids
        harness.requeue(consumer, a)
        harness.requeue(consumer, b)
        harness.requeue(consumer, b)
        harness.advance(5)
        harness.kill()
        consumer = harness.subscribe(rdy=3)
        assert {m.body: m.attempts for m in consumer.new()} == {b"a": 3, b"b": 4, b"c": 2}

    def test_an_orderly_stop_keeps_those_in_flight_too(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=2)
        a, _ = harness.publish(b"a", b"b").ids
        harness.requeue(consumer, a)
        harness.restart()
        consumer = harness.subscribe(rdy=2)
        assert {m.body: m.attempts for m in consumer.new()} == {b"a": 3, b"b": 2}

    def test_unsent_ones_count_no_delivery(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1)
        consumer.taking = False
        harness.publish(b"a")
        harness.disconnect(consumer)
        harness.restart()
        assert [m.attempts for m in harness.subscribe(rdy=1).new()] == [1]

    def test_attempts_of_a_message_that_is_returned_unsent_during_a_snapshot(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It moves from in flight to requeued without a record, against the order in which a snapshot is written."""
        monkeypatch.setattr(retention, "SLICE", 1)
        harness = Harness()
        other = harness.subscribe()
        consumer = harness.subscribe(rdy=2)
        a, b = harness.publish(b"a", b"b").ids
        harness.requeue(consumer, a)
        consumer.taking = False
        harness.requeue(consumer, a)  # two attempts are journaled, the third waits at the socket
        consumer.subscription.rdy = 0
        harness.requeue(consumer, b)
        harness.broker.retentions["t"].begin_snapshot()
        for _ in range(3):  # the topic, the channel, what is requeued: next is what is in flight
            harness.broker.step_snapshots()
        harness.disconnect(consumer)
        assert other.received == []
        while harness.broker.step_snapshots():
            pass
        harness.round()
        harness.kill()
        consumer = harness.subscribe(rdy=2)
        assert {m.body: m.attempts for m in consumer.new()} == {b"a": 3, b"b": 2}


class TestDeferred:
    @either
    @pytest.mark.parametrize("published", [True, False])
    def test_deferred_messages_keep_their_time(self, published: bool, stop: Stop) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1)
        if published:
            harness.defer(b"a", 60)
        else:
            harness.requeue(consumer, harness.publish(b"a").ids[0], 60)
        harness.advance(20)
        stop(harness)
        channel = harness.channel()
        assert (channel.depth, len(channel.deferred)) == (0, 1)
        consumer = harness.subscribe(rdy=1)
        harness.advance(39.75)
        assert consumer.new() == []
        harness.advance(0.25)
        assert [m.attempts for m in consumer.new()] == [1 if published else 2]

    @either
    def test_a_message_that_became_due_meanwhile_is_ready(self, stop: Stop) -> None:
        harness = Harness()
        harness.create()
        harness.defer(b"a", 60)
        harness.now += 100
        stop(harness)
        assert harness.channel().depth == 1

    @either
    @pytest.mark.parametrize("why", ["paused", "no channel"])
    def test_a_delay_begins_when_the_channel_gets_the_message(self, why: str, stop: Stop) -> None:
        harness = Harness()
        if why == "paused":
            harness.create()
            harness.topic().pause(True)
        harness.defer(b"a", 60)
        harness.advance(500)
        stop(harness)
        assert harness.topic().depth == 1
        consumer = harness.subscribe(rdy=1)
        harness.topic().pause(False)
        harness.round()
        channel = harness.channel()
        assert (channel.counts.entered, channel.depth, len(channel.deferred)) == (1, 0, 1)
        harness.advance(30)
        stop(harness)
        consumer = harness.subscribe(rdy=1)
        harness.advance(29.75)
        assert consumer.new() == []
        harness.advance(0.25)
        assert [m.body for m in consumer.new()] == [b"a"]

    def test_each_channel_has_its_own_copy(self) -> None:
        harness = Harness()
        first, second = harness.subscribe("c", rdy=1), harness.subscribe("d", rdy=1)
        (message_id,) = harness.defer(b"a", 10).ids
        harness.advance(10)
        harness.finish(first, message_id)
        harness.kill()
        assert (harness.channel("c").depth, harness.channel("d").depth) == (0, 1)
        assert second.received[0].attempts == 1

    def test_a_clock_that_leapt_hides_no_message_for_years(self) -> None:
        harness = Harness(max_req_timeout=100.0)
        harness.create()
        harness.defer(b"a", 60)
        harness.now -= 90  # the wall went back while the daemon was down
        harness.kill()
        consumer = harness.subscribe(rdy=1)
        harness.advance(100)
        assert consumer.bodies() == [b"a"]

    def test_many_are_small_entries(self) -> None:
        harness = Harness(mem_queue_size=10)
        harness.create()
        topic = harness.topic()
        for seq in range(300):
            frame = harness._frame(b"%d" % seq)
            topic.publish_deferred(frame, 5 * 10**9)
        harness.round()
        channel = harness.channel()
        assert len(channel.deferred) == 300
        harness.kill()
        harness.advance(5)
        assert len(harness.drain(harness.subscribe(rdy=7))) == 300


class TestWallClock:
    """I6, where the wall clock is wrong at the start, or is set while the daemon runs."""

    HOUR = 3600.0

    def deferred(self, kind: str, delay: float) -> Harness:
        """One message, deferred for `delay` seconds; recorded in the log, or also in a snapshot."""
        harness = Harness(max_req_timeout=self.HOUR)
        harness.create()
        if kind == "published":
            harness.defer(b"a", delay)
            return harness
        consumer = harness.subscribe(rdy=1)
        [message_id] = harness.publish(b"a").ids
        harness.rdy(consumer, 0)
        harness.requeue(consumer, message_id, delay)
        harness.disconnect(consumer)
        if kind == "in a snapshot":
            harness.snapshot()
        return harness

    def arrival(self, harness: Harness, *, within: float) -> float:
        """After how many seconds, in steps of a quarter, the message arrives."""
        consumer, began = harness.subscribe(rdy=1), harness.now
        while not consumer.new() and harness.now - began < within:
            harness.advance(0.25)
        return harness.now - began

    def set_clock(self, harness: Harness, ahead: float) -> None:
        harness.wall_ahead = ahead
        harness.round()

    @either
    @pytest.mark.parametrize("kind", ["published", "requeued", "in a snapshot"])
    @pytest.mark.parametrize("behind", [10.0, HOUR, 50 * 365 * 24 * HOUR])
    def test_a_clock_that_is_behind_delays_by_no_more_than_the_delay(
        self, kind: str, behind: float, stop: Stop
    ) -> None:
        harness = self.deferred(kind, 4)
        harness.advance(1)
        harness.wall_ahead = -behind
        stop(harness)
        assert self.arrival(harness, within=60) == 4

    @either
    @pytest.mark.parametrize("kind", ["published", "requeued", "in a snapshot"])
    def test_a_clock_that_is_put_right_gives_the_due_time_back(self, kind: str, stop: Stop) -> None:
        harness = self.deferred(kind, 60)
        harness.now += 40
        harness.wall_ahead = -self.HOUR
        stop(harness)
        harness.advance(5)
        self.set_clock(harness, 0)
        assert self.arrival(harness, within=100) == 15

    @either
    @pytest.mark.parametrize("kind", ["published", "requeued", "in a snapshot"])
    def test_a_clock_that_was_ahead_takes_back_what_no_consumer_has_got(self, kind: str, stop: Stop) -> None:
        harness = self.deferred(kind, 60)
        harness.now += 10
        harness.wall_ahead = self.HOUR
        stop(harness)
        assert harness.channel().depth == 1
        harness.advance(2)
        harness.wall_ahead = 0  # seen by the round in which the consumer arrives
        assert self.arrival(harness, within=100) == 48

    def test_what_was_overdue_stays_so_when_a_clock_ahead_is_put_right(self) -> None:
        harness = self.deferred("published", 60)
        harness.now += 100
        harness.wall_ahead = self.HOUR
        harness.kill()
        self.set_clock(harness, 0)
        assert harness.channel().depth == 1

    @pytest.mark.parametrize("ahead", [-HOUR, HOUR])
    def test_a_delay_that_began_in_this_run_is_not_changed(self, ahead: float) -> None:
        harness = self.deferred("requeued", 60)
        harness.advance(10)
        self.set_clock(harness, ahead)
        assert self.arrival(harness, within=100) == 50

    @pytest.mark.parametrize("ahead", [-HOUR, HOUR])
    def test_a_message_that_was_requeued_since_is_not_changed(self, ahead: float) -> None:
        harness = self.deferred("requeued", 1)
        harness.now += 2
        harness.kill()
        consumer = harness.subscribe(rdy=1)
        harness.rdy(consumer, 0)
        harness.requeue(consumer, consumer.in_flight[0], 60)
        harness.disconnect(consumer)
        self.set_clock(harness, ahead)
        assert self.arrival(harness, within=100) == 60

    def test_a_message_that_a_consumer_has_had_is_not_taken_back(self) -> None:
        harness = self.deferred("published", 60)
        harness.wall_ahead = self.HOUR
        harness.kill()
        consumer = harness.subscribe(rdy=1)
        assert consumer.bodies() == [b"a"]
        harness.disconnect(consumer)
        self.set_clock(harness, 0)
        assert harness.channel().depth == 1

    @either
    @pytest.mark.parametrize("ahead", [-HOUR, HOUR])
    def test_after_the_clock_was_set_a_restart_changes_nothing(self, ahead: float, stop: Stop) -> None:
        harness = self.deferred("published", 600)
        self.set_clock(harness, ahead)
        harness.advance(1)  # maintenance begins a snapshot
        while harness.broker.step_snapshots():
            pass
        harness.round()
        harness.advance(9)
        stop(harness)
        assert self.arrival(harness, within=1000) == 590

    def test_after_ten_minutes_due_times_are_final(self) -> None:
        harness = self.deferred("published", 1000)
        harness.kill()
        harness.advance(600)
        self.set_clock(harness, self.HOUR)
        assert self.arrival(harness, within=1000) == 400

    def test_a_clock_that_swings_is_followed_once_a_second(self) -> None:
        harness = self.deferred("published", 1000)
        harness.kill()
        self.set_clock(harness, -self.HOUR)
        self.set_clock(harness, self.HOUR)
        assert len(harness.channel().deferred) == 1
        harness.advance(1)
        assert len(harness.channel().deferred) == 0

    def test_the_log_says_by_how_much_the_clock_is_behind(self, caplog: pytest.LogCaptureFixture) -> None:
        harness = self.deferred("requeued", 4)
        harness.wall_ahead = -self.HOUR
        harness.kill()
        [line] = [record.getMessage() for record in caplog.records]
        assert line.startswith("clock: wall time is at least 3600 s behind")


class TestSnapshots:
    def busy(self) -> Harness:
        """All kinds of places are taken."""
        harness = Harness()
        harness.create("late")
        consumer = harness.subscribe("c", rdy=20)
        ids = harness.publish(*[b"%d" % seq for seq in range(30)]).ids
        harness.finish(consumer, *ids[0:20:3])
        harness.requeue(consumer, ids[1], 30.0)
        consumer.subscription.rdy = 0
        harness.requeue(consumer, ids[2])
        harness.topic().pause(True)
        harness.publish(b"behind the mark")
        harness.defer(b"deferred behind the mark", 7.0)
        harness.topic().pause_channel("late", True)
        return harness

    def picture(self, harness: Harness) -> dict[str, object]:
        topic = harness.topic()
        out: dict[str, object] = {"depth": topic.depth, "paused": topic.paused}
        for name, channel in topic.channels.items():
            deferred, attempts = deferred_of(channel), dict(channel.requeued)
            out[name] = (channel.paused, channel.depth, deferred, attempts, list(channel.backlog.settled))
        return out

    @pytest.mark.parametrize("slice_", [1, 3, 1000])
    def test_a_snapshot_and_the_log_give_the_same_state(
        self, slice_: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "SLICE", slice_)
        plain, with_snapshot = self.busy(), self.busy()
        with_snapshot.snapshot()
        plain.kill()
        with_snapshot.kill()
        assert self.picture(with_snapshot) == self.picture(plain)
        files = with_snapshot.memory.files("topic-t")
        assert sum(name.endswith(".snap") for name in files) == 1
        with_snapshot.kill()
        assert self.picture(with_snapshot) == self.picture(plain)

    def test_two_are_kept(self) -> None:
        harness = self.busy()
        for seq in range(5):
            harness.publish(b"%d" % seq)
            harness.snapshot()
        files = harness.memory.files("topic-t")
        assert sum(name.endswith(".snap") for name in files) == 2

    def test_a_snapshot_that_fails_is_given_up(self) -> None:
        harness = self.busy()
        before = self.picture(harness)
        harness.broker.retentions["t"].begin_snapshot()
        harness.broker.step_snapshots()
        harness.fail("append", path=".snap")
        while harness.broker.step_snapshots():
            pass
        harness.heal()
        assert self.picture(harness) == before
        harness.advance(1)
        harness.snapshot()
        harness.kill()
        assert sum(name.endswith(".snap") for name in harness.memory.files("topic-t")) == 1

    def test_a_topic_deleted_meanwhile(self) -> None:
        harness = self.busy()
        harness.broker.retentions["t"].begin_snapshot()
        harness.broker.step_snapshots()
        harness.broker.delete_topic("t")
        while harness.broker.step_snapshots():
            pass
        harness.round()
        assert harness.broker.store.fatal is None
        assert harness.broker.store.space.health == "OK"
        harness.kill()
        assert harness.broker.topics == {}


def test_an_orderly_stop_needs_the_disk() -> None:
    harness = Harness()
    harness.create()
    harness.publish(b"a")
    harness.fail("sync_all", path="")
    with pytest.raises(OSError, match="No space left"):
        harness.broker.close()


def with_a_full_disk(room: int | None) -> Harness:
    """`room`: bytes that are left."""
    harness = Harness()
    harness.create()
    for body in (b"finished", b"in a minute", b"in flight"):
        harness.publish(body)
    consumer = harness.subscribe(rdy=3)
    finished, requeued, _ = consumer.in_flight
    harness.broker.store.space.full = "no space left on device: 1 bytes free, 2 needed"
    harness.memory.capacity = None if room is None else harness.memory._used + room
    consumer.channel.finish(consumer.subscription, [finished])
    consumer.channel.requeue(consumer.subscription, requeued, 60.0)
    return harness


def test_a_stop_with_less_free_space_than_demanded_keeps_delays_and_attempts() -> None:
    """I5, I6."""
    harness = with_a_full_disk(None)
    harness.restart()
    assert (harness.channel().depth, len(harness.channel().deferred)) == (1, 1)
    consumer = harness.subscribe(rdy=1)
    assert [(message.body, message.attempts) for message in consumer.new()] == [(b"in flight", 2)]


def test_a_stop_on_a_full_disk_keeps_finished_messages_finished() -> None:
    """I3: there is room for that, but for nothing more."""
    harness = with_a_full_disk(48)
    with pytest.raises(OSError, match="not everything"):
        harness.broker.close()
    harness.memory.capacity = None
    harness.kill()
    assert harness.channel().depth == 2


def test_a_stop_whose_last_append_fails_raises() -> None:
    """The last append fails: the finish in it is lost, so the stop must not be called clean."""
    harness = Harness()
    harness.create()
    consumer = harness.subscribe(rdy=5)
    harness.publish(b"a")
    consumer.channel.finish(consumer.subscription, consumer.in_flight)
    harness.fail("append", errno.EIO)
    with pytest.raises(OSError):
        harness.broker.close()


def test_a_stop_that_writes_everything_at_the_second_attempt_is_clean() -> None:
    """The ballast has made room for what is finished."""
    harness = Harness()
    consumer = harness.subscribe(rdy=5)
    harness.publish(b"a", b"b")
    consumer.channel.finish(consumer.subscription, consumer.in_flight)
    failures = [Fail(errno.ENOSPC)]

    def fault(operation: str, path: str) -> Fault | None:
        return failures.pop() if operation == "append" and "topic-" in path and failures else None

    harness.storage.fault = fault
    harness.restart()
    assert not failures
    assert harness.broker.store.clean
    assert harness.channel().depth == 0
