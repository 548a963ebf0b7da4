"""A topic: it accepts publishes, writes them with one append a round, and gives them to its channels.

Messages below the *high watermark* belong to the channels; those at or above it wait until the topic has a channel, is
unpaused and started. While the topic *flows* (started, unpaused, with a channel) the high watermark is the end of the
log.

All that a round has published, finished and requeued is written by `commit` with one append. Nothing is offered to a
channel before that append has returned. An administrative change (a channel is created or deleted, pause, empty) is
an append of its own, made at once: when the call returns, it is written; when it raises, it has not happened.
"""

from __future__ import annotations

import contextlib
import errno
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Protocol

import attrs

from nsqd.broker.channel import Channel
from nsqd.broker.context import BrokerContext
from nsqd.broker.errors import NotFound, Refused
from nsqd.broker.limits import TopicLimits
from nsqd.broker.locality import Topology
from nsqd.broker.oldest import PublishTime
from nsqd.broker.outbox import Outbox
from nsqd.broker.subscription import Subscription
from nsqd.broker.topic_store import TopicStore
from nsqd.log.ranges import RangeSet
from nsqd.log.state import Change, ChannelState, Code, RedriveState, flat_runs
from nsqd.log.topic_log import Batch
from nsqd.rules import NOTHING_GIVEN, NOTHING_SET, Given, Policy, Settings
from nsqkit.wire.frames import BODY
from nsqkit.wire.names import is_ephemeral

__all__ = ["Topic", "TopicListener"]

DROPPED_RANGES = 1000  # of its own messages, in one record
RECORD_BYTES = 1 << 20  # messages of several publishes share a record up to about this size
DELAYED_LIMIT = 1000  # so many more delayed messages may be held than are not due yet, and twice those


class TopicListener(Protocol):
    """Notified of a topic's new and deleted channels, of those that go on elsewhere, and of clients that use the topic
    before it is started. `Broker` implements it."""

    def channel_created(self, topic: Topic, channel: Channel) -> None: ...
    def channel_deleted(self, topic: Topic, channel: Channel) -> None: ...
    def channel_sought(self, topic: Topic, channel: Channel) -> None: ...
    def topic_awaited(self, topic: Topic) -> None: ...


