"""The parts of the NSQ V2 protocol that the load generator uses: encode beforehand, count and finish in bulk.

All messages of a run have one size, so their frames all have one length, and a read is a matrix with a row
for each frame. The ids and the heads are then columns, which Python's slices with a step take out in C:
checking every head and writing every FIN costs 20 ns a message, against 115 ns for a loop over the frames
(measured, Python 3.11). Only other frames (a heartbeat, an error) are parsed one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import attrs

from bench.link import Link, LoadError

__all__ = ["MESSAGE", "RESPONSE", "Consumer", "NsqLink", "count_distinct", "mpub_command", "pub_command"]

RESPONSE, ERROR, MESSAGE = 0, 1, 2
OK_FRAME = b"\x00\x00\x00\x06\x00\x00\x00\x00OK"
HEARTBEAT = b"_heartbeat_"
IDENTIFY_BODY = b'{"client_id":"bench","hostname":"localhost","user_agent":"bench"}'
MESSAGE_HEAD_BYTES = 34  # size 4, frame type 4, timestamp 8, attempts 2, id 16
ID_AT, ID_BYTES = 18, 16
FIN_TEMPLATE = b"FIN " + bytes(ID_BYTES) + b"\n"

_frame_head = struct.Struct(">ii")


def pub_command(topic: str, body: bytes) -> bytes:
    return b"PUB %s\n%s%s" % (topic.encode(), struct.pack(">I", len(body)), body)


def mpub_command(topic: str, body: bytes, batch: int) -> bytes:
    """One MPUB of `batch` messages with the same body."""
    messages = struct.pack(">I", batch) + (struct.pack(">I", len(body)) + body) * batch
    return b"MPUB %s\n%s%s" % (topic.encode(), struct.pack(">I", len(messages)), messages)


class NsqLink(Link):
    """An identified connection."""

    def __init__(self, port: int, identify: bytes = IDENTIFY_BODY) -> None:
        super().__init__(port)
        try:
            self.send(b"  V2IDENTIFY\n%s%s" % (struct.pack(">I", len(identify)), identify))
            self.expect_ok()
        except BaseException:
            self.close()
            raise

    def subscribe(self, topic: str, channel: str) -> None:
        self.send(f"SUB {topic} {channel}\n".encode())
        self.expect_ok()

    def expect_ok(self) -> None:
        """Wait for one reply; anything but OK is a LoadError."""
        while not self.count_replies(self.receive()):
            pass

    def count_replies(self, data: bytes) -> int:
        if data == OK_FRAME and not self.rest:
            return 1
        data = self.rest + data
        count = len(data) // len(OK_FRAME)
        whole = count * len(OK_FRAME)
        if data[:whole] == OK_FRAME * count and OK_FRAME.startswith(data[whole:]):
            self.rest = data[whole:]
            return count
        return self._count_one_by_one(data)

    def _count_one_by_one(self, data: bytes) -> int:
        count = 0
        self.rest = b""
        for kind, payload in self.frames(data):
            if kind == MESSAGE:
                raise LoadError("a message came where a reply was due")
            count += payload == b"OK"
        return count

    def frames(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The complete frames read so far; heartbeats are answered, `LoadError` for errors."""
        data = self.rest + data
        at, end = 0, len(data)
        while end - at >= 8:
            size, kind = _frame_head.unpack_from(data, at)
            if not 4 <= size <= 1 << 24 or kind not in (RESPONSE, ERROR, MESSAGE):
                raise LoadError(f"not a frame: {data[at : at + 16]!r}")
            if end - at < size + 4:
                break
            payload = data[at + 8 : at + 4 + size]
            at += 4 + size
            if kind == ERROR:
                raise LoadError(f"the server answered {payload.decode(errors='replace')}")
            if kind == RESPONSE and payload == HEARTBEAT:
                self.send(b"NOP\n")
                continue
            if kind == RESPONSE and payload != b"OK":
                raise LoadError(f"the server answered {payload[:100]!r}")
            yield kind, payload
        self.rest = data[at:]


@attrs.define
class Consumer:
    """Takes messages of one size from a subscribed link and finishes each at once."""

    link: NsqLink
    body: bytes
    received: int = 0
    fins: list[bytes] = attrs.field(factory=list)
    """All FIN commands sent, kept to check for duplicates after the timed part."""
    _head: bytes = b""
    _frame_bytes: int = 0

    def __attrs_post_init__(self) -> None:
        self._frame_bytes = MESSAGE_HEAD_BYTES + len(self.body)
        self._head = _frame_head.pack(self._frame_bytes - 4, MESSAGE)

    def readable(self) -> None:
        data = self.link.receive()
        if self.link.rest:
            data = self.link.rest + data
        fins = self._fins_in_bulk(data)
        if fins is None:
            self.link.rest = b""
            fins = self._fins_one_by_one(data)
        if fins:
            self.received += len(fins) // len(FIN_TEMPLATE)
            self.fins.append(fins)
            self.link.send(fins)

    def barrier(self, scratch_topic: str) -> None:
        """Return once the server has processed every FIN: FIN has no response, but commands are processed in order."""
        self.link.send(pub_command(scratch_topic, b"barrier"))
        self.link.expect_ok()

    def _fins_in_bulk(self, data: bytes) -> bytes | None:
        """FINs for all complete frames, the remainder in `link.rest`; None if not all are such messages."""
        step = self._frame_bytes
        count = len(data) // step
        whole = count * step
        for column in range(8):
            if data[column:whole:step] != self._head[column : column + 1] * count:
                return None
        if not self._head.startswith(data[whole : whole + 8]):
            return None
        if count and data[whole - len(self.body) : whole] != self.body:
            raise LoadError("a message came with another body than was published")
        self.link.rest = data[whole:]
        if count == 1:
            return b"FIN %s\n" % data[ID_AT : ID_AT + ID_BYTES]
        fins = bytearray(FIN_TEMPLATE * count)
        for column in range(ID_BYTES):
            fins[4 + column :: len(FIN_TEMPLATE)] = data[ID_AT + column : whole : step]
        return bytes(fins)

    def _fins_one_by_one(self, data: bytes) -> bytes:
        fins = []
        for kind, payload in self.link.frames(data):
            if kind != MESSAGE:
                raise LoadError(f"a reply came where a message was due: {payload[:100]!r}")
            if payload[26:] != self.body:
                raise LoadError("a message came with another body than was published")
            fins.append(b"FIN %s\n" % payload[10:26])
        return b"".join(fins)


def count_distinct(consumers: list[Consumer]) -> int:
    """The number of distinct ids that the consumers finished."""
    step = len(FIN_TEMPLATE)
    return len(
        {fins[at : at + step] for c in consumers for fins in c.fins for at in range(0, len(fins), step)}
    )
