"""The bytes of the log: file headers and records. Pure functions; `docs/format.md` is the same in prose.

A file (segment or snapshot) is a header and then records, one after the other. A record is a head with a checksum of
its own, and a payload with another. The head's salt is the file's, drawn by chance: old bytes that a recycled disk
block may hold cannot pass for records of this file.

Integers are big-endian. Checksums are CRC-32C.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Any, Final

import attrs
import msgpack
from crc32c import crc32c

__all__ = [
    "FILE_HEADER_SIZE",
    "FLOWING",
    "MARKER",
    "MESSAGE_KINDS",
    "MOVED_KINDS",
    "RECORD_HEAD_SIZE",
    "VERSION",
    "FileHeader",
    "FileKind",
    "FormatError",
    "Kind",
    "NewerFormat",
    "RecordHead",
    "decode_changes",
    "decode_deferred",
    "decode_directed",
    "decode_letters",
    "decode_moved",
    "decode_record",
    "encode_changes",
    "encode_deferred",
    "encode_directed",
    "encode_letters",
    "encode_moved",
    "encode_record",
    "find_moved",
    "find_record",
    "frames_of",
    "moved_of",
    "origins_of",
    "split_messages",
]

VERSION: Final = 3
MARKER: Final = b"\xa7Q"
MAX_PAYLOAD: Final = 1 << 30  # a length above it is damage, whatever its checksum says
FLOWING: Final = 1  # flag: the messages went to the channels at once, and the high watermark rose with them


class Kind(enum.IntEnum):
    """Kinds of records. 0 is invalid: a run of zeros is the end of a file."""

    MESSAGES = 1
    DEFERRED = 2
    CHANGES = 3
    SEAL = 4  # ends a snapshot or a manifest: without it, the file was never finished
    MOVED = 5  # messages of an older segment, so that it can be removed
    LETTERS = 6  # dead letters: messages of another topic, each with where it is from
    MOVED_LETTERS = 7  # as MOVED, of such messages
    DIRECTED = 8  # messages for one channel alone


MESSAGE_KINDS: Final = frozenset({Kind.MESSAGES, Kind.DEFERRED, Kind.LETTERS, Kind.DIRECTED})
"""Of records whose messages have the sequence numbers from the one in their head on."""
MOVED_KINDS: Final = frozenset({Kind.MOVED, Kind.MOVED_LETTERS})
"""Of records whose messages have any sequence numbers."""


class FileKind(enum.Enum):
    """What a file holds, as its first eight bytes say."""

    SEGMENT = b"nsqd.log"
    SNAPSHOT = b"nsqd.snp"
    MANIFEST = b"nsqd.man"


class FormatError(ValueError):
    """The bytes are not what they should be."""


class NewerFormat(FormatError):
    """A later version of this program wrote the file: it must not be touched."""


_FILE = struct.Struct(">8sHHIQQQQ")
_CRC = struct.Struct(">I")
FILE_HEADER_SIZE: Final = 64
_FILE_PADDING = bytes(FILE_HEADER_SIZE - _FILE.size - _CRC.size)

# Marker, kind, flags, salt, length of the payload, first sequence number, count, checksum of the payload.
_HEAD = struct.Struct(">2sBBIIQII")
RECORD_HEAD_SIZE: Final = _HEAD.size + _CRC.size  # 32
_SIZE = struct.Struct(">I")
_NUMBER = struct.Struct(">Q")
_NUMBER_AND_SIZE = struct.Struct(">QI")


@attrs.frozen
class FileHeader:
    """The first 64 bytes of a segment, a snapshot or a manifest.

    `generation`: which life of the topic it belongs to. `position`: bytes of the topic's log before this file.
    `first`: the sequence number that the next message had when the file was made. `created_ns`: wall time, for people.
    `version`: of the format; files are written in the newest one only.
    """

    kind: FileKind
    salt: int
    generation: int
    position: int
    first: int
    created_ns: int
    version: int = VERSION

    def encode(self) -> bytes:
        head = _FILE.pack(
            self.kind.value,
            self.version,
            0,
            self.salt,
            self.generation,
            self.position,
            self.first,
            self.created_ns,
        )
        return head + _CRC.pack(crc32c(head)) + _FILE_PADDING

    @classmethod
    def decode(cls, data: bytes) -> FileHeader:
        """From the first bytes of a file. `FormatError` when they are no header, `NewerFormat` for a later version."""
        if len(data) < FILE_HEADER_SIZE:
            raise FormatError("the file is shorter than its header")
        magic, version, _, salt, generation, position, first, created_ns = _FILE.unpack_from(data)
        if _CRC.unpack_from(data, _FILE.size)[0] != crc32c(data[: _FILE.size]):
            raise FormatError("the header's checksum does not match")
        try:
            kind = FileKind(magic)
        except ValueError:
            raise FormatError(f"not a file of this log: it begins with {magic!r}") from None
        if version > VERSION:
            raise NewerFormat(f"format version {version}; this program reads up to {VERSION}")
        return cls(kind, salt, generation, position, first, created_ns, version)


@attrs.frozen
class RecordHead:
    """The first 32 bytes of a record.

    `first`: the sequence number of its first message (of the next one to come, for a record without new messages).
    `count`: how many messages, or changes. `length`: bytes of the payload.
    """

    kind: Kind
    flags: int
    length: int
    first: int
    count: int
    payload_crc: int

    @property
    def size(self) -> int:
        """Bytes of the whole record."""
        return RECORD_HEAD_SIZE + self.length

    @property
    def end(self) -> int:
        """The sequence number that the next message has."""
        return self.first + self.count if self.kind in MESSAGE_KINDS else self.first

    @property
    def flowing(self) -> bool:
        return bool(self.flags & FLOWING)

    @classmethod
    def decode(cls, data: bytes, offset: int, salt: int) -> RecordHead:
        """The head at `offset`. `FormatError` when there is none of this file."""
        if len(data) - offset < RECORD_HEAD_SIZE:
            raise FormatError("the head of a record is cut off")
        marker, kind, flags, head_salt, length, first, count, payload_crc = _HEAD.unpack_from(data, offset)
        if marker != MARKER:
            raise FormatError("no record begins here")
        if _CRC.unpack_from(data, offset + _HEAD.size)[0] != crc32c(data[offset : offset + _HEAD.size]):
            raise FormatError("the checksum of a record's head does not match")
        if head_salt != salt:
            raise FormatError("a record of another file")
        try:
            known = Kind(kind)
        except ValueError:
            raise FormatError(f"a record of unknown kind {kind}") from None
        if length > MAX_PAYLOAD:
            raise FormatError(f"a record of {length} bytes")
        return cls(known, flags, length, first, count, payload_crc)

    def check(self, payload: bytes) -> None:
        """`FormatError` unless this is the payload that was written."""
        if crc32c(payload) != self.payload_crc:
            raise FormatError("the checksum of a record's payload does not match")


def decode_record(data: bytes, offset: int, salt: int) -> tuple[int, int, int, bytes] | None:
    """(kind, first, count, payload) of the record at `offset`, both checksums checked; None if `data` ends before it.

    As `RecordHead.decode` and `RecordHead.check`, in a third of the time. `FormatError`.
    """
    at = offset + RECORD_HEAD_SIZE
    if at > len(data):
        return None
    marker, kind, _, head_salt, length, first, count, payload_crc = _HEAD.unpack_from(data, offset)
    head_crc = _CRC.unpack_from(data, offset + _HEAD.size)[0]
    if marker != MARKER or head_salt != salt or crc32c(data[offset : offset + _HEAD.size]) != head_crc:
        raise FormatError("no record of this file begins here")
    if at + length > len(data):
        return None
    payload = data[at : at + length]
    if crc32c(payload) != payload_crc:
        raise FormatError("the checksum of a record's payload does not match")
    return kind, first, count, payload


def encode_record(kind: Kind, flags: int, salt: int, first: int, count: int, payload: bytes) -> bytes:
    """The head that goes before `payload`."""
    assert count > 0 or kind is Kind.SEAL
    assert len(payload) <= MAX_PAYLOAD
    head = _HEAD.pack(MARKER, kind, flags, salt, len(payload), first, count, crc32c(payload))
    return head + _CRC.pack(crc32c(head))


def find_record(data: bytes, offset: int, salt: int, at_least: int) -> tuple[int, RecordHead] | None:
    """The first place from `offset` on where a record of this file begins, with a sequence number >= `at_least`."""
    while (offset := data.find(MARKER, offset)) >= 0:
        try:
            head = RecordHead.decode(data, offset, salt)
        except FormatError:
            pass
        else:
            if head.first >= at_least:
                return offset, head
        offset += 1
    return None


def frames_of(kind: int, count: int, payload: bytes) -> tuple[list[bytes], Iterable[int]]:
    """The message frames of a record, and the bytes before each of them; none for a record without new messages.

    `FormatError` when they do not add up.
    """
    if kind == Kind.MESSAGES:
        return split_messages(payload, count), repeat(0)
    if kind == Kind.DEFERRED:
        return decode_deferred(payload, count)[0], repeat(_NUMBER.size)
    if kind == Kind.LETTERS:
        frames, origins = decode_letters(payload, count)
        return frames, [_SIZE.size + len(origin) for origin in origins]
    if kind == Kind.DIRECTED:
        return decode_directed(payload, count)[0], chain([_NUMBER.size], repeat(0))
    return [], ()


def origins_of(kind: int, first: int, count: int, payload: bytes) -> dict[int, bytes]:
    """Where the dead letters of a record are from, by sequence number; empty for a record of another kind.

    `FormatError` when they do not add up.
    """
    if kind == Kind.LETTERS:
        return dict(enumerate(decode_letters(payload, count)[1], first))
    if kind == Kind.MOVED_LETTERS:
        return {seq: origin for seq, origin, _ in _numbered_letters(payload, count)}
    return {}


def split_messages(payload: bytes, count: int) -> list[bytes]:
    """The message frames of a MESSAGES record. `FormatError` when they do not add up."""
    frames, offset, end = [], 0, len(payload)
    unpack = _SIZE.unpack_from
    for _ in range(count):
        if offset + 4 > end:
            raise FormatError("a record holds fewer messages than its head says")
        stop = offset + 4 + unpack(payload, offset)[0]
        frames.append(payload[offset:stop])
        offset = stop
    if offset != end:
        raise FormatError("the messages of a record do not fill it")
    return frames


def encode_deferred(frames: Sequence[bytes], delays_ns: Sequence[int]) -> bytes:
    """The payload of a DEFERRED record: before each frame its delay, in nanoseconds."""
    return _encode_numbered(frames, delays_ns)


def decode_deferred(payload: bytes, count: int) -> tuple[list[bytes], list[int]]:
    """Frames and delays of a DEFERRED record. `FormatError` when they do not add up."""
    return _decode_numbered(payload, count)


def encode_letters(frames: Sequence[bytes], origins: Sequence[bytes]) -> bytes:
    """The payload of a LETTERS record: before each frame where the message is from, and the length of that."""
    pieces: list[bytes] = []
    for frame, origin in zip(frames, origins, strict=True):
        pieces += (_SIZE.pack(len(origin)), origin, frame)
    return b"".join(pieces)


def decode_letters(payload: bytes, count: int) -> tuple[list[bytes], list[bytes]]:
    """Frames and origins of a LETTERS record. `FormatError` when they do not add up."""
    letters = [(origin, frame) for _, origin, frame in _split_letters(payload, count, 0)]
    return [frame for _, frame in letters], [origin for origin, _ in letters]


def encode_directed(frames: Sequence[bytes], generation: int) -> bytes:
    """The payload of a DIRECTED record: the generation of the channel, and the frames."""
    return _NUMBER.pack(generation) + b"".join(frames)


def decode_directed(payload: bytes, count: int) -> tuple[list[bytes], int]:
    """Frames of a DIRECTED record, and the generation of their channel. `FormatError` when they do not add up."""
    if len(payload) < _NUMBER.size:
        raise FormatError("a record of directed messages without a channel")
    return split_messages(payload[_NUMBER.size :], count), _NUMBER.unpack_from(payload)[0]


def encode_moved(
    frames: Sequence[bytes], seqs: Sequence[int], origins: Mapping[int, bytes] | None = None
) -> bytes:
    """The payload of a MOVED record: before each frame its sequence number. With `origins`, which has one for each of
    the numbers, that of a MOVED_LETTERS record.
    """
    if origins is None:
        return _encode_numbered(frames, seqs)
    pieces: list[bytes] = []
    for frame, seq in zip(frames, seqs, strict=True):
        pieces += (_NUMBER_AND_SIZE.pack(seq, len(origins[seq])), origins[seq], frame)
    return b"".join(pieces)


def decode_moved(payload: bytes, count: int) -> tuple[list[bytes], list[int]]:
    """Frames and sequence numbers of a MOVED record. `FormatError` when they do not add up."""
    return _decode_numbered(payload, count)


def moved_of(kind: int, count: int, payload: bytes) -> tuple[list[bytes], list[int]]:
    """Frames and sequence numbers of a record of one of `MOVED_KINDS`. `FormatError` when they do not add up."""
    if kind == Kind.MOVED:
        return decode_moved(payload, count)
    letters = list(_numbered_letters(payload, count))
    return [frame for _, _, frame in letters], [seq for seq, _, _ in letters]


def find_moved(kind: int, payload: bytes, count: int, wanted: set[int]) -> dict[int, bytes]:
    """Those frames of a record of one of `MOVED_KINDS` whose sequence numbers are wanted.

    As `moved_of`, for a few of the messages. `FormatError` when they do not add up.
    """
    if kind == Kind.MOVED_LETTERS:
        return {seq: frame for seq, _, frame in _numbered_letters(payload, count) if seq in wanted}
    found: dict[int, bytes] = {}
    offset, end, unpack = 0, len(payload), _NUMBER_AND_SIZE.unpack_from
    for _ in range(count):
        if offset + 12 > end:
            raise FormatError("a record holds fewer messages than its head says")
        seq, size = unpack(payload, offset)
        if seq in wanted:
            found[seq] = payload[offset + 8 : offset + 12 + size]
            if len(found) == len(wanted):
                break
        offset += 12 + size
    return found


def _numbered_letters(payload: bytes, count: int) -> Iterator[tuple[int, bytes, bytes]]:
    for number, origin, frame in _split_letters(payload, count, _NUMBER.size):
        yield int.from_bytes(number), origin, frame


def _split_letters(payload: bytes, count: int, before: int) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The first `before` bytes, the origin and the frame of each dead letter."""
    offset, end, unpack = 0, len(payload), _SIZE.unpack_from
    for _ in range(count):
        at = offset + before + _SIZE.size
        frame_at = at + unpack(payload, at - _SIZE.size)[0] if at <= end else end
        if frame_at + _SIZE.size > end:
            raise FormatError("a record holds fewer messages than its head says")
        stop = frame_at + _SIZE.size + unpack(payload, frame_at)[0]
        yield payload[offset : offset + before], payload[at:frame_at], payload[frame_at:stop]
        offset = stop
    if offset != end:
        raise FormatError("the messages of a record do not fill it")


