"""One file of a topic's log: where its messages are, and reads of them.

A *position* counts bytes from the beginning of the topic's first segment, over all segments that ever were. A segment
is named by the position of its first byte. Its sparse index (a sequence number and an offset every 64 KiB) finds a
message. It is built by appending and by reading; a segment that was there at the start has none at first, and is
searched from its beginning once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

import attrs

from nsqd.log.records import FILE_HEADER_SIZE, VERSION, Kind, decode_deferred, decode_moved, split_messages
from nsqd.log.scan import Damaged, Record, scan
from nsqd.log.storage import File

__all__ = [
    "INDEX_EVERY",
    "Damage",
    "MessageRun",
    "MovedPlan",
    "NeededMessages",
    "NeededPlan",
    "ReadPlan",
    "ReadResult",
    "Segment",
    "segment_name",
]

INDEX_EVERY = 64 * 1024
INLINE_SCAN = 4 * 1024 * 1024  # how far a read that must not wait may search
UNKNOWN_SIZE = 256  # bytes of a message, for estimates where nothing better is known
MOVED_READ = 32 * 1024  # bytes; a MOVED record is about half as large


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
    seqs: list[int] = attrs.field(factory=list)
    offsets: list[int] = attrs.field(factory=list)
    written_back: int = 0  # offset up to which the system was asked to write

    def __attrs_post_init__(self) -> None:
        self.seqs.append(self.first)
        self.offsets.append(FILE_HEADER_SIZE)

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

    def has(self, seq: int) -> bool:
        """Whether this is one of its own messages."""
        return self.first <= seq and (self.next_first is None or seq < self.next_first)

    def remember(self, seq: int, offset: int) -> None:
        """Note where the record that begins with `seq` is, unless another note is near."""
        at = len(self.offsets)
        if offset < self.offsets[-1]:  # a reader far behind, where the replay has left no notes
            at = bisect_right(self.offsets, offset)
            if self.offsets[at] - offset < INDEX_EVERY:
                return
        if offset - self.offsets[at - 1] >= INDEX_EVERY:
            self.seqs.insert(at, seq)
            self.offsets.insert(at, offset)

    def offset_of(self, seq: int) -> tuple[int, int]:
        """(offset, sequence number) of a record at or before the one with `seq`."""
        at = max(0, bisect_right(self.seqs, seq) - 1)
        return self.offsets[at], self.seqs[at]


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
    be where it was before.
    """

    segment: Segment
    runs: list[MessageRun]
    next: int
    notes: list[tuple[int, int]]
    damage: list[Damage]
    moved_away: int | None = None


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
                result.runs.append(MessageRun(run.first + skip, run.frames[skip:]) if skip else run)
                result.next = item.head.end
                taken += item.head.length
                if taken >= self.max_bytes:
                    return
            elif stop is not None and item.offset > stop:
                raise BlockingIOError
        result.next = self.end


@attrs.frozen
class MovedPlan:
    """A read of one message that was moved, and of those after it in the same record; otherwise like `ReadPlan`.

    `offset`: of its MOVED record in `segment`; None if there is no such record, so that the message is lost.
    """

    segment: Segment
    open: Callable[[Segment, bool], File]
    offset: int | None
    limit: int
    seq: int

    def run(self, *, wait: bool = True) -> ReadResult | None:
        """Read consecutive messages from `seq` on. `OSError`. See `ReadPlan.run`."""
        result = ReadResult(self.segment, [], self.seq + 1, [], [])
        if self.offset is None:
            return result
        file = self.open(self.segment, wait)
        try:
            item = next(
                scan(
                    lambda offset, size: file.read(offset, size, wait=wait),
                    self.offset,
                    self.limit,
                    self.segment.salt,
                    0,
                    chunk=MOVED_READ,
                )
            )
        except BlockingIOError:
            return None
        finally:
            file.close()
        if isinstance(item, Damaged):
            where = (self.segment.path, item.offset, item.end - item.offset, self.seq, self.seq, item.reason)
            result.damage.append(Damage(*where))
            result.next = result.moved_away = self.seq
            return result
        frames = consecutive(*decode_moved(item.payload, item.head.count), self.seq)
        if frames:
            result.runs.append(MessageRun(self.seq, frames))
        result.next = self.seq + len(frames)
        result.moved_away = None if frames else self.seq
        return result


