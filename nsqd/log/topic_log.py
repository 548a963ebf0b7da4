"""One topic's log: segments that only grow, read and written by sequence number.

Rules:

- Every message has a sequence number; they rise by one and are never used twice, not even after an append that failed.
- One `append` is one write. It returns when the bytes are with the operating system (level `os`), or raises and leaves
  the file as it was.
- A read never goes past the last record that was appended whole.
- Only the event loop's thread appends, plans reads, drops and closes. A worker is given what it needs when its job is
  made, and calls what is marked *any thread*.
"""

from __future__ import annotations

import contextlib
import errno
import random
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType

import attrs

from nsqd.log.budget import MemoryBudget
from nsqd.log.fetch import FetchPlan, FetchResult
from nsqd.log.look import Look
from nsqd.log.moved import MovedPlan, NeededPlan
from nsqd.log.paths import os_error
from nsqd.log.ranges import RangeSet
from nsqd.log.records import (
    FLOWING,
    VERSION,
    FileHeader,
    FileKind,
    Kind,
    encode_changes,
    encode_deferred,
    encode_directed,
    encode_letters,
    encode_moved,
    encode_record,
)
from nsqd.log.segment import INDEX_EVERY, Damage, ReadPlan, ReadResult, Segment, segment_name
from nsqd.log.state import Change, Code
from nsqd.log.storage import File, Storage
from nsqd.log.writers import Writers

__all__ = ["INDEX_BYTES", "Batch", "SyncError", "TopicLog"]

# Bytes; so that no write has to wait because the page cache is full of dirty pages.
WRITE_BACK_EVERY = 4 * 1024 * 1024
_first = attrgetter("first")  # of a segment
MOVED_RECORD_BYTES = 16 * 1024  # of a MOVED record, about: a read of one message reads all of it
# Bytes of memory for the places of single records, for all logs of a data path.
INDEX_BYTES = 32 * 1024 * 1024


@attrs.define(eq=False)
class Batch:
    """Messages that become one record: whole after a crash, or not there at all.

    `frames`: as they go on the wire. `size`: their bytes. At most one of the others: `delays`: of deferred messages,
    each one's delay in nanoseconds. `origins`: of dead letters, where each of them is from. `directed`: the generation
    of the only channel that gets the messages.
    """

    frames: list[bytes]
    size: int
    delays: list[int] | None = None
    origins: list[bytes] | None = None
    directed: int | None = None

    @classmethod
    def of(cls, frames: list[bytes], delays: list[int] | None = None) -> Batch:
        """For those who have not counted the bytes."""
        return cls(frames, sum(map(len, frames)), delays)

    @property
    def is_plain(self) -> bool:
        """Whether these are messages for all channels, at once."""
        return self.delays is None and self.origins is None and self.directed is None

    def encode(self) -> tuple[Kind, bytes]:
        """Kind and payload of the record."""
        if self.delays is not None:
            return Kind.DEFERRED, encode_deferred(self.frames, self.delays)
        if self.origins is not None:
            return Kind.LETTERS, encode_letters(self.frames, self.origins)
        if self.directed is not None:
            return Kind.DIRECTED, encode_directed(self.frames, self.directed)
        return Kind.MESSAGES, b"".join(self.frames)


class SyncError(OSError):
    """A sync of the log failed: what is on the disk cannot be known any more."""


