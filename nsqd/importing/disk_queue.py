"""One queue of the original, read from its read position to its end, skipping damage.

A data file is a sequence of records: a length (int32), then timestamp (8 bytes), attempts (2), id (16,
lowercase hex) and body, 26 bytes and more. There is no checksum. The meta file has the depth and the two positions as
of the last sync:

    <depth>
    <number of the read file>,<read position>
    <number of the write file>,<write position>

More is read than the original would read:

- All files from the read position on, to the end of the last one, including data written after the last sync, beyond
  the write position. Everything before the read position was delivered.
- Without a meta file, everything from the lowest file on. The original forgets a queue that was killed before its first
  sync, and overwrites it.
- At a position where no record can begin (an impossible length, no id, an end beyond that of the file), the next record
  is searched for: a possible length, an id, and either a timestamp at which the original could create this id, or
  another record after it. The bytes between are damaged: reported, counted and left in the source. The original gives
  up the rest of the file.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import attrs

from nsqd.importing.source import Queue

__all__ = ["DamagedRange", "DiskQueue", "Meta", "SourceFile", "scan"]

CHUNK = 64 * 1024
# Bytes of the first read of a search, and of the longest: most damage is short.
SEARCH_CHUNKS = (4 * 1024, 1 << 20)
MESSAGE_HEAD: Final = 26
RECORD_HEAD: Final = 4 + MESSAGE_HEAD
LINES_PER_QUEUE = 10  # reported places of damage; further ones are only counted

_LENGTH = struct.Struct(">i")
_TIMESTAMP = struct.Struct(">q")
_ID_AT = 14  # from the beginning of a record
_HEX = b"0123456789abcdef"
_ID = re.compile(rb"(?=[0-9a-f]{16})")
_META = re.compile(rb"(-?\d{1,18})\n(\d{1,18}),(\d{1,18})\n(\d{1,18}),(\d{1,18})\n?")
_ID_EPOCH = 1288834974288  # the original's, in units of 2^20 ns
_NEAR_NS = 3600 * 10**9
_CUT = "the file ends within a message"


@attrs.frozen
class DamagedRange:
    """Bytes `[offset, end)` of a file that are not records."""

    offset: int
    end: int
    reason: str


@attrs.frozen
class Meta:
    """The content of a meta file; positions in bytes."""

    depth: int
    read_file: int
    read_position: int
    write_file: int
    write_position: int

    @classmethod
    def parse(cls, data: bytes) -> Meta | None:
        """None if the data is not that of a meta file."""
        match = _META.fullmatch(data)
        return cls(*map(int, match.groups())) if match else None


class SourceFile:
    """A file opened for reading. `size`: when it was opened."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer only at the end. EIO also if the file has become shorter."""
        end = min(offset + size, self.size)
        pieces = []
        while offset < end:
            result = os.pread(self._descriptor, end - offset, offset)
            if not result:
                raise OSError(errno.EIO, "the file has become shorter")
            pieces.append(result)
            offset += len(result)
        return b"".join(pieces)

    def close(self) -> None:
        os.close(self._descriptor)


@attrs.define(eq=False)
class DiskQueue:
    """A queue, which can be read once, with `batches`. `max_body`: bytes; a longer body counts as damage.

    `size`: bytes to read. `found`: messages so far. `problems`: descriptions of data that could not be read; `notes`:
    other information for the operator. All of them are complete when `batches` has ended.
    """

    queue: Queue
    max_body: int
    size: int = 0
    found: int = 0
    notes: list[str] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)
    _meta: Meta | None = None
    _parts: list[tuple[int, int]] = attrs.field(factory=list)  # number of a file, offset to read it from
    _damaged_places: int = 0
    _damaged_bytes: int = 0

    def __attrs_post_init__(self) -> None:
        self._meta = self._read_meta()
        self._parts = self._find_parts()
        for number, offset in self._parts:
            self.size += max(0, os.stat(self.queue.path_of(number)).st_size - offset)
        self.notes += (
            f"{self.queue.name_of(number)}.bad was set aside by the original, and is not imported"
            for number in self.queue.bad
        )

    def batches(self) -> Iterator[list[bytes]]:
        """The messages in order, each as timestamp, attempts, id and body; about `CHUNK` bytes at a time.

        `OSError` if a file cannot be opened. One that cannot be read (EIO) counts as damaged.
        """
        for number, offset in self._parts:
            yield from self._read_file(number, offset)
        self._summarize()

    # --- what to read

    def _read_meta(self) -> Meta | None:
        if not self.queue.has_meta:
            if self.queue.numbers:
                self.notes.append("it has no meta file: everything in its files is imported")
            return None
        with open(self.queue.meta_path, "rb") as file:
            data = file.read(200)
        meta = Meta.parse(data)
        if meta is None:
            self.problems.append(
                f"its meta file cannot be read ({data[:40]!r}): everything in its files is imported, also what was "
                "delivered before"
            )
        return meta

    def _find_parts(self) -> list[tuple[int, int]]:
        numbers, first, offset = self.queue.numbers, 0, 0
        if self._meta is not None:
            first, offset = self._meta.read_file, self._meta.read_position
            old = [self.queue.name_of(number) for number in numbers if number < first]
            if old:
                self.notes.append(f"{_some(old)}: not imported, all its messages were delivered before")
            numbers = [number for number in numbers if number >= first]
            if numbers and numbers[0] > first and offset > 0:
                self.notes.append(f"{self.queue.name_of(first)}, the file of the read position, is missing")
        self._note_gaps(numbers)
        return [(number, offset if number == first else 0) for number in numbers]

    def _note_gaps(self, numbers: list[int]) -> None:
        for before, after in pairwise(numbers):
            missing = after - before - 1 - sum(before < number < after for number in self.queue.bad)
            if missing:
                files = "one file is" if missing == 1 else f"{missing} files are"
                self.problems.append(
                    f"{files} missing between {self.queue.name_of(before)} and {self.queue.name_of(after)}"
                )

    # --- reading

    def _read_file(self, number: int, offset: int) -> Iterator[list[bytes]]:
        name = self.queue.name_of(number)
        file = SourceFile(self.queue.path_of(number))
        try:
            if offset > file.size:
                self.problems.append(f"{name} has {file.size} bytes, and the read position is {offset}")
            for item in scan(file, offset, self.max_body):
                if isinstance(item, DamagedRange):
                    self._note_damage(name, item)
                else:
                    self.found += len(item)
                    yield item
        finally:
            file.close()

    def _note_damage(self, name: str, damage: DamagedRange) -> None:
        self._damaged_places += 1
        self._damaged_bytes += damage.end - damage.offset
        if self._damaged_places <= LINES_PER_QUEUE:
            self.problems.append(
                f"{name}: {damage.end - damage.offset} bytes at {damage.offset} are not messages ({damage.reason})"
            )

    def _summarize(self) -> None:
        if self._damaged_places > LINES_PER_QUEUE:
            self.problems.append(
                f"{self._damaged_places} damaged places in total, with {self._damaged_bytes} bytes"
            )
        depth = self._meta.depth if self._meta else self.found
        if self.found < depth:
            self.problems.append(
                f"{depth} messages remain according to its meta file, {self.found} were found"
            )
        elif self.found > depth:
            self.notes.append(f"messages written after its last sync: {self.found - depth}")


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


