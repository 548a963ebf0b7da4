"""One topic's log: segments that only grow, read and written by number.

Rules:

- Every message has a number; numbers rise by one and are never used twice, not even after an append that failed.
- One `append` is one write. It returns when the bytes are with the operating system (level `os`), or raises and leaves
  the file as it was.
- A *position* counts bytes from the beginning of the topic's first segment, over all segments that ever were. A
  segment is named by the position of its first byte, a snapshot by the position from which recovery replays.
- Reading never looks behind what was appended whole.

A sparse index for each segment (a number and an offset every 64 KiB) finds a message. It is built by appending and by
reading; a segment that was there at the start has none at first, and is searched from its beginning once.
"""

from __future__ import annotations

import random
import threading
from bisect import bisect_right
from collections.abc import Iterable, Sequence

import attrs

from nsqd.log.records import (
    FILE_HEADER_SIZE,
    FLOWING,
    FileHeader,
    FileKind,
    Kind,
    decode_deferred,
    encode_changes,
    encode_deferred,
    encode_record,
    split_messages,
)
from nsqd.log.scan import Damaged, Record, scan
from nsqd.log.state import Change
from nsqd.log.storage import File, Storage

__all__ = [
    "Batch",
    "Damage",
    "MessageRun",
    "ReadPlan",
    "ReadResult",
    "Segment",
    "SyncError",
    "TopicLog",
    "segment_name",
]

INDEX_EVERY = 64 * 1024
WRITE_BACK_EVERY = 4 * 1024 * 1024  # so that no write ever finds the page cache full of dirty pages
INLINE_SCAN = 4 * 1024 * 1024  # how far a read that must not wait may search


def segment_name(position: int) -> str:
    return f"{position:020d}.log"


@attrs.define(eq=False)
class Batch:
    """Messages that become one record: whole after a crash, or not there at all.

    `frames`: as they go on the wire. `size`: their bytes. `delays`: for deferred messages, each one's delay in
    nanoseconds.
    """

    frames: list[bytes]
    size: int
    delays: list[int] | None = None

    @classmethod
    def of(cls, frames: list[bytes], delays: list[int] | None = None) -> Batch:
        """For those who have not counted the bytes."""
        return cls(frames, sum(map(len, frames)), delays)


@attrs.frozen
class MessageRun:
    """Messages with rising numbers from `first` on."""

    first: int
    frames: list[bytes]


@attrs.frozen
class Damage:
    """Numbers `[first, end)` cannot be read. `offset`, `size`: the bad bytes in the file `path`."""

    path: str
    offset: int
    size: int
    first: int
    end: int
    reason: str


@attrs.define(eq=False)
class Segment:
    """One file of the log. `position`: of its first byte. `first`: the number of its first message."""

    file: File
    path: str
    position: int
    first: int
    salt: int
    seqs: list[int] = attrs.field(factory=list)
    offsets: list[int] = attrs.field(factory=list)
    written_back: int = 0  # offset up to which the system was asked to write

    def __attrs_post_init__(self) -> None:
        self.seqs.append(self.first)
        self.offsets.append(FILE_HEADER_SIZE)

    @property
    def end(self) -> int:
        """Position behind its last byte."""
        return self.position + self.file.size

    def remember(self, seq: int, offset: int) -> None:
        """Note where the record of a number begins, if no other note is near."""
        at = len(self.offsets)
        if offset < self.offsets[-1]:  # a reader far behind, where the replay has left no notes
            at = bisect_right(self.offsets, offset)
            if self.offsets[at] - offset < INDEX_EVERY:
                return
        if offset - self.offsets[at - 1] >= INDEX_EVERY:
            self.seqs.insert(at, seq)
            self.offsets.insert(at, offset)

    def offset_of(self, seq: int) -> tuple[int, int]:
        """(offset, number) of a record that is not behind the one with `seq`."""
        at = max(0, bisect_right(self.seqs, seq) - 1)
        return self.offsets[at], self.seqs[at]


@attrs.define(eq=False)
class ReadResult:
    """What a read found: messages from the asked number on, notes for the index, damage met on the way.

    `next`: the number to go on with.
    """

    segment: Segment
    runs: list[MessageRun]
    next: int
    notes: list[tuple[int, int]]
    damage: list[Damage]