class Topic:
    """One topic. `commit_number`: of the next commit, which will write everything published now.

    `failed`: commit number -> reason, for the failed commits of this round.
    """

    def __init__(self, context: BrokerContext, listener: TopicListener, name: str, store: TopicStore) -> None:
        self.context = context
        self.name = name
        self.store = store
        store.on_loss = self._lose
        self.channels: dict[str, Channel] = {}
        self.paused = False
        self.own_settings = NOTHING_GIVEN  # set by operators for this topic and all of its channels
        self.settings: Settings = NOTHING_SET  # what holds for the topic, see `resolve_settings`
        self.started = True
        self.message_count = 0
        self.message_bytes = 0
        self.dropped_count = 0  # by emptying, because an ephemeral topic was full, or by a limit
        self.dropped_by: Counter[str] = Counter()  # of these by the limits, by their names
        self.expired_count = 0  # older than `max_age`
        self.rejected: dict[str, Counter[str]] = {}  # messages, by channel ("": the topic itself) and limit
        self.limits: TopicLimits | None = None  # None: nothing is limited here
        self.guard: TopicLimits | None = None  # the same, if it may refuse publishes
        self.commit_number = 0
        self.failed: dict[int, str] = {}
        # Seqs that no channel can get: used up by a failed append, lost, or dropped with an emptied topic.
        self.unavailable = RangeSet()
        self.deferred: dict[int, int] = {}  # at or above the high watermark: seq -> delay in nanoseconds
        # Below it: seq -> due, also if no channel has it deferred (any more). Only for channels that begin before it.
        self.delayed: dict[int, float] = {}
        self._delayed_limit = DELAYED_LIMIT
        self._expired_to = 0  # what is below is dropped, or deferred
        self.last_generation = 0  # the highest one given to a channel; identifies it in records
        self._listener = listener
        self._pending: list[Batch] = []
        self._apart: list[Batch] = []  # dead letters, and messages for one channel: records of their own
        self.resolve_settings()

    # --- figures

    @property
    def depth(self) -> int:
        """Messages that no channel has been given."""
        start, end = self.store.high_watermark, self.store.end
        return end - start - self.unavailable.count_between(start, end)

    @property
    def waiting(self) -> int:
        """The same: what its own limits count."""
        return self.depth

    def waiting_bytes(self) -> int:
        """Bytes of their frames, as an estimate."""
        start, end = self.store.high_watermark, self.store.end
        if start == end:
            return 0
        return int(self.store.message_bytes(start, end) * self.depth / (end - start))

    @property
    def backend_depth(self) -> int:
        """How many of them are on disk only."""
        return max(0, min(self.depth, self.store.on_disk_only(self.store.high_watermark)))

    def oldest(self) -> PublishTime:
        """When the oldest of them was published."""
        return self.store.oldest(self.unavailable.end_of(self.store.high_watermark)) if self.depth else None

    # --- what the log must keep

    def needed(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges of seqs in `[start, end)` that a channel needs, or that the channels have not been given."""
        watermark = self.store.high_watermark
        backlogs = (channel.backlog.needed(start, min(end, watermark)) for channel in self.channels.values())
        parts = [part for part in (self.unavailable.gaps(max(start, watermark), end), *backlogs) if part]
        return parts[0] if len(parts) == 1 else list(RangeSet(sorted(chain.from_iterable(parts))))

    def needed_at_least(self, start: int, end: int) -> int:
        """A lower limit of how many these are: of the topic itself, and of the channel that needs most."""
        watermark = self.store.high_watermark
        gathered = max(start, watermark)
        own = max(0, end - gathered) - self.unavailable.count_between(gathered, end)
        end = max(start, min(end, watermark))
        return own + max(
            (channel.backlog.needed_count(start, end) for channel in self.channels.values()), default=0
        )

    def needs(self, seq: int) -> bool:
        """Whether the log must keep this message."""
        if seq >= self.store.high_watermark:
            return seq not in self.unavailable
        return any(channel.backlog.needs(seq) for channel in self.channels.values())

    @property
    def flowing(self) -> bool:
        return self.started and not self.paused and bool(self.channels)

    # --- publishing

    def publish(self, frames: list[bytes], size: int) -> None:
        """Accept messages as complete frames, `size` bytes in total.

        They are written with the round's commit, all or none of them.
        """
        if self._pending:
            # Publishes of one round share a record: one header and one checksum for all of them.
            last = self._pending[-1]
            if last.delays is None and last.size < RECORD_BYTES:
                last.frames += frames
                last.size += size
                return
        else:
            self.context.commit_soon(self.name)
        self._pending.append(Batch(frames, size))

    def publish_deferred(self, frame: bytes, delay_ns: int) -> None:
        """Accept one message that is to be delivered after a delay."""
        self.context.commit_soon(self.name)
        self._pending.append(Batch([frame], len(frame), [delay_ns]))

    def publish_letters(self, frames: list[bytes], origins: list[bytes]) -> None:
        """Accept dead letters: complete frames, and where each of them is from."""
        self.context.commit_soon(self.name)
        self._apart.append(Batch(frames, sum(map(len, frames)), origins=origins))

    def publish_directed(self, frames: list[bytes], generation: int) -> None:
        """Accept messages for the durable channel with this generation alone. The topic must flow."""
        assert self.flowing
        assert generation
        self.context.commit_soon(self.name)
        self._apart.append(Batch(frames, sum(map(len, frames)), directed=generation))

    def pending(self) -> tuple[int, int]:
        """How many messages this round has published so far, and the bytes of their frames."""
        return sum(len(batch.frames) for batch in self._pending), sum(batch.size for batch in self._pending)

    def commit(self) -> None:
        """Write everything gathered, and give it to the channels. A failure is noted in `failed`."""
        store = self.store
        changes = store.collect_changes()
        batches = self._take_pending()
        flowing, written = self.flowing, False
        if batches or changes:
            try:
                first, dropped = store.append(batches, changes, flowing=flowing)
                written = True
            except OSError as error:
                self._commit_failed(error, batches)
        if store.collected:
            store.changes_done(written=written)
        if not written:
            return
        self.dropped_count += dropped
        for batch in batches:
            self._written(first, batch, flowing)
            first += len(batch.frames)

    def _take_pending(self) -> list[Batch]:
        batches, self._pending = self._pending, []
        if self._apart:
            batches += self._apart
            self._apart = []
        self.commit_number += 1
        self._count(batches, 1)
        return batches

    def _count(self, batches: list[Batch], sign: int) -> None:
        """Add the batches to the counters; with `sign` -1 take them back, as their append has failed."""
        for batch in batches:
            count = len(batch.frames)
            self.message_count += sign * count
            self.message_bytes += sign * (batch.size - BODY * count)

    def _commit_failed(self, error: OSError, batches: list[Batch]) -> None:
        self.context.report_write_error(self.name, error)
        self.failed[self.commit_number - 1] = error.strerror or str(error)
        self.context.failures.append(self.failed)
        self._count(batches, -1)
        count = sum(len(batch.frames) for batch in batches)
        if count:
            # The log never uses a seq twice: those of the failed messages are skipped by all channels.
            self.store.abort()
            self._add_unavailable(self.store.end - count, self.store.end)
            if self.flowing:
                self._skip_aborted()
                self.store.advance(self.store.end)

    def _written(self, first: int, batch: Batch, flowing: bool) -> None:
        self.store.keep(first, batch)
        if batch.delays is not None:
            self.deferred.update(zip(range(first, first + len(batch.frames)), batch.delays, strict=True))
        if not flowing:
            if not self.started:
                self._listener.topic_awaited(self)
            return
        if batch.delays is not None:
            for seq, frame in enumerate(batch.frames, first):
                self._enter_deferred(seq, frame)
        elif batch.directed is not None:
            for channel in self.channels.values():
                if channel.backlog.generation == batch.directed:
                    channel.enter(first, batch.frames)
                else:
                    channel.backlog.skip_aborted(first, first + len(batch.frames))
        else:
            for channel in self.channels.values():
                channel.enter(first, batch.frames)

    def _enter_deferred(self, seq: int, frame: bytes | None) -> None:
        """Start the delay of a message that the high watermark has passed."""
        due = self.context.now + self.deferred.pop(seq) / 1e9
        self.delayed[seq] = due
        if len(self.delayed) > self._delayed_limit:
            self.forget_due()
        for channel in self.channels.values():
            channel.enter_deferred(seq, frame, due)

    def forget_due(self) -> None:
        """Of the delayed messages forget those that were due by now, as they are like all others."""
        now = self.context.now
        self.delayed = {seq: due for seq, due in self.delayed.items() if due > now}
        self._delayed_limit = 2 * len(self.delayed) + DELAYED_LIMIT

    def _add_unavailable(self, start: int, end: int) -> None:
        self.unavailable.add(start, end)
        # Of what is in no file any more the log itself knows that.
        self.unavailable.discard_below(min(self.store.first, self.store.high_watermark))

    # --- administrative changes

    def _write_changes(self, changes: list[Change]) -> None:
        """Write changes now. `Refused` when they cannot be written."""
        if not changes:
            return
        self.commit()  # first, as the log must have everything in the order in which it happened
        try:
            self.store.append((), changes)
        except OSError as error:
            self.context.report_write_error(self.name, error)
            raise Refused(error.strerror or str(error)) from error

    def try_write_changes(self, changes: list[Change]) -> None:
        """Write changes that recovery could derive again; a failure is ignored."""
        with contextlib.suppress(Refused):
            self._write_changes(changes)

    def flow_change(self) -> Change:
        """The record that the high watermark has risen to the log's end."""
        return (Code.MARK, self.store.end, self.context.wall_ns)

    def flow(self) -> None:
        """Raise the high watermark to the log's end: give the channels all messages. The caller writes the record."""
        start, end = self.store.high_watermark, self.store.end
        not_ready = RangeSet(self.unavailable.common(start, end))
        # And the deferred ones, which enter the channels separately.
        self._skip_aborted()
        passed = sorted(seq for seq in self.deferred if seq < end)
        for seq in passed:
            not_ready.add(seq, seq + 1)
        # Before `advance`, after which a store in memory no longer has them.
        deferred_frames = {seq: self.store.frame(seq) for seq in passed}
        held = self.store.advance(end)
        for channel in self.channels.values():
            channel.advance(start, end, not_ready, held)
        for seq in passed:
            self._enter_deferred(seq, deferred_frames[seq])
        for channel in self.channels.values():
            self.context.pump_soon(channel)
        if self.limits is not None:  # the channels may have too many now
            self.context.commit_soon(self.name)

    def _skip_aborted(self) -> None:
        """Let the channels skip all aborted seqs, before the high watermark passes them."""
        for start, end in self.unavailable.common(self.store.high_watermark, self.store.end):
            for channel in self.channels.values():
                channel.backlog.skip_aborted(start, end)

    def start(self) -> None:
        """Let the messages flow: all channels known to registries exist now. `Refused` if it cannot be written."""
        self.commit()
        if not self.paused and self.channels and self.has_backlog:
            self._write_changes([self.flow_change()])
            self.started = True
            self.flow()
        self.started = True

    @property
    def has_backlog(self) -> bool:
        """Whether the log reaches beyond the high watermark, aborted seqs included."""
        return self.store.high_watermark < self.store.end

    def pause(self, paused: bool) -> None:
        """Pause, or resume, the flow of messages to the channels. `Refused` when it cannot be written."""
        if paused == self.paused:
            return
        changes: list[Change] = [(Code.TOPIC_PAUSED, paused)]
        self.commit()
        flows = not paused and self.started and bool(self.channels) and self.has_backlog
        if flows:
            changes.append(self.flow_change())
        self._write_changes(changes)
        self.paused = paused
        if flows:
            self.flow()

    def empty(self) -> None:
        """Drop the messages that no channel has been given. `Refused` when it cannot be written."""
        self.commit()
        start, end = self.store.high_watermark, self.store.end
        if start == end:
            return
        waiting = self.depth
        self._write_changes([(Code.TOPIC_EMPTIED, start, end)])
        self.dropped_count += waiting
        self.store.advance(end)
        self._add_unavailable(start, end)
        self.deferred.clear()
        for channel in self.channels.values():
            channel.backlog.skip_aborted(start, end)

    # --- limits

    @property
    def needed_from(self) -> int:
        """A seq such that nobody needs a message below it."""
        backlogs = (channel.backlog.needed_from for channel in self.channels.values())
        return min(backlogs, default=self.store.high_watermark)

    @property
    def trims(self) -> bool:
        """Whether its oldest messages go when a limit is reached; else publishes are refused. It has no dead topic."""
        return self.settings.policy == Policy.DROP_OLDEST

    def drop_oldest(self, count: int, cause: str) -> int:
        """Drop up to `count` of the messages that no channel has been given, for the limit `cause`."""
        ranges: list[tuple[int, int]] = []
        left = count
        for start, end in self.unavailable.gaps(self.store.high_watermark, self.store.end)[:DROPPED_RANGES]:
            if left > 0:
                ranges.append((start, min(end, start + left)))
                left -= end - start
        dropped = self._drop_own(ranges)
        self.dropped_count += dropped
        self.dropped_by[cause] += dropped
        return dropped

    def expire(self, before: int) -> None:
        """Drop what is older than `max_age` of them, with a seq below `before`, but for deferred messages: their delay
        has not begun."""
        start, end = max(self._expired_to, self.store.high_watermark), min(before, self.store.end)
        if start >= end:
            return
        spared = RangeSet(self.unavailable.common(start, end))
        for seq in [seq for seq in self.deferred if start <= seq < end]:
            spared.add(seq, seq + 1)
        ranges = spared.gaps(start, end)[:DROPPED_RANGES]
        dropped = self._drop_own(ranges)
        self.expired_count += dropped
        if dropped or not ranges:
            self._expired_to = ranges[-1][1] if len(ranges) == DROPPED_RANGES else end

    def _drop_own(self, ranges: list[tuple[int, int]]) -> int:
        """Drop messages that no channel has been given; returns how many."""
        try:
            # As if they had been aborted: no channel gets them, those that will be created neither.
            self._write_changes([(Code.LOST, start, end, False) for start, end in ranges])
        except Refused:  # it is tried again
            return 0
        gone = RangeSet(ranges)
        for start, end in ranges:
            self._add_unavailable(start, end)
            self.store.drop(start, end)
        if self.deferred and gone:
            self.deferred = {seq: delay for seq, delay in self.deferred.items() if seq not in gone}
        return gone.count

    def hand_over(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Record that no message in these ranges is to be delivered from here; returns how many would have been.

        What is in memory does not change. `Refused` when it cannot be written.
        """
        changes: list[Change] = []
        count = 0
        for start, end in ((start, min(end, self.store.end)) for start, end in ranges):
            if start < end:
                # To all channels, those that will be created too, it is as if the publish had been aborted.
                changes.append((Code.LOST, start, end, False))
                count += max(0, end - max(start, self.store.high_watermark))
                count += sum(channel.backlog.needed_count(start, end) for channel in self.channels.values())
        if changes:
            self._write_changes(changes)
        return count

    def finish_elsewhere(self, finished: Mapping[int, Iterable[tuple[int, int]]]) -> int:
        """Ranges of messages that were finished at another nsqd, by generation of the channel. Returns how many."""
        return sum(
            channel.finish_elsewhere(finished.get(channel.backlog.generation, ()))
            for channel in self.channels.values()
        )

    # --- channels

    def channel(self, name: str) -> Channel:
        """The channel with this name, created if it does not exist. `Refused` when it cannot be written."""
        return self.channels.get(name) or self._make_channel(name)

    def _make_channel(self, name: str) -> Channel:
        self.commit()
        backlog = self.store.new_backlog(name, self.last_generation + 1)
        changes = backlog.record(Code.CHANNEL_CREATED, name, self.store.high_watermark)
        flows = self.started and not self.paused and self.has_backlog
        if changes:
            self.last_generation += 1
        if flows:
            changes.append(self.flow_change())
        self._write_changes(changes)  # before the channel exists: if it fails, nothing has changed
        channel = self.channels[name] = Channel(self.context, self.name, name, backlog)
        self._resolve_settings_of(channel)
        if channel.settings.is_limiting:
            self._limit(channel)
        if flows and self.has_backlog:
            self.flow()
        self._listener.channel_created(self, channel)
        return channel

    def create_channel_from(self, name: str, start: int) -> Channel:
        """Create a channel, whose name is not in use, that begins with the message `start`, or with what is left of the
        messages from there on. `Refused` when it cannot be written.

        Messages that no channel has been given yet wait for all channels: if the topic does not flow, for this one too.
        """
        self._refuse_ephemeral(name)
        self.context.refuse_when_full()
        self.commit()
        changes: list[Change] = []
        flows = self.started and not self.paused and self.has_backlog
        if flows:
            # Before the channel exists, which gets only those from `start` on.
            changes.append(self.flow_change())
        state, creation = self._begin_at(name, start, self.store.end if flows else self.store.high_watermark)
        self._write_changes(changes + creation)
        self.last_generation = state.generation
        if flows:
            self.flow()
        due = self._due_of(state, {})
        channel = self.channels[name] = Channel(
            self.context, self.name, name, self.store.restored_backlog(state)
        )
        self._resolve_settings_of(channel)
        if channel.settings.is_limiting:
            self._renew_limits()
        self._begin(channel, due)
        self._listener.channel_created(self, channel)
        return channel

    def seek_channel(self, name: str, start: int) -> None:
        """Let a channel go on with the message `start`, back or forth, or with what is left of the messages from there
        on. `NotFound`; `Refused` when it cannot be written.

        A generation of the channel ends, and another one begins: nothing is in flight, no message has attempts, and
        what was finished before is delivered again. Consumers stay, and so do the counters, and whether the channel is
        paused; deferred messages stay deferred.
        """
        channel = self.existing(name)
        self._refuse_ephemeral(name)
        self.commit()
        context, high_watermark = self.context, self.store.high_watermark
        state, creation = self._begin_at(name, start, high_watermark, former=channel)
        deferred = {seq: due for seq, _, due in channel.deferred.page(0, len(channel.deferred))}
        due = self._due_of(state, deferred)
        items: list[int] = []
        for seq, when in due.items():
            if self.delayed.get(seq) != when:  # else the log says it already
                items += (seq, 0, context.wall_ns + int((when - context.now) * 1e9))
        changes = [*channel.backlog.record(Code.CHANNEL_DELETED), *creation]
        changes.append((Code.CHANNEL_PAUSED, state.generation, channel.paused))
        if channel.redrive is not None:
            changes.append((Code.REDRIVE, state.generation, *attrs.astuple(channel.redrive)))
        if channel.own_settings:
            changes.append((Code.CHANNEL_SETTINGS, state.generation, dict(channel.own_settings)))
        if items:
            changes += [(Code.MARK, 0, context.wall_ns), (Code.PARKED, state.generation, *items)]
        self._write_changes(changes)
        self.last_generation = state.generation
        self.store.direct_to(state.generation, channel.generation)
        channel.go_on_with(self.store.restored_backlog(state), high_watermark)
        self._begin(channel, due)
        self._listener.channel_sought(self, channel)

    def _begin(self, channel: Channel, due: Mapping[int, float]) -> None:
        channel.begin(due)
        self.store.ages.needed_again()
        if self.limits is not None:  # the channel may have too many now
            self.context.commit_soon(self.name)

    def _refuse_ephemeral(self, channel_name: str) -> None:
        if is_ephemeral(self.name) or is_ephemeral(channel_name):
            raise Refused("messages of ephemeral topics and channels are not kept")

    def _begin_at(
        self, name: str, start: int, end: int, former: Channel | None = None
    ) -> tuple[ChannelState, list[Change]]:
        """A channel that begins with the message `start`, and its record. `end`: where it has the high watermark.

        `former`: of which it is the next generation.
        """
        start = min(start, end)
        state = ChannelState(name, self.last_generation + 1)
        state.settled.add(0, start)
        changes: list[Change] = []
        for generation, directed in self.store.directed.items():
            if former is not None and generation == former.generation:
                changes.append((Code.DIRECTED, state.generation, *flat_runs(directed)))
            else:
                for first, last in directed.common(start, end):
                    state.settled.add(first, last)
        changes.append((Code.CHANNEL_CREATED, state.generation, name, start))
        if removed := self.store.removed(start, end):
            changes.append((Code.FINISHED, state.generation, *flat_runs(removed)))
        # Which ones are unavailable, the log says already.
        for first, last in (*removed, *self.unavailable.common(start, end)):
            state.settled.add(first, last)
        return state, changes

    def _due_of(self, state: ChannelState, deferred: Mapping[int, float]) -> dict[int, float]:
        """Those messages of a new channel that are not due yet, by seq. `deferred`: those of its former generation.

        They are noted in `state`, so that its backlog does not take them for ready.
        """
        now, known = self.context.now, {**self.delayed, **deferred}
        due = {seq: when for seq, when in known.items() if when > now and seq not in state.settled}
        state.awaiting_redelivery = dict.fromkeys(due, (0, 0))
        return due

    def existing(self, name: str) -> Channel:
        """The channel with this name; `NotFound` if it does not exist."""
        try:
            return self.channels[name]
        except KeyError:
            raise NotFound(name) from None

    def pause_channel(self, name: str, paused: bool) -> None:
        """Pause, or resume, deliveries. `NotFound`; `Refused` when it cannot be written."""
        channel = self.existing(name)
        if channel.paused != paused:
            self._write_changes(channel.backlog.record(Code.CHANNEL_PAUSED, paused))
        channel.paused = paused
        self.context.pump_soon(channel)

    def empty_channel(self, name: str) -> None:
        """Drop all messages of a channel. `NotFound`; `Refused` when it cannot be written."""
        channel = self.existing(name)
        self.commit()
        self._write_changes(channel.backlog.record(Code.CHANNEL_EMPTIED, self.store.high_watermark))
        channel.empty()

    def delete_channel(self, name: str) -> None:
        """Delete a channel and disconnect its clients. `NotFound`; `Refused` when it cannot be written."""
        channel = self.existing(name)
        self._write_changes(channel.backlog.record(Code.CHANNEL_DELETED))
        del self.channels[name]
        self.rejected.pop(name, None)
        channel.close()
        if channel.settings.is_limiting:
            self._renew_limits()
        self._listener.channel_deleted(self, channel)

    def subscribe(
        self, name: str, outbox: Outbox, timeout: float, sample: int = 0, topology: Topology | None = None
    ) -> tuple[Channel, Subscription]:
        """Add a client to a channel, which is created if it does not exist.

        `timeout` in seconds, `sample` in percent (0: all messages); `topology`: the client's location as it gives it.
        `Refused` when the channel already has `max_channel_consumers` clients.
        """
        channel = self.channel(name)
        limit = self.context.options.max_channel_consumers
        if limit and len(channel.subscriptions) >= limit:
            raise Refused(f"consumers for {self.name}:{name} exceeds limit of {limit}")
        if not self.started:
            self._listener.topic_awaited(self)
        return channel, channel.subscribe(outbox, timeout, sample, topology)

    def delete_if_unused(self, channel: Channel) -> None:
        """Delete an ephemeral channel without clients, unless it was deleted before."""
        unused = not channel.subscriptions and self.channels.get(channel.name) is channel
        if unused and is_ephemeral(channel.name):
            self.delete_channel(channel.name)

    def record_redrive(self, channel: Channel, wish: RedriveState | None) -> None:
        """Record that dead letters are to be put back to a durable channel, or no longer. `Refused`."""
        items = () if wish is None else attrs.astuple(wish)
        self._write_changes(channel.backlog.record(Code.REDRIVE, *items))
        channel.redrive = wish

    # --- settings

    def set_limits(self, given: Given) -> None:
        """Replace what operators have set for this topic. `Refused` when it cannot be written."""
        self._write_changes([(Code.TOPIC_SETTINGS, dict(given))])
        self.own_settings = given
        self.resolve_settings()
        self.context.schedule_maintenance(self.name)  # how much of the log is kept may have changed

    def set_channel_limits(self, name: str, given: Given) -> None:
        """Replace what operators have set for a channel. `NotFound`; `Refused` when it cannot be written."""
        channel = self.existing(name)
        self._write_changes(channel.backlog.record(Code.CHANNEL_SETTINGS, dict(given)))
        channel.own_settings = given
        self._resolve_settings_of(channel)
        self._renew_limits()

    def resolve_settings(self) -> None:
        """Find out what holds for the topic and for each of its channels."""
        self.settings = self.context.options.rules.settings(self.name, None, self.own_settings)
        for channel in self.channels.values():
            self._resolve_settings_of(channel)
        self._renew_limits()

    def _limit(self, channel: Channel) -> None:
        """A channel with limits is new. In no more time with thousands of others."""
        if self.limits is None:
            self._renew_limits()
        else:
            self.limits.include(channel)
            self.guard = self.limits if self.limits.rejects else None

    def _renew_limits(self) -> None:
        """After a change of what is limited."""
        self.limits = self.guard = None
        self.context.limited.pop(self.name, None)
        settings = [self.settings, *(channel.settings for channel in self.channels.values())]
        if any(each.is_limiting for each in settings):
            self.limits = self.context.limited[self.name] = TopicLimits(self, self.store.ages)
            self.guard = self.limits if self.limits.rejects else None
            self.context.commit_soon(self.name)  # there may be too many already

    def _resolve_settings_of(self, channel: Channel) -> None:
        rules = self.context.options.rules
        settings = rules.settings(self.name, channel.name, self.own_settings, channel.own_settings)
        channel.settings = settings
        channel.limit_attempts(settings.max_attempts or 0, settings.dead_topic)

    # --- the log

    def _lose(self, start: int, end: int, damaged: bool) -> None:
        """Settle lost messages in every channel, and record the loss."""
        for channel in self.channels.values():
            channel.backlog.lose(start, end, damaged)
        self._add_unavailable(start, end)
        self.try_write_changes([(Code.LOST, start, end, damaged)])

    def close(self) -> None:
        """An orderly stop: write messages in flight and finishes. `OSError` if not everything could be written."""
        for channel in self.channels.values():
            channel.record_in_flight()
        number, publishes = self.commit_number, bool(self._pending or self._apart)
        self.commit()
        if self.store.has_changes:
            # The disk was full. That has released the ballast, so changes that free space may fit now.
            self.commit()
        if (publishes and number in self.failed) or self.store.has_changes:
            raise OSError(errno.EIO, f"TOPIC({self.name}): not everything could be written")

    def delete(self) -> None:
        """Disconnect all clients and release all memory: the broker has deleted the topic."""
        self.context.limited.pop(self.name, None)
        self.store.close()
        for channel in list(self.channels.values()):
            channel.close()
        self.channels.clear()  # before the clients unsubscribe, which must find no channel to delete
