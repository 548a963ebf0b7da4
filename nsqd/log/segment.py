"""One file of a topic's log: where its messages are, and reads of them.

A *position* counts bytes from the beginning of the topic's first segment, over all segments that ever were. A segment
is named by the position of its first byte. Its sparse index (a sequence number and an offset every 64 KiB) finds a
message. It is built by appending and by reading; a segment that was there at the start has none at first, and is
searched from its beginning once.

Reads of single messages (`fetch.py`) need more: where each message is. They note it in `blocks`, for the stretches
between two entries of the sparse index in which they read. Blocks are dropped when they take too much memory, and are
made again by the next read there.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from operator import itemgetter

import attrs

from nsqd.log.records import FILE_HEADER_SIZE, VERSION, frames_of
from nsqd.log.scan import Damaged, Record, scan
from nsqd.log.storage import File

__all__ = [
    "INDEX_EVERY",
    "Block",
    "Damage",
    "MessageRun",
    "ReadPlan",
    "ReadResult",
    "Segment",
    "messages_of",
    "segment_name",
]

INDEX_EVERY = 64 * 1024
INLINE_SCAN = 4 * 1024 * 1024  # how far a read that must not wait may search
UNKNOWN_SIZE = 256  # bytes of a message, for estimates where nothing better is known

_OFFSET = itemgetter(1)
_HIGHEST = 1 << 64  # above every offset


def segment_name(position: int) -> str:
    return f"{position:020d}.log"


@attrs.define(eq=False)
class Segment:
    """One file of the log. `position`: of its first byte. `first`: the sequence number of its first message.

    `next_first`: the sequence number after its last message; None while it is written to. `message_bytes`: of the
    frames of its own messages. `moved_count`, `moved_bytes`: messages of older segments that were moved here, and
    nowhere else since, and that are needed. `emptied`: what was needed of it has been moved. `version`: of the format.
    `file`: to append with. It may be closed while nothing is appended, see `writers.py`; its size counts all the same.
    `synced`: bytes that the disk is known to have.
    """

    file: File
    path: str
    position: int
    first: int
    salt: int
    synced: int = 0
    next_first: int | None = None
    message_bytes: int = 0
    moved_count: int = 0
    moved_bytes: float = 0
    emptied: bool = False
    version: int = VERSION
    # (sequence number, offset) of records, 64 KiB apart
    marks: list[tuple[int, int]] = attrs.field(factory=list)
    written_back: int = 0  # offset up to which the system was asked to write
    blocks: dict[int, Block] = attrs.field(factory=dict)  # by the offset of their first record
    blocks_size: int = 0  # bytes of memory, approximately

    def __attrs_post_init__(self) -> None:
        self.marks.append((self.first, FILE_HEADER_SIZE))

    @property
    def end(self) -> int:
        """Position after its last byte."""
        return self.position + self.file.size

    @property
    def unsynced(self) -> bool:
        return self.synced < self.file.size

    @property
    def average_size(self) -> float:
        """Bytes of its messages, on average, as far as that is known."""
        count = 0 if self.next_first is None else self.next_first - self.first
        return self.message_bytes / count if count and self.message_bytes else UNKNOWN_SIZE

    def size_of(self, start: int, end: int, after: int) -> float:
        """Bytes of its messages with sequence numbers in `[start, end)`, as an estimate; `after`: follows its last."""
        size = self.message_bytes or self.file.size  # segments of version 1 have no figures
        if start <= self.first and after <= end:
            return size
        begin, stop = (
            self._offset_near(max(start, self.first), after),
            self._offset_near(min(end, after), after),
        )
        return size * max(0.0, stop - begin) / max(1, self.file.size - FILE_HEADER_SIZE)

    def _offset_near(self, seq: int, after: int) -> float:
        """About where a message is, from the two notes around it."""
        if seq >= after:
            return self.file.size
        at = bisect_right(self.marks, (seq, _HIGHEST))
        first, offset = self.marks[max(0, at - 1)]
        next_first, next_offset = self.marks[at] if at < len(self.marks) else (after, self.file.size)
        return offset + (next_offset - offset) * (seq - first) / max(1, next_first - first)

    def has(self, seq: int) -> bool:
        """Whether this is one of its own messages."""
        return self.first <= seq and (self.next_first is None or seq < self.next_first)

    def begin_with(self, first: int) -> None:
        """Correct the sequence number of its first message."""
        self.first = first
        self.marks[0] = (first, FILE_HEADER_SIZE)

    def remember(self, seq: int, offset: int) -> None:
        """Note where the record that begins with `seq` is, unless another note is near."""
        marks = self.marks
        at = len(marks)
        if offset < marks[-1][1]:  # a reader far behind, where the replay has left no notes
            at = bisect_right(marks, offset, key=_OFFSET)
            if marks[at][1] - offset < INDEX_EVERY:
                return
        if offset - marks[at - 1][1] >= INDEX_EVERY:
            marks.insert(at, (seq, offset))

    def offset_of(self, seq: int) -> tuple[int, int]:
        """(offset, sequence number) of a record at or before the one with `seq`."""
        seq, offset = self.marks[max(0, bisect_right(self.marks, (seq, _HIGHEST)) - 1)]
        return offset, seq

    def stretch_of(self, seq: int, limit: int) -> tuple[int, int, int | None]:
        """The stretch between two notes that has the record with `seq`, in the file's first `limit` bytes.

        Returns the offsets of its start and its end, and the first sequence number after it; None for the last one.
        *Any thread*: notes may be added meanwhile, but are never removed.
        """
        marks = self.marks
        at = bisect_right(marks, (seq, _HIGHEST))
        offset = marks[max(0, at - 1)][1]
        for after, end in marks[at : at + 1]:
            if offset < end < limit:
                return offset, end, after
        return offset, limit, None

    def note_block(self, block: Block) -> None:
        """Keep where the records of a stretch are, if the stretch begins at a note."""
        self.remember(block.first, block.offset)
        at = bisect_left(self.marks, block.offset, key=_OFFSET)
        if at < len(self.marks) and self.marks[at][1] == block.offset:
            old = self.blocks.get(block.offset)
            self.blocks_size += block.size - (old.size if old is not None else 0)
            self.blocks[block.offset] = block

    def release(self, size: int) -> int:
        """Drop all blocks; see `budget.Holder`."""
        self.blocks = {}
        self.blocks_size = 0
        return 0


@attrs.frozen
class Block:
    """Where the messages are in a stretch of a segment that begins at `offset`.

    `first`, `end`: the first sequence number, and the one after the last. `seqs`: of each message, relative to `first`;
    None when none are missing. `places`: of each frame, relative to `offset`, and one more: where the last one ends.
    `checks`: the checksum of each frame. The record's own was checked when the block was made, and covers more.
    """

    first: int
    end: int
    offset: int
    seqs: array[int] | None
    places: array[int]
    checks: array[int]

    @property
    def size(self) -> int:
        """Bytes of memory, approximately."""
        return 500 + 12 * len(self.places)

    def index_of(self, seq: int) -> int:
        """Where in the arrays a message is. `KeyError` when it is missing."""
        at = seq - self.first
        if self.seqs is not None:
            at = bisect_left(self.seqs, seq - self.first)
            if at < len(self.seqs) and self.seqs[at] != seq - self.first:
                raise KeyError(seq)
        if not 0 <= at < len(self.checks):
            raise KeyError(seq)
        return at


@attrs.frozen
class MessageRun:
    """Messages with rising sequence numbers from `first` on."""

    first: int
    frames: list[bytes]


@attrs.frozen
class Damage:
    """Sequence numbers `[first, end)` cannot be read. `offset`, `size`: the bad bytes in the file `path`."""

    path: str
    offset: int
    size: int
    first: int
    end: int
    reason: str


@attrs.define(eq=False)
class ReadResult:
    """The result of a read: messages from the asked one on, notes for the index, damage met on the way.

    `next`: the sequence number to read from next. `moved_away`: a message whose MOVED record is damaged; it may still
    be where it was before. `origins`: of dead letters that were moved, by sequence number.
    """

    segment: Segment
    runs: list[MessageRun]
    next: int
    notes: list[tuple[int, int]]
    damage: list[Damage]
    moved_away: int | None = None
    origins: dict[int, bytes] = attrs.field(factory=dict)


@attrs.frozen
class ReadPlan:
    """A read that is ready to run, in any thread: nothing in it changes any more.

    It opens the file for itself and closes it afterwards, so no descriptor is shared between threads. That costs 3 us;
    a read of 64 KiB of 200-byte messages takes 150 us. `open`: opens the segment; True: it may run in a worker.
    """

    segment: Segment
    open: Callable[[Segment, bool], File]
    offset: int
    first: int  # all sequence numbers from `offset` on are this and above
    limit: int  # bytes of the file that are whole
    seq: int
    end: int  # the first sequence number after the segment
    max_bytes: int

    def run(self, *, wait: bool = True) -> ReadResult | None:
        """Read about `max_bytes` of messages from `seq` on. `OSError`.

        With `wait` it may run in any thread. Without, in the event loop's only; it returns None when it would have to
        wait for the disk, or to search for long.
        """
        result = ReadResult(self.segment, [], self.end, [], [])
        file = self.open(self.segment, wait)
        try:
            self._fill(result, file, wait)
        except BlockingIOError:
            return result if result.runs else None
        finally:
            file.close()
        return result

    def _fill(self, result: ReadResult, file: File, wait: bool) -> None:
        stop = None if wait else self.offset + INLINE_SCAN
        taken = 0

        def read(offset: int, size: int) -> bytes:
            return file.read(offset, size, wait=wait)

        chunk = min(max(self.max_bytes, 64 * 1024), 1 << 20)
        for item in scan(read, self.offset, self.limit, self.segment.salt, self.first, chunk=chunk):
            if isinstance(item, Damaged):
                end = self.end if item.next_first is None else item.next_first
                where = (self.segment.path, item.offset, item.end - item.offset, item.first, end, item.reason)
                result.damage.append(Damage(*where))
                continue
            run = messages_of(item)
            result.notes.append((item.head.first, item.offset))
            if run is not None and item.head.end > self.seq:
                skip = max(0, self.seq - run.first)
                if skip:
                    run = MessageRun(run.first + skip, run.frames[skip:])
                last = result.runs[-1] if result.runs else None
                if last is not None and last.first + len(last.frames) == run.first:
                    last.frames.extend(run.frames)  # else a consumer would get one message at a time
                else:
                    result.runs.append(run)
                result.next = item.head.end
                taken += item.head.length
                if taken >= self.max_bytes:
                    return
            elif stop is not None and item.offset > stop:
                raise BlockingIOError
        result.next = self.end


def messages_of(record: Record) -> MessageRun | None:
    """The messages of a record; None for a record of another kind, or of moved messages."""
    frames, _ = frames_of(record.head.kind, record.head.count, record.payload)
    return MessageRun(record.head.first, frames) if frames else None
