"""Topics: where messages enter, and from where every channel gets each of them.

`LogTopic` is one log with a *mark*: messages below it belong to the channels, messages behind it wait for the topic to
have a channel, to be unpaused, to be started. While it *flows* (started, unpaused, with a channel) the mark is the
log's end. `EphemeralTopic` lives in memory only.

What a round published, finished and requeued gathers here; `commit` writes it with one append. Nothing is offered to a
channel before that append has returned. A change of the topic's shape (a channel comes or goes, pause, empty) is an
append of its own, made at once: when the call returns, it is written; when it raises, it has not happened.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from nsqd.broker.channel import Channel
from nsqd.broker.ephemeral import EphemeralChannel
from nsqd.broker.errors import NotFound, Refused
from nsqd.broker.log_channel import LogChannel
from nsqd.broker.outbox import Outbox
from nsqd.broker.subscription import Subscription
from nsqd.broker.window import Window
from nsqd.log.jobs import Job
from nsqd.log.ranges import RangeSet
from nsqd.log.recovery import Recovered
from nsqd.log.snapshots import KEPT, SLICE, SnapshotWriter, snapshot_name
from nsqd.log.state import Change, Code, flat_runs
from nsqd.log.topic_log import Batch, Piece, Segment, TopicLog
from nsqkit.wire.names import is_ephemeral

if TYPE_CHECKING:
    from nsqd.broker.broker import Broker

_T = TypeVar("_T")

__all__ = ["EphemeralTopic", "LogTopic", "Topic"]

RECORD_BYTES = 1 << 20  # messages of several publishes share a record up to about this size
SNAPSHOT_BYTES = 64 << 20
SNAPSHOT_RECORDS = 200_000
IDLE_TRIM_BYTES = 1 << 20  # a topic whose messages are all finished keeps no more than this on disk


class Topic:
    """Base of both kinds. `batch` is the number of the commit that what is published now belongs to."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker = broker
        self.name = name
        self.channels: dict[str, Channel] = {}
        self.paused = False
        self.started = True
        self.message_count = 0
        self.message_bytes = 0
        self.batch = 0
        self.failed: dict[int, str] = {}  # commits of this round that failed, and why
        self._pending: list[Batch] = []
        self._pending_count = 0
        self._pending_bytes = 0
        self._open_bytes = 0

    # --- what a kind of topic says

    @property
    def depth(self) -> int:
        """Messages that no channel has got yet."""
        raise NotImplementedError

    @property
    def backend_depth(self) -> int:
        raise NotImplementedError

    def commit(self) -> None:
        """Write what has gathered, and offer it to the channels. Failures are in `failed`."""
        raise NotImplementedError

    def _make_channel(self, name: str) -> Channel:
        raise NotImplementedError

    def _set_paused(self, paused: bool) -> None:
        raise NotImplementedError

    def empty(self) -> None:
        """Drop what no channel has got yet. `Refused` when the disk does."""
        raise NotImplementedError

    def empty_channel(self, name: str) -> None:
        raise NotImplementedError

    def pause_channel(self, name: str, paused: bool) -> None:
        raise NotImplementedError

    def _remove_channel(self, channel: Channel) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Its channels elsewhere are known: let the messages flow."""
        raise NotImplementedError

    # --- publishing

    @property
    def flowing(self) -> bool:
        return self.started and not self.paused and bool(self.channels)

    def publish(self, frames: list[bytes], size: int, body_bytes: int) -> None:
        """Take messages as whole frames; `size`: their bytes, `body_bytes`: those of their bodies.

        They are written with the round's commit, all or none of them.
        """
        if self._pending and self._pending[-1].delays is None and self._open_bytes < RECORD_BYTES:
            self._pending[-1].frames += frames
            self._open_bytes += size
        else:
            self._pending.append(Batch(frames))
            self._open_bytes = size
        self._gathered(len(frames), size, body_bytes)

    def publish_deferred(self, frame: bytes, delay_ns: int, body_bytes: int) -> None:
        """Take one message that is to be delivered after a delay."""
        self._pending.append(Batch([frame], [delay_ns]))
        self._gathered(1, len(frame), body_bytes)

    def _gathered(self, count: int, size: int, body_bytes: int) -> None:
        if not self._pending_bytes:
            self.broker.commit_soon(self)
        self._pending_count += count
        self._pending_bytes += size
        self.message_count += count
        self.message_bytes += body_bytes

    def _take_pending(self) -> list[Batch]:
        batches, self._pending = self._pending, []
        self._pending_count = self._pending_bytes = self._open_bytes = 0
        self.batch += 1
        return batches

    # --- channels

    def channel(self, name: str) -> Channel:
        """The channel of this name, made when it is not there. `Refused` when the disk says no."""
        channel = self.channels.get(name)
        if channel is None:
            channel = self._make_channel(name)
        return channel

    def existing(self, name: str) -> Channel:
        """`NotFound` when there is no such channel."""
        try:
            return self.channels[name]
        except KeyError:
            raise NotFound(name) from None

    def subscribe(self, name: str, outbox: Outbox, timeout: float, sample: int = 0) -> Subscription:
        """Add a client to a channel, which is made when it is not there. `Refused` when it has all it may have."""
        channel = self.channel(name)
        limit = self.broker.max_channel_consumers
        if limit and len(channel.subscriptions) >= limit:
            raise Refused(f"consumers for {self.name}:{name} exceeds limit of {limit}")
        subscription = Subscription(channel, outbox, timeout, sample)
        channel.join(subscription)
        if isinstance(channel, EphemeralChannel):
            channel.auto_delete = is_ephemeral(name)
        return subscription

    def unsubscribe(self, subscription: Subscription, unsent: set[bytes]) -> None:
        """A connection has ended; `unsent`: ids of messages that the socket never took.

        An ephemeral channel goes with its last client.
        """
        channel = subscription.channel
        channel.leave(subscription, unsent)
        ephemeral = isinstance(channel, EphemeralChannel) and channel.auto_delete
        if ephemeral and not channel.subscriptions and self.channels.get(channel.name) is channel:
            self.delete_channel(channel.name)

    def pause(self, paused: bool) -> None:
        """`Refused` when the disk says no."""
        if paused != self.paused:
            self._set_paused(paused)

    def delete_channel(self, name: str) -> None:
        """`NotFound`; `Refused` when the disk says no."""
        channel = self.existing(name)
        self._remove_channel(channel)
        self.broker.channel_deleted(self, channel)


class LogTopic(Topic):
    """A topic on disk."""

    def __init__(self, broker: Broker, name: str, log: TopicLog) -> None:
        super().__init__(broker, name)
        self.log = log
        self.mark = log.end
        self.window = Window(log.end, broker.mem_queue_size, broker.window_budget)
        self.voids = RangeSet()  # numbers behind the mark that never were messages
        self._deferred: dict[int, int] = {}  # behind the mark: number -> delay in ns
        self._changed: dict[LogChannel, None] = {}
        self._last_generation = 0
        self._snapshot: SnapshotWriter | None = None
        self._snapshot_position = log.position
        self._last_position = log.position

    @classmethod
    def restore(cls, broker: Broker, name: str, recovered: Recovered, wall_ns: int) -> LogTopic:
        """As recovery found it."""
        state = recovered.state
        topic = cls(broker, name, recovered.log)
        topic.mark, topic.paused = min(state.mark, state.end), state.paused
        topic._deferred, topic._last_generation = state.deferred, state.last_generation
        topic.voids = state.voids
        topic.voids.discard_below(topic.mark)
        for channel_state in state.channels.values():
            channel = LogChannel.restore(topic, channel_state, wall_ns)
            topic.channels[channel.name] = channel
        if recovered.log.snapshots:
            topic._snapshot_position = recovered.log.snapshots[-1]
        for number in [n for n in state.deferred if n < topic.mark]:  # the record of the mark was lost
            topic._enter_deferred(number, None)
        if recovered.damage:
            lost: list[Change] = [
                (Code.LOST, d.first, d.end, True) for d in recovered.damage if d.end > d.first
            ]
            topic._snapshot_position = -SNAPSHOT_BYTES  # so that the next start need not look at it again
            topic._try_change(lost)
        if topic.flowing and topic.mark < topic.log.end:
            topic._try_change(topic._flow())
        return topic

    @property
    def depth(self) -> int:
        return self.log.end - self.mark - self.voids.count

    @property
    def backend_depth(self) -> int:
        return max(0, min(self.depth, self.window.base - self.mark))

    # --- the append of a round

    def changed(self, channel: LogChannel) -> None:
        """A channel has something for the next append."""
        self.broker.commit_soon(self)
        self._changed[channel] = None

    def commit(self) -> None:
        store = self.broker.store
        full = store.full is not None
        changed, self._changed = self._changed, {}
        changes = [change for channel in changed for change in channel.collect_changes(full)]
        batches = self._take_pending()
        if not batches and not changes:
            self._still_changed(changed)
            return
        flowing, first = self.flowing, self.log.end
        try:
            self.log.append(batches, changes, flowing=flowing)
        except OSError as error:
            self._commit_failed(error, batches, first)
            self._still_changed(changed)
            return
        self.broker.wrote(self, sum(len(batch.frames) for batch in batches))
        for channel in changed:
            channel.changes_written(full)
        self._still_changed(changed)
        if batches:
            self._written(batches, first, flowing)

    def _still_changed(self, channels: Iterable[LogChannel]) -> None:
        """What could not be written goes with a later append; housekeeping asks for one."""
        for channel in channels:
            if channel.has_unwritten:
                self._changed[channel] = None
                self.broker.look_after(self)

    def _commit_failed(self, error: OSError, batches: list[Batch], first: int) -> None:
        self.broker.note_write_error(self.name, error)
        self.failed[self.batch - 1] = error.strerror or str(error)
        self.broker.failures.append(self)
        for batch in batches:
            self.message_count -= len(batch.frames)
            self.message_bytes -= sum(len(frame) - 34 for frame in batch.frames)
        if self.log.end > first:
            self.window.reset(self.log.end)
            self.voids.add(first, self.log.end)
            if self.flowing:
                self._pass_voids(self.log.end)
                self.mark = self.log.end

    def _written(self, batches: list[Batch], first: int, flowing: bool) -> None:
        end, number = self.log.end, first
        if flowing:
            self.mark = end
        for batch in batches:
            self.window.extend(batch.frames, sum(map(len, batch.frames)))
            if batch.delays is not None:
                self._deferred.update(
                    zip(range(number, number + len(batch.frames)), batch.delays, strict=True)
                )
            if flowing:
                self._enter(number, batch)
            number += len(batch.frames)

    def _enter(self, first: int, batch: Batch) -> None:
        """Messages that were just written go to every channel."""
        for channel in self.channels.values():
            if isinstance(channel, LogChannel):
                channel.entered(len(batch.frames))
            elif batch.delays is None:
                assert isinstance(channel, EphemeralChannel)
                channel.enqueue(first, batch.frames)
        if batch.delays is not None:
            for number, frame in enumerate(batch.frames, first):
                self._enter_deferred(number, frame)

    def _enter_deferred(self, number: int, frame: bytes | None) -> None:
        """The mark has passed a deferred message: its time begins now."""
        due = self.broker.now + self._deferred.pop(number) / 1e9
        for channel in self.channels.values():
            if isinstance(channel, LogChannel):
                channel.entered_deferred(number, due)
            elif isinstance(channel, EphemeralChannel):
                channel.enqueue_deferred(number, frame, due)

    # --- changes of shape

    def _change(self, changes: list[Change]) -> None:
        """Write changes now, behind what has gathered. `Refused` when the disk says no."""
        if not changes:
            return
        self.commit()
        try:
            self.log.append((), changes)
        except OSError as error:
            self.broker.note_write_error(self.name, error)
            raise Refused(error.strerror or str(error)) from error
        self.broker.wrote(self, 0)

    def _try_change(self, changes: list[Change]) -> None:
        """Write changes that recovery would come to by itself, if the disk takes them."""
        with contextlib.suppress(Refused):
            self._change(changes)

    def _flow(self) -> list[Change]:
        """Move the mark to the end, for the channels that are there; returns the change that says so."""
        mark, self.mark = self.mark, self.log.end
        change = (Code.MARK, self.log.end, self.broker.wall_ns)
        elsewhere = RangeSet(self.voids)  # numbers that no queue gets: never messages, or deferred ones
        messages = self.mark - mark - elsewhere.count
        self._pass_voids(self.log.end)
        passed = sorted(number for number in self._deferred if number < self.log.end)
        for number in passed:
            elsewhere.add(number, number + 1)
        for channel in self.channels.values():
            if isinstance(channel, LogChannel):
                channel.entered(messages)
            elif isinstance(channel, EphemeralChannel):
                self._backlog_to(channel, mark, elsewhere)
        for number in passed:
            self._enter_deferred(number, self.window.get(number))
        for channel in self.channels.values():
            self.broker.pump_soon(channel)
        return [change]

    def _backlog_to(self, channel: EphemeralChannel, mark: int, elsewhere: RangeSet) -> None:
        room = max(0, self.broker.mem_queue_size - channel.fresh)
        waiting = self.log.end - mark - elsewhere.count
        numbers = list(islice((n for n in range(mark, self.log.end) if n not in elsewhere), room))
        channel.enqueue_backlog(numbers, waiting - len(numbers))

    def _pass_voids(self, mark: int) -> None:
        """The mark is about to pass numbers that never were messages."""
        for start, end in self.voids:
            for channel in self.channels.values():
                if isinstance(channel, LogChannel) and start < mark:
                    channel.void(start, min(end, mark))
        self.voids.discard_below(mark)

    def _make_channel(self, name: str) -> Channel:
        self.broker.refuse_when_full()
        self.commit()
        channel: Channel
        changes: list[Change] = []
        if is_ephemeral(name):
            channel = EphemeralChannel(self.broker, self.name, name, self)
        else:
            self._last_generation += 1
            channel = LogChannel(self, name, self._last_generation, self.mark)
            changes.append((Code.CHANNEL_CREATED, channel.generation, name, self.mark))
        if self.started and not self.paused and self.mark < self.log.end:
            changes.append((Code.MARK, self.log.end, self.broker.wall_ns))
        self._change(changes)
        self.channels[name] = channel
        if self.flowing and self.mark < self.log.end:
            self._flow()
        self.broker.channel_created(self, channel)
        return channel

    def _set_paused(self, paused: bool) -> None:
        changes: list[Change] = [(Code.TOPIC_PAUSED, paused)]
        self.commit()
        flows = not paused and self.started and bool(self.channels) and self.mark < self.log.end
        if flows:
            changes.append((Code.MARK, self.log.end, self.broker.wall_ns))
        self._change(changes)
        self.paused = paused
        if flows:
            self._flow()

    def start(self) -> None:
        self.commit()
        if not self.paused and self.channels and self.mark < self.log.end:
            self._change([(Code.MARK, self.log.end, self.broker.wall_ns)])
            self.started = True
            self._flow()
        self.started = True

    def empty(self) -> None:
        self.commit()
        start, end = self.mark, self.log.end
        if start == end:
            return
        self._change([(Code.TOPIC_EMPTIED, start, end)])
        self.mark = end
        self.voids.discard_below(end)
        self._deferred.clear()
        for channel in self.channels.values():
            if isinstance(channel, LogChannel):
                channel.void(start, end)

    def empty_channel(self, name: str) -> None:
        channel = self.existing(name)
        if isinstance(channel, LogChannel):
            self.commit()
            self._change([(Code.CHANNEL_EMPTIED, channel.generation, self.mark)])
            channel.empty()
        elif isinstance(channel, EphemeralChannel):
            channel.empty()

    def pause_channel(self, name: str, paused: bool) -> None:
        channel = self.existing(name)
        if isinstance(channel, LogChannel) and channel.paused != paused:
            self._change([(Code.CHANNEL_PAUSED, channel.generation, paused)])
        channel.paused = paused
        self.broker.pump_soon(channel)

    def _remove_channel(self, channel: Channel) -> None:
        if isinstance(channel, LogChannel):
            self._change([(Code.CHANNEL_DELETED, channel.generation)])
            self._changed.pop(channel, None)
        del self.channels[channel.name]
        channel.disconnect_all()
        channel.close()

    # --- reading

    def accept_piece(self, piece: Piece) -> None:
        """A read has ended: keep what it learned of the log."""
        self.log.accept(piece)
        for damage in piece.damage:
            self.broker.note_damage(self.name, damage)
            self.lose(damage.first, damage.end, damaged=True)

    def lose(self, start: int, end: int, *, damaged: bool) -> None:
        """The log cannot give these numbers any more: no channel waits for them."""
        for channel in self.channels.values():
            if isinstance(channel, LogChannel):
                channel.lose(start, end, damaged)
        self._try_change([(Code.LOST, start, end, damaged)])

    # --- keeping house

    @property
    def floor(self) -> int:
        """The lowest number that anybody needs."""
        floor = self.mark
        for channel in self.channels.values():
            if isinstance(channel, LogChannel):
                floor = min(floor, channel.floor)
            elif isinstance(channel, EphemeralChannel) and (pinned := channel.pinned) is not None:
                floor = min(floor, pinned)
        return floor

    def keep_house(self) -> bool:
        """Once a second, while there may be something to do; True when there may be more the next time.

        Write what an earlier append could not, remove segments that nobody needs, begin a snapshot when one is due.
        """
        store = self.broker.store
        if self._changed:
            self.broker.commit_soon(self)
        floor = self.floor
        idle = self.log.position == self._last_position
        self._last_position = self.log.position
        if self._snapshot is None and store.full is None and self._snapshot_due(floor, idle):
            self.begin_snapshot()
        segments = self.log.releasable(floor)
        if segments:
            self.log.drop(segments)
            self._remove_segments(segments)
        self._last_position = self.log.position
        return not idle or bool(self._changed) or self._snapshot is not None or bool(segments)

    def _remove_segments(self, segments: list[Segment]) -> None:
        """The finishes that made them superfluous must be on the disk before they go."""
        unsynced, storage = list(self.log.unsynced), self.log.storage

        def work() -> None:
            for file in unsynced:
                file.sync()
            for segment in segments:
                segment.file.close()
                storage.remove(segment.path)

        self.broker.store.jobs.append(Job("remove", work, lambda _: None, self._sync_failed))

    def _sync_failed(self, error: OSError) -> None:
        if not self.log.deleted:
            self.broker.store.fatal = error  # a failed sync is final

    def _snapshot_due(self, floor: int, idle: bool) -> bool:
        log = self.log
        if log.position - self._snapshot_position >= SNAPSHOT_BYTES:
            return True
        if log.records_since_snapshot >= SNAPSHOT_RECORDS:
            return True
        if not idle or floor < log.end or log.bytes_on_disk <= IDLE_TRIM_BYTES:
            return False
        # Nothing in the log is needed by a channel. A new segment and two snapshots in it let the old ones go.
        if log.segments[-1].file.size > IDLE_TRIM_BYTES:
            try:
                log.roll()
            except OSError as error:
                self.broker.note_write_error(self.name, error)
                return False
        return True

    def begin_snapshot(self) -> None:
        self.commit()
        try:
            self._snapshot = SnapshotWriter.begin(self.log, self.snapshot_changes())
        except OSError as error:
            self.broker.note_write_error(self.name, error)
            return
        self.broker.wrote(self, 0)
        self._snapshot_position = self._snapshot.position
        self.broker.snapshots.append(self)

    def step_snapshot(self) -> bool:
        """Write one slice; True when there is no more to do between rounds."""
        writer = self._snapshot
        if writer is None or self.log.deleted:
            return True
        try:
            if not writer.step():
                return False
        except OSError as error:
            self.broker.note_write_error(self.name, error)
            writer.abandon()
            self._snapshot = None
            return True
        unsynced = list(self.log.unsynced)
        self.broker.store.jobs.append(
            Job("snapshot", lambda: writer.finish(unsynced), self._snapshot_done, self._snapshot_failed)
        )
        return True

    def _snapshot_done(self, _: object) -> None:
        writer, self._snapshot = self._snapshot, None
        if writer is None:
            return
        self.broker.look_after(self)
        self.log.snapshots.append(writer.position)
        old, self.log.snapshots = self.log.snapshots[:-KEPT], self.log.snapshots[-KEPT:]
        storage, paths = self.log.storage, [f"{self.log.folder}/{snapshot_name(at)}" for at in old]

        def work() -> None:
            for path in paths:
                storage.remove(path)

        self.broker.store.jobs.append(Job("remove", work, lambda _: None, lambda _: None))

    def _snapshot_failed(self, error: OSError) -> None:
        self._snapshot = None
        self._sync_failed(error)

    def snapshot_changes(self) -> Iterator[list[Change]]:
        """The topic as changes, in slices.

        The order is part of the contract: what moves without a record (a deferred message behind the mark into the
        channels' tables, from there into the queue, from there in flight) moves to a place that is written later, and
        what is finished meanwhile has a record behind the snapshot's position.
        """
        yield [
            (Code.TOPIC_PAUSED, self.paused),
            (Code.MARK, self.mark, 0),
            *((Code.LOST, start, end, False) for start, end in self.voids),
        ]
        for numbers in _slices(list(self._deferred)):
            items = [x for n in numbers if n in self._deferred for x in (n, self._deferred[n])]
            yield [(Code.DEFERRED, *items)] if items else []
        for channel in list(self.channels.values()):
            if isinstance(channel, LogChannel):
                yield from self._channel_changes(channel)

    def _channel_changes(self, channel: LogChannel) -> Iterator[list[Change]]:
        generation, broker = channel.generation, self.broker
        yield [
            (Code.CHANNEL_CREATED, generation, channel.name, 0),
            (Code.CHANNEL_PAUSED, generation, channel.paused),
        ]
        for numbers in _slices(list(channel.deferred)):
            items: list[int] = []
            for number in numbers:
                if entry := channel.deferred.get(number):
                    due_ns = broker.wall_ns + max(0, int((entry[1] - broker.now) * 1e9))
                    items += (number, entry[0], due_ns)
            yield [(Code.PARKED, generation, *items)] if items else []
        for entries in _slices([(n, attempts) for n, attempts, _ in channel.requeued]):
            yield [(Code.PARKED, generation, *(x for n, attempts in entries for x in (n, attempts, 0)))]
        in_flight = [(n, attempts) for n, attempts, *_ in channel.in_flight_entries() if attempts > 1]
        for entries in _slices(in_flight):
            yield [(Code.PARKED, generation, *(x for n, attempts in entries for x in (n, attempts, 0)))]
        for ranges in _slices(list(channel.settled)):
            yield [(Code.FINISHED, generation, *flat_runs(ranges))]

    def close(self) -> None:
        """An orderly stop: what is in flight and what is finished is written."""
        for channel in self.channels.values():
            if isinstance(channel, LogChannel):
                channel.park_in_flight()
        self.commit()


class EphemeralTopic(Topic):
    """A topic in memory. While it does not flow it keeps at most `mem-queue-size` messages, the oldest ones."""

    def __init__(self, broker: Broker, name: str) -> None:
        super().__init__(broker, name)
        self._backlog: deque[tuple[bytes, int | None]] = deque()
        self._backlog_bytes = 0
        self._next = 0
        self.dropped_count = 0

    @property
    def depth(self) -> int:
        return len(self._backlog)

    @property
    def backend_depth(self) -> int:
        return 0

    def commit(self) -> None:
        for batch in self._take_pending():
            delays: Sequence[int | None] = batch.delays or [None] * len(batch.frames)
            for frame, delay in zip(batch.frames, delays, strict=True):
                size = self._backlog_bytes + len(frame)
                room = self.flowing or len(self._backlog) < self.broker.mem_queue_size
                if not room or size > self.broker.mem_queue_bytes:
                    self.dropped_count += 1
                    continue
                self._backlog.append((frame, delay))
                self._backlog_bytes = size
        self._flow()

    def _flow(self) -> None:
        if not self.flowing:
            return
        run: list[bytes] = []
        first = self._next
        for frame, delay in self._backlog:
            if delay is None:
                run.append(frame)
            else:
                self._enter(first, run)
                due = self.broker.now + delay / 1e9
                for channel in self._ephemeral():
                    channel.enqueue_deferred(self._next, frame, due)
                run, first = [], self._next + 1
            self._next += 1
        self._enter(first, run)
        self._backlog.clear()
        self._backlog_bytes = 0

    def _enter(self, first: int, frames: list[bytes]) -> None:
        for channel in self._ephemeral():
            if frames:
                channel.enqueue(first, frames)

    def _ephemeral(self) -> Iterator[EphemeralChannel]:
        for channel in self.channels.values():
            assert isinstance(channel, EphemeralChannel)
            yield channel

    def _make_channel(self, name: str) -> Channel:
        self.commit()
        channel = self.channels[name] = EphemeralChannel(self.broker, self.name, name, None)
        self._flow()
        self.broker.channel_created(self, channel)
        return channel

    def _set_paused(self, paused: bool) -> None:
        self.commit()
        self.paused = paused
        self._flow()

    def start(self) -> None:
        self.commit()
        self.started = True
        self._flow()

    def empty(self) -> None:
        self.commit()
        self._backlog.clear()
        self._backlog_bytes = 0

    def empty_channel(self, name: str) -> None:
        self.commit()
        channel = self.existing(name)
        assert isinstance(channel, EphemeralChannel)
        channel.empty()

    def pause_channel(self, name: str, paused: bool) -> None:
        channel = self.existing(name)
        channel.paused = paused
        self.broker.pump_soon(channel)

    def _remove_channel(self, channel: Channel) -> None:
        del self.channels[channel.name]
        channel.disconnect_all()


def _slices(items: list[_T]) -> Iterator[list[_T]]:
    for at in range(0, len(items), SLICE):
        yield items[at : at + SLICE]
