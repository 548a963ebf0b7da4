"""A complete segment as the disk gives it back, piece by piece, and compared with another copy of it.

What is read is what the disks have: the system is told to forget what it holds of a file, before and after. What cannot
be read is taken for zeros, which are no record.

*Any thread.* What may take long is a generator, which yields None for others to have their turn.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import attrs
from crc32c import crc32c

from nsqd.log.ranges import RangeSet
from nsqd.log.records import FILE_HEADER_SIZE, FileHeader, FileKind, FormatError
from nsqd.log.scan import Damaged, find_salt, scan
from nsqd.log.storage import File, Storage
from nsqd.replication.noted_storage import FileNote

__all__ = [
    "PAGE",
    "Comparison",
    "Log",
    "Place",
    "Segment",
    "checksum_on_disk",
    "chunks",
    "compared",
    "damage_of",
    "read_piece",
    "salt_of",
    "temporary",
]

PIECE: Final = 256 * 1024  # bytes that are looked at in a row, unless a record is longer
STEP_BYTES: Final = 4 << 20  # that are gone through until others have their turn
CHUNK: Final = 1 << 20
PAGE: Final = 4096

_T = TypeVar("_T")
Steps: TypeAlias = Generator[None, Any, _T]


class Log(Protocol):
    """What is to be known of a topic's log, see `TopicLog`. Whoever renames or removes files of it holds `names`."""

    generation: int
    deleted: bool
    names: threading.Lock


@attrs.frozen
class Place:
    """What comes next: the segment `path` from `offset` on, where a record begins. "": the first one.

    `salt`: of that segment. One with another has taken its name, and is looked at from its beginning.
    """

    path: str = ""
    salt: int = 0
    offset: int = 0


@attrs.define(eq=False)
class Segment:
    """A complete segment: `size` bytes of it are its own."""

    path: str
    log: Log
    note: FileNote
    size: int

    @property
    def folder(self) -> str:
        return self.path.partition("/")[0]

    @property
    def position(self) -> int:
        return int(self.path.rpartition("/")[2][:20])

    def header(self, data: bytes) -> FileHeader | None:
        """Of these first bytes; None when they are not what was written."""
        try:
            header = FileHeader.decode(data)
        except FormatError:
            return None
        own = header.position == self.position and header.generation == self.log.generation
        is_sound = header.kind is FileKind.SEGMENT and own and data[FILE_HEADER_SIZE - 12 :] == bytes(12)
        return header if is_sound else None


@attrs.frozen
class Piece:
    """Bytes from `place.offset` to `end` of a segment. `sound`: all records in them check."""

    place: Place
    end: int
    checksum: int
    sound: bool


# --- two files of one segment


@attrs.frozen
class Comparison:
    """Bytes that are damaged: `ours`, `theirs`, and `left`: in both. `salt`: of the records.

    `fork`: where sound records of both differ; then nothing else is known.
    """

    ours: RangeSet = attrs.field(factory=RangeSet)
    theirs: RangeSet = attrs.field(factory=RangeSet)
    left: RangeSet = attrs.field(factory=RangeSet)
    salt: int | None = None
    fork: int | None = None

    @property
    def takes(self) -> bool:
        """Whether something that is damaged here is not, there."""
        return self.left.count < self.ours.count

    def parts(self, size: int) -> Iterator[tuple[int, int, bool]]:
        """The whole file in order: start, end, and whether these bytes are taken from theirs."""
        taken = [gap for start, end in self.ours for gap in self.theirs.gaps(start, end)]
        at = 0
        for start, end in taken:
            if at < start:
                yield at, start, False
            yield start, end, True
            at = end
        if at < size:
            yield at, size, False


def compared(segment: Segment, ours: File, theirs: File) -> Steps[Comparison]:
    """Which records check in these two files of a segment."""
    # Records are told by the salt, which is in the header: of whom that can be read.
    our_salt = salt_of(segment, ours)
    their_salt = salt_of(segment, theirs)
    if our_salt is None and their_salt is None:
        found = find_salt(_reader(ours), FILE_HEADER_SIZE, segment.size)
        our_salt = found[0] if found is not None else None
    our_damage = yield from damage_of(segment, ours, their_salt if our_salt is None else our_salt)
    their_damage = yield from damage_of(segment, theirs, our_salt if their_salt is None else their_salt)
    either = RangeSet(sorted([*our_damage, *their_damage]))
    for start, end in either.gaps(0, segment.size):
        at = start
        for chunk in chunks(ours, start, end):
            if chunk != (other := _read(theirs, at, len(chunk))):
                same = next(i for i, (one, two) in enumerate(zip(chunk, other, strict=True)) if one != two)
                return Comparison(fork=at + same)
            at += len(chunk)
            yield None
    both = [common for start, end in our_damage for common in their_damage.common(start, end)]
    return Comparison(our_damage, their_damage, RangeSet(both), their_salt if our_salt is None else our_salt)