def _encode_numbered(frames: Sequence[bytes], numbers: Sequence[int]) -> bytes:
    pieces: list[bytes] = []
    for frame, number in zip(frames, numbers, strict=True):
        pieces += (_NUMBER.pack(number), frame)
    return b"".join(pieces)


def _decode_numbered(payload: bytes, count: int) -> tuple[list[bytes], list[int]]:
    frames, numbers, offset, end = [], [], 0, len(payload)
    for _ in range(count):
        if offset + 12 > end:
            raise FormatError("a record holds fewer messages than its head says")
        numbers.append(_NUMBER.unpack_from(payload, offset)[0])
        stop = offset + 12 + _SIZE.unpack_from(payload, offset + 8)[0]
        frames.append(payload[offset + 8 : stop])
        offset = stop
    if offset != end:
        raise FormatError("the messages of a record do not fill it")
    return frames, numbers


def encode_changes(changes: Sequence[Sequence[Any]]) -> bytes:
    """The payload of a CHANGES record: one msgpack array for each change, one after the other."""
    packer = msgpack.Packer(autoreset=False)
    for change in changes:
        packer.pack(change)
    return bytes(packer.bytes())


def decode_changes(payload: bytes, count: int) -> list[list[Any]]:
    """The changes of a record. `FormatError` when they cannot be read."""
    unpacker = msgpack.Unpacker(max_buffer_size=MAX_PAYLOAD, strict_map_key=False)
    unpacker.feed(payload)
    changes, end = [], 0
    try:
        for change in unpacker:
            changes.append(change)
            end = unpacker.tell()
    except Exception as error:  # msgpack's own errors have no common base
        raise FormatError(f"changes that are no msgpack: {error}") from error
    if len(changes) != count:
        raise FormatError("a record holds another number of changes than its head says")
    if end != len(payload):
        raise FormatError("the changes of a record do not fill it")
    if not all(isinstance(change, list) and change for change in changes):
        raise FormatError("a change that is no array with a code")
    return changes
