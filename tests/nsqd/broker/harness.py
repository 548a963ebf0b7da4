"""A driver for the synchronous core: a storage in memory, a clock that is moved by hand, clients that are lists.

`Harness.round` is one round of the daemon, until nothing moves any more: timers, commit, pump, jobs, sockets. Two
things can be held back: jobs (`run_jobs = False`; `run_job` runs one), and a client's socket (`taking = False`).
Seconds go by in steps that floats hold exactly (halves, quarters), so tests may compare moments with `==`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import Callable

import attrs

from nsqd.broker import Broker, BrokerOptions, Channel, Outbox, Subscription, Topic, Topology
from nsqd.broker.log_backlog import LogBacklog
from nsqd.broker.log_view import LogView
from nsqd.broker.memory_backlog import MemoryBacklog
from nsqd.broker.peek import Entry, Page, PeekState, peek_channel, peek_topic
from nsqd.broker.topic_store import LogTopicStore, MemoryTopicStore
from nsqd.log.jobs import Job
from nsqd.log.store import Store, StoreOptions
from nsqd.testing.faulty_storage import Fail, Fault, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from nsqkit.wire import Message, decode_message, encode_message

WALL_NS = 1_700_000_000 * 10**9
SECOND_NS = 10**9
MAX_LAPS = 10_000


@attrs.define(eq=False)
class Receipt:
    """What a producer knows of one publish. `error` is None before the round and when it was acknowledged."""

    topic: Topic
    commit_number: int
    ids: list[bytes]
    error: str | None = None
    done: bool = False

    @property
    def acknowledged(self) -> bool:
        return self.done and self.error is None


@attrs.define(eq=False)
class Consumer:
    """A client. `received`: what its socket took; what waits in front of the socket is `unsent`."""

    channel: Channel = attrs.field(init=False)
    subscription: Subscription = attrs.field(init=False)
    outbox: Outbox = attrs.field(init=False)
    received: list[Message] = attrs.field(factory=list)
    taking: bool = True
    awake: bool = False
    disconnected: bool = False
    _read: int = 0

    def wake(self) -> None:
        assert not self.awake, "asked once until the connection has looked"
        self.awake = True

    def disconnect(self) -> None:
        self.disconnected = True

    def take(self) -> bool:
        """The socket takes what waits. True when that was something."""
        if not self.taking or not self.outbox.items:
            return False
        self.received += map(decode_message, self.outbox.take())
        self.awake = False
        self.outbox.size = 0
        self.channel.offer(self.subscription)
        return True

    @property
    def unsent(self) -> list[Message]:
        return [decode_message(frame) for frame in self.outbox.items]

    def new(self) -> list[Message]:
        """What was received since the last call."""
        messages = self.received[self._read :]
        self._read = len(self.received)
        return messages

    def bodies(self) -> list[bytes]:
        """The bodies of what was received since the last call."""
        return [message.body for message in self.new()]

    @property
    def in_flight(self) -> list[bytes]:
        return list(self.subscription.in_flight)


class Harness:
    """One data path, one daemon at a time. `memory`: what it finds there, not a new one."""

    def __init__(
        self,
        store_options: StoreOptions | None = None,
        *,
        memory: MemoryStorage | None = None,
        now: float = 100.0,
        wall_ahead: float = 0.0,
        **options: object,
    ) -> None:
        self.store_options = store_options or StoreOptions(min_free_space=0, ballast_bytes=0)
        self.options = BrokerOptions(**options)  # type: ignore[arg-type]
        self.memory = memory or MemoryStorage()
        self.storage = FaultyStorage(self.memory)
        self.now = now
        self.wall_ahead = wall_ahead  # seconds; changed by a test that sets the wall clock
        self.run_jobs = True
        self.consumers: list[Consumer] = []
        self._receipts: list[Receipt] = []
        self._names = itertools.count()
        self.broker = self._boot()

    def _boot(self) -> Broker:
        store = Store(self.storage, self.store_options, self.wall_ns)
        return Broker(store, self.options, self.now, self.wall_ns)

    @property
    def wall_ns(self) -> int:
        return WALL_NS + int((self.now + self.wall_ahead) * SECOND_NS)

    @property
    def jobs(self) -> list[Job]:
        return list(self.broker.store.jobs)

    def topic(self, name: str = "t") -> Topic:
        return self.broker.topic(name)

    def channel(self, name: str = "c", topic: str = "t") -> Channel:
        """The channel, which must be there."""
        return self.broker.existing(topic).existing(name)

    def create(self, channel: str = "c", topic: str = "t") -> Channel:
        """Make a channel."""
        made = self.topic(topic).channel(channel)
        self.round()
        return made

    # --- producers

    def send(self, *bodies: bytes, topic: str = "t") -> Receipt:
        """Publish without a round."""
        frames = [self._frame(body) for body in bodies]
        target = self.topic(topic)
        target.publish(frames, sum(map(len, frames)))
        return self._receipt(target, frames)

    def submit(self, *bodies: bytes, topic: str = "t", delay: float = 0.0) -> None:
        """Publish through the broker, which may refuse it, and do a round. `LimitReached`."""
        self.broker.advance(self.now, self.wall_ns)
        self.broker.publish(self.topic(topic), bodies, int(delay * SECOND_NS))
        self.round()

    def publish(self, *bodies: bytes, topic: str = "t") -> Receipt:
        """Publish in one piece, and do a round."""
        receipt = self.send(*bodies, topic=topic)
        self.round()
        return receipt

    def publish_many(self, count: int, topic: str = "t") -> list[bytes]:
        """Publish `m0`, `m1`, ... in one piece; returns these bodies."""
        bodies = [b"m%d" % seq for seq in range(count)]
        assert self.publish(*bodies, topic=topic).acknowledged
        return bodies

    def defer(self, body: bytes, delay: float, topic: str = "t") -> Receipt:
        """Publish one message with a delay in seconds, and do a round."""
        frame, target = self._frame(body), self.topic(topic)
        target.publish_deferred(frame, int(delay * SECOND_NS))
        receipt = self._receipt(target, [frame])
        self.round()
        return receipt

    def _frame(self, body: bytes) -> bytes:
        self.broker.advance(self.now, self.wall_ns)
        message_id = b"%016x" % self.broker.store.ids.take(1)
        return encode_message(self.wall_ns, 1, message_id, body)

    def _receipt(self, topic: Topic, frames: list[bytes]) -> Receipt:
        receipt = Receipt(topic, topic.commit_number, [frame[18:34] for frame in frames])
        self._receipts.append(receipt)
        return receipt

    # --- consumers

    def subscribe(
        self,
        channel: str = "c",
        *,
        topic: str = "t",
        rdy: int = 0,
        timeout: float = 60.0,
        sample: int = 0,
        limit: int = 1 << 20,
        topology: Topology | None = None,
    ) -> Consumer:
        """A new client with `rdy` messages of window. `limit`: bytes in its outbox above which it is full."""
        consumer = Consumer()
        consumer.outbox = Outbox(consumer, limit)
        self.broker.advance(self.now, self.wall_ns)
        consumer.channel, consumer.subscription = self.topic(topic).subscribe(
            channel, consumer.outbox, timeout, sample, topology
        )
        self.consumers.append(consumer)
        consumer.channel.set_rdy(consumer.subscription, rdy)
        self.round()
        return consumer

    def rdy(self, consumer: Consumer, count: int) -> None:
        consumer.channel.set_rdy(consumer.subscription, count)
        self.round()

    def finish(self, consumer: Consumer, *ids: bytes) -> list[bytes]:
        """FIN for these, or for all that it has in flight; returns those that were not in flight."""
        missing = consumer.channel.finish(consumer.subscription, list(ids) or consumer.in_flight)
        self.round()
        return missing

    def requeue(self, consumer: Consumer, message_id: bytes, delay: float = 0.0) -> None:
        consumer.channel.requeue(consumer.subscription, message_id, delay)
        self.round()

    def touch(self, consumer: Consumer, message_id: bytes) -> None:
        self.broker.advance(self.now, self.wall_ns)
        consumer.channel.touch(consumer.subscription, message_id)
        self.round()

    def disconnect(self, consumer: Consumer) -> None:
        """Its connection ends; what its socket never took goes back."""
        self.consumers.remove(consumer)
        unsent = {message.id for message in consumer.unsent}
        self.broker.unsubscribe(consumer.channel, consumer.subscription, unsent)
        self.round()

    def take(self, consumer: Consumer) -> None:
        """Its socket takes again."""
        consumer.taking = True
        self.round()

    def drain(self, consumer: Consumer) -> list[bytes]:
        """Finish whatever comes until nothing more does; returns all bodies."""
        bodies = consumer.bodies()
        while consumer.in_flight:
            self.finish(consumer)
            bodies += consumer.bodies()
        return bodies

    # --- time and rounds

    def round(self) -> None:
        """One round, and as many pumps as there is something to do for."""
        broker = self.broker
        broker.advance(self.now, self.wall_ns)
        broker.fire_timers()
        self._commit()
        busy, laps = True, 0
        while busy:
            laps += 1
            assert laps < MAX_LAPS, "the round never ends"
            busy = broker.pump()
            if broker.timers.next() <= self.now:  # what a round has left for the next one
                broker.advance(self.now, self.wall_ns)
                broker.fire_timers()
                busy = True
            if self.run_jobs and broker.store.jobs:
                broker.store.jobs.run_all()
                self._commit()
                busy = True
            for consumer in list(self.consumers):
                busy = consumer.take() or busy
        self._commit()  # a pump may have learned that messages are lost, or sampled some out

    def _commit(self) -> None:
        self.broker.commit()
        for receipt in self._receipts:
            receipt.done, receipt.error = True, receipt.topic.failed.get(receipt.commit_number)
        self._receipts.clear()
        self.broker.clear_failures()

    def advance(self, seconds: float) -> None:
        """Let time pass, and do a round."""
        self.now += seconds
        self.round()

    def run_job(self, at: int = 0) -> Job:
        """Run one job that was held back, and do a round."""
        job = self.broker.store.jobs[at]
        del self.broker.store.jobs[at]
        self.broker.advance(self.now, self.wall_ns)
        job.run()
        self.round()
        return job

    # --- trouble

    def fail(self, operation: str, seq: int = errno.ENOSPC, path: str = "topic-") -> None:
        """From now on this operation fails on paths that hold `path`, until `heal`."""

        def fault(name: str, where: str) -> Fault | None:
            return Fail(seq) if name == operation and path in where else None

        self.storage.fault = fault

    def heal(self) -> None:
        self.storage.fault = lambda _operation, _path: None

    def corrupt(self, body: bytes, topic: str = "t") -> None:
        """Change a byte of this body where it lies in the topic's log."""
        folder = self.memory._folder(f"topic-{topic}")
        for content in folder.names.values():
            at = content.data.find(body)  # type: ignore[union-attr]
            if at >= 0:
                content.data[at] ^= 0xFF  # type: ignore[union-attr]
                return
        raise AssertionError(f"{body!r} is in no segment")

    def snapshot(self, topic: str = "t") -> None:
        """Take a whole snapshot of a durable topic."""
        self.broker.retentions[topic].begin_snapshot()
        while self.broker.step_snapshots():
            pass
        self.round()

    # --- the end of a daemon, and the next one

    def kill(self) -> None:
        """`kill -9`, and a start: what was written is there, and nothing else."""
        cold = self.memory.cold
        self.memory = self.memory.kill()
        self.memory.cold = cold
        self._start()

    def restart(self) -> None:
        """An orderly stop, and a start."""
        self.broker.close()
        self.kill()

    def _start(self) -> None:
        self.storage = FaultyStorage(self.memory)
        self.consumers.clear()
        self._receipts.clear()
        self.broker = self._boot()
        self.round()


