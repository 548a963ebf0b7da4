"""Retention of one topic's log: snapshots that bound recovery, and the removal of segments no longer needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from nsqd.broker.channel import Channel
from nsqd.broker.context import BrokerContext
from nsqd.broker.topic import Topic
from nsqd.log.jobs import Job
from nsqd.log.segment import Segment
from nsqd.log.snapshots import KEPT, SLICE, SnapshotWriter, snapshot_name
from nsqd.log.state import Change, Code, flat_runs
from nsqd.log.topic_log import SyncError, TopicLog

__all__ = ["Retention", "snapshot_changes"]

# A snapshot is due after this many bytes or records: recovery has to replay no more than that.
SNAPSHOT_BYTES = 64 << 20
SNAPSHOT_RECORDS = 200_000
# An idle topic whose messages are all finished keeps no more than this on disk; the second while the disk is full.
IDLE_TRIM_BYTES = 1 << 20
FULL_TRIM_BYTES = 64 << 10

_T = TypeVar("_T")


class Retention:
    """The snapshots and removals of one topic. `maintain` is called once a second while there may be work."""

    def __init__(self, context: BrokerContext, topic: Topic, log: TopicLog) -> None:
        self._context = context
        self.topic = topic
        self.log = log
        self._snapshot: SnapshotWriter | None = None
        self._snapshot_position = (
            self.log.snapshots[-1] if self.log.snapshots else self.log.segments[0].position
        )
        self._last_position = self.log.position

    def want_snapshot(self) -> None:
        """Write a snapshot at the next maintenance, however little has changed."""
        self._snapshot_position = -SNAPSHOT_BYTES

    @property
    def has_snapshot_in_hand(self) -> bool:
        return self._snapshot is not None

    def maintain(self) -> bool:
        """Write remaining changes, remove segments that are not needed, begin a snapshot when one is due.

        Returns True if it is to be called again in a second.
        """
        if self.log.deleted:
            return False
        store = self._context.store
        if self.topic.store.has_changes:
            self._context.commit_soon(self.topic.name)
        floor = self.topic.floor
        idle = self.log.position == self._last_position
        self._last_position = self.log.position
        due = (
            self._would_make_room(floor) if store.space.full is not None else self._snapshot_due(floor, idle)
        )
        if self._snapshot is None and due:
            self.begin_snapshot()
        segments = self.log.releasable(floor)
        if segments:
            self.log.drop(segments)
            self._remove_segments(segments)
        self._last_position = self.log.position  # again, as the record of a snapshot is not activity
        return not idle or self.topic.store.has_changes or self._snapshot is not None or bool(segments)

    def _remove_segments(self, segments: list[Segment]) -> None:
        """Sync the log and remove segments, in a job."""
        unsynced = list(self.log.unsynced)

        def work() -> None:
            # The finishes that made the segments unneeded must be on disk first: after a power loss that undoes
            # them, their messages would have to be delivered again.
            self.log.sync_files(unsynced)
            self.log.remove_files(segment.path for segment in segments)

        self._context.store.jobs.append(Job("remove", work, lambda _: None, self._failed))

    def _failed(self, error: OSError) -> None:
        """A failed sync is fatal. Anything else is tried again by the next maintenance."""
        if isinstance(error, SyncError):
            self._context.store.fatal = error
        elif not self.log.deleted:
            self._context.report_write_error(self.topic.name, error)
            self._context.schedule_maintenance(self.topic.name)

    def _snapshot_due(self, floor: int, idle: bool) -> bool:
        log = self.log
        if log.position - self._snapshot_position >= SNAPSHOT_BYTES:
            return True
        if log.records_since_snapshot >= SNAPSHOT_RECORDS:
            return True
        return idle and self._all_finished(floor, IDLE_TRIM_BYTES)

    def _would_make_room(self, floor: int) -> bool:
        """Whether a snapshot, which is small, would allow segments to be removed. Asked on a full disk."""
        segments = self.log.segments
        return (len(segments) > 1 and segments[1].first <= floor) or self._all_finished(
            floor, FULL_TRIM_BYTES
        )

    def _all_finished(self, floor: int, size: int) -> bool:
        """Whether no channel needs anything in the log, and it is larger than `size` bytes.

        If so, a new segment is begun: two snapshots in it allow all older segments to be removed.
        """
        log = self.log
        if floor < log.end or log.bytes_on_disk <= size:
            return False
        if log.segments[-1].file.size > size:
            try:
                log.roll()
            except OSError as error:
                self._context.report_write_error(self.topic.name, error)
                return False
        return True

    def begin_snapshot(self) -> None:
        self.topic.commit()
        try:
            self._snapshot = SnapshotWriter.begin(self.log, snapshot_changes(self.topic))
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
        self._context.schedule_maintenance(self.topic.name)
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


def snapshot_changes(topic: Topic) -> Iterator[list[Change]]:
    """The topic's state as changes, in slices. The broker keeps working between two slices."""
    # The order matters: a message that moves without a record (a deferred one from the topic into the channels'
    # tables, from there into the queue, from there in flight) moves to a place that is written later, and a message
    # that is finished meanwhile has a record beyond the snapshot's position.
    yield [
        (Code.TOPIC_PAUSED, topic.paused),
        (Code.MARK, topic.store.high_watermark, 0),
        *((Code.LOST, start, end, False) for start, end in topic.aborted),
    ]
    for seqs in _slices(list(topic.deferred)):
        items = [x for n in seqs if n in topic.deferred for x in (n, topic.deferred[n])]
        yield [(Code.DEFERRED, *items)] if items else []
    for channel in list(topic.channels.values()):
        yield from _channel_changes(topic.context, channel)


def _channel_changes(context: BrokerContext, channel: Channel) -> Iterator[list[Change]]:
    """The state of one channel. All slices are empty for a channel in memory, which is not recorded."""
    record = channel.backlog.record
    yield record(Code.CHANNEL_CREATED, channel.name, 0) + record(Code.CHANNEL_PAUSED, channel.paused)
    for seqs in _slices(list(channel.deferred)):
        items: list[int] = []
        for seq in seqs:
            if entry := channel.deferred.get(seq):
                due_ns = context.wall_ns + max(0, int((entry[1] - context.now) * 1e9))
                items += (seq, entry[0], due_ns)
        yield record(Code.PARKED, *items) if items else []
    in_flight = [(seq, attempts) for seq, attempts, *_ in channel.delivery.in_flight() if attempts > 1]
    for entries in (*_slices(list(channel.requeued)), *_slices(in_flight)):
        yield record(Code.PARKED, *(item for seq, attempts in entries for item in (seq, attempts, 0)))
    for ranges in _slices(list(channel.backlog.settled)):
        yield record(Code.FINISHED, *flat_runs(ranges))


def _slices(items: list[_T]) -> Iterator[list[_T]]:
    for at in range(0, len(items), SLICE):
        yield items[at : at + SLICE]
