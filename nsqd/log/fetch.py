"""Reads of single messages, in the order of their positions, for messages that are delivered in another order.

A read goes to the message, however many others its record has; messages that are near one another are read with one
call. Where the messages of a stretch of a segment are, and the checksum of each, the first read in that stretch finds
out, by reading all its records; the log keeps it (`Segment.blocks`).

Anything that is not as expected is left to `ReadPlan`, which knows how to read over damage.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator

import attrs
from crc32c import crc32c

from nsqd.log.moved import MOVED_READ
from nsqd.log.records import (
    MOVED_KINDS,
    RECORD_HEAD_SIZE,
    FormatError,
    RecordHead,
    decode_record,
    find_moved,
    frames_of,
)
from nsqd.log.segment import INDEX_EVERY, Block, Segment
from nsqd.log.storage import File

__all__ = ["FetchPlan", "FetchResult"]

# Bytes between two messages up to which one read of both takes less time than two reads.
GAP_BYTES = 4 * 1024
# Of one read, unless a message or a record is longer. A thread holds the interpreter from one read to the next, and the
# event loop waits for it.
READ_BYTES = 64 * 1024
INLINE_SURVEY = 1024 * 1024  # how long a stretch a read that must not wait may search

_SIZE = struct.Struct(">I")


@attrs.define(eq=False)
class FetchResult:
    """The result of a read: frames by sequence number.

    `blocks`: where records are, for the index. `doubtful`: messages that were not found where they should be.
    `bytes_read`: also of what lies between the messages. `full`: it ended because the frames were too large together.
    """

    frames: dict[int, bytes] = attrs.field(factory=dict)
    size: int = 0  # of the frames
    blocks: list[tuple[Segment, Block]] = attrs.field(factory=list)
    doubtful: list[int] = attrs.field(factory=list)
    bytes_read: int = 0
    full: bool = False


_Span = tuple[int, int, int, int]
"""A wanted message: (start, end, sequence number, checksum of its frame). It is at `start`, and ends before `end`."""


@attrs.frozen
class FetchPlan:
    """A read that is ready to run, in any thread. `seqs`: in any order.

    `segments`: of the log, each with its bytes that are whole. `moved`: (offset of the MOVED record, seq) of the wanted
    messages that were moved, by segment; they are not in `seqs`. `open`: opens a segment; True: it may run in a worker.
    `max_bytes`, `max_size`: it ends when it has read so many bytes, or has frames of this size.
    """

    segments: list[tuple[Segment, int]]
    open: Callable[[Segment, bool], File]
    seqs: list[int]
    moved: dict[Segment, list[tuple[int, int]]]
    max_bytes: int
    max_size: int

    def run(self, *, wait: bool = True) -> FetchResult:
        """Read the messages, at least one. `OSError`.

        With `wait` it may run in any thread. Without, in the event loop's only; it ends where it would have to wait for
        the disk, or to search for long.
        """
        result = FetchResult()
        try:
            for segment, limit, seqs in self._by_segment():
                file = self.open(segment, wait)
                try:
                    _Fetch(self, result, segment, file, limit, wait).fetch(seqs)
                finally:
                    file.close()
                if self.is_over(result):
                    return result
            for segment, places in self.moved.items():
                file = self.open(segment, wait)
                try:
                    _Fetch(self, result, segment, file, segment.file.size, wait).fetch_moved(sorted(places))
                finally:
                    file.close()
                if self.is_over(result):
                    break
        except BlockingIOError:
            pass
        return result

    def is_over(self, result: FetchResult) -> bool:
        """Whether the result has reached a limit."""
        result.full = result.size >= self.max_size
        return result.full or result.bytes_read >= self.max_bytes

    def _by_segment(self) -> Iterator[tuple[Segment, int, list[int]]]:
        """The messages of each segment. The one place that decides in which segment a message is."""
        seqs, at = sorted(self.seqs), 0
        segments = self.segments
        while at < len(seqs):
            index = max(0, bisect_right(segments, seqs[at], key=lambda entry: entry[0].first) - 1)
            end = len(seqs)
            if index + 1 < len(segments):
                end = bisect_left(seqs, segments[index + 1][0].first, at)
            yield *segments[index], seqs[at:end]
            at = end


@attrs.define(eq=False)
class _Fetch:
    """The part of a read in one segment."""

    plan: FetchPlan
    result: FetchResult
    segment: Segment
    file: File
    limit: int
    wait: bool

    def fetch(self, seqs: list[int]) -> None:
        """`seqs`: rising."""
        spans: list[_Span] = []
        first = last = 0  # offsets that the spans begin and end at
        for span in self._spans(seqs):
            start, end, _, _ = span
            if spans and (start - last > GAP_BYTES or end - first > READ_BYTES):
                self._read_spans(spans)
                spans = []
                if self.plan.is_over(self.result):
                    return
            if not spans:
                first = start
            last = end
            spans.append(span)
        if spans:
            self._read_spans(spans)

    def fetch_moved(self, places: list[tuple[int, int]]) -> None:
        """`places`: (offset of the record, sequence number), rising."""
        data, base = b"", 0
        at = 0
        while at < len(places) and not self.plan.is_over(self.result):
            offset = places[at][0]
            after = bisect_left(places, (offset + 1, 0), at)
            if offset + MOVED_READ > base + len(data):
                # Records that were written one after the other are read together.
                near = bisect_left(places, (offset + READ_BYTES - MOVED_READ, 0), at) - 1
                data, base = self._read(offset, places[near][0] - offset + MOVED_READ), offset
            wanted = {seq for _, seq in places[at:after]}
            try:
                record = decode_record(data, offset - base, self.segment.salt)
                if record is None:  # a record of one long message
                    head = RecordHead.decode(data, offset - base, self.segment.salt)
                    data, base = self._read(offset, head.size), offset
                    record = decode_record(data, 0, self.segment.salt)
                if record is None or record[0] not in MOVED_KINDS:
                    raise FormatError("another record than expected")
                found = find_moved(record[0], record[3], record[2], wanted)
            except FormatError:
                found = {}
            self.result.frames.update(found)
            self.result.size += sum(map(len, found.values()))
            self.result.doubtful += sorted(wanted - found.keys())
            at = after

    def _read(self, offset: int, size: int) -> bytes:
        data = self.file.read(offset, size, wait=self.wait)
        self.result.bytes_read += len(data)
        return data

    def _read_spans(self, spans: list[_Span]) -> None:
        """Read messages that are near one another."""
        base = spans[0][0]
        data = self._read(base, spans[-1][1] - base)
        frames, size, unpack = self.result.frames, 0, _SIZE.unpack_from
        for start, end, seq, check in spans:
            at = start - base
            if len(data) - at < _SIZE.size:
                self.result.doubtful.append(seq)
                continue
            stop = at + _SIZE.size + unpack(data, at)[0]
            frame = data[at:stop]
            if stop + base > end or crc32c(frame) != check:
                self.result.doubtful.append(seq)
                continue
            frames[seq] = frame
            size += len(frame)
        self.result.size += size

    # --- where the messages are

    def _spans(self, seqs: list[int]) -> Iterator[_Span]:
        """Where these messages are."""
        at = 0
        while at < len(seqs) and not self.plan.is_over(self.result):
            start, stop, after = self.segment.stretch_of(seqs[at], self.limit)
            block = self._block_of(seqs[at], start, stop, after)
            if block is None:
                end = len(seqs) if after is None else bisect_left(seqs, after, at + 1)
                self.result.doubtful += seqs[at:end]
                at = end
                continue
            end = bisect_left(seqs, block.end, at)
            offset, places, checks = block.offset, block.places, block.checks
            for seq in seqs[at:end]:
                try:
                    index = block.index_of(seq)
                except KeyError:
                    self.result.doubtful.append(seq)
                else:
                    yield offset + places[index], offset + places[index + 1], seq, checks[index]
            at = end

    def _block_of(self, seq: int, start: int, end: int, after: int | None) -> Block | None:
        """The block that has `seq`, in a stretch as `Segment.stretch_of` gives it; found out if necessary."""
        block = self.segment.blocks.get(start)
        if block is not None and block.first <= seq < block.end:
            return block
        if not self.wait and end - start > INLINE_SURVEY:
            raise BlockingIOError
        found = None
        try:
            blocks = self._survey(start, end, after)
        except OverflowError:  # the survey does not check heads: in a damaged one the numbers may be any
            blocks = []
        for block in blocks:
            self.result.blocks.append((self.segment, block))
            if block.first <= seq < block.end:
                found = block
        return found

    def _survey(self, start: int, end: int, after: int | None) -> list[Block]:
        """The blocks of the stretch `[start, end)`. `after`: the first sequence number after it."""
        blocks = _BlockBuilder(start, end)
        salt = self.segment.salt
        data, base, offset, following, wanted = b"", start, start, 0, READ_BYTES
        while offset < end:
            try:
                record = decode_record(data, offset - base, salt)
            except FormatError:
                return []
            if record is None:
                if base == offset and data:
                    if len(data) < wanted or base + wanted >= end:
                        return []
                    wanted *= 8  # a long record
                else:
                    wanted = READ_BYTES
                data, base = self._read(offset, min(wanted, end - offset)), offset
                continue
            kind, first, count, payload = record
            frames, before = frames_of(kind, count, payload)
            if frames:
                if first < following:
                    return []
                blocks.add(first, offset, frames, before)
                following = first + count
            offset += RECORD_HEAD_SIZE + len(payload)
        return blocks.finish(offset, following if after is None else after)


class _BlockBuilder:
    """Divides the stretch `[start, end)` of a segment into blocks of at least 64 KiB, from its records."""

    def __init__(self, start: int, end: int) -> None:
        self._end = end
        self._offset = start
        self._seqs: list[int] = []
        self._places: list[int] = []
        self._checks: list[int] = []
        self._blocks: list[Block] = []

    def add(self, first: int, offset: int, frames: list[bytes], before: Iterable[int]) -> None:
        """A record at `offset`; `before`: bytes before each of its frames."""
        if self._seqs and offset - self._offset >= INDEX_EVERY <= self._end - offset:
            self.finish(offset, first)
        at = offset + RECORD_HEAD_SIZE - self._offset
        for frame, more in zip(frames, before, strict=False):
            at += more
            self._places.append(at)
            at += len(frame)
        self._seqs += range(first, first + len(frames))
        self._checks += map(crc32c, frames)

    def finish(self, offset: int, seq: int) -> list[Block]:
        """All blocks. `offset`, `seq`: after the last record."""
        seqs = self._seqs
        if seqs:
            first = seqs[0]
            gaps = seqs[-1] - first + 1 > len(seqs)
            self._blocks.append(
                Block(
                    first,
                    seq,
                    self._offset,
                    array("I", [each - first for each in seqs]) if gaps else None,
                    array("I", [*self._places, offset - self._offset]),
                    array("I", self._checks),
                )
            )
        self._seqs, self._places, self._checks, self._offset = [], [], [], offset
        return self._blocks