def view_of(topic: Topic) -> LogView:
    """The log of a topic on disk, as its channels see it."""
    assert isinstance(topic.store, LogTopicStore)
    return topic.store.view


def log_backlog(channel: Channel) -> LogBacklog:
    """The backlog of a durable channel."""
    assert isinstance(channel.backlog, LogBacklog)
    return channel.backlog


def messages_there(topic: Topic, start: int = 0) -> dict[int, Message]:
    """By seq: the messages from `start` on that the log has, and that channels have been given."""
    view = view_of(topic)
    seqs = range(start, view.high_watermark)
    with contextlib.closing(view.log.look().messages(seqs)) as messages:
        found = zip(seqs, messages, strict=True)
        return {seq: decode_message(message.frame) for seq, message in found if message is not None}


def deferred_of(channel: Channel) -> dict[int, tuple[int, float]]:
    """seq -> (attempts, due)."""
    entries = {seq: channel.deferred.get(seq) for seq in channel.deferred}
    return {seq: entry for seq, entry in entries.items() if entry is not None}


def peeked(channel: Channel, state: PeekState, limit: int = 1000) -> list[tuple[Entry, Message]]:
    """All messages in this state, looked at in pages of `limit`. All must be readable."""
    return _all_of(lambda start: peek_channel(channel, state, start, limit))