def consecutive(frames: Sequence[bytes], seqs: Sequence[int], first: int) -> list[bytes]:
    """Of the frames with these rising sequence numbers those of `first`, `first` + 1 and so on."""
    out: list[bytes] = []
    for frame, seq in zip(frames, seqs, strict=True):
        if seq == first + len(out):
            out.append(frame)
    return out


@attrs.define(eq=False)
class NeededMessages:
    """Messages of a segment that are to be moved: (sequence number, position of its MOVED record or None, frame).

    `own_bytes`: of the segment's own among them. `next_offset`: where to read on; None at the end of the segment.
    `damage`: met on the way.
    """

    messages: list[tuple[int, int | None, bytes]] = attrs.field(factory=list)
    own_bytes: int = 0
    next_offset: int | None = None
    damage: list[Damage] = attrs.field(factory=list)


@attrs.frozen
class NeededPlan:
    """A read of those messages of a complete segment that somebody may need; *any thread*.

    `needed`: sequence numbers of its own messages, as rising ranges. Of messages that were moved into it, all are
    returned, as their sequence numbers may have any order.
    """

    segment: Segment
    open: Callable[[Segment, bool], File]
    offset: int
    limit: int
    end: int  # the first sequence number after the segment
    needed: Sequence[tuple[int, int]]

    def measure(self) -> NeededMessages:
        """Only count the bytes, of the whole segment. `OSError`."""
        return self._run(0, keep=False)

    def read(self, max_bytes: int) -> NeededMessages:
        """Read until about `max_bytes` of needed messages have been found. `OSError`."""
        return self._run(max_bytes, keep=True)

    def _run(self, max_bytes: int, *, keep: bool) -> NeededMessages:
        found, taken = NeededMessages(), 0
        file = self.open(self.segment, True)
        try:
            for item in scan(file.read, self.offset, self.limit, self.segment.salt, 0):
                if isinstance(item, Damaged):
                    end = self.end if item.next_first is None else item.next_first
                    where = (
                        self.segment.path,
                        item.offset,
                        item.end - item.offset,
                        item.first,
                        end,
                        item.reason,
                    )
                    found.damage.append(Damage(*where))
                    continue
                messages = self._of_record(item)
                found.own_bytes += sum(len(frame) for _, position, frame in messages if position is None)
                if keep:
                    found.messages += messages
                    taken += sum(len(frame) for _, _, frame in messages)
                    if taken >= max_bytes and item.offset + item.head.size < self.limit:
                        found.next_offset = item.offset + item.head.size
                        break
        finally:
            file.close()
        return found

    def _of_record(self, record: Record) -> list[tuple[int, int | None, bytes]]:
        head = record.head
        if head.kind is Kind.MOVED:
            position = self.segment.position + record.offset
            frames, seqs = decode_moved(record.payload, head.count)
            return [(seq, position, frame) for seq, frame in zip(seqs, frames, strict=True)]
        at = bisect_right(
            self.needed, head.first, key=lambda run: run[1]
        )  # the first range that ends after `first`
        if head.end == head.first or at == len(self.needed) or self.needed[at][0] >= head.end:
            return []
        run = messages_of(record)
        assert run is not None
        out: list[tuple[int, int | None, bytes]] = []
        for start, end in self.needed[at:]:
            if start >= head.end:
                break
            for seq in range(max(start, head.first), min(end, head.end)):
                out.append((seq, None, run.frames[seq - head.first]))
        return out


def messages_of(record: Record) -> MessageRun | None:
    """The messages of a record; None for a record of another kind, or of moved messages."""
    if record.head.kind is Kind.MESSAGES:
        return MessageRun(record.head.first, split_messages(record.payload, record.head.count))
    if record.head.kind is Kind.DEFERRED:
        return MessageRun(record.head.first, decode_deferred(record.payload, record.head.count)[0])
    return None