# --- one file


def scan(file: SourceFile, offset: int, max_body: int) -> Iterator[list[bytes] | DamagedRange]:
    """The messages of a file from `offset` on, in pieces of about `CHUNK` bytes, and damaged ranges between them."""
    try:
        while offset < file.size:
            data = file.read(offset, CHUNK)
            messages, used, reason = _split(data, file.size - offset, max_body)
            if not used and reason is None:  # the next message is longer than a chunk
                data = file.read(offset, 4 + _LENGTH.unpack_from(data)[0])
                messages, used, reason = _split(data, file.size - offset, max_body)
            if messages:
                yield messages
            offset += used
            if reason is not None:
                end = _find_record(file, offset + 1, max_body)
                yield DamagedRange(offset, end, reason)
                offset = end
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        yield DamagedRange(offset, file.size, error.strerror or str(error))


def _split(data: bytes, remaining: int, max_body: int) -> tuple[list[bytes], int, str | None]:
    """The complete messages at the beginning of `data`, their bytes in total, and why no message follows.

    The reason is None if `data` ends within the next message. `remaining`: bytes from the beginning of `data` to the
    end of the file.
    """
    messages: list[bytes] = []
    position, end, longest = 0, len(data), max_body + MESSAGE_HEAD
    unpack, append = _LENGTH.unpack_from, messages.append
    while position + RECORD_HEAD <= end:
        length = unpack(data, position)[0]
        if not MESSAGE_HEAD <= length <= longest:
            return messages, position, _wrong_length(data, position, length)
        if data[position + _ID_AT : position + RECORD_HEAD].translate(None, _HEX):
            return messages, position, "no message id"
        stop = position + 4 + length
        if stop > remaining:
            return messages, position, _CUT
        if stop > end:
            return messages, position, None
        append(data[position + 4 : stop])
        position = stop
    return messages, position, _CUT if position < end == remaining else None


def _wrong_length(data: bytes, position: int, length: int) -> str:
    if not any(data[position:]):
        return "zeros"
    if length > 0 and position + RECORD_HEAD <= len(data) and _has_id(data, position):
        return f"a message of {length - MESSAGE_HEAD} bytes, which --max-msg-size does not allow"
    return f"a length of {length}"


def _find_record(file: SourceFile, offset: int, max_body: int) -> int:
    """The position of the next record at or after `offset`; the end of the file if there is none."""
    chunk, longest = SEARCH_CHUNKS
    while offset + RECORD_HEAD <= file.size:
        data = file.read(offset, chunk + RECORD_HEAD)
        for match in _ID.finditer(data):
            at = match.start() - _ID_AT
            if at >= 0 and _is_record(file, data, at, offset, max_body):
                return offset + at
        offset += chunk
        chunk = min(4 * chunk, longest)
    return file.size


def _is_record(file: SourceFile, data: bytes, at: int, base: int, max_body: int) -> bool:
    """Whether there is a record at `at` of `data`, where an id was found."""
    length: int = _LENGTH.unpack_from(data, at)[0]
    stop = base + at + 4 + length
    if not MESSAGE_HEAD <= length <= max_body + MESSAGE_HEAD or stop > file.size:
        return False
    timestamp = _TIMESTAMP.unpack_from(data, at + 4)[0]
    made_at = (int(data[at + _ID_AT : at + RECORD_HEAD], 16) >> 22) + _ID_EPOCH << 20
    if abs(timestamp - made_at) < _NEAR_NS:
        return True
    following = file.read(stop, RECORD_HEAD)
    if len(following) < RECORD_HEAD:
        return stop == file.size
    length = _LENGTH.unpack_from(following)[0]
    return MESSAGE_HEAD <= length <= max_body + MESSAGE_HEAD and _has_id(following, 0)


def _has_id(data: bytes, at: int) -> bool:
    return not data[at + _ID_AT : at + RECORD_HEAD].translate(None, _HEX)