def salt_of(segment: Segment, file: File) -> int | None:
    """What the header tells; None when it is damaged."""
    header = segment.header(_read(file, 0, FILE_HEADER_SIZE))
    return header.salt if header is not None else None


def damage_of(segment: Segment, file: File, salt: int | None) -> Steps[RangeSet]:
    """The bytes of a file that are neither header nor records. `salt`: of the records; None: nothing tells it."""
    if salt is None:
        return RangeSet([(0, segment.size)])
    file.forget_cached()
    damage = RangeSet()
    if salt_of(segment, file) is None:
        damage.add(0, FILE_HEADER_SIZE)
    looked_at = 0
    for item in scan(_reader(file), FILE_HEADER_SIZE, segment.size, salt, 0):
        end = item.end if isinstance(item, Damaged) else item.offset + item.head.size
        if isinstance(item, Damaged):
            damage.add(item.offset, end)
        if end - looked_at >= STEP_BYTES:
            looked_at = end
            yield None
    return damage


def read_piece(segment: Segment, file: File, place: Place) -> Piece:
    """From this place on. `OSError`."""
    _forget_cached(file, 0, FILE_HEADER_SIZE)
    header = segment.header(_read(file, 0, FILE_HEADER_SIZE))
    if header is None:
        return Piece(place, segment.size, 0, sound=False)
    offset = place.offset if place.salt == header.salt else 0
    _forget_cached(file, offset, PIECE)
    end = max(offset, FILE_HEADER_SIZE)
    sound = True
    for item in scan(_reader(file), end, segment.size, header.salt, 0, chunk=PIECE):
        if isinstance(item, Damaged):
            sound, end = False, item.end
            break
        end = item.offset + item.head.size
        if end - offset >= PIECE:
            break
    checksum = 0
    for chunk in chunks(file, offset, end):
        checksum = crc32c(chunk, checksum)
    _forget_cached(file, offset, end - offset)  # others need the memory more
    return Piece(Place(segment.path, header.salt, offset), end, checksum, sound)


def checksum_on_disk(storage: Storage, path: str, offset: int, size: int) -> tuple[int, int]:
    """How many of these bytes of a file the disk gives back, and their CRC-32C. *Any thread.*"""
    checksum = there = 0
    with contextlib.suppress(OSError), contextlib.closing(storage.open(path, read_only=True)) as file:
        _forget_cached(file, offset, size)
        while there < size:
            data = file.read(offset + there, min(CHUNK, size - there))
            if not data:
                break
            checksum = crc32c(data, checksum)
            there += len(data)
        _forget_cached(file, offset, size)
    return there, checksum


def _forget_cached(file: File, offset: int, size: int) -> None:
    """Of whole pages: the system keeps those of which a part is not named."""
    start = offset // PAGE * PAGE
    file.forget_cached(start, offset + size - start + PAGE)


def _read(file: File, offset: int, size: int) -> bytes:
    """All these bytes: zeros for what the disk cannot read, and for what is behind the end. `OSError` for the rest."""
    try:
        return file.read(offset, size).ljust(size, b"\0")
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    if size <= PAGE:
        return bytes(size)
    half = max(PAGE, size // 2 // PAGE * PAGE)
    return _read(file, offset, half) + _read(file, offset + half, size - half)


def _reader(file: File) -> Callable[[int, int], bytes]:
    return lambda offset, size: _read(file, offset, size)


def chunks(file: File, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, CHUNK):
        yield _read(file, at, min(CHUNK, end - at))


@contextlib.contextmanager
def temporary(storage: Storage, path: str) -> Iterator[File]:
    """A new file, under a name that is always the same: a kill leaves one at most, and nothing reads it. `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        storage.remove(path)
    file = storage.create(path)
    try:
        yield file
    finally:
        file.close()
        with contextlib.suppress(OSError):  # it has its other name
            storage.remove(path)
