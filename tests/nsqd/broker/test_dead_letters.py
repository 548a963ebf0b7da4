"""Messages that are given up: when, in what order they go to the dead topic, and that a kill loses none of them."""

from __future__ import annotations

import errno
import random

import pytest

from nsqd.broker import DRAIN
from nsqd.broker.leaving import dead_topic_of
from nsqd.broker.peek import PeekState, peek_channel, peek_topic
from nsqd.log.look import Looked
from nsqd.log.origin import Cause, Origin
from nsqd.log.store import StoreOptions
from nsqd.rules import parse_rules
from nsqd.testing.faulty_storage import WRITES, Crash, CrashAt, Die
from nsqkit.wire import decode_message
from nsqkit.wire.names import is_valid_name
from tests.nsqd.broker.harness import Consumer, Harness, conserved, view_of

DEAD = "t.c.dead"
CHANNELS = ["c", "c#ephemeral"]


def limited(name: str = "c", most: int = 2, **options: object) -> tuple[Harness, Consumer]:
    """A channel whose messages have `most` attempts, and a client with room for 10 of them."""
    rules = parse_rules([{"topic": "t", "max_attempts": most}])
    harness = Harness(rules=rules, **options)  # type: ignore[arg-type]
    return harness, harness.subscribe(name, rdy=10, timeout=4.0)


def settle(harness: Harness) -> None:
    """Let what was written become safe, and what is safe be settled."""
    for _ in range(3):
        harness.advance(0.5)


def letters(harness: Harness, topic: str = DEAD) -> list[Looked]:
    """What no channel of the dead topic has been given."""
    if topic not in harness.broker.topics:
        return []
    page = peek_topic(harness.topic(topic), 0, 1000)
    with page.messages() as messages:
        return [message for message in messages if message is not None]


def dead_bodies(harness: Harness, topic: str = DEAD) -> list[bytes]:
    return [decode_message(letter.frame).body for letter in letters(harness, topic)]


def fail(harness: Harness, consumer: Consumer) -> None:
    """REQ for all that it has."""
    for message_id in consumer.in_flight:
        harness.requeue(consumer, message_id)


