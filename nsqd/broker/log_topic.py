"""Topics on disk: one log, and a *mark* in it.

Messages below the mark belong to the channels; messages behind it wait for the topic to have a channel, to be unpaused,
to be started. While the topic *flows* (started, unpaused, with a channel) the mark is the log's end.

What a round published, finished and requeued gathers here; `commit` writes it with one append. Nothing is offered to a
channel before that append has returned. A change of the topic's shape (a channel comes or goes, pause, empty) is an
append of its own, made at once: when the call returns, it is written; when it raises, it has not happened.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable
from itertools import islice

from nsqd.broker.channel import Channel
from nsqd.broker.context import BrokerContext
from nsqd.broker.ephemeral_channel import EphemeralChannel
from nsqd.broker.errors import Refused
from nsqd.broker.log_channel import LogChannel
from nsqd.broker.oldest import Oldest, PublishTime
from nsqd.broker.retention import Retention
from nsqd.broker.topic import Topic
from nsqd.broker.window import Window
from nsqd.log.ranges import RangeSet
from nsqd.log.recovery import Recovered
from nsqd.log.segment import ReadResult
from nsqd.log.state import Change, Code
from nsqd.log.topic_log import Batch, TopicLog
from nsqkit.wire.names import is_ephemeral

__all__ = ["LogTopic"]


class LogTopic(Topic):
    """A topic on disk."""

    def __init__(self, broker: BrokerContext, name: str, log: TopicLog) -> None:
        super().__init__(broker, name)
        self.log = log
        self.high_watermark = log.end
        self.window = Window(log.end, broker.mem_queue_size, broker.window_budget)
        self.aborted = RangeSet()  # numbers behind the mark that never were messages
        self.deferred: dict[int, int] = {}  # behind the mark: number -> delay in ns
        self._changed: dict[LogChannel, None] = {}
        self._last_generation = 0
        self._noted_damage: set[tuple[str, int]] = set()
        self.retention = Retention(self)
        self._oldest = Oldest(self)

    @classmethod
    def restore(cls, broker: BrokerContext, name: str, recovered: Recovered, wall_ns: int) -> LogTopic:
        """As recovery found it."""
        state = recovered.state
        topic = cls(broker, name, recovered.log)
        topic.high_watermark, topic.paused = min(state.high_watermark, state.end), state.paused
        topic.deferred, topic._last_generation = state.deferred, state.last_generation
        topic.aborted = state.aborted
        topic.aborted.discard_below(topic.high_watermark)
        topic.started = not (broker.options.has_registries and topic.log.end > topic.high_watermark == 0)
        for channel_state in state.channels.values():
            channel = LogChannel.restore(topic, channel_state, wall_ns)
            topic.channels[channel.name] = channel
        for seq in [n for n in state.deferred if n < topic.high_watermark]:  # the record of the mark was lost
            topic._enter_deferred(seq, None)
        if recovered.damage:
            lost: list[Change] = [
                (Code.LOST, d.first, d.end, True) for d in recovered.damage if d.end > d.first
            ]
            topic.retention.want_snapshot()  # so that the next start need not look at it again
            topic._try_change(lost)
        if topic.flowing and topic.high_watermark < topic.log.end:
            topic._try_change(topic._flow())
        return topic

    @property
    def depth(self) -> int:
        return self.log.end - self.high_watermark - self.aborted.count

    @property
    def backend_depth(self) -> int:
        return max(0, min(self.depth, self.window.base - self.high_watermark))

    def oldest(self) -> PublishTime:
        return self._oldest.ask(self.aborted.end_of(self.high_watermark)) if self.depth else None

    # --- the append of a round

    def changed(self, channel: LogChannel) -> None:
        """A channel has something for the next append."""
        self.broker.commit_soon(self)
        self._changed[channel] = None

    @property
    def has_changes(self) -> bool:
        """Whether something waits for the next append."""
        return bool(self._changed)

    def commit(self) -> None:
        store = self.broker.store
        full = store.full is not None
        changed, changes = self._changed, []
        if changed:
            self._changed = {}
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
        self.broker.wrote(self.log, self.retention, self.log.end - first)
        if changed:
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
                self.broker.schedule_maintenance(self.retention)

    def _commit_failed(self, error: OSError, batches: list[Batch], first: int) -> None:
        self.broker.note_write_error(self.name, error)
        self.failed[self.batch - 1] = error.strerror or str(error)
        self.broker.failures.append(self)
        self._count(batches, -1)
        if self.log.end > first:
            self.window.reset(self.log.end)
            self.aborted.add(first, self.log.end)
            if self.flowing:
                self._pass_voids(self.log.end)
                self.high_watermark = self.log.end

    def _written(self, batches: list[Batch], first: int, flowing: bool) -> None:
        end, seq = self.log.end, first
        if flowing:
            self.high_watermark = end
        for batch in batches:
            self.window.extend(batch.frames, batch.size)
            if batch.delays is not None:
                self.deferred.update(zip(range(seq, seq + len(batch.frames)), batch.delays, strict=True))
            if flowing:
                self._enter(seq, batch)
            seq += len(batch.frames)

    def _enter(self, first: int, batch: Batch) -> None:
        """Messages that were just written go to every channel."""
        for channel in self.channels.values():
            if isinstance(channel, LogChannel):
                channel.advanced(len(batch.frames))
            elif batch.delays is None:
                assert isinstance(channel, EphemeralChannel)
                channel.enqueue(first, batch.frames)
        if batch.delays is not None:
            for seq, frame in enumerate(batch.frames, first):
                self._enter_deferred(seq, frame)

    def _enter_deferred(self, seq: int, frame: bytes | None) -> None:
        """The mark has passed a deferred message: its time begins now."""
        due = self.broker.now + self.deferred.pop(seq) / 1e9
        for channel in self.channels.values():
            if isinstance(channel, LogChannel):
                channel.entered_deferred(seq, due)
            elif isinstance(channel, EphemeralChannel):
                channel.enqueue_deferred(seq, frame, due)

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
        self.broker.wrote(self.log, self.retention, 0)

    def _try_change(self, changes: list[Change]) -> None:
        """Write changes that recovery would come to by itself, if the disk takes them."""
        with contextlib.suppress(Refused):
            self._change(changes)

    def _flow(self) -> list[Change]:
        """Move the mark to the end, for the channels that are there; returns the change that says so."""
        high_watermark, self.high_watermark = self.high_watermark, self.log.end
        change = (Code.MARK, self.log.end, self.broker.wall_ns)
        elsewhere = RangeSet(self.aborted)  # numbers that no queue gets: never messages, or deferred ones
        messages = self.high_watermark - high_watermark - elsewhere.count
        self._pass_voids(self.log.end)
        passed = sorted(seq for seq in self.deferred if seq < self.log.end)
        for seq in passed:
            elsewhere.add(seq, seq + 1)
        for channel in self.channels.values():
            if isinstance(channel, LogChannel):
                channel.advanced(messages)
            elif isinstance(channel, EphemeralChannel):
                self._backlog_to(channel, high_watermark, elsewhere)
        for seq in passed:
            self._enter_deferred(seq, self.window.get(seq))
        for channel in self.channels.values():
            self.broker.pump_soon(channel)
        return [change]

    def _backlog_to(self, channel: EphemeralChannel, high_watermark: int, elsewhere: RangeSet) -> None:
        waiting = self.log.end - high_watermark - elsewhere.count
        room = channel.room_for(waiting)
        seqs = list(islice((n for n in range(high_watermark, self.log.end) if n not in elsewhere), room))
        channel.enqueue_backlog(seqs, waiting - len(seqs))

    def _pass_voids(self, high_watermark: int) -> None:
        """The mark is about to pass numbers that never were messages."""
        for start, end in self.aborted:
            for channel in self.channels.values():
                if isinstance(channel, LogChannel) and start < high_watermark:
                    channel.skip_aborted(start, min(end, high_watermark))
        self.aborted.discard_below(high_watermark)

    def _make_channel(self, name: str) -> Channel:
        if not is_ephemeral(name):  # which writes nothing
            self.broker.refuse_when_full()
        self.commit()
        channel: Channel
        changes: list[Change] = []
        if is_ephemeral(name):
            channel = EphemeralChannel(self.broker, self.name, name, self)
        else:
            self._last_generation += 1
            channel = LogChannel(self, name, self._last_generation, self.high_watermark)
            changes.append((Code.CHANNEL_CREATED, channel.generation, name, self.high_watermark))
        if self.started and not self.paused and self.high_watermark < self.log.end:
            changes.append((Code.MARK, self.log.end, self.broker.wall_ns))
        self._change(changes)
        self.channels[name] = channel
        if self.flowing and self.high_watermark < self.log.end:
            self._flow()
        self.broker.channel_created(self.name, channel)
        return channel

    def _set_paused(self, paused: bool) -> None:
        changes: list[Change] = [(Code.TOPIC_PAUSED, paused)]
        self.commit()
        flows = not paused and self.started and bool(self.channels) and self.high_watermark < self.log.end
        if flows:
            changes.append((Code.MARK, self.log.end, self.broker.wall_ns))
        self._change(changes)
        self.paused = paused
        if flows:
            self._flow()

    def start(self) -> None:
        self.commit()
        if not self.paused and self.channels and self.high_watermark < self.log.end:
            self._change([(Code.MARK, self.log.end, self.broker.wall_ns)])
            self.started = True
            self._flow()
        self.started = True

    def empty(self) -> None:
        self.commit()
        start, end = self.high_watermark, self.log.end
        if start == end:
            return
        waiting = self.depth
        self._change([(Code.TOPIC_EMPTIED, start, end)])
        self.dropped_count += waiting
        self.high_watermark = end
        self.aborted.discard_below(end)
        self.deferred.clear()
        for channel in self.channels.values():
            if isinstance(channel, LogChannel):
                channel.skip_aborted(start, end)

    def empty_channel(self, name: str) -> None:
        channel = self.existing(name)
        if isinstance(channel, LogChannel):
            self.commit()
            self._change([(Code.CHANNEL_EMPTIED, channel.generation, self.high_watermark)])
            channel.empty()
        elif isinstance(channel, EphemeralChannel):
            channel.empty()

    def pause_channel(self, name: str, paused: bool) -> None:
        channel = self.existing(name)
        if isinstance(channel, LogChannel) and channel.paused != paused:
            self._change([(Code.CHANNEL_PAUSED, channel.generation, paused)])
        channel.paused = paused
        self.broker.pump_soon(channel)

    def _channel_goes(self, channel: Channel) -> None:
        if isinstance(channel, LogChannel):
            self._change([(Code.CHANNEL_DELETED, channel.generation)])
            self._changed.pop(channel, None)

    # --- reading

    def accept_read(self, result: ReadResult) -> None:
        """A read has ended: keep what it learned of the log."""
        self.log.accept(result)
        for damage in result.damage:
            topology = (damage.path, damage.offset)
            if topology not in self._noted_damage:  # every read that passes it meets it again
                self._noted_damage.add(topology)
                self.broker.note_damage(self.name, damage)
                self.lose(damage.first, damage.end, damaged=True)

    def lose(self, start: int, end: int, *, damaged: bool) -> None:
        """The log cannot give these numbers any more: no channel waits for them."""
        for channel in self.channels.values():
            if isinstance(channel, LogChannel):
                channel.lose(start, end, damaged)
        self._try_change([(Code.LOST, start, end, damaged)])

    @property
    def floor(self) -> int:
        """The lowest number that anybody needs."""
        floor = self.high_watermark
        for channel in self.channels.values():
            if isinstance(channel, LogChannel):
                floor = min(floor, channel.floor)
            elif isinstance(channel, EphemeralChannel) and (pinned := channel.pinned) is not None:
                floor = min(floor, pinned)
        return floor

    def close(self) -> None:
        """An orderly stop: what is in flight and what is finished is written. `OSError` when it cannot be."""
        for channel in self.channels.values():
            if isinstance(channel, LogChannel):
                channel.requeue_in_flight()
        batch, publishes = self.batch, bool(self._pending)
        self.commit()
        if self.has_changes:  # what makes room may find some, where the ballast was
            self.commit()
        if (publishes and batch in self.failed) or self.has_changes:
            raise OSError(errno.EIO, f"TOPIC({self.name}): not everything could be written")
