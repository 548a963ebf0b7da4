"""Reads of single messages, in the order of their positions, for messages that are delivered in another order.

A read goes to the record that has the message, and records that are near one another are read with one call. Where the
records of a stretch of a segment begin, the first read in that stretch finds out, by going from head to head; the
log keeps it (`Segment.blocks`).

Anything that is not as expected is left to `ReadPlan`, which knows how to read over damage.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator

import attrs

from nsqd.log.moved import MOVED_READ
from nsqd.log.records import RECORD_HEAD_SIZE, FormatError, Kind, decode_moved, decode_record, peek_head
from nsqd.log.segment import INDEX_EVERY, INLINE_SCAN, Block, Segment, frames_of
from nsqd.log.storage import File

__all__ = ["FetchPlan", "FetchResult"]

# Bytes between two records up to which one read of both takes less time than two reads.
GAP_BYTES = 4 * 1024
READ_BYTES = 256 * 1024  # of one read, unless a record is longer
SURVEY_BYTES = 1024 * 1024

_WITH_MESSAGES = (int(Kind.MESSAGES), int(Kind.DEFERRED))  # comparing integers is faster


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


@attrs.frozen
class _Span:
    """A record, bytes `[start, end)` of a segment, and the wanted messages in it."""

    start: int
    end: int
    seqs: list[int]


@attrs.frozen
class FetchPlan:
    """A read that is ready to run, in any thread. `seqs`: in any order.

    `segments`: of the log, each with its bytes that are whole. `moved`: (offset of the MOVED record, seq) of
    the wanted messages that were moved, by segment; they are not in `seqs`. `open`: opens a segment; True: it may run
    in a worker.
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
        for span in self._spans(seqs):
            last = spans[-1].end if spans else span.start
            if span.start - last > GAP_BYTES or (spans and span.end - spans[0].start > READ_BYTES):
                self._read_spans(spans)
                spans = []
                if self.plan.is_over(self.result):
                    return
            spans.append(span)
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
                kind, _, count, payload = decode_record(data, offset - base, self.segment.salt)
                frames, seqs = decode_moved(payload, count) if kind == Kind.MOVED else ([], [])
            except (FormatError, IndexError):
                frames, seqs = [], []
            for seq, frame in zip(seqs, frames, strict=True):
                if seq in wanted:
                    wanted.discard(seq)
                    self.result.frames[seq] = frame
                    self.result.size += len(frame)
            self.result.doubtful += sorted(wanted)
            at = after

    def _read(self, offset: int, size: int) -> bytes:
        data = self.file.read(offset, size, wait=self.wait)
        self.result.bytes_read += len(data)
        return data

    def _read_spans(self, spans: list[_Span]) -> None:
        """Read records that are near one another, and keep the wanted messages."""
        if not spans:
            return
        start = spans[0].start
        data = self._read(start, spans[-1].end - start)
        for span in spans:
            try:
                self._keep(span, data, span.start - start)
            except (FormatError, IndexError):
                self.result.doubtful += span.seqs

    def _keep(self, span: _Span, data: bytes, at: int) -> None:
        kind, first, count, payload = decode_record(data, at, self.segment.salt)
        frames = frames_of(kind, count, payload)
        if frames is None or first > span.seqs[0]:
            raise FormatError("another record than expected")
        result = self.result
        for seq in span.seqs:
            frame = frames[seq - first]
            result.frames[seq] = frame
            result.size += len(frame)

    # --- where the records are

    def _spans(self, seqs: list[int]) -> Iterator[_Span]:
        """The records that have these messages."""
        at = 0
        while at < len(seqs) and not self.plan.is_over(self.result):
            block = self._block_of(seqs[at])
            if block is None:
                self.result.doubtful.append(seqs[at])
                at += 1
                continue
            end = bisect_left(seqs, block.end, at)
            first, offset, starts, offsets = block.first, block.offset, block.seqs, block.offsets
            while at < end:
                record = bisect_right(starts, seqs[at] - first) - 1
                after = bisect_left(seqs, first + starts[record + 1], at, end)
                yield _Span(offset + offsets[record], offset + offsets[record + 1], seqs[at:after])
                at = after

    def _block_of(self, seq: int) -> Block | None:
        """The known block that has the record with `seq`; found out if necessary."""
        start, end, after = self.segment.stretch_of(seq, self.limit)
        block = self.segment.blocks.get(start)
        if block is not None and block.first <= seq < block.end:
            return block
        if not self.wait and end - start > INLINE_SCAN:
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
        """The blocks of the stretch `[start, end)`, from head to head. `after`: the first sequence number after it."""
        builder = _BlockBuilder(start, end)
        salt = self.segment.salt
        data, base, offset, following = b"", start, start, 0
        while offset < end:
            at = offset - base
            if at + RECORD_HEAD_SIZE > len(data):
                data, base, at = self._read(offset, min(SURVEY_BYTES, end - offset)), offset, 0
            try:
                kind, length, first, count = peek_head(data, at, salt)
            except FormatError:
                return []
            if kind in _WITH_MESSAGES:
                if first < following:
                    return []
                builder.add(first, offset)
                following = first + count
            offset += RECORD_HEAD_SIZE + length
        return builder.finish(offset, following if after is None else after)


class _BlockBuilder:
    """Divides the stretch `[start, end)` of a segment into blocks of at least 64 KiB, from its records."""

    def __init__(self, start: int, end: int) -> None:
        self._end = end
        self._offset = start
        self._seqs: list[int] = []
        self._offsets: list[int] = []
        self._blocks: list[Block] = []

    def add(self, seq: int, offset: int) -> None:
        if self._seqs and offset - self._offset >= INDEX_EVERY <= self._end - offset:
            self._close(seq, offset)
        self._seqs.append(seq)
        self._offsets.append(offset)

    def _close(self, seq: int, offset: int) -> None:
        first, start = self._seqs[0], self._offset
        seqs = array("I", [each - first for each in (*self._seqs, seq)])
        offsets = array("I", [each - start for each in (*self._offsets, offset)])
        self._blocks.append(Block(first, start, seqs, offsets))
        self._seqs, self._offsets, self._offset = [], [], offset

    def finish(self, offset: int, seq: int) -> list[Block]:
        """The blocks. `offset`, `seq`: after the last record."""
        if self._seqs:
            self._close(seq, offset)
        return self._blocks
