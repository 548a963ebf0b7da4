"""Frames from nsqd to a client.

    size     int32   of the rest: 4 + len(payload)
    type     int32   0 response, 1 error, 2 message
    payload

The payload of a message:

    timestamp  int64    nanoseconds since 1970 at publish
    attempts   uint16   1 on the first delivery
    id         16 bytes lowercase hex
    body       1 byte or more

So the body begins at byte 34 of a message frame, and only bytes 16 and 17 (attempts) ever change.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final

import attrs

__all__ = [
    "ATTEMPTS",
    "BODY",
    "CLOSE_WAIT",
    "HEAD",
    "HEARTBEAT",
    "ID",
    "MAX_ATTEMPTS",
    "MESSAGE",
    "OK",
    "SIZE",
    "TIMESTAMP",
    "FrameType",
    "Message",
    "decode_message",
    "encode_error",
    "encode_message",
    "encode_response",
    "is_message",
    "message_frame",
    "split_frames",
    "with_attempts",
]


class FrameType(enum.IntEnum):
    RESPONSE = 0
    ERROR = 1
    MESSAGE = 2


HEAD: Final = struct.Struct(">iiqH16s")  # size, type, timestamp, attempts, id
SIZE: Final = struct.Struct(">I")
ATTEMPTS: Final = struct.Struct(">H")
TIMESTAMP: Final = slice(8, 16)
ID: Final = slice(18, 34)
BODY: Final = 34
MAX_ATTEMPTS: Final = 0xFFFF  # the field saturates instead of wrapping

_PREFIX = struct.Struct(">ii")
_MESSAGE_TYPE = FrameType.MESSAGE.to_bytes(4, "big")
MESSAGE: Final = int(FrameType.MESSAGE)  # looking a member up in its enum costs as much as packing the head


def message_frame(message_id: int, timestamp_ns: int, body: bytes) -> bytes:
    """A whole message frame, as the first delivery sends it."""
    return HEAD.pack(BODY - 4 + len(body), MESSAGE, timestamp_ns, 1, b"%016x" % message_id) + body


def is_message(frame: bytes) -> bool:
    """Whether a whole frame is a message."""
    return frame[4:8] == _MESSAGE_TYPE


def encode_response(payload: bytes) -> bytes:
    return _PREFIX.pack(4 + len(payload), FrameType.RESPONSE) + payload


def encode_error(payload: bytes) -> bytes:
    return _PREFIX.pack(4 + len(payload), FrameType.ERROR) + payload


OK: Final = encode_response(b"OK")
HEARTBEAT: Final = encode_response(b"_heartbeat_")
CLOSE_WAIT: Final = encode_response(b"CLOSE_WAIT")


def encode_message(timestamp_ns: int, attempts: int, message_id: bytes, body: bytes) -> bytes:
    """A message frame. `message_id` has 16 bytes."""
    return HEAD.pack(BODY - 4 + len(body), FrameType.MESSAGE, timestamp_ns, attempts, message_id) + body


def with_attempts(frame: bytes, attempts: int) -> bytes:
    """The same message frame for another delivery. `attempts` saturates at 65535."""
    return frame[:16] + ATTEMPTS.pack(min(attempts, MAX_ATTEMPTS)) + frame[18:]


@attrs.frozen
class Message:
    """The fields of a message frame."""

    timestamp_ns: int
    attempts: int
    id: bytes
    body: bytes


def decode_message(frame: bytes) -> Message:
    """Decode one message frame. `ValueError` for anything else."""
    if len(frame) < BODY:
        raise ValueError(f"a message frame has {BODY} bytes or more, not {len(frame)}")
    size, kind, timestamp_ns, attempts, message_id = HEAD.unpack_from(frame)
    if kind != FrameType.MESSAGE or size != len(frame) - 4:
        raise ValueError("not a message frame")
    return Message(timestamp_ns, attempts, message_id, frame[BODY:])


def split_frames(buffer: bytes, *, max_size: int = 1 << 30) -> Iterator[tuple[FrameType, bytes]]:
    """All complete frames in the buffer, as (type, payload). Each takes 8 bytes more than its payload.

    `ValueError` for a size below 4 or above `max_size`, and for an unknown type: the rest cannot be parsed.
    """
    position, end = 0, len(buffer)
    while end - position >= _PREFIX.size:
        size, kind = _PREFIX.unpack_from(buffer, position)
        if not 4 <= size <= max_size:
            raise ValueError(f"frame size {size} out of range 4-{max_size}")
        stop = position + 4 + size
        if stop > end:
            return
        yield FrameType(kind), buffer[position + 8 : stop]
        position = stop