class TopicLog:
    """The log of one life of a topic, open for reading and appending.

    `end`: the sequence number of the next message. `segments`: oldest first, never empty; the last one grows.
    `moved`: the positions of the MOVED records of messages whose own segments are gone, or will be. `snapshots`:
    positions of finished snapshots, oldest first. `deleted`: its folder has another name, and the old name may belong
    to another life of the topic. `missing`: its files are not under their paths any more, and nobody here has removed
    them; appends are refused until they are back. `on_roll`: called when a segment is complete. `writers`: shared by
    all logs of a data path.

    `names` is a lock, one of the two in the log (see `file_storage.py`). A worker holds it while it renames or removes
    one file by its path; the event loop's thread, while it deletes the topic by renaming the folder. So a job that runs
    late never renames or removes files of another life of the topic.

    `fresh_segment`: the next append begins a new segment. So it is after an unclean stop of an nsqd with followers: a
    copy may have more of the last segment than is here, and what is written now must not be taken for that.
    `recovered_until`: the position up to which the log was there at the start.
    """

    def __init__(
        self,
        storage: Storage,
        folder: str,
        generation: int,
        *,
        max_segment_bytes: int,
        wall_ns: int = 0,
        writers: Writers | None = None,
    ) -> None:
        self.storage = storage
        self.folder = folder
        self.generation = generation
        self.max_segment_bytes = max_segment_bytes
        self.wall_ns = wall_ns
        self.writers = writers or Writers()
        self.index_budget = MemoryBudget(INDEX_BYTES)  # or the one of its data path
        self.end = 0
        self.segments: list[Segment] = []
        self.moved: dict[int, int] = {}
        self.on_roll: Callable[[], None] = lambda: None
        self.snapshots: list[int] = []
        self.unsynced_messages = 0  # since the last sync began
        self.folder_unsynced = True
        self.deleted = False
        self.missing = False
        self.fresh_segment = False
        self.recovered_until = 0
        self.names = threading.Lock()
        self.set_aside: set[str] = set()
        self.records_since_snapshot = 0

    @property
    def position(self) -> int:
        """Bytes of the log so far: where the next record will begin."""
        return self.segments[-1].end

    def number_at(self, position: int) -> int:
        """The sequence number that the next message got when the log ended there, and a new segment was begun.

        A higher one, if the messages from there on are gone.
        """
        later = (segment.first for segment in self.segments if segment.position >= position)
        return next(later, self.end)

    @property
    def bytes_on_disk(self) -> int:
        return sum(segment.file.size for segment in self.segments)

    @property
    def average_size(self) -> float:
        """Bytes of a message's frame, on average over the newest ones, as far as that is known."""
        last = self.segments[-1]
        if last.message_bytes:
            return last.message_bytes / (self.end - last.first)
        return next((each for each in reversed(self.segments) if each.message_bytes), last).average_size

    def message_bytes(self, start: int, end: int) -> float:
        """Bytes of the frames of the messages `[start, end)`, as an estimate.

        It is exact for whole segments, and else to a step of their indexes.
        """
        low = max(0, bisect_right(self.segments, start, key=_first) - 1)
        high = max(low + 1, bisect_left(self.segments, end, key=_first))
        return sum(
            segment.size_of(start, end, self.end if segment.next_first is None else segment.next_first)
            for segment in self.segments[low:high]
        )

    @property
    def unsynced(self) -> list[Segment]:
        """Segments with bytes that a power loss could take away."""
        return [segment for segment in self.segments if segment.unsynced]

    # --- writing

    def append(
        self, batches: Sequence[Batch], changes: Sequence[Change] = (), *, flowing: bool = False
    ) -> None:
        """Write messages and changes, in this order, with one call to the system.

        `flowing`: the messages go to the channels at once. `OSError`: nothing was written, and the sequence numbers
        that the messages would have had are aborted.
        """
        seq = self.end
        try:
            segment = self._writable_segment()
            buffers = self._encode(segment.salt, batches, changes, flowing)
            file, offset = segment.file, segment.file.size
            file.append(buffers)
        except OSError as error:
            # The bytes may be on the disk all the same, if the cut fails or the power does. A second message with the
            # same sequence number could then be taken for the first.
            self._use_up(batches)
            self.missing = self.missing or isinstance(error, FileNotFoundError)
            raise
        segment.message_bytes += self._use_up(batches)
        self.records_since_snapshot += len(buffers) // 2
        if file.size - segment.marks[-1][1] >= INDEX_EVERY:
            for batch, head, payload in zip(batches, buffers[::2], buffers[1::2], strict=False):
                segment.remember(seq, offset)
                seq += len(batch.frames)
                offset += len(head) + len(payload)
        if file.size - segment.written_back >= WRITE_BACK_EVERY:
            file.start_writeback(segment.written_back, file.size - segment.written_back)
            segment.written_back = file.size

    def append_moved(
        self,
        messages: Sequence[tuple[int, bytes]],
        changes: Sequence[Change] = (),
        origins: Mapping[int, bytes] = MappingProxyType({}),
    ) -> None:
        """Write messages (sequence number, frame) of older segments again, and changes, with one call to the system.

        `origins`: of those that are dead letters, by sequence number. `OSError`: nothing was written.
        """
        segment = self._writable_segment()
        file, offset = segment.file, segment.file.size
        buffers: list[bytes] = []
        places: list[tuple[int, Sequence[tuple[int, bytes]]]] = []
        for group in _groups(messages, MOVED_RECORD_BYTES, origins):
            places.append((segment.position + offset, group))
            are_letters = group[0][0] in origins
            kind = Kind.MOVED_LETTERS if are_letters else Kind.MOVED
            frames, seqs = [frame for _, frame in group], [seq for seq, _ in group]
            payload = encode_moved(frames, seqs, origins if are_letters else None)
            buffers += (encode_record(kind, 0, segment.salt, self.end, len(group), payload), payload)
            offset += len(buffers[-2]) + len(payload)
        buffers += self._encode(segment.salt, (), changes, flowing=False)
        file.append(buffers)
        self.records_since_snapshot += len(buffers) // 2
        for position, group in places:
            segment.remember(self.end, position - segment.position)
            for seq, frame in group:
                self.forget_moved(seq)
                self.moved[seq] = position
                segment.moved_count += 1
                segment.moved_bytes += len(frame)

    def restore_moved(self, seq: int, position: int) -> None:
        """Recovery knows that this needed message was moved to `position`, if that still is in a segment."""
        if segment := self._segment_at(position):
            self.moved[seq] = position
            segment.moved_count += 1
            segment.moved_bytes += segment.average_size

    def forget_moved(self, seq: int) -> None:
        """No channel needs this message any more, or it was moved again."""
        position = self.moved.pop(seq, None)
        if position is None:
            return
        segment = self._segment_at(position)
        if segment is not None and segment.moved_count:
            # The sizes of single ones are not kept.
            segment.moved_bytes -= segment.moved_bytes / segment.moved_count
            segment.moved_count -= 1

    def forget_moved_in(self, segment: Segment) -> None:
        """The messages that were moved into this segment are not there any more."""
        if segment.moved_count:
            inside = range(segment.position, segment.end)
            for seq in [seq for seq, position in self.moved.items() if position in inside]:
                del self.moved[seq]
            segment.moved_count, segment.moved_bytes = 0, 0

    def _segment_at(self, position: int) -> Segment | None:
        """The segment with the byte at this position, if it still exists."""
        at = bisect_right(self.segments, position, key=lambda segment: segment.position) - 1
        return self.segments[at] if at >= 0 and position < self.segments[at].end else None

    def _use_up(self, batches: Sequence[Batch]) -> int:
        """Written or aborted, these sequence numbers are not given again. Returns the bytes of the messages."""
        size = 0
        for batch in batches:
            self.end += len(batch.frames)
            size += batch.size
        return size

    def _encode(
        self, salt: int, batches: Sequence[Batch], changes: Sequence[Change], flowing: bool
    ) -> list[bytes]:
        """Heads and payloads in turn, those of the changes last."""
        buffers: list[bytes] = []
        seq, flags = self.end, FLOWING if flowing else 0
        for batch in batches:
            frames = batch.frames
            kind, payload = batch.encode()
            buffers += (encode_record(kind, flags, salt, seq, len(frames), payload), payload)
            seq += len(frames)
        if changes:
            payload = encode_changes(changes)
            buffers += (encode_record(Kind.CHANGES, 0, salt, seq, len(changes), payload), payload)
        return buffers

    def _writable_segment(self) -> Segment:
        if self.missing:
            self.look_again()
        if self.segments:
            last = self.segments[-1]
            file = last.file
            # A broken file is never opened again, so it stays broken.
            if file.size < self.max_segment_bytes and not file.broken and not self.fresh_segment:
                if not file.closed:
                    self.writers.used(last)
                    return last
                # An older program must not find records that it does not know in a file that it takes for its own.
                if last.version == VERSION:
                    self._open_to_append(last)
                    return last
        return self.roll()

    def look_again(self) -> None:
        """See whether missing files are back. ENOENT when they are not."""
        last = self.segments[-1]
        if not self.storage.exists(last.path):
            raise os_error(errno.ENOENT, last.path)
        self.missing = False
        self.writers.close(last)  # the next append opens what is there now

    def _open_to_append(self, segment: Segment) -> None:
        self._refuse_when_deleted()
        self.writers.trim(room=1)
        file = self.writers.make_room(lambda: self.storage.open(segment.path))
        # Another program has written to it. Appending would put the record where no position leads.
        if file.size != segment.file.size:
            file.close()
            raise os_error(errno.EIO, segment.path)
        segment.file = file
        self.writers.opened(segment)

    def roll(self, position: int | None = None) -> Segment:
        """Begin a new segment. It gets its real name, which recovery looks at, when its header is written.

        `position`: where, if not at the end of the last one. `OSError`.
        """
        if position is None:
            position = self.segments[-1].end if self.segments else 0
        self.writers.trim(room=1)
        temporary, path = f"{self.folder}/.log.new", f"{self.folder}/{segment_name(position)}"
        file = self.create_temporary(temporary)
        salt = random.getrandbits(32)
        header = FileHeader(FileKind.SEGMENT, salt, self.generation, position, self.end, self.wall_ns)
        try:
            file.append([header.encode()])
            self.storage.rename(temporary, path)
        except OSError:
            file.close()
            raise
        segment = Segment(file, path, position, self.end, salt)
        if self.segments:
            self.segments[-1].next_first = self.end
        self.segments.append(segment)
        self.fresh_segment = False
        self.writers.opened(segment)
        self.folder_unsynced = True
        if len(self.segments) > 1:
            self._close_when_sealed(self.segments[-2])
            self.on_roll()
        return segment

    def keep_fresh(self) -> None:
        """At an orderly stop: if nothing was appended since an unclean one, the next start must not go on here, either.

        `OSError`.
        """
        if self.fresh_segment:
            self.roll()

    def _refuse_when_deleted(self) -> None:
        """EBADF, before a file is opened by a path that may lead to another life of the topic by now."""
        if self.deleted:
            raise os_error(errno.EBADF, self.folder)

    def create_temporary(self, path: str) -> File:
        """A new file under a name that is always the same, so that a kill leaves one of them at most. `OSError`."""
        self._refuse_when_deleted()

        def create() -> File:
            return self.storage.create(path)

        try:
            return self.writers.make_room(create)
        except FileExistsError:
            self.storage.remove(path)
            return self.writers.make_room(create)

    def cut(self, segment: Segment, size: int) -> None:
        """Cut a segment to `size` bytes: what recovery does with a torn tail. `OSError`."""
        if segment.file.closed:
            self._open_to_append(segment)
        segment.file.truncate(size)
        segment.synced = 0

    # --- reading

    def plan(self, seq: int, max_bytes: int) -> ReadPlan | MovedPlan:
        """A read of messages from `seq` on (`seq < end`)."""
        assert seq < self.end, "there is nothing to read after the end of the log"
        at = bisect_right(self.segments, seq, key=lambda segment: segment.first) - 1
        segment = self.segments[max(at, 0)]
        end = self.end if segment.next_first is None else segment.next_first
        if seq in self.moved or not segment.first <= seq < end:
            return self._plan_moved(seq)
        offset, first = segment.offset_of(seq)
        return ReadPlan(segment, self._open_to_read, offset, first, segment.file.size, seq, end, max_bytes)

    def _plan_moved(self, seq: int) -> MovedPlan:
        position = self.moved.get(seq)
        segment = None if position is None else self._segment_at(position)
        if position is None or segment is None:
            return MovedPlan(self.segments[-1], self._open_to_read, None, 0, seq)
        return MovedPlan(segment, self._open_to_read, position - segment.position, segment.file.size, seq)

    def plan_needed(
        self, segment: Segment, offset: int, first: int, needed: Sequence[tuple[int, int]], until: int
    ) -> NeededPlan:
        """A read from `offset` on of what is needed of a complete segment; see `NeededPlan`."""
        assert segment.next_first is not None
        end, limit = segment.next_first, segment.file.size
        return NeededPlan(segment, self._open_to_read, offset, first, limit, end, needed, until)

    def plan_fetch(self, seqs: list[int], max_bytes: int, max_size: int) -> FetchPlan:
        """A read of single messages, which must be in the log; for the limits see `FetchPlan`."""
        segments = [(segment, segment.file.size) for segment in self.segments]
        moved: dict[Segment, list[tuple[int, int]]] = {}
        if self.moved:
            own = []
            for seq in seqs:
                position = self.moved.get(seq)
                segment = None if position is None else self._segment_at(position)
                if position is None or segment is None:
                    own.append(seq)
                else:
                    moved.setdefault(segment, []).append((position - segment.position, seq))
            seqs = own
        return FetchPlan(segments, self._open_to_read, seqs, moved, max_bytes, max_size)

    def look(self, seqs: Iterable[int] | None = None) -> Look:
        """A look at single messages, in one other thread: at these, or (None) at any message."""
        ends = [self.end if segment.next_first is None else segment.next_first for segment in self.segments]
        segments = [
            (segment, segment.file.size, end) for segment, end in zip(self.segments, ends, strict=True)
        ]
        moved = self.moved
        wanted = moved.copy() if seqs is None else {seq: moved[seq] for seq in seqs if seq in moved}
        return Look(segments, wanted, self._open_to_read)

    def accept_fetch(self, result: FetchResult) -> None:
        """Keep where the records are that a read has found."""
        for segment, block in result.blocks:
            segment.note_block(block)
            # Not for a segment that was dropped meanwhile.
            if segment in self.segments:
                self.index_budget.update(segment, segment.blocks_size)

    def _open_to_read(self, segment: Segment, wait: bool) -> File:
        """An open file for one read. With `wait`, *any thread*: then no writer is closed when descriptors run out."""

        def opened() -> File:
            return self.storage.open(segment.path, read_only=True)

        file = opened() if wait else self.writers.make_room(opened)
        # Another life of the topic can make a file of this name only after this one is marked as deleted.
        if self.deleted:
            file.close()
            raise os_error(errno.ENOENT, segment.path)
        return file

    def accept(self, result: ReadResult) -> None:
        """Keep what a read has learned: notes for the index; damaged bytes go into a file of their own."""
        for seq, offset in result.notes:
            result.segment.remember(seq, offset)
        for damage in result.damage:
            self.keep_damaged(damage)
        if result.moved_away is not None:
            # The segment that the message was moved from may still be there.
            self.forget_moved(result.moved_away)
            for segment in self.segments:
                segment.emptied = segment.emptied and not segment.has(result.moved_away)

    def keep_damaged(self, damage: Damage) -> None:
        """Set damaged bytes aside in `<segment>.<offset>.damaged`, as far as they can be read and written at all."""
        path = f"{damage.path}.{damage.offset}.damaged"
        if path in self.set_aside:
            return
        self.set_aside.add(path)
        try:
            source = self.writers.make_room(lambda: self.storage.open(damage.path, read_only=True))
            try:
                data = source.read(damage.offset, damage.size)
            finally:
                source.close()
            self.storage.replace(path, data)
        except OSError:
            return  # the loss is reported all the same

    @property
    def complete_from(self) -> int:
        """From this sequence number on no message was removed. 0: none at all was."""
        first = self.end
        for segment in reversed(self.segments):
            if segment.next_first is not None and segment.next_first < first:
                break
            first = segment.first
        return first

    def removed(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges of `[start, end)` whose messages are in no file any more, as nobody has needed them."""
        there = RangeSet()
        for segment in self.segments:
            there.add(segment.first, self.end if segment.next_first is None else segment.next_first)
        for seq in self.moved:
            there.add(seq, seq + 1)
        return there.gaps(start, end)

    # --- syncs

    def sync_files(self, segments: Iterable[Segment]) -> None:
        """Sync some of its segments; *any thread*. `SyncError`.

        A file that is closed meanwhile was synced, or its segment dropped, or the topic deleted: an error means nothing
        then. Unsynced segments of an earlier life of the daemon have no open file, and are synced with the whole file
        system.
        """
        earlier = False
        for segment in segments:
            file = segment.file
            if file.closed:
                earlier = earlier or segment.unsynced
                continue
            try:
                file.sync()
            except OSError as error:
                if not file.closed:
                    raise SyncError(*error.args) from error
        if earlier and not self.deleted:
            try:
                self.storage.sync_all()
            except OSError as error:
                raise SyncError(*error.args) from error

    def note_synced(self, segment: Segment, size: int) -> None:
        """A sync has ended that began when the segment had `size` bytes."""
        segment.synced = max(segment.synced, size)
        if segment is not self.segments[-1]:
            self._close_when_sealed(segment)
        self.writers.trim()

    def _close_when_sealed(self, segment: Segment) -> None:
        if not segment.unsynced:
            self.writers.close(segment)

    def sync_folder(self) -> None:
        """Sync the names of its files; *any thread*. `OSError`."""
        try:
            self.storage.sync_folder(self.folder)
        except FileNotFoundError:
            # Deleted, or removed by somebody else: nothing is left of it to sync. The end of the sync finds it missing.
            pass
        except OSError:
            # A deletion that has renamed the folder holds the lock until it has set `deleted`.
            with self.names:
                deleted = self.deleted
            if not deleted:
                raise

    # --- removal

    @property
    def replayed_from(self) -> int:
        """No snapshot needs what is before this position."""
        return self.snapshots[-2] if len(self.snapshots) >= 2 else 0

    def releasable(self, needless: Callable[[Segment], bool]) -> list[Segment]:
        """Complete segments that no snapshot needs, and of which `needless` says that nobody needs their messages."""
        complete = self.segments[:-1]
        return [segment for segment in complete if segment.end <= self.replayed_from and needless(segment)]

    def segments_change(self) -> Change:
        """The complete segments, for a snapshot or a manifest."""
        items: list[int] = []
        for at in self.segments:
            if at.next_first is not None:
                items += (at.position, at.first, at.next_first, at.message_bytes)
        return (Code.SEGMENTS, *items)

    def drop(self, segments: Sequence[Segment]) -> None:
        """Forget segments, and close them; their files are removed by the caller's job."""
        for segment in segments:
            self.segments.remove(segment)
            self._forget(segment)

    def remove_files(self, paths: Iterable[str]) -> None:
        """Remove some of its files; *any thread*. Does nothing once the topic is deleted. `OSError`."""
        for path in paths:
            # Taken anew for each file: to unlink 100 MB takes 10 ms and more, and the event loop may wait for the lock.
            with self.names:
                if self.deleted:
                    return
                with contextlib.suppress(FileNotFoundError):  # somebody else has removed it
                    self.storage.remove(path)

    def close(self) -> None:
        """Close the files, synced or not."""
        for segment in self.segments:
            self._forget(segment)

    def _forget(self, segment: Segment) -> None:
        self.writers.close(segment)
        self.index_budget.update(segment, 0)


def _groups(
    messages: Sequence[tuple[int, bytes]], max_bytes: int, origins: Mapping[int, bytes]
) -> Iterator[Sequence[tuple[int, bytes]]]:
    """Consecutive messages with about `max_bytes` together, and at least one, dead letters apart from others."""
    start = size = 0
    for at, (seq, frame) in enumerate(messages):
        if size and (
            size + len(frame) > max_bytes or (seq in origins) is not (messages[start][0] in origins)
        ):
            yield messages[start:at]
            start, size = at, 0
        size += len(frame)
    if messages:
        yield messages[start:]
