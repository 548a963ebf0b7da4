"""Retention of one topic's log: what may be removed from it, and the snapshots that bound recovery.

A topic's log may have twice the bytes of the messages that somebody needs, and two segments more. Complete segments
that nobody needs are removed as soon as two snapshots have been begun after them. While there is more than allowed,
snapshots are written for that purpose, and the few needed messages of other segments are moved (`compaction.py`), the
segment with the least needed bytes first.

Segments that are kept for replays (`retained.py`) are left out of all of this: nothing is removed from them, nothing
moved, and they count for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import attrs

from nsqd.broker.channel import Channel
from nsqd.broker.compaction import Compaction, deferred_changes, parked_changes, recorded_now
from nsqd.broker.context import BrokerContext
from nsqd.broker.log_view import LogView
from nsqd.broker.retained import Retained
from nsqd.broker.topic import Topic
from nsqd.log.jobs import Job
from nsqd.log.manifest import write_manifest
from nsqd.log.segment import Segment
from nsqd.log.snapshots import KEPT, SLICE, SnapshotWriter, snapshot_name
from nsqd.log.state import Change, Code, flat_runs
from nsqd.log.topic_log import SyncError, TopicLog

__all__ = ["Retention", "snapshot_changes"]

# A snapshot is due after this many bytes (or a segment, if that is smaller) or records: recovery has to replay no more.
SNAPSHOT_BYTES = 64 << 20
SNAPSHOT_RECORDS = 200_000
# What an idle topic may have on disk above twice the bytes of its needed messages; the second while the disk is full.
IDLE_TRIM_BYTES = 1 << 20
FULL_TRIM_BYTES = 64 << 10
# While the disk is full, no more than this is moved at once, as it takes room before it makes some.
FULL_MOVE_BYTES = 2 << 20
SMALLEST_SEGMENT = 4096  # bytes, for these rules
LOOK_AFTER = 16  # look at all segments when this part of their bytes was written since the last time
SWEEP = 10_000  # moved messages that one maintenance looks at: whether they are still needed
MANY_CHANNELS = 64  # up to here the manifest is written at once, with each change of channels

_T = TypeVar("_T")


@attrs.frozen
class Usage:
    """Bytes of one log. `needed`: of each segment, of messages that somebody needs, as an estimate.

    `needless`: complete segments without such messages.
    """

    total: int
    needed: dict[Segment, float]
    needless: frozenset[Segment]

    @property
    def all_needed(self) -> float:
        return sum(self.needed.values())

    def without(self, segments: list[Segment]) -> Usage:
        """Without these, which are removed, or stay in any case."""
        gone = set(segments)
        return Usage(
            self.total - sum(segment.file.size for segment in segments),
            {segment: size for segment, size in self.needed.items() if segment not in gone},
            self.needless - gone,
        )


class Retention:
    """The snapshots, moves and removals of one topic. `maintain` is called once a second while there may be work.

    `manifest_position`: where the log ended when the manifest was written; None when it has to be written.
    """

    def __init__(
        self, context: BrokerContext, topic: Topic, view: LogView, manifest_position: int | None
    ) -> None:
        self._context = context
        self.topic = topic
        self.log = log = view.log
        self._view = view
        self._snapshot: SnapshotWriter | None = None
        self._snapshot_position = log.snapshots[-1] if log.snapshots else log.segments[0].position
        self._snapshot_size = 0
        self._last_position = log.position
        self._compaction = Compaction(context, topic, view, self._continue)
        self.retained = Retained(context, topic, view, self._continue)
        self.retained_bytes = 0  # that nobody needs, and that are kept for replays, as an estimate
        self.alarm_at = math.inf
        self._to_sweep: Iterator[int] = iter(())
        self._manifest_position = manifest_position
        self._manifest_stale = manifest_position is None
        # With smaller segments a snapshot would follow each write.
        self._segment_bytes = max(log.max_segment_bytes, SMALLEST_SEGMENT)
        self.waiting_bytes = (
            0  # of segments that nobody needs, and that may go when they are in no snapshot's replay
        )
        self._looked_at = 0  # position of the log at the last maintenance
        self._total = 0  # and its bytes
        log.on_roll = self._rolled

    def _continue(self) -> None:
        """Run `maintain` at the end of this round."""
        self._context.maintain_now(self.topic.name)

    def _rolled(self) -> None:
        """A segment is complete. With many segments, a look at all of them is not worth while for each new one."""
        if self.log.position - self._looked_at >= self._total // LOOK_AFTER:
            self._continue()

    def want_snapshot(self) -> None:
        """Write a snapshot at the next maintenance, however little has changed."""
        self._snapshot_position = -SNAPSHOT_BYTES

    @property
    def has_snapshot_in_hand(self) -> bool:
        return self._snapshot is not None

    def maintain(self) -> bool:
        """Write remaining changes, remove or move what is not needed, begin a snapshot when one is due.

        Returns True if it is to be called again in a second.
        """
        if self.log.deleted:
            return False
        if self.topic.store.has_changes:
            self._context.commit_soon(self.topic.name)
        idle = self.log.position == self._last_position
        self._last_position = self.log.position
        if self._snapshot is None and self._snapshot_due():
            self.begin_snapshot()
        sweeping = self._forget_settled()
        usage = self._usage()
        if kept := self.retained.choose():
            of_others = usage.without(kept)
            needed = usage.all_needed - of_others.all_needed
            self.retained_bytes = max(0, usage.total - of_others.total - round(needed))
            usage = of_others
        else:
            self.retained_bytes = 0
        self._context.timers.set(self, self.retained.next_look())
        released = self._release(usage)
        usage = usage.without(released)
        self.waiting_bytes = sum(segment.file.size for segment in usage.needless)
        busy = self._make_room(usage, idle)
        if self._manifest_stale:
            self.write_manifest()
        self._last_position = self.log.position  # again, as the record of a snapshot is not activity
        return not idle or self.topic.store.has_changes or bool(released) or busy or sweeping

    def alarm(self, now: float) -> None:
        """A segment that was kept may have to go."""
        if not self.log.deleted:
            self._context.schedule_maintenance(self.topic.name)

    # --- removal

    def _release(self, usage: Usage) -> list[Segment]:
        """Remove segments that nobody needs; returns them."""
        segments = self.log.releasable(usage.needless.__contains__)
        if not segments:
            return []
        self.log.drop(segments)
        self._compaction.forget(segments)
        self._view.segments_removed()
        self._manifest_stale = True
        unsynced = list(self.log.unsynced)

        def work() -> None:
            # The finishes that made the segments unneeded, and moved messages, must be on disk first: after a power
            # loss that undoes them, the messages would have to be delivered from here again.
            self.log.sync_files(unsynced)
            self.log.remove_files(segment.path for segment in segments)

        self._context.store.jobs.append(Job("remove", work, lambda _: None, self._failed))
        return segments

    def _failed(self, error: OSError) -> None:
        """A failed sync is fatal. Anything else is tried again by the next maintenance."""
        if isinstance(error, SyncError):
            self._context.store.fatal = error
        elif not self.log.deleted:
            self._context.report_write_error(self.topic.name, error)
            self._context.schedule_maintenance(self.topic.name)

    def _forget_settled(self) -> bool:
        """Forget moved messages that nobody needs any more. Returns whether there may be more of them."""
        log, topic = self.log, self.topic
        if not log.moved:
            return False
        candidates, self._view.settled_moved = self._view.settled_moved, []
        # Those that were settled otherwise than by a consumer: with an emptied or deleted channel, for instance.
        swept = list(islice(self._to_sweep, max(SWEEP, len(log.moved) // 20)))
        for seq in (*candidates, *swept):
            if not topic.needs(seq):
                log.forget_moved(seq)
        if not swept:
            self._to_sweep = iter(list(log.moved))
        return bool(swept)

    # --- the rule

    def _usage(self) -> Usage:
        log, compaction = self.log, self._compaction
        self._looked_at, self._total = log.position, log.bytes_on_disk
        needed = {segment: compaction.needed_bytes(segment) for segment in log.segments}
        # An estimate of 0 may also be a measurement that found damage only.
        needless = (at for at in log.segments[:-1] if not needed[at] and compaction.is_needless(at))
        return Usage(self._total, needed, frozenset(needless))

    def _make_room(self, usage: Usage, idle: bool) -> bool:
        """Work towards the allowed size of the log; whether it is above it."""
        full = self._context.store.space.full is not None
        segment_bytes = self._segment_bytes
        trimmed = FULL_TRIM_BYTES if full else IDLE_TRIM_BYTES if idle else segment_bytes
        allowance = min(segment_bytes, trimmed)
        excess = usage.total - 2 * usage.all_needed - allowance
        if excess <= 0:
            return self._measure_something(usage, allowance)
        if not self._compaction.is_busy and excess > self.waiting_bytes:
            most = FULL_MOVE_BYTES if full else segment_bytes
            self._move_something(usage, excess - self.waiting_bytes, most)
        if self._snapshot is None and self.waiting_bytes:
            self.begin_snapshot()
        return True

    def _measure_something(self, usage: Usage, allowance: int) -> bool:
        """Measure a segment, if the log may be above its allowed size when messages are not all of the same size."""
        if usage.total <= allowance or self._compaction.is_busy:
            return self._compaction.is_busy
        uncertain = [
            segment
            for segment in self.log.segments[:-1]
            if segment in usage.needed and self._compaction.is_uncertain(segment)
        ]
        certain = usage.all_needed - sum(usage.needed[segment] for segment in uncertain)
        if not uncertain or usage.total - 2 * certain <= allowance:
            return False
        self._compaction.begin(
            [max(uncertain, key=lambda segment: segment.file.size - usage.needed[segment])]
        )
        return True

    def _move_something(self, usage: Usage, excess: float, most: int) -> None:
        """Begin to move needed messages to free `excess` bytes, or make the last segment ready for that."""
        needed, compaction = usage.needed, self._compaction
        chosen: list[Segment] = []
        freed = moved = 0.0
        for segment in sorted(needed, key=lambda segment: needed[segment] / segment.file.size):
            if freed > excess or moved + needed[segment] > most:
                break
            if segment.next_first is None or segment in usage.needless:
                continue
            if not compaction.is_worthwhile(segment, needed[segment]):
                break
            chosen.append(segment)
            moved += needed[segment]
            freed += segment.file.size - needed[segment]
        last = self.log.segments[-1]
        if chosen:
            compaction.begin(chosen)
        elif last.file.size - needed[last] > excess / 2:
            try:
                self.log.roll()
            except OSError as error:
                self._context.report_write_error(self.topic.name, error)

    # --- the manifest

    def channels_changed(self, needed_from: int | None = None) -> None:
        """A channel was created, needs messages from `needed_from` on now, or (None) was deleted."""
        if needed_from is not None:
            self._compaction.needed_again(needed_from)
        self._manifest_stale = True
        if len(self.topic.channels) <= MANY_CHANNELS:
            self.write_manifest()
        else:
            self._context.schedule_maintenance(self.topic.name)

    def write_manifest(self) -> None:
        """Write the manifest, unless it would say nothing new."""
        if not self._manifest_stale and self._manifest_position == self.log.position:
            return
        changes: list[Change] = [self.log.segments_change()]
        for channel in self.topic.channels.values():
            changes += _creation(channel, channel.backlog.needed_from)
        try:
            write_manifest(self.log, changes)
        except OSError:
            # It is a second copy only: the client that has changed the channels is not told, and this is tried again.
            self._context.schedule_maintenance(self.topic.name)
            return
        self._manifest_stale = False
        self._manifest_position = self.log.position

    # --- snapshots

    def _snapshot_due(self) -> bool:
        log = self.log
        # A large state is not written again for each small segment.
        due = max(min(SNAPSHOT_BYTES, self._segment_bytes), 2 * self._snapshot_size)
        return log.position - self._snapshot_position >= due or log.records_since_snapshot >= SNAPSHOT_RECORDS

    def begin_snapshot(self) -> None:
        self.topic.commit()
        try:
            self._snapshot = SnapshotWriter.begin(self.log, snapshot_changes(self.topic, self._view))
        except OSError as error:
            self._context.report_write_error(self.topic.name, error)
            return
        self._context.wrote(self.topic.name, self.log, 0)
        self._snapshot_position = self._snapshot.position
        self._context.snapshots.append(self)

    def step_snapshot(self) -> bool:
        """Write one slice; True when there are no more slices to write."""
        writer = self._snapshot
        if writer is None:
            return True
        if self.log.deleted:
            writer.abandon()
            self._snapshot = None
            return True
        try:
            if not writer.step():
                return False
        except OSError as error:
            self._context.report_write_error(self.topic.name, error)
            writer.abandon()
            self._snapshot = None
            return True
        unsynced = list(self.log.unsynced)
        self._context.store.jobs.append(
            Job("snapshot", lambda: writer.finish(unsynced), self._snapshot_done, self._snapshot_failed)
        )
        return True

    def _snapshot_done(self, _: object) -> None:
        writer, self._snapshot = self._snapshot, None
        if writer is None:
            return
        self._snapshot_size = writer.size
        self._continue()
        self.log.snapshots.append(writer.position)
        old, self.log.snapshots = self.log.snapshots[:-KEPT], self.log.snapshots[-KEPT:]
        paths = [f"{self.log.folder}/{snapshot_name(at)}" for at in old]
        if paths:
            self._context.store.jobs.append(
                Job("remove", lambda: self.log.remove_files(paths), lambda _: None, self._failed)
            )

    def _snapshot_failed(self, error: OSError) -> None:
        writer, self._snapshot = self._snapshot, None
        if writer is not None:
            writer.abandon()
            self.want_snapshot()
        self._failed(error)


def snapshot_changes(topic: Topic, view: LogView) -> Iterator[list[Change]]:
    """The topic's state as changes, in slices. The broker keeps working between two slices."""
    log = view.log
    # The order matters: a message that moves without a record (a deferred one from the topic into the channels'
    # tables, from there into the queue, from there in flight) moves to a place that is written later, and a message
    # that is finished meanwhile has a record beyond the snapshot's position.
    yield [
        (Code.TOPIC_PAUSED, topic.paused),
        *([(Code.TOPIC_SETTINGS, dict(topic.own_settings))] if topic.own_settings else []),
        (Code.MARK, topic.store.high_watermark, 0),
        log.segments_change(),
        (Code.LAST_ID, topic.context.store.ids.next - 1),
    ]
    for ranges in _slices(list(topic.unavailable)):
        yield [(Code.LOST, start, end, False) for start, end in ranges]
    for seqs in _slices(list(log.moved)):
        yield _moved_changes(log, seqs)
    for seqs in _slices(list(topic.deferred)):
        items = [x for n in seqs if n in topic.deferred for x in (n, topic.deferred[n])]
        yield [(Code.DEFERRED, *items)] if items else []
    for channel in list(topic.channels.values()):
        yield from _channel_changes(topic.context, channel)
    # After the channels, which know of their own messages: for those that a later record creates.
    for seqs in _slices(list(topic.delayed)):
        yield _delayed_changes(topic, seqs)
    for runs in _slices(list(view.letters)):
        yield [(Code.LETTERS, *flat_runs(runs))]
    for generation, directed in list(view.directed.items()):
        for runs in _slices(list(directed)):
            yield [(Code.DIRECTED, generation, *flat_runs(runs))]


