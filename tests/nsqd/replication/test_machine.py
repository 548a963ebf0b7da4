"""A leader's random life, and a copy of it that is cut off anywhere: what the copy recovers is what the leader had.

The leader is a whole broker on a noted storage in memory; the follower is a `Copy`; between them is a list of bytes, of
which a part arrives. The copy is then opened as a data path of its own, as an adoption does.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from nsqd.replication.keep import Work
from nsqd.replication.ship import Sender
from tests.nsqd.broker.harness import Consumer, Harness
from tests.nsqd.replication.pair import MAX_TAKE, Follower, Leader, connect, files_of, run

TOPICS = st.sampled_from(["a", "b"])
CHANNELS = st.sampled_from(["x", "y"])


@attrs.define
class Ledger:
    """What must be in a channel: ids of acknowledged messages that are not finished, by topic and channel.

    A finished message whose end is not shipped may come again; an unfinished one must.
    """

    wanted: dict[tuple[str, str], set[bytes]] = attrs.field(factory=dict)
    finished: dict[tuple[str, str], set[bytes]] = attrs.field(factory=dict)

    def copy(self) -> Ledger:
        return Ledger(
            {key: set(ids) for key, ids in self.wanted.items()},
            {key: set(ids) for key, ids in self.finished.items()},
        )


def delivered(harness: Harness) -> dict[tuple[str, str], set[bytes]]:
    """Everything that the channels hand out."""
    found = {}
    for topic in list(harness.broker.topics.values()):
        for channel in list(topic.channels.values()):
            consumer = harness.subscribe(channel.name, topic=topic.name, rdy=1000)
            ids: list[bytes] = [message.id for message in consumer.new()]
            for _ in range(100):
                harness.advance(40.0)  # deferred ones, too
                more = [message.id for message in consumer.new()]
                ids += more
                if not more and not channel.depth and not channel.deferred:
                    break
                if consumer.in_flight:
                    harness.finish(consumer)
            found[topic.name, channel.name] = set(ids)
    return found


class CopyMachine(RuleBasedStateMachine):
    """`ledgers`: what held when a ticket was written, for the tickets that may still arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.leader = Leader()
        self.consumers: dict[tuple[str, str], Consumer] = {}
        self.waiting: dict[str, list[bytes]] = {}  # ids in topics that have no channel yet
        self.ledger = Ledger()
        self.ledgers: dict[int, Ledger] = {}
        self.on_the_way = bytearray()
        self.sender: Sender | None = None
        self.syncing: Work | None = None

    @initialize(disk=st.booleans())
    def begin(self, disk: bool) -> None:
        self.follower = Follower(disk=disk)
        self.connect()

    # --- the leader's life

    @rule(topic=TOPICS, count=st.integers(1, 6), size=st.integers(1, 300))
    def publish(self, topic: str, count: int, size: int) -> None:
        receipt = self.leader.publish(*[b"m" * size] * count, topic=topic)
        assert receipt.acknowledged
        self.note_published(topic, receipt.ids)

    @rule(topic=TOPICS, delay=st.integers(1, 30))
    def defer(self, topic: str, delay: int) -> None:
        self.note_published(topic, self.leader.defer(b"later", delay, topic=topic).ids)

    def note_published(self, topic: str, ids: list[bytes]) -> None:
        channels = [channel for name, channel in self.ledger.wanted if name == topic]
        for channel in channels:
            self.ledger.wanted[topic, channel].update(ids)
        if not channels:
            self.waiting.setdefault(topic, []).extend(ids)
        self.note()

    @rule(topic=TOPICS, channel=CHANNELS)
    def create_channel(self, topic: str, channel: str) -> None:
        if (topic, channel) not in self.ledger.wanted:
            self.consumers[topic, channel] = self.leader.subscribe(channel, topic=topic, rdy=3)
            self.ledger.wanted[topic, channel] = set(self.waiting.pop(topic, ()))
            self.ledger.finished[topic, channel] = set()
            self.note()

    @rule(data=st.data(), share=st.integers(1, 3))
    def finish(self, data: st.DataObject, share: int) -> None:
        for key, consumer in self.each(data):
            ids = consumer.in_flight[::share]
            if ids:
                assert not self.leader.finish(consumer, *ids)
                self.ledger.wanted[key].difference_update(ids)
                self.ledger.finished[key].update(ids)
        self.note()

    @rule(data=st.data(), delay=st.sampled_from([0.0, 5.0]))
    def requeue(self, data: st.DataObject, delay: float) -> None:
        for _, consumer in self.each(data):
            for message_id in consumer.in_flight[:1]:
                self.leader.requeue(consumer, message_id, delay)
        self.note()

    def each(self, data: st.DataObject) -> Iterator[tuple[tuple[str, str], Consumer]]:
        if self.consumers:
            key = data.draw(st.sampled_from(sorted(self.consumers)))
            yield key, self.consumers[key]

    @rule(topic=TOPICS)
    def snapshot(self, topic: str) -> None:
        if topic in self.leader.broker.retentions:
            self.leader.snapshot(topic)
            self.note()

    @rule(topic=TOPICS)
    def turn_over(self, topic: str) -> None:
        """Everything that can be finished is, and what nobody needs any more is removed: segments go."""
        self.publish(topic, 6, 300)
        for key, consumer in self.consumers.items():
            while key[0] == topic and consumer.in_flight:
                ids = consumer.in_flight
                assert not self.leader.finish(consumer, *ids)
                self.ledger.wanted[key].difference_update(ids)
                self.ledger.finished[key].update(ids)
        for _ in range(2):
            self.publish(topic, 1, 10)
            self.snapshot(topic)
        self.time_passes(1.0)

    @rule(seconds=st.sampled_from([1.0, 2.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.leader.advance(seconds)
        self.note()

    @rule(topic=TOPICS)
    def delete_topic(self, topic: str) -> None:
        if topic in self.leader.broker.topics:
            for key in [key for key in self.ledger.wanted if key[0] == topic]:
                del self.ledger.wanted[key], self.ledger.finished[key]
                self.leader.consumers.remove(self.consumers.pop(key))
            self.waiting.pop(topic, None)
            self.leader.delete_topic(topic)
            self.note()

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        """The daemon ends, and with it the session."""
        self.disconnect()
        if clean:
            self.leader.restart()
        else:
            self.leader.kill()
        for topic, channel in self.consumers:
            self.consumers[topic, channel] = self.leader.subscribe(channel, topic=topic, rdy=3)
        self.ledgers.clear()
        self.connect()

    # --- the connection

    def note(self) -> None:
        self.ledgers[self.leader.written] = self.ledger.copy()

    @precondition(lambda self: self.sender is not None)
    @rule(size=st.sampled_from([1, 300, 5000, MAX_TAKE]))
    def send(self, size: int) -> None:
        assert self.sender is not None
        self.note()
        self.on_the_way += b"".join(self.sender.take(self.leader.written, size))

    @rule(share=st.integers(1, 4))
    def arrive(self, share: int) -> None:
        size = -(-len(self.on_the_way) * share // 4)
        self.follower.feed(bytes(self.on_the_way[:size]))
        del self.on_the_way[:size]

    @rule()
    def sync(self) -> None:
        self.end_sync()
        self.follower.sync()

    @rule(late=st.booleans())
    def begin_sync(self, late: bool) -> None:
        """One that ends when more has arrived; `late`: it also looks at the files only then."""
        self.end_sync()
        if self.follower.copy.wants_sync:
            self.syncing = self.follower.copy.begin_sync()
            if not late:
                self.syncing.run()
                self.syncing = attrs.evolve(self.syncing, run=lambda: None)

    @rule()
    def end_sync(self) -> None:
        work, self.syncing = self.syncing, None
        run(work)

    @precondition(lambda self: self.sender is not None)
    @rule()
    def disconnect(self) -> None:
        if self.sender is not None:
            self.sender.close()
        self.sender = None
        self.end_sync()
        self.on_the_way.clear()

    @precondition(lambda self: self.sender is None)
    @rule()
    def connect(self) -> None:
        self.sender = connect(self.leader, self.follower)
        assert not self.leader.taken_back
        self.ledgers.clear()
        self.note()

    # --- what must hold

    @rule()
    def adopt(self) -> None:
        """A copy without a gap recovers without a loss, and has what was acknowledged.

        At level `disk`, also after a power loss.
        """
        copy = self.follower.copy
        if not copy.note.complete:
            return
        adopted = self.follower.adopted(self.leader.now, after_power_loss=self.follower.disk)
        losses = [note for note in adopted.broker.store.notes if "lost" in note or "damaged" in note]
        assert not losses or self.follower.disk
        found = delivered(adopted)
        promised = self.ledgers.get(copy.acknowledged)
        if promised is not None and self.sender is not None:
            for key, ids in promised.wanted.items():
                still = ids & self.ledger.wanted.get(key, set())
                assert still <= found.get(key, set()), key
            for key, ids in promised.finished.items():
                assert not ids & found.get(key, set()), key

    @precondition(lambda self: self.sender is not None)
    @rule()
    def catch_up(self) -> None:
        """Everything arrives: the copy is complete, and equal byte by byte."""
        assert self.sender is not None
        while frames := self.sender.take(self.leader.written, MAX_TAKE):
            self.on_the_way += b"".join(frames)
        self.follower.feed(bytes(self.on_the_way))
        self.on_the_way.clear()
        assert self.follower.copy.note.complete
        assert self.follower.copy.received == self.leader.written
        assert files_of(self.follower.storage) == files_of(self.leader.memory)


TestCopy = CopyMachine.TestCase
TestCopy.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
