"""Looks at single messages of a log, for readers that must leave no trace: nothing that is found is kept for the log.

A look is made on the event loop, from the segments of that moment, and used in one other thread. A segment that is
removed meanwhile gives `FileNotFoundError`: then nobody needs its messages any more, and the caller begins anew.

A message is found from the nearest entry of the sparse index at or before it. Between two entries, and in a segment of
before the start, which has none, its record is found by bisection: a head of a record can be recognised wherever a read
begins, and sequence numbers rise with the offset. So a look costs about the same at any depth.

Message ids rise with the sequence numbers, too, as long as the messages come from this data path and its node has kept
its id: so most ids can be found by bisection as well.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator

import attrs

from nsqd.log.moved import MovedPlan
from nsqd.log.records import RECORD_HEAD_SIZE, RecordHead, find_record
from nsqd.log.scan import Damaged, Record, scan
from nsqd.log.segment import MessageRun, Segment, messages_of
from nsqd.log.storage import File
from nsqkit.wire.frames import ID

__all__ = ["Look"]

NEAR = 16 * 1024  # bytes that are read faster than bisected
PROBE = 4 * 1024  # bytes in which the head of a record is looked for first
# Of one read. A thread holds the interpreter from one read to the next, and the event loop waits for it.
CHUNK = 32 * 1024


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

    def frames(self, seqs: Iterable[int]) -> Generator[bytes | None, None, None]:
        """The frame of each of these messages, the fewest reads if they rise; None if it cannot be read.

        `OSError`, `FileNotFoundError` if its segment was removed. To be closed.
        """
        cursor: _Cursor | None = None
        try:
            for seq in seqs:
                if seq in self.moved:
                    yield self._moved_frame(seq)
                    continue
                entry = self.segments[self._index_of(seq)]
                if cursor is None or cursor.segment is not entry[0]:
                    if cursor is not None:
                        cursor.file.close()
                        cursor = None  # before an `open` that may fail
                    cursor = _Cursor(self, entry[0], self.open(entry[0], True), entry[1])
                yield cursor.frame(seq)
        finally:
            if cursor is not None:
                cursor.file.close()

    def find(self, message_id: bytes) -> tuple[int, bytes] | None:
        """The message with this id, as (sequence number, frame); None if it is not where its id says. `OSError`.

        The look must have all of `moved`.
        """
        return self._find_own(message_id) or self._find_moved(message_id)

    # --- segments

    def _index_of(self, seq: int) -> int:
        return max(0, bisect_right(self.segments, seq, key=lambda entry: entry[0].first) - 1)

    def _find_own(self, message_id: bytes) -> tuple[int, bytes] | None:
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
        segment, limit, end = segments[low]
        cursor = _Cursor(self, segment, self.open(segment, True), limit)
        try:
            first = segment.first
            while first < end:
                middle = (first + end) // 2
                found = cursor.first_from(middle)
                if found is None or found[1][ID] > message_id:
                    end = middle
                elif found[1][ID] == message_id:
                    return found
                else:
                    first = found[0] + 1
        finally:
            cursor.file.close()
        return None

    def _first_of(self, entry: tuple[Segment, int, int]) -> bytes | None:
        segment, limit, _ = entry
        cursor = _Cursor(self, segment, self.open(segment, True), limit)
        try:
            found = cursor.first_from(segment.first)
        finally:
            cursor.file.close()
        return None if found is None else found[1]

    # --- moved messages

    def _moved_frame(self, seq: int) -> bytes | None:
        position = self.moved[seq]
        at = bisect_right(self.segments, position, key=lambda entry: entry[0].position) - 1
        segment, limit, _ = self.segments[max(0, at)]
        offset = position - segment.position
        if not 0 <= offset < limit:
            return None
        self.bytes_read += CHUNK
        result = MovedPlan(segment, self.open, offset, limit, seq).run()
        return result.runs[0].frames[0] if result is not None and result.runs else None

    def _find_moved(self, message_id: bytes) -> tuple[int, bytes] | None:
        seqs = sorted(self.moved)
        low, high = 0, len(seqs)
        while low < high:
            middle = (low + high) // 2
            frame = self._moved_frame(seqs[middle])
            if frame is None or frame[ID] > message_id:
                high = middle
            elif frame[ID] == message_id:
                return seqs[middle], frame
            else:
                low = middle + 1
        return None


@attrs.define(eq=False)
class _Cursor:
    """A place in one segment: after the record at whose end it was last, whose messages are `run`."""

    look: Look
    segment: Segment
    file: File
    limit: int
    offset: int = 0
    next_seq: int = 0  # the messages from `offset` on have this sequence number or a higher one
    run: MessageRun = attrs.field(factory=lambda: MessageRun(0, []))
    records: Iterator[Record | Damaged] = attrs.field(factory=lambda: iter(()))

    def frame(self, seq: int) -> bytes | None:
        """The frame of a message of this segment; None if it cannot be read."""
        found = self.first_from(seq)
        if found is None or found[0] != seq:
            # A body may hold records of this very file, which a bisection takes for its own.
            self._go_to(*self.segment.offset_of(seq))
            found = self._read_to(seq)
        return found[1] if found is not None and found[0] == seq else None

    def first_from(self, seq: int) -> tuple[int, bytes] | None:
        """The first message from `seq` on that can be read, as (sequence number, frame); None at the segment's end."""
        if self.run.first <= seq < self.run.first + len(self.run.frames):
            return seq, self.run.frames[seq - self.run.first]
        following = self.offset > 0 and seq >= self.next_seq
        if not following or (seq - self.next_seq) * self.segment.average_size > NEAR:
            low, first = self.segment.offset_of(seq)
            _, high, _ = self.segment.stretch_of(seq, self.limit)
            self._go_to(*self._bisect(low, first, high, seq))
        return self._read_to(seq)

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
            if run is not None and item.head.end > seq:
                self.run = run
                seq = max(seq, run.first)
                return seq, run.frames[seq - run.first]
        return None

    def _bisect(self, low: int, first: int, high: int, seq: int) -> tuple[int, int]:
        """(offset, sequence number) of a record in `[low, high)` at, or not long before, the one that has `seq`.

        `low`, `first`: of a record at or before it.
        """
        while high - low > NEAR:
            middle = (low + high) // 2
            found = self._head_in(middle, high, first)
            if found is not None and found[1].first <= seq:
                low, first = found[0], found[1].first
            else:
                high = middle
        return low, first

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