class TestAttempts:
    @pytest.mark.parametrize("name", CHANNELS)
    def test_a_message_is_given_up_after_so_many_requeues(self, name: str) -> None:
        harness, consumer = limited(name, most=3)
        (message_id,) = harness.publish(b"bad").ids
        published_ns = harness.wall_ns
        for attempt in (1, 2, 3):
            assert [message.attempts for message in consumer.new()] == [attempt]
            harness.advance(1.0)
            fail(harness, consumer)
        settle(harness)
        assert consumer.new() == []
        (letter,) = letters(harness)
        message = decode_message(letter.frame)
        assert (message.id, message.timestamp_ns, message.body, message.attempts) == (
            message_id,
            published_ns,
            b"bad",
            1,
        )
        assert letter.origin is not None
        assert Origin.decode(letter.origin) == Origin(
            topic="t",
            channel=name,
            generation=consumer.channel.backlog.generation,
            seq=0,
            cause="attempts",
            attempts=3,
            first_ns=published_ns,
            last_ns=published_ns + 3 * 10**9,
        )
        assert consumer.channel.counts.dead_lettered == {Cause.ATTEMPTS: 1}
        assert conserved(consumer.channel)
        consumer.channel.invariant()
        if name == "c":
            assert list(consumer.channel.backlog.settled) == [(0, 1)]

    @pytest.mark.parametrize("name", CHANNELS)
    def test_time_outs_count(self, name: str) -> None:
        harness, _ = limited(name)
        harness.publish(b"bad")
        harness.advance(4.0)
        assert dead_bodies(harness) == []
        harness.advance(4.0)
        settle(harness)
        assert dead_bodies(harness) == [b"bad"]

    def test_lost_connections_do_not_count(self) -> None:
        harness, consumer = limited()
        harness.publish(b"good")
        for _ in range(5):
            harness.disconnect(consumer)
            consumer = harness.subscribe(rdy=10, timeout=4.0)
            if not consumer.in_flight:  # the second time it waits for its time-out
                harness.advance(4.0)
        assert dead_bodies(harness) == []
        fail(harness, consumer)
        assert len(consumer.in_flight) == 1
        fail(harness, consumer)
        settle(harness)
        assert dead_bodies(harness) == [b"good"]

    @pytest.mark.parametrize("stop", ["kill", "restart"])
    @pytest.mark.parametrize("has_snapshot", [False, True])
    def test_what_does_not_count_is_known_after_a_start(self, stop: str, has_snapshot: bool) -> None:
        harness, consumer = limited(most=3)
        harness.publish(b"good")
        fail(harness, consumer)
        harness.disconnect(consumer)
        consumer = harness.subscribe(rdy=10, timeout=4.0)
        fail(harness, consumer)  # two that count, and one that does not
        if has_snapshot:
            harness.snapshot()
        getattr(harness, stop)()
        consumer = harness.subscribe(timeout=4.0)
        settle(harness)
        assert dead_bodies(harness) == []
        harness.rdy(consumer, 1)
        # The stop lost the connection of the one that was in flight; after a kill that delivery is not known.
        assert [message.attempts for message in consumer.new()] == [
            5 if stop == "restart" or has_snapshot else 4
        ]
        fail(harness, consumer)
        settle(harness)
        assert dead_bodies(harness) == [b"good"]

    def test_a_lower_limit_is_for_what_waits_too(self) -> None:
        harness, consumer = limited(most=5)
        harness.publish(b"a", b"b", b"c")
        first, second, third = consumer.in_flight
        for _ in range(2):
            harness.requeue(consumer, first)
        harness.requeue(consumer, second)
        harness.requeue(consumer, second, 60.0)
        harness.rdy(consumer, 0)
        harness.requeue(consumer, first)
        consumer.channel.limit_attempts(2)
        settle(harness)
        assert dead_bodies(harness) == [b"a", b"b"]
        assert consumer.in_flight == [third]
        consumer.channel.invariant()

    def test_without_a_limit_nothing_is_given_up(self) -> None:
        harness = Harness()
        consumer = harness.subscribe(rdy=1)
        harness.publish(b"bad")
        for _ in range(50):
            fail(harness, consumer)
        assert consumer.new()[-1].attempts == 51
        assert list(harness.broker.topics) == ["t"]

    @pytest.mark.parametrize("name", CHANNELS)
    def test_a_message_in_any_state_is_given_up_by_an_operator(self, name: str) -> None:
        harness = Harness()
        consumer = harness.subscribe(name, rdy=3)
        ids = harness.publish(b"requeued", b"deferred", b"in flight", b"ready").ids
        harness.rdy(consumer, 0)
        harness.requeue(consumer, ids[0])
        harness.requeue(consumer, ids[1], 5.0)
        for seq, message_id in enumerate(ids):
            assert consumer.channel.dead_letter_message(seq, message_id)
        settle(harness)
        assert dead_bodies(harness) == [b"requeued", b"deferred", b"in flight", b"ready"]
        assert not consumer.channel.dead_letter_message(0, ids[0])
        assert consumer.channel.counts.dead_lettered == {Cause.OPERATOR: 4}
        assert harness.finish(consumer, ids[2]) == [ids[2]]
        consumer.channel.invariant()
        assert conserved(consumer.channel)

    def test_bodies_that_are_on_disk_only_are_read(self) -> None:
        harness, consumer = limited(most=1, mem_queue_size=0, mem_queue_bytes=0)
        bodies = [b"%03d" % at * 1000 for at in range(100)]
        for body in bodies:
            harness.publish(body)
            fail(harness, consumer)
        settle(harness)
        assert dead_bodies(harness) == bodies
        assert len(consumer.channel.leaving) == 0