@attrs.frozen
class ReadPlan:
    """A read that is ready to run, in any thread: nothing in it changes any more."""

    segment: Segment
    offset: int
    first: int  # no number from `offset` on is under it
    limit: int  # bytes of the file that are whole
    seq: int
    end: int  # the first number behind the segment
    max_bytes: int

    def run(self, *, wait: bool = True) -> ReadResult | None:
        """Read about `max_bytes` of messages from `seq` on.

        None with `wait=False` when the disk would have to be waited for, or searched for long.
        """
        result = ReadResult(self.segment, [], self.end, [], [])
        try:
            self._fill(result, wait)
        except BlockingIOError:
            return result if result.runs else None
        return result

    def _fill(self, result: ReadResult, wait: bool) -> None:
        file = self.segment.file
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


def messages_of(record: Record) -> MessageRun | None:
    """The messages of a record; None for a record of another kind."""
    if record.head.kind is Kind.MESSAGES:
        return MessageRun(record.head.first, split_messages(record.payload, record.head.count))
    if record.head.kind is Kind.DEFERRED:
        return MessageRun(record.head.first, decode_deferred(record.payload, record.head.count)[0])
    return None


class SyncError(OSError):
    """A sync of the log failed: what is on the disk cannot be known any more."""


class TopicLog:
    """The log of one life of a topic, open for reading and appending.

    `end`: the number of the next message. `segments`: oldest first, never empty; the last one grows.
    `snapshots`: positions of finished snapshots, oldest first.
    """

    def __init__(
        self, storage: Storage, folder: str, generation: int, *, max_segment_bytes: int, wall_ns: int = 0
    ) -> None:
        self.storage = storage
        self.folder = folder
        self.generation = generation
        self.max_segment_bytes = max_segment_bytes
        self.wall_ns = wall_ns
        self.end = 0
        self.segments: list[Segment] = []
        self.snapshots: list[int] = []
        self.unsynced: set[File] = set()
        self.unsynced_messages = 0  # since the last sync began
        self.folder_unsynced = True
        self.deleted = False
        # Held while a worker renames or removes a file by its path, and while the folder gives its name to another
        # life of the topic: a job that comes late must not hit that one's files.
        self.names = threading.Lock()
        self.set_aside: set[str] = set()
        self.records_since_snapshot = 0

    @property
    def position(self) -> int:
        """Bytes of the log so far: where the next record will begin."""
        return self.segments[-1].end

    @property
    def bytes_on_disk(self) -> int:
        return sum(segment.file.size for segment in self.segments)

    # --- writing

    def append(
        self, batches: Sequence[Batch], changes: Sequence[Change] = (), *, flowing: bool = False
    ) -> None:
        """Write messages and changes, in this order, with one call to the system.

        `flowing`: the messages go to the channels at once. `OSError`: nothing was written, and the numbers that the
        messages would have had are given up.
        """
        seq = self.end
        try:
            segment = self._writable_segment()
            buffers = self._encode(segment.salt, batches, changes, flowing)
            file, offset = segment.file, segment.file.size
            file.append(buffers)
        except OSError:
            self._use_up(batches)
            raise
        self._use_up(batches)
        self.records_since_snapshot += len(buffers) // 2
        self.unsynced.add(file)
        if file.size - segment.offsets[-1] >= INDEX_EVERY:
            for batch, head, payload in zip(batches, buffers[::2], buffers[1::2], strict=False):
                segment.remember(seq, offset)
                seq += len(batch.frames)
                offset += len(head) + len(payload)
        if file.size - segment.written_back >= WRITE_BACK_EVERY:
            file.start_writeback(segment.written_back, file.size - segment.written_back)
            segment.written_back = file.size

    def _use_up(self, batches: Sequence[Batch]) -> None:
        """Written or given up: nobody else gets these numbers."""
        for batch in batches:
            self.end += len(batch.frames)

    def _encode(
        self, salt: int, batches: Sequence[Batch], changes: Sequence[Change], flowing: bool
    ) -> list[bytes]:
        """Heads and payloads in turn, those of the changes last."""
        buffers: list[bytes] = []
        seq, flags = self.end, FLOWING if flowing else 0
        for batch in batches:
            frames = batch.frames
            if batch.delays is not None:
                kind, payload = Kind.DEFERRED, encode_deferred(frames, batch.delays)
            else:
                kind, payload = Kind.MESSAGES, b"".join(frames)
            buffers += (encode_record(kind, flags, salt, seq, len(frames), payload), payload)
            seq += len(frames)
        if changes:
            payload = encode_changes(changes)
            buffers += (encode_record(Kind.CHANGES, 0, salt, seq, len(changes), payload), payload)
        return buffers

    def _writable_segment(self) -> Segment:
        if self.segments:
            last = self.segments[-1]
            if last.file.size < self.max_segment_bytes and not last.file.broken:
                return last
        return self.roll()

    def roll(self, position: int | None = None) -> Segment:
        """Begin a new segment. It is born under a name that recovery does not look at, and renamed when it is whole.

        `position`: where, if not at the end of the last one.
        """
        if position is None:
            position = self.segments[-1].end if self.segments else 0
        name = segment_name(position)
        temporary = f"{self.folder}/.log.new"  # always the same, so that a kill leaves one of them at most
        try:
            file = self.storage.create(temporary)
        except FileExistsError:
            self.storage.remove(temporary)
            file = self.storage.create(temporary)
        salt = random.getrandbits(32)
        header = FileHeader(FileKind.SEGMENT, salt, self.generation, position, self.end, self.wall_ns)
        try:
            file.append([header.encode()])
            self.storage.rename(temporary, f"{self.folder}/{name}")
        except OSError:
            file.close()
            raise
        segment = Segment(file, f"{self.folder}/{name}", position, self.end, salt)
        self.segments.append(segment)
        self.unsynced.add(segment.file)
        self.folder_unsynced = True
        return segment

    # --- reading

    def plan(self, seq: int, max_bytes: int) -> ReadPlan:
        """A read of messages from `seq` on, which must be in the log (`first <= seq < end`)."""
        assert seq < self.end, "nothing is behind the end of the log"
        at = bisect_right(self.segments, seq, key=lambda segment: segment.first) - 1
        segment = self.segments[max(at, 0)]
        end = self.segments[at + 1].first if at + 1 < len(self.segments) else self.end
        offset, first = segment.offset_of(seq)
        return ReadPlan(segment, offset, first, segment.file.size, seq, end, max_bytes)

    def accept(self, result: ReadResult) -> None:
        """Keep what a read has learned: notes for the index; damaged bytes go into a file of their own."""
        for seq, offset in result.notes:
            result.segment.remember(seq, offset)
        for damage in result.damage:
            self.keep_damaged(damage)

    def keep_damaged(self, damage: Damage) -> None:
        """Set damaged bytes aside in `<segment>.<offset>.damaged`, as far as they can be read and written at all."""
        path = f"{damage.path}.{damage.offset}.damaged"
        if path in self.set_aside:
            return
        self.set_aside.add(path)
        try:
            source = self.storage.open(damage.path)
            data = source.read(damage.offset, damage.size)
            source.close()
            self.storage.replace(path, data)
        except OSError:
            return  # the numbers are reported all the same

    # --- getting rid of what nobody needs

    def releasable(self, floor: int) -> list[Segment]:
        """The oldest segments that no channel needs (all numbers under `floor`) and no snapshot either."""
        needed_from = self.snapshots[-2] if len(self.snapshots) >= 2 else 0
        out = []
        for segment, following in zip(self.segments, self.segments[1:], strict=False):
            if segment.end > needed_from or following.first > floor:
                break
            out.append(segment)
        return out

    def drop(self, segments: Sequence[Segment]) -> None:
        """Forget segments; their files are removed by the caller's job."""
        for segment in segments:
            self.segments.remove(segment)
            self.unsynced.discard(segment.file)

    def sync_files(self, files: Iterable[File]) -> None:
        """Sync some of its files; *any thread*.

        The topic may be deleted, or a segment removed, meanwhile: then nobody waits for those bytes any more.
        """
        for file in files:
            try:
                file.sync()
            except OSError as error:
                if not self.deleted and any(segment.file is file for segment in self.segments):
                    raise SyncError(*error.args) from error

    def remove_files(self, paths: Iterable[str]) -> None:
        """Remove some of its files; *any thread*. Does nothing once the topic is deleted."""
        with self.names:
            if not self.deleted:
                for path in paths:
                    self.storage.remove(path)

    def sync_folder(self) -> None:
        """Sync the names of its files; *any thread*."""
        try:
            self.storage.sync_folder(self.folder)
        except OSError:
            with self.names:  # a deletion that has moved the folder away may not have said so yet
                deleted = self.deleted
            if not deleted:
                raise

    def close(self) -> None:
        for segment in self.segments:
            segment.file.close()