def _channel_changes(context: BrokerContext, channel: Channel) -> Iterator[list[Change]]:
    """The state of one channel. All slices are empty for a channel in memory, which is not recorded."""
    record = channel.backlog.record
    yield _creation(channel, 0)
    for seqs in _slices(list(channel.deferred)):
        parked = deferred_changes(context, channel, seqs)
        yield [recorded_now(context), *parked] if parked else []
    leaving = [(seq, attempts) for seq, (attempts, *_) in channel.leaving.messages.items() if attempts]
    in_flight = [(seq, attempts) for seq, attempts, *_ in channel.delivery.in_flight() if attempts > 1]
    for entries in (*_slices(list(channel.requeued)), *_slices(leaving)):
        yield parked_changes(channel, ((seq, attempts, 0) for seq, attempts in entries))
    for entries in _slices(in_flight):
        yield parked_changes(channel, ((seq, attempts, 0) for seq, attempts in entries), in_flight=True)
    for ranges in _slices(list(channel.backlog.settled)):
        yield record(Code.FINISHED, *flat_runs(ranges))


def _creation(channel: Channel, start: int) -> list[Change]:
    record = channel.backlog.record
    changes = record(Code.CHANNEL_CREATED, channel.name, start) + record(Code.CHANNEL_PAUSED, channel.paused)
    if channel.own_settings:
        changes += record(Code.CHANNEL_SETTINGS, dict(channel.own_settings))
    if channel.redrive is not None:
        changes += record(Code.REDRIVE, *attrs.astuple(channel.redrive))
    return changes


def _delayed_changes(topic: Topic, seqs: Iterable[int]) -> list[Change]:
    context = topic.context
    items: list[int] = []
    for seq in seqs:
        if (due := topic.delayed.get(seq, 0)) > context.now:
            items += (seq, context.wall_ns + int((due - context.now) * 1e9))
    return [recorded_now(context), (Code.DELAYED, *items)] if items else []


def _moved_changes(log: TopicLog, seqs: Iterable[int]) -> list[Change]:
    places: dict[int, list[int]] = {}
    for seq in seqs:
        if (position := log.moved.get(seq)) is not None:
            places.setdefault(position, []).append(seq)
    return [(Code.MOVED, position, *moved) for position, moved in places.items()]


def _slices(items: list[_T]) -> Iterator[list[_T]]:
    for at in range(0, len(items), SLICE):
        yield items[at : at + SLICE]