class TestTheOrder:
    def test_nothing_is_settled_before_it_is_safe_in_the_dead_topic(self) -> None:
        harness, consumer = limited(most=1)
        channel = consumer.channel
        harness.run_jobs = False  # no sync
        harness.publish(b"bad")
        fail(harness, consumer)
        settle(harness)
        assert dead_bodies(harness) == [b"bad"]
        assert (len(channel.leaving), len(channel.backlog.settled)) == (1, 0)
        assert [entry.seq for entry in peek_channel(channel, PeekState.LEAVING, 0, 10).entries] == [0]
        assert (channel.in_flight_count, consumer.subscription.room) == (0, 10), (
            "it takes no place in a window"
        )
        harness.run_jobs = True
        settle(harness)
        assert (len(channel.leaving), list(channel.backlog.settled)) == (0, [(0, 1)])

    def test_nothing_is_settled_before_the_copies_have_it(self) -> None:
        harness, consumer = limited(most=1)
        harness.broker.dead_letters.safe = lambda: 0
        harness.publish(b"bad")
        fail(harness, consumer)
        settle(harness)
        assert (dead_bodies(harness), len(consumer.channel.leaving)) == ([b"bad"], 1)
        harness.broker.dead_letters.safe = lambda: harness.broker.synced
        settle(harness)
        assert len(consumer.channel.leaving) == 0

    @pytest.mark.parametrize("power", [False, True])
    def test_whenever_nsqd_is_killed_the_message_is_somewhere(self, power: bool) -> None:
        """Before each append and each sync on the way, and after the last."""
        for steps in range(40):
            harness, consumer = limited(most=1)
            harness.publish(b"bad")
            harness.advance(1.0)
            harness.advance(2.0)
            assert harness.broker.unsynced_appends == 0
            harness.storage.fault = CrashAt(steps, Die(), among=WRITES)
            done = False
            try:
                fail(harness, consumer)
                settle(harness)
                harness.advance(3.0)
                harness.advance(3.0)
                done = True
            except Crash:
                pass
            harness.memory = harness.memory.crash(random.Random(steps)) if power else harness.memory
            harness.kill()
            consumer = harness.subscribe(rdy=10)
            settle(harness)
            places = (dead_bodies(harness), consumer.bodies())
            # Where its attempts were recorded, it leaves once more.
            assert places in [([], [b"bad"]), ([b"bad"], [b"bad"]), ([b"bad"], []), ([b"bad"] * 2, [])]
            consumer.channel.invariant()
            if done:
                assert places == ([b"bad"], [])
                return
        raise AssertionError("it never came to an end")

    def test_what_was_on_its_way_leaves_again_after_a_start(self) -> None:
        harness, consumer = limited(most=2)
        harness.run_jobs = False
        harness.publish(b"bad")
        fail(harness, consumer)
        fail(harness, consumer)
        settle(harness)
        harness.kill()
        harness.run_jobs = True
        consumer = harness.subscribe(rdy=10)
        settle(harness)
        assert dead_bodies(harness) == [b"bad", b"bad"], "twice, but not nowhere"
        assert list(consumer.channel.backlog.settled) == [(0, 1)]

    def test_an_orderly_stop_doubles_nothing(self) -> None:
        harness, consumer = limited(most=1)
        harness.publish(b"bad")
        consumer.channel.requeue(consumer.subscription, consumer.in_flight[0], 0)
        harness.restart()
        assert dead_bodies(harness) == [b"bad"]
        assert list(harness.channel().backlog.settled) == [(0, 1)]

    def test_a_message_that_an_operator_finishes_on_its_way_is_settled_once(self) -> None:
        harness, consumer = limited(most=1)
        harness.run_jobs = False
        (message_id,) = harness.publish(b"bad").ids
        fail(harness, consumer)
        settle(harness)
        assert consumer.channel.finish_message(0, message_id)
        harness.run_jobs = True
        settle(harness)
        consumer.channel.invariant()
        assert (consumer.channel.counts.finished, consumer.channel.counts.dead_lettered.total()) == (1, 0)

    @pytest.mark.parametrize("command", ["empty_channel", "delete_channel"])
    def test_a_channel_that_is_emptied_or_deleted_on_the_way(self, command: str) -> None:
        harness, consumer = limited(most=1)
        harness.broker.context.refuse("test", "held")
        harness.publish(b"bad")
        fail(harness, consumer)
        getattr(harness.topic(), command)("c")
        harness.broker.context.refuse("test", None)
        for _ in range(10):
            harness.advance(1.0)
        assert dead_bodies(harness) == []
        assert not harness.broker.dead_letters._pauses


