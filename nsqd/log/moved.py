"""Reads of messages that were moved in a log, and of those that are to be moved.

A message that was moved is in a MOVED record, in a later segment than its own; `TopicLog.moved` has the place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from operator import itemgetter

import attrs

from nsqd.log.records import MOVED_KINDS, moved_of, origins_of
from nsqd.log.scan import Damaged, Record, scan
from nsqd.log.segment import Damage, MessageRun, ReadResult, Segment, messages_of
from nsqd.log.storage import File

__all__ = ["MOVED_READ", "MovedPlan", "NeededMessages", "NeededPlan"]

_end_of = itemgetter(1)

MOVED_READ = 32 * 1024  # bytes; a MOVED record is about half as large


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
        head, frames = item.head, list[bytes]()
        if head.kind in MOVED_KINDS:
            frames = consecutive(*moved_of(head.kind, head.count, item.payload), self.seq)
            result.origins = origins_of(head.kind, head.first, head.count, item.payload)
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
    `next_first`: its own messages from there on have this sequence number or a higher one. `damage`: met on the way.
    `origins`: of those that are dead letters, by sequence number.
    """

    messages: list[tuple[int, int | None, bytes]] = attrs.field(factory=list)
    own_bytes: int = 0
    next_offset: int | None = None
    next_first: int = 0
    damage: list[Damage] = attrs.field(factory=list)
    origins: dict[int, bytes] = attrs.field(factory=dict)


@attrs.frozen
class NeededPlan:
    """A read of those messages of a complete segment that somebody may need; *any thread*.

    `needed`: sequence numbers of its own messages, as rising ranges; they are known up to `until`, where the read ends.
    Of messages that were moved into the segment, all are returned, as their sequence numbers may have any order.
    """

    segment: Segment
    open: Callable[[Segment, bool], File]
    offset: int
    first: int  # all sequence numbers from `offset` on are this and above
    limit: int
    end: int  # the first sequence number after the segment
    needed: Sequence[tuple[int, int]]
    until: int

    def measure(self) -> NeededMessages:
        """Only count the bytes. `OSError`."""
        return self._run(0, keep=False)

    def read(self, max_bytes: int) -> NeededMessages:
        """Read until about `max_bytes` of needed messages have been found. `OSError`."""
        return self._run(max_bytes, keep=True)

    def _run(self, max_bytes: int, *, keep: bool) -> NeededMessages:
        found, taken = NeededMessages(), 0
        file = self.open(self.segment, True)
        try:
            for item in scan(file.read, self.offset, self.limit, self.segment.salt, self.first):
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
                head = item.head
                if head.end > head.first >= self.until:
                    found.next_offset, found.next_first = item.offset, head.first
                    break
                messages = self._of_record(item)
                found.own_bytes += sum(len(frame) for _, position, frame in messages if position is None)
                if keep:
                    found.messages += messages
                    if messages and (origins := origins_of(head.kind, head.first, head.count, item.payload)):
                        found.origins.update((seq, origins[seq]) for seq, _, _ in messages)
                    taken += sum(len(frame) for _, _, frame in messages)
                    if taken >= max_bytes and item.offset + head.size < self.limit:
                        found.next_offset, found.next_first = item.offset + head.size, head.end
                        break
        finally:
            file.close()
        return found

    def _of_record(self, record: Record) -> list[tuple[int, int | None, bytes]]:
        head = record.head
        if head.kind in MOVED_KINDS:
            position = self.segment.position + record.offset
            frames, seqs = moved_of(head.kind, head.count, record.payload)
            return [(seq, position, frame) for seq, frame in zip(seqs, frames, strict=True)]
        # The first range that ends after the record's first message.
        at = bisect_right(self.needed, head.first, key=_end_of)
        if head.end == head.first or at == len(self.needed) or self.needed[at][0] >= head.end:
            return []
        run = messages_of(record)
        assert run is not None
        out: list[tuple[int, int | None, bytes]] = []
        while at < len(self.needed) and self.needed[at][0] < head.end:
            start, end = self.needed[at]
            for seq in range(max(start, head.first), min(end, head.end)):
                out.append((seq, None, run.frames[seq - head.first]))
            at += 1
        return out
