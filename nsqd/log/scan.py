"""Reading the records of a file forward, over damage.

Both checksums of each record are checked. After a bad one the scan looks for the next head that fits (salt, checksum,
a sequence number that is not lower). If there is one, the bytes between are `Damaged` in the middle of the file; if
not, the damage reaches to the end. A run of zeros up to the end is no damage but an end: some file systems leave it
after a power loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import attrs

from nsqd.log.records import MARKER, RECORD_HEAD_SIZE, FormatError, RecordHead, find_record

__all__ = ["Damaged", "Record", "find_salt", "scan"]

CHUNK = 1 << 20


@attrs.frozen
class Record:
    """A whole record: where it begins in the file, its head and its payload."""

    offset: int
    head: RecordHead
    payload: bytes


@attrs.frozen
class Damaged:
    """Bytes `[offset, end)` of the file are no record. What they held had sequence numbers from `first` on.

    `next_first`: the sequence number of the record after them; None when nothing follows in this file.
    `zeros`: they are only zeros, as after the end of a log.
    """

    offset: int
    end: int
    first: int
    next_first: int | None
    zeros: bool
    reason: str


class _Window:
    """A piece of a file in memory, moved forward with the scan."""

    def __init__(self, read: Callable[[int, int], bytes], limit: int, chunk: int) -> None:
        self._read, self._limit, self._chunk = read, limit, chunk
        self.data, self.offset = b"", 0

    def bytes_at(self, offset: int, size: int) -> tuple[bytes, int]:
        """Some data, and where `offset` is in it: `size` bytes follow, or all up to the limit."""
        end = min(offset + size, self._limit)
        if not (self.offset <= offset and end <= self.offset + len(self.data)):
            self.data = self._read(offset, min(max(size, self._chunk), self._limit - offset))
            self.offset = offset
        return self.data, offset - self.offset


def scan(
    read: Callable[[int, int], bytes], offset: int, limit: int, salt: int, first: int, *, chunk: int = CHUNK
) -> Iterator[Record | Damaged]:
    """The records in bytes `[offset, limit)` of a file, whose sequence numbers are `first` and above.

    `read(offset, size)` gives bytes of the file; what it raises comes through.
    """
    window = _Window(read, limit, chunk)
    while offset < limit:
        try:
            record = _record_at(window, offset, limit, salt, first)
        except FormatError as error:
            damaged = _damaged_from(window, offset, limit, salt, first, str(error))
            yield damaged
            offset, first = damaged.end, damaged.next_first or first
        else:
            yield record
            offset, first = offset + record.head.size, record.head.end


def find_salt(
    read: Callable[[int, int], bytes], offset: int, limit: int, *, chunk: int = CHUNK
) -> tuple[int, RecordHead] | None:
    """The salt of a file whose header cannot be read, and the head of its first whole record. None: it has no record.

    The body of a message may hold records of another file. They end with it, so the salt is that of the first whole
    record from which others follow up to `limit`, or else over the most bytes.
    """
    window = _Window(read, limit, chunk)
    best: tuple[int, RecordHead] | None = None
    most = checked = 0
    while offset + RECORD_HEAD_SIZE <= limit:
        data, start = window.bytes_at(offset, RECORD_HEAD_SIZE)
        at = data.find(MARKER, start)
        if at < 0:
            offset = max(offset + 1, window.offset + len(data) - len(MARKER) + 1)
            continue
        offset = window.offset + at
        data, at = window.bytes_at(offset, RECORD_HEAD_SIZE)
        salt = int.from_bytes(data[at + 4 : at + 8])
        if not (best is not None and salt == best[0] and offset < checked):
            end, head = _end_of_chain(window, offset, limit, salt)
            if head is not None and end - offset > most:
                best, most, checked = (salt, head), end - offset, end
                if end == limit:
                    break
        offset += 1
    return best


def _end_of_chain(window: _Window, offset: int, limit: int, salt: int) -> tuple[int, RecordHead | None]:
    """Where the whole records that follow one another from `offset` on end, and the head of the first."""
    first: RecordHead | None = None
    with contextlib.suppress(FormatError):
        while offset < limit:
            head = _record_at(window, offset, limit, salt, 0).head
            first = first or head
            offset += head.size
    return offset, first


def _record_at(window: _Window, offset: int, limit: int, salt: int, first: int) -> Record:
    data, at = window.bytes_at(offset, RECORD_HEAD_SIZE)
    head = RecordHead.decode(data, at, salt)
    if head.first < first:
        raise FormatError(f"sequence number {head.first} after {first}")
    if offset + head.size > limit:
        raise FormatError("the payload of a record is cut off")
    data, at = window.bytes_at(offset, head.size)
    payload = data[at + RECORD_HEAD_SIZE : at + head.size]
    if len(payload) != head.length:
        raise FormatError("the payload of a record is cut off")
    head.check(payload)
    return Record(offset, head, payload)


def _damaged_from(window: _Window, offset: int, limit: int, salt: int, first: int, reason: str) -> Damaged:
    """What is damaged from `offset` on: up to the next whole record, or to the limit."""
    zeros = True
    at = offset + 1
    while at < limit:
        data, start = window.bytes_at(at, RECORD_HEAD_SIZE)
        hit = find_record(data, start, salt, first)
        if hit is not None:
            found_at = window.offset + hit[0]
            try:  # a head alone is no proof: its record must be whole
                record = _record_at(window, found_at, limit, salt, first)
            except FormatError:
                at = found_at + 1
                continue
            return Damaged(offset, found_at, first, record.head.first, False, reason)
        zeros = zeros and not data[start:].strip(b"\0")
        if window.offset + len(data) >= limit:
            break
        if not data:
            break
        at = max(at + 1, window.offset + len(data) - RECORD_HEAD_SIZE + 1)
    first_byte, start = window.bytes_at(offset, 1)
    zeros = zeros and first_byte[start : start + 1] == b"\0"
    return Damaged(offset, limit, first, None, zeros, reason)