def peeked_topic(topic: Topic) -> list[tuple[Entry, Message]]:
    """All messages that no channel has been given."""
    return _all_of(lambda start: peek_topic(topic, start, 1000))


def _all_of(peek: Callable[[int], Page]) -> list[tuple[Entry, Message]]:
    found: list[tuple[Entry, Message]] = []
    start: int | None = 0
    while start is not None:
        page = peek(start)
        with page.messages() as messages:
            for entry, message in zip(page.entries, messages, strict=True):
                assert message is not None
                found.append((entry, decode_message(message.frame)))
        start = page.start_at(len(page.entries))
        assert page.count >= len(found) == len({entry.seq for entry, _ in found})
    assert page.count == len(found)
    return found


def everything_of(harness: Harness, channel: Channel) -> object:
    """The whole state of a channel, and of what it shares with others, in values that can be compared."""
    context, backlog = channel.context, channel.backlog
    clients = [*channel.subscriptions, *channel.delivery.disconnected]
    state: list[object] = [
        attrs.astuple(channel.counts),
        list(channel.requeued),
        deferred_of(channel),
        dict(channel.leaving.messages),
        [(client, list(client.in_flight.items()), list(client.outbox.items)) for client in clients],
        [list(queue) for queue in channel.delivery.queues],
        (list(context.to_commit), list(context.to_pump), list(context.to_maintain), context.timers.next()),
        list(harness.broker.store.jobs),
    ]
    if isinstance(backlog, LogBacklog):
        log, window = backlog.view.log, backlog.view.window
        state += [
            (backlog.cursor, list(backlog.settled), list(backlog.skip), list(backlog._to_settle)),
            (list(backlog._unwritten), dict(backlog._unwritten_awaiting), backlog.view.high_watermark),
            (window.base, list(window.frames), dict(backlog.cache._frames)),
            [(s.path, s.file.size, s.file.closed, list(s.marks), dict(s.blocks)) for s in log.segments],
            (dict(log.moved), log.end, harness.memory.files(log.folder)),
        ]
    elif isinstance(backlog, MemoryBacklog):
        state += [list(backlog._queue), dict(backlog._frames), set(backlog._unread), backlog._budget.used]
    return state


def held_bytes(place: Topic | Channel) -> int:
    """Bytes of messages that only memory has."""
    held = place.store if isinstance(place, Topic) else place.backlog
    if isinstance(held, MemoryTopicStore):
        return sum(map(len, held._held.values()))
    return sum(map(len, held._frames.values())) if isinstance(held, MemoryBacklog) else 0


def conserved(channel: Channel) -> bool:
    """Everything that entered the channel is somewhere (I9). Holds for a channel made in this life of the daemon."""
    counted = (
        channel.counts.finished
        + channel.counts.dropped
        + channel.counts.expired
        + channel.counts.damaged
        + channel.counts.dead_lettered.total()
        + len(channel.leaving)
        + channel.depth
        + channel.in_flight_count
        + len(channel.deferred)
    )
    return counted == channel.counts.entered
