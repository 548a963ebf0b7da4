"""Moves the few needed messages of an old segment to the log's end, so that the segment can be removed.

The messages keep their seqs, so nothing else about them changes: channels, order, attempts, due times. The segment is
read in jobs, a piece at a time; each piece is one append. An attempt that ends early (a full disk, a kill) has only
written some messages twice, and is simply repeated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import attrs

from nsqd.broker.channel import Channel
from nsqd.broker.context import BrokerContext
from nsqd.broker.log_view import LogView
from nsqd.broker.topic import Topic
from nsqd.log.jobs import Job
from nsqd.log.moved import NeededMessages, NeededPlan
from nsqd.log.records import FILE_HEADER_SIZE
from nsqd.log.segment import ReadResult, Segment
from nsqd.log.state import Change, Code

__all__ = ["Compaction", "deferred_changes", "parked_changes", "recorded_now"]

PIECE = 256 * 1024  # bytes moved with one append; it takes 1 or 2 ms of the event loop
SMALL = 1024 * 1024  # bytes of segments that are read in one piece, and together
SPAN = 50_000  # messages of a larger segment that are looked at for one read: which of them are needed
WORTHWHILE = 0.5  # at most this part of a segment is moved: it frees at least as much as it costs


@attrs.frozen
class Measured:
    """What was found in a complete segment: `size` bytes of its own messages were needed, when these were `count`."""

    count: int
    size: int


class Compaction:
    """The moves of one topic. `done` is called when what was begun has ended."""

    def __init__(self, context: BrokerContext, topic: Topic, view: LogView, done: Callable[[], None]) -> None:
        self._context = context
        self._topic = topic
        self._view = view
        self._log = view.log
        self._done = done
        self._queue: deque[Segment] = deque()
        self.is_busy = False
        self._measured: dict[Segment, Measured] = {}
        self._seen: dict[Segment, int] = {}  # how many messages were needed at the last look
        self._valid = 0  # counts the times when reads in progress became out of date

    def forget(self, segments: list[Segment]) -> None:
        """These segments are removed."""
        self._queue = deque(segment for segment in self._queue if segment not in segments)
        for segment in segments:
            self._measured.pop(segment, None)
            self._seen.pop(segment, None)

    # --- estimates

    def needed_bytes(self, segment: Segment) -> float:
        """An estimate of the bytes of needed messages in a segment. Without a measurement, all have the same size."""
        count, total = self._needed_count(segment), self._next_first(segment) - segment.first
        if not count:
            return segment.moved_bytes
        if measured := self._measured.get(segment):
            return measured.size * count / measured.count + segment.moved_bytes
        # Segments of version 1 have no figures.
        return (segment.message_bytes or segment.file.size) * count / total + segment.moved_bytes

    def is_needless(self, segment: Segment) -> bool:
        """Whether a complete segment has no message that somebody needs, and that is nowhere else."""
        return not segment.moved_count and not self._needed_count(segment)

    def is_uncertain(self, segment: Segment) -> bool:
        """Whether a complete segment should be measured: part of it is needed, and that does not change quickly.

        A consumer that works through a backlog needs a part of one segment at any time. It is not measured then.
        """
        count = self._needed_count(segment)
        seen, self._seen[segment] = self._seen.get(segment, 0), count
        total = self._next_first(segment) - segment.first
        return 0 < count < 0.9 * total and 0.9 * seen <= count <= seen and not self._is_measured(segment)

    def is_worthwhile(self, segment: Segment, needed_bytes: float) -> bool:
        """Whether to move what is needed of a complete segment."""
        return needed_bytes <= WORTHWHILE * segment.file.size

    def _needed_count(self, segment: Segment) -> int:
        return 0 if segment.emptied else self._topic.needed_at_least(segment.first, self._next_first(segment))

    def _next_first(self, segment: Segment) -> int:
        return self._log.end if segment.next_first is None else segment.next_first

    def _is_measured(self, segment: Segment) -> bool:
        measured = self._measured.get(segment)
        return measured is not None and self._needed_count(segment) >= 0.75 * measured.count

    # --- moves

    def needed_again(self, start: int) -> None:
        """A channel needs messages from `start` on that perhaps nobody has needed until now.

        A read in progress does not have them all, so it must not lead to the removal of its segment.
        """
        self._valid += 1
        for segment in self._log.segments:
            if self._next_first(segment) > start:
                segment.emptied = False

    def begin(self, segments: Iterable[Segment]) -> None:
        """Move what is needed of these complete segments.

        Where that turns out not to be worthwhile, only the result of the measurement is kept.
        """
        self._queue = deque(segments)
        self.is_busy = True
        self._next()

    def _next(self) -> None:
        """Read some of the segments in a job."""
        small: list[Segment] = []
        while self._queue:
            segment = self._queue[0]
            if sum(each.file.size for each in small) + segment.file.size > SMALL:
                break
            small.append(self._queue.popleft())
        if small:
            plans = [self._plan(segment, FILE_HEADER_SIZE, segment.first, SMALL) for segment in small]
            self._run(
                small, lambda: [plan.read(SMALL) for plan in plans], lambda found: self._took(small, found)
            )
        elif self._queue:
            segment = self._queue.popleft()
            if self._is_measured(segment) or not self._needed_count(segment):
                self._read_piece(segment, FILE_HEADER_SIZE, segment.first)
            else:
                self._measure_piece(segment, FILE_HEADER_SIZE, segment.first, 0)
        else:
            self._end()

    def _plan(self, segment: Segment, offset: int, first: int, span: int = SPAN) -> NeededPlan:
        """A read from `offset` on, where its own messages begin with `first`."""
        assert segment.next_first is not None
        until = min(first + span, segment.next_first)
        return self._log.plan_needed(segment, offset, first, self._topic.needed(first, until), until)

    def _run(
        self,
        segments: list[Segment],
        work: Callable[[], list[NeededMessages]],
        then: Callable[[list[NeededMessages]], None],
    ) -> None:
        """Read these segments. If one was removed meanwhile, nothing of this read is used: others are begun again."""
        valid = self._valid

        def done(found: list[NeededMessages] | None) -> None:
            if self._log.deleted or valid != self._valid:
                self._end()
            elif self._is_removed(segments):
                self._next()
            else:
                assert found is not None
                then(found)

        def failed(error: OSError) -> None:
            if self._log.deleted:
                self._give_up()
            elif self._is_removed(segments):
                self._next()
            else:
                self._context.report_read_error(self._topic.name, error)
                self._give_up()

        self._context.store.jobs.append(Job("read", work, done, failed))

    def _is_removed(self, segments: list[Segment]) -> bool:
        return not set(self._log.segments).issuperset(segments)

    def _took(self, segments: list[Segment], found: list[NeededMessages]) -> None:
        """Small segments were read as a whole: measured, too."""
        emptied, messages = [], []
        origins: dict[int, bytes] = {}
        for segment, its in zip(segments, found, strict=True):
            self._accept_damage(segment, its)
            self._note_size(segment, its.own_bytes)
            if self.is_worthwhile(segment, its.own_bytes + segment.moved_bytes):
                emptied.append(segment)
                messages += self._still_needed(its)
                origins |= its.origins
        if self._append(messages, origins):
            for segment in emptied:
                self._emptied(segment)
            self._next()

    def _measure_piece(self, segment: Segment, offset: int, first: int, size: int) -> None:
        """`size`: what was found so far."""
        plan = self._plan(segment, offset, first)
        self._run(
            [segment], lambda: [plan.measure()], lambda found: self._measured_piece(segment, size, found[0])
        )

    def _measured_piece(self, segment: Segment, size: int, found: NeededMessages) -> None:
        size += found.own_bytes
        if found.next_offset is not None:
            self._measure_piece(segment, found.next_offset, found.next_first, size)
            return
        self._note_size(segment, size)
        if self.is_worthwhile(segment, size + segment.moved_bytes):
            self._read_piece(segment, FILE_HEADER_SIZE, segment.first)
        else:
            self._next()

    def _note_size(self, segment: Segment, own_bytes: int) -> None:
        self._measured[segment] = Measured(max(1, self._needed_count(segment)), own_bytes)

    def _read_piece(self, segment: Segment, offset: int, first: int) -> None:
        plan = self._plan(segment, offset, first)
        self._run([segment], lambda: [plan.read(PIECE)], lambda found: self._took_piece(segment, found[0]))

    def _took_piece(self, segment: Segment, found: NeededMessages) -> None:
        self._accept_damage(segment, found)
        if not self._append(self._still_needed(found), found.origins):
            return
        if found.next_offset is not None:
            self._read_piece(segment, found.next_offset, found.next_first)
        else:
            self._emptied(segment)
            self._next()

    def _accept_damage(self, segment: Segment, found: NeededMessages) -> None:
        self._view.accept(ReadResult(segment, [], segment.first, [], found.damage))

    def _still_needed(self, found: NeededMessages) -> list[tuple[int, bytes]]:
        return [
            (seq, frame)
            for seq, position, frame in found.messages
            # A message of the segment itself that is in `moved` was moved in an earlier attempt.
            if self._log.moved.get(seq) == position and self._topic.needs(seq)
        ]

    def _append(self, messages: list[tuple[int, bytes]], origins: dict[int, bytes]) -> bool:
        if not messages:
            return True
        try:
            self._log.append_moved(messages, self._waiting([seq for seq, _ in messages]), origins)
        except OSError as error:
            self._context.report_write_error(self._topic.name, error)
            self._give_up()
            return False
        self._context.wrote(self._topic.name, self._log, 0)
        return True

    def _emptied(self, segment: Segment) -> None:
        # What was not found is damaged. Who reads it next finds nothing, and counts it as lost.
        self._log.forget_moved_in(segment)
        segment.emptied = True

    def _waiting(self, seqs: list[int]) -> list[Change]:
        """Attempts and due times of deferred messages once more: their records may be in the old segment only."""
        changes: list[Change] = []
        for channel in self._topic.channels.values():
            changes += deferred_changes(self._context, channel, seqs)
        return [recorded_now(self._context), *changes] if changes else []

    def _give_up(self) -> None:
        """After an error: the next maintenance tries again."""
        self._queue.clear()
        self.is_busy = False

    def _end(self) -> None:
        self._give_up()
        self._done()


def recorded_now(context: BrokerContext) -> Change:
    """The change that says when the due times in the same record were computed: a mark that raises nothing."""
    return (Code.MARK, 0, context.wall_ns)


def deferred_changes(context: BrokerContext, channel: Channel, seqs: Iterable[int]) -> list[Change]:
    """The changes that say how those of these messages wait that are deferred."""
    entries: list[tuple[int, int, int]] = []
    for seq in seqs:
        if entry := channel.deferred.get(seq):
            attempts, due = entry
            entries.append((seq, attempts, context.wall_ns + max(0, int((due - context.now) * 1e9))))
    return parked_changes(channel, entries)


def parked_changes(
    channel: Channel, entries: Iterable[tuple[int, int, int]], *, in_flight: bool = False
) -> list[Change]:
    """The changes that say how messages wait for another delivery: (seq, attempts, due in wall time or 0).

    `in_flight`: who reads them, after a kill, has lost the connections that the messages are in flight at.
    """
    items: list[int] = []
    not_counted: list[int] = []
    for entry in entries:
        items += entry
        if count := channel.not_counted(entry[0], in_flight=in_flight):
            not_counted += (entry[0], count)
    record = channel.backlog.record
    changes = record(Code.PARKED, *items) if items else []
    return changes + record(Code.NOT_COUNTED, *not_counted) if not_counted else changes
