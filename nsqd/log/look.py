"""Looks at single messages of a log, for readers that must leave no trace: nothing that is found is kept for the log.

A look is made on the event loop, from the segments of that moment, and used in one other thread. A segment that is
removed meanwhile gives `FileNotFoundError`: then nobody needs its messages any more, and the caller begins anew.

A message is found from the nearest entry of the sparse index at or before it. Between two entries, and in a segment of
before the start, which has none, its record is searched for: a head of a record can be recognised wherever a read
begins, and sequence numbers rise with the offset. So a look costs about the same at any depth.

Message ids rise with the sequence numbers, too, as long as the messages come from this data path and its node has kept
its id: so most ids can be searched for as well. So do timestamps, unless the clock was set back.

What is not in the page cache costs a millisecond for each place that is read. Numbers are spread evenly as a rule, so
a search guesses a place a little before, and one a little after; every third step bisects, which bounds the worst case.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import cycle
from typing import NamedTuple

import attrs

from nsqd.log.moved import MovedPlan
from nsqd.log.records import RECORD_HEAD_SIZE, RecordHead, find_record, origins_of
from nsqd.log.scan import Damaged, Record, scan
from nsqd.log.segment import MessageRun, Segment, messages_of
from nsqd.log.storage import File
from nsqkit.wire.frames import ID, TIMESTAMP

__all__ = ["Look", "Looked"]

NEAR = 16 * 1024  # bytes that are read faster than searched
PROBE = 4 * 1024  # bytes in which the head of a record is looked for first
# Of one read. A thread holds the interpreter from one read to the next, and the event loop waits for it.
CHUNK = 32 * 1024
NEAR_MESSAGES = 32  # the same for ids
PROBES = 16  # messages that are looked at before a part of a segment is passed over
_HIGHEST = 1 << 64  # above every offset


class Looked(NamedTuple):
    """A message: its frame and, of a dead letter, where it is from."""

    frame: bytes
    origin: bytes | None = None


@attrs.define(eq=False)
class Look:
    """`segments`: of the log, oldest first, each with its bytes that are whole, and the sequence number after it.

    `moved`: positions of MOVED records by sequence number, as far as the look may need them. `open`: opens a segment.
    `bytes_read`: so far.
    """

    segments: list[tuple[Segment, int, int]]
    moved: dict[int, int]
    open: Callable[[Segment, bool], File]
    bytes_read: int = 0

    def messages(self, seqs: Iterable[int]) -> Generator[Looked | None, None, None]:
        """Each of these messages, the fewest reads if they rise; None if it cannot be read.

        `OSError`, `FileNotFoundError` if its segment was removed. To be closed.
        """
        cursor: _Cursor | None = None
        try:
            for seq in seqs:
                if seq in self.moved:
                    yield self._moved_message(seq)
                    continue
                entry = self.segments[self._index_of(seq)]
                if cursor is None or cursor.segment is not entry[0]:
                    if cursor is not None:
                        cursor.file.close()
                        cursor = None  # before an `open` that may fail
                    cursor = self._cursor(entry)
                yield cursor.message(seq)
        finally:
            if cursor is not None:
                cursor.file.close()

    def find(self, message_id: bytes) -> tuple[int, Looked] | None:
        """The message with this id, and its sequence number; None if it is not where its id says. `OSError`.

        The look must have all of `moved`.
        """
        return self._find_own(message_id) or self._find_moved(message_id)

    def first_from(self, seq: int) -> tuple[int, bytes] | None:
        """The first message from `seq` on that is in its own segment and can be read, as (sequence number, frame); None
        if there is none. `OSError`.
        """
        return self._first(seq, lambda cursor, start: cursor.first_from(start))

    def first_since(self, wanted_ns: int, seq: int) -> tuple[int, bytes] | None:
        """As `first_from`, the first one with this timestamp or a later one, as far as timestamps rise."""
        low, high = self._index_of(seq), len(self.segments)
        while high - low > 1:  # the last segment whose first message is older, or the first one
            middle = (low + high) // 2
            found = self.first_from(self.segments[middle][0].first)
            if found is not None and _published_ns(found[1]) < wanted_ns:
                low = middle
            else:
                high = middle
        start = max(seq, self.segments[low][0].first)
        return self._first(start, lambda cursor, start: cursor.first_since(wanted_ns, start))

    def newest(self, segment: Segment) -> int | None:
        """The timestamp of the last message of a segment; None if none can be read. `OSError`."""
        entry = next(entry for entry in self.segments if entry[0] is segment)
        first, seq, step = segment.first, entry[2], 1
        frame: bytes | None = None
        cursor = self._cursor(entry)
        try:
            while frame is None and seq > first:  # the last numbers may be aborted, or damaged
                seq, step = max(first, seq - step), 2 * step
                following = seq
                while (found := cursor.first_from(following)) is not None:
                    following, frame = found[0] + 1, found[1]
        finally:
            cursor.file.close()
        return None if frame is None else _published_ns(frame)

    def _first(
        self, seq: int, find: Callable[[_Cursor, int], tuple[int, bytes] | None]
    ) -> tuple[int, bytes] | None:
        """What `find` finds in the segment that has `seq`, from there on, or else in the next one in which it does."""
        for entry in self.segments[self._index_of(seq) :]:
            start = max(seq, entry[0].first)
            if start >= entry[2]:
                continue
            cursor = self._cursor(entry)
            try:
                found = find(cursor, start)
            finally:
                cursor.file.close()
            if found is not None:
                return found
        return None

    def first_younger(self, start: int, stop: int, cutoff_ns: int) -> tuple[int, int | None]:
        """The first of the messages `[start, stop)` that was published after `cutoff_ns`: its sequence number and its
        publish time, ns since 1970; (stop, None) without one. `OSError`. The look must have all of `moved`.

        It looks at few of them, in strides from the front on: a sixteenth of a segment is passed over if its last
        message is older.
        """
        seq = start
        while seq < stop:
            at = self._index_of(seq)
            segment, _, end = self.segments[at]
            after = self.segments[at + 1][0].first if at + 1 < len(self.segments) else stop
            if not segment.first <= seq < end:
                found = self._younger_moved(seq, min(stop, after if seq >= end else segment.first), cutoff_ns)
                seq = min(stop, after if seq >= end else segment.first)
            else:
                found = self._younger_own(self.segments[at], seq, min(stop, end), cutoff_ns)
                seq = min(stop, end)
            if found is not None:
                return found
        return stop, None

    # --- segments

    def _younger_own(
        self, entry: tuple[Segment, int, int], start: int, stop: int, cutoff_ns: int
    ) -> tuple[int, int] | None:
        cursor = self._cursor(entry)
        try:
            # The last message of each of so many parts is looked at; the first part that is younger, or of which
            # nothing is known, is divided again.
            part = stop - start
            while start < stop:
                step = max(1, part // PROBES)
                while start < stop:
                    found = cursor.first_from(min(start + step, stop) - 1)
                    if found is None or found[0] >= stop:  # aborted, or damaged
                        if step == 1:
                            return None
                        break
                    published = _published_ns(found[1])
                    if published > cutoff_ns:
                        if step == 1:
                            return found[0], published
                        break
                    start = max(start + step, found[0] + 1)
                part = step
            return None
        finally:
            cursor.file.close()

    def _younger_moved(self, start: int, stop: int, cutoff_ns: int) -> tuple[int, int] | None:
        for seq in sorted(seq for seq in self.moved if start <= seq < stop):
            message = self._moved_message(seq)
            if message is not None and _published_ns(message.frame) > cutoff_ns:
                return seq, _published_ns(message.frame)
        return None

    def _index_of(self, seq: int) -> int:
        return max(0, bisect_right(self.segments, seq, key=lambda entry: entry[0].first) - 1)

    def _find_own(self, message_id: bytes) -> tuple[int, Looked] | None:
        segments = [entry for entry in self.segments if entry[0].first < entry[2]]
        low, high = 0, len(segments)
        while high - low > 1:
            at = middle = (low + high) // 2
            frame = self._first_of(segments[at])
            while frame is None and at + 1 < high:  # all its messages were aborted, or are damaged
                at += 1
                frame = self._first_of(segments[at])
            low, high = (at, high) if frame and frame[ID] <= message_id else (low, middle)
        if not segments:
            return None
        entry = segments[low]
        cursor = self._cursor(entry)
        try:
            found = cursor.find(message_id)
        finally:
            cursor.file.close()
        return None if found is None else (found[0], cursor.with_origin(*found))

    def _cursor(self, entry: tuple[Segment, int, int]) -> _Cursor:
        segment, limit, end = entry
        return _Cursor(self, segment, self.open(segment, True), limit, end)

    def _first_of(self, entry: tuple[Segment, int, int]) -> bytes | None:
        cursor = self._cursor(entry)
        try:
            found = cursor.first_from(entry[0].first)
        finally:
            cursor.file.close()
        return None if found is None else found[1]

    # --- moved messages

    def _moved_message(self, seq: int) -> Looked | None:
        position = self.moved[seq]
        at = bisect_right(self.segments, position, key=lambda entry: entry[0].position) - 1
        segment, limit, _ = self.segments[max(0, at)]
        offset = position - segment.position
        if not 0 <= offset < limit:
            return None
        self.bytes_read += CHUNK
        result = MovedPlan(segment, self.open, offset, limit, seq).run()
        if result is None or not result.runs:
            return None
        return Looked(result.runs[0].frames[0], result.origins.get(seq))

    def _find_moved(self, message_id: bytes) -> tuple[int, Looked] | None:
        seqs = sorted(self.moved)
        low, high = 0, len(seqs)
        while low < high:
            middle = (low + high) // 2
            message = self._moved_message(seqs[middle])
            if message is None or message.frame[ID] > message_id:
                high = middle
            elif message.frame[ID] == message_id:
                return seqs[middle], message
            else:
                low = middle + 1
        return None


@attrs.define(eq=False)
class _Cursor:
    """A place in one segment: after the record at whose end it was last, whose messages are `run`.

    `end`: the sequence number after its segment. `heads`: (sequence number, offset) of records that searches have met;
    the search for an id consists of many.
    """

    look: Look
    segment: Segment
    file: File
    limit: int
    end: int  # the sequence number after the segment
    offset: int = 0
    next_seq: int = 0  # the messages from `offset` on have this sequence number or a higher one
    run: MessageRun = attrs.field(factory=lambda: MessageRun(0, []))
    origins: dict[int, bytes] = attrs.field(factory=dict)  # of those in `run` that are dead letters
    records: Iterator[Record | Damaged] = attrs.field(factory=lambda: iter(()))
    heads: list[tuple[int, int]] = attrs.field(factory=list)

    def message(self, seq: int) -> Looked | None:
        """A message of this segment; None if it cannot be read."""
        found = self.first_from(seq)
        if found is None or found[0] != seq:
            # A body may hold records of this very file, which a search takes for its own.
            self._go_to(*self.segment.offset_of(seq))
            found = self._read_to(seq)
        return self.with_origin(*found) if found is not None and found[0] == seq else None

    def with_origin(self, seq: int, frame: bytes) -> Looked:
        """A message of `run`."""
        return Looked(frame, self.origins.get(seq))

    def first_from(self, seq: int) -> tuple[int, bytes] | None:
        """The first message from `seq` on that can be read, as (sequence number, frame); None at the segment's end."""
        if self.run.first <= seq < self.run.first + len(self.run.frames):
            return seq, self.run.frames[seq - self.run.first]
        following = self.offset > 0 and seq >= self.next_seq
        if not following or (seq - self.next_seq) * self.segment.average_size > NEAR:
            self._go_to(*self._place_of(seq))
        return self._read_to(seq)

    def find(self, message_id: bytes) -> tuple[int, bytes] | None:
        """The message with this id, if ids rise; (sequence number, frame)."""
        first, end, wanted = self.segment.first, self.end, _number(message_id)
        low, high = self.first_from(first), self.first_from(end - 1)
        low_id, high_id = _number(low[1][ID]) if low else 0, _number(high[1][ID]) if high else 0
        for step in cycle((-NEAR_MESSAGES, NEAR_MESSAGES, None)):
            if first >= end:
                return None
            at = (first + end) // 2
            if step is not None and low_id < high_id:
                at = first + (end - first) * (wanted - low_id) // (high_id - low_id) + step
                at = min(max(first, at), end - 1)
            found = self.first_from(at)
            if found is None or found[1][ID] > message_id:
                end = at
                high_id = _number(found[1][ID]) if found else high_id
            elif found[1][ID] == message_id:
                return found
            else:
                first, low_id = found[0] + 1, _number(found[1][ID])
        raise AssertionError("the steps never end")

    def first_since(self, wanted_ns: int, first: int) -> tuple[int, bytes] | None:
        """The first message from `first` on with this timestamp or a later one, if timestamps rise."""
        end, found = self.end, None
        while first < end:
            middle = (first + end) // 2
            at = self.first_from(middle)
            if at is not None and _published_ns(at[1]) < wanted_ns:
                first = at[0] + 1
            else:
                end, found = middle, at or found
        return found

    def _go_to(self, offset: int, first: int) -> None:
        self.offset, self.next_seq = offset, first
        salt, limit = self.segment.salt, self.limit
        self.records = scan(self._read, offset, limit, salt, first, chunk=CHUNK)

    def _read_to(self, seq: int) -> tuple[int, bytes] | None:
        for item in self.records:
            if isinstance(item, Damaged):
                continue
            self.offset, self.next_seq = item.offset + item.head.size, item.head.end
            run = messages_of(item)
            head = item.head
            if run is not None and head.end > seq:
                self.run = run
                self.origins = origins_of(head.kind, head.first, head.count, item.payload)
                seq = max(seq, run.first)
                return seq, run.frames[seq - run.first]
        return None

    def _place_of(self, seq: int) -> tuple[int, int]:
        """(offset, sequence number) of the record that has `seq`, or of one not long before it."""
        low, first = self.segment.offset_of(seq)
        _, high, after = self.segment.stretch_of(seq, self.limit)
        end = self.end if after is None else after
        at = bisect_right(self.heads, (seq, _HIGHEST))
        for known, offset in self.heads[max(0, at - 1) : at]:
            low, first = max((low, first), (offset, known))
        for known, offset in self.heads[at : at + 1]:
            high, end = min((high, end), (offset, known))
        for step in cycle((-NEAR // 4, NEAR // 4, None)):
            if high - low <= NEAR:
                return low, first
            middle = (low + high) // 2
            if step is not None and end > first:
                middle = low + (high - low) * (seq - first) // (end - first) + step
                middle = min(max(low + 1, middle), high - 1)
            found = self._head_in(middle, high, first)
            if found is not None:
                insort(self.heads, (found[1].first, found[0]))
            if found is not None and found[1].first <= seq:
                low, first = found[0], found[1].first
            else:
                high, end = middle, found[1].first if found is not None else end
        raise AssertionError("the steps never end")

    def _head_in(self, start: int, end: int, at_least: int) -> tuple[int, RecordHead] | None:
        """The first head of a record that begins in `[start, end)`."""
        size = PROBE
        while start < end:
            data = self._read(start, min(size, self.limit - start))
            found = find_record(data, 0, self.segment.salt, at_least)
            if found is not None:
                offset = start + found[0]
                return (offset, found[1]) if offset < end else None
            if len(data) < size:
                return None
            start += size - RECORD_HEAD_SIZE + 1
            size = CHUNK
        return None

    def _read(self, offset: int, size: int) -> bytes:
        data = self.file.read(offset, size)
        self.look.bytes_read += len(data)
        return data


def _published_ns(frame: bytes) -> int:
    return int.from_bytes(frame[TIMESTAMP], "big", signed=True)


def _number(message_id: bytes) -> int:
    """An id as a number, for an estimate; 0 if it is none."""
    try:
        return int(message_id, 16)
    except ValueError:
        return 0