class TestADeadTopicThatCannotBeWritten:
    def test_the_message_stays_and_is_tried_again_in_growing_pauses(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        harness, consumer = limited(most=1)
        harness.rdy(consumer, 1)
        harness.publish(b"bad", b"good")
        harness.topic(DEAD)
        harness.fail("append", errno.ENOSPC, path=f"topic-{DEAD}")
        fail(harness, consumer)
        (good,) = consumer.in_flight
        letters_of = harness.broker.dead_letters
        for count in (1, 2, 3):
            assert letters_of.refused == {DEAD: count}
            assert harness.finish(consumer, good) == [] if count == 1 else [good]
            harness.now += 2.0 ** (count - 1)
            harness.broker.store.space.full = None  # the next look finds room
            harness.round()
        assert len(consumer.channel.leaving) == 1
        assert consumer.channel.counts.dead_lettered.total() == 0
        assert "DEAD LETTERS: t/c to t.c.dead refused" in caplog.text
        harness.heal()
        harness.advance(30.0)
        settle(harness)
        settle(harness)
        assert (dead_bodies(harness), len(consumer.channel.leaving)) == ([b"bad"], 0)
        consumer.channel.invariant()
        assert conserved(consumer.channel)

    def test_nothing_goes_to_the_dead_topic_while_nothing_may_be_published(self) -> None:
        harness, consumer = limited(most=1)
        harness.broker.context.refuse("copies", "1 of at least 2 copies are in step")
        harness.publish(b"bad")
        fail(harness, consumer)
        settle(harness)
        assert DEAD not in harness.broker.topics
        harness.broker.context.refuse("copies", None)
        harness.advance(1.0)
        settle(harness)
        assert dead_bodies(harness) == [b"bad"]

    def test_a_drain_is_not_in_the_way(self) -> None:
        harness, consumer = limited(most=1)
        harness.publish(b"bad")
        harness.broker.refuse_publishing(DRAIN, "it is draining")
        fail(harness, consumer)
        settle(harness)
        assert dead_bodies(harness) == [b"bad"]
        assert len(consumer.channel.leaving) == 0


class TestTheDeadTopic:
    @pytest.mark.parametrize(
        ("topic", "channel", "wanted", "name"),
        [
            ("orders", "mail", None, "orders.mail.dead"),
            ("orders", "mail", "graveyard", "graveyard"),
            ("orders#ephemeral", "tail#ephemeral", None, "orders.tail.dead"),
            ("orders.mail.dead", "c", None, None),
            ("orders.mail.dead", "c", "graveyard", "graveyard"),
            ("graveyard", "c", "graveyard", None),
        ],
    )
    def test_its_name(self, topic: str, channel: str, wanted: str | None, name: str | None) -> None:
        assert dead_topic_of(topic, channel, wanted) == name

    def test_long_names_are_shortened_and_stay_different(self) -> None:
        names = {dead_topic_of("t" * 60, "c" * 60 + end) for end in ("1", "2")}
        assert len(names) == 2
        assert all(name and len(name) == 64 and is_valid_name(name) for name in names)
        assert dead_topic_of("t" * 30, "c" * 28) == f"{'t' * 30}.{'c' * 28}.dead"

    def test_dead_letters_do_not_die_once_more(self) -> None:
        harness, consumer = limited(most=1)
        harness.publish(b"bad")
        fail(harness, consumer)
        settle(harness)
        reader = harness.subscribe("reader", topic=DEAD, rdy=1)
        reader.channel.limit_attempts(1)
        for _ in range(3):
            fail(harness, reader)
        settle(harness)
        assert set(harness.broker.topics) == {"t", DEAD}

    def test_a_client_gets_dead_letters_with_one_id_one_after_the_other(self) -> None:
        """A client answers by id. Both channels have the same message die."""
        harness = Harness()
        for name in ("c", "d"):
            harness.create(name).limit_attempts(1, "graveyard")
        harness.publish(b"bad", b"worse")
        for name in ("c", "d"):
            fail(harness, harness.subscribe(name, rdy=10))
        settle(harness)
        reader = harness.subscribe("reader", topic="graveyard", rdy=10, timeout=4.0)
        assert sorted(reader.bodies()) == [b"bad", b"worse"]
        reader.channel.invariant()
        assert len(reader.channel.deferred) == 2
        harness.finish(reader)
        harness.advance(4.0)
        assert sorted((message.body, message.attempts) for message in reader.new()) == [
            (b"bad", 1),
            (b"worse", 1),
        ]
        harness.finish(reader)
        assert list(reader.channel.backlog.settled) == [(0, 4)]
        assert conserved(reader.channel)

    def test_the_origin_stays_when_a_letter_is_moved(self) -> None:
        harness = Harness(
            StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=4096), mem_queue_size=0
        )
        consumer = harness.subscribe(rdy=10)
        consumer.channel.limit_attempts(1, "graveyard")
        harness.publish(b"bad")
        fail(harness, consumer)
        settle(harness)
        reader = harness.subscribe("reader", topic="graveyard", rdy=10)
        (bad,) = reader.in_flight
        harness.requeue(reader, bad, 3600.0)
        for at in range(300):
            harness.publish(b"%d" % at + b"x" * 100, topic="graveyard")
            harness.drain(reader)
        for _ in range(10):
            harness.advance(1.0)
            while harness.broker.has_snapshots:
                harness.broker.step_snapshots()
                harness.round()
        view = view_of(harness.topic("graveyard"))
        assert list(view.log.moved) == [0]
        assert list(view.letters) == [(0, 1)]
        for stop in (None, harness.kill, harness.restart):
            if stop is not None:
                stop()
            page = peek_channel(harness.channel("reader", "graveyard"), PeekState.DEFERRED, 0, 10)
            with page.messages() as messages:
                (message,) = messages
            assert message is not None
            assert message.origin is not None
            assert Origin.decode(message.origin).topic == "t"


class TestLimits:
    """The policy `dead_letter`: what a limit would drop leaves."""

    @staticmethod
    def limited(**settings: object) -> Harness:
        rule = {"topic": "t", "channel": "c", "policy": "dead_letter", **settings}
        harness = Harness(rules=parse_rules([rule]))
        harness.create()
        return harness

    def test_the_oldest_beyond_a_depth(self) -> None:
        harness = self.limited(max_depth=3)
        consumer = harness.subscribe(rdy=2)
        harness.publish_many(2)
        harness.rdy(consumer, 0)
        for message_id, delay in zip(consumer.in_flight, (0.0, 60.0), strict=True):
            harness.requeue(consumer, message_id, delay)
        for at in range(4):
            assert harness.publish(b"new%d" % at).acknowledged
        settle(harness)
        # In turn: what was delivered before, then what is ready.
        assert dead_bodies(harness) == [b"m0", b"new0", b"new1"]
        assert (consumer.channel.depth, len(consumer.channel.deferred)) == (2, 1)
        assert consumer.channel.counts.dead_lettered == {Cause.MAX_DEPTH: 3}
        consumer.channel.invariant()
        assert conserved(consumer.channel)
        origins = [Origin.decode(letter.origin or b"") for letter in letters(harness)]
        assert [(origin.cause, origin.attempts) for origin in origins] == [
            ("max_depth", 1),
            ("max_depth", 0),
            ("max_depth", 0),
        ]

    def test_the_oldest_beyond_a_size(self) -> None:
        harness = self.limited(max_bytes="2000B")
        for at in range(30):
            harness.publish(b"%03d" % at * 50)
        settle(harness)
        channel = harness.channel()
        assert dead_bodies(harness) == [b"%03d" % at * 50 for at in range(30 - channel.depth)]
        assert 0 < channel.depth < 15
        assert channel.counts.dead_lettered == {Cause.MAX_BYTES: 30 - channel.depth}
        channel.invariant()

    def test_what_is_too_old(self) -> None:
        harness = self.limited(max_age="10s")
        consumer = harness.subscribe(rdy=1)
        harness.publish(b"requeued", b"ready")
        harness.rdy(consumer, 0)
        harness.requeue(consumer, consumer.in_flight[0])
        harness.advance(8.0)
        harness.publish(b"new")
        for _ in range(5):
            harness.advance(1.0)
        settle(harness)
        assert sorted(dead_bodies(harness)) == [b"ready", b"requeued"]
        assert consumer.channel.counts.dead_lettered == {Cause.MAX_AGE: 2}
        assert consumer.channel.counts.expired == 0
        assert consumer.channel.depth == 1
        consumer.channel.invariant()
        assert conserved(consumer.channel)

    def test_without_a_dead_topic_publishes_are_refused(self) -> None:
        harness = Harness(rules=parse_rules([{"max_depth": 1, "policy": "dead_letter"}]))
        channel = harness.create("c", DEAD)
        assert not channel.trims
        assert harness.create("c").trims

    def test_while_the_dead_topic_cannot_be_written_they_leave_all_the_same(self) -> None:
        harness = self.limited(max_depth=1)
        harness.fail("append", errno.EIO, path=f"topic-{DEAD}")
        harness.publish_many(5)
        settle(harness)
        assert (harness.channel().depth, len(harness.channel().leaving)) == (1, 4)
        harness.heal()
        for _ in range(40):
            harness.advance(1.0)
        assert dead_bodies(harness) == [b"m0", b"m1", b"m2", b"m3"]
