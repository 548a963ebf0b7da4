"""From published bodies to message frames: the loop that every message passes on its way in.

The 34 bytes before a body are made here once, and are the same on disk and on the wire. Within a batch only the last
hex digits of the id change from message to message: so a head is packed again only when the size of the body or the
rest of the id does, and the last three digits come from a table, in runs.
"""

from __future__ import annotations

import struct
from typing import Final

import attrs

from nsqkit.wire import ProtocolError
from nsqkit.wire.frames import BODY

__all__ = ["Incomplete", "MultiScan", "ParsedBatch", "parse_batch"]

_HEAD_WITHOUT_DIGITS = struct.Struct(">iiqH13s")
_SIZE = struct.Struct(">I")
_SIGNED = struct.Struct(">i")
_HEX3: Final = [b"%03x" % number for number in range(4096)]
_MESSAGE = 2  # frame type


class Incomplete(Exception):
    """A command cannot be carried out yet. `need`: bytes after its line without which another look is useless."""

    def __init__(self, need: int) -> None:
        self.need = need


@attrs.frozen
class ParsedBatch:
    """Frames of a multi-publish. `size`: their bytes; `end`: where they ended in the buffer."""

    frames: list[bytes]
    size: int
    end: int


def parse_batch(
    buffer: bytes, position: int, count: int, first_id: int, wall_ns: int, max_size: int
) -> ParsedBatch | None:
    """`count` messages, each an int32 size and a body, from `position` on; None when the buffer ends too soon.

    `ProtocolError` for a size that is not within 1 to `max_size`.
    """
    start, pack, unpack = position, _HEAD_WITHOUT_DIGITS.pack, _SIZE.unpack_from
    frames: list[bytes] = []
    append = frames.append
    try:
        while len(frames) < count:  # ids that differ in their last digits only
            number = first_id + len(frames)
            block, last = b"%013x" % (number >> 12), number & 4095
            known_size, head = -1, b""
            for digits in _HEX3[last : last + count - len(frames)]:
                size = unpack(buffer, position)[0]
                if size != known_size:
                    if not 0 < size <= max_size:
                        raise _bad_size(buffer, position, len(frames), max_size)
                    known_size, head = size, pack(BODY - 4 + size, _MESSAGE, wall_ns, 1, block)
                position += 4
                stop = position + size
                append(head + digits + buffer[position:stop])
                position = stop
    except struct.error:
        return None
    if position > len(buffer):
        return None
    return ParsedBatch(frames, position - start + (BODY - 4) * count, position)


def _bad_size(buffer: bytes | bytearray, position: int, index: int, max_size: int) -> ProtocolError:
    size = _SIGNED.unpack_from(buffer, position)[0]
    if size <= 0:
        return ProtocolError("E_BAD_MESSAGE", f"MPUB invalid message({index}) body size {size}")
    return ProtocolError("E_BAD_MESSAGE", f"MPUB message too big {size} > {max_size}")


@attrs.define
class MultiScan:
    """Whether a multi-publish that comes in pieces is whole, judged by its inner sizes and never looked at twice.

    The declared size of the whole is only a range check in this protocol: the inner sizes rule.
    """

    position: int
    left: int
    limit: int  # where all the messages must have ended
    index: int = 0

    def move(self, distance: int) -> None:
        """The buffer begins elsewhere now."""
        self.position += distance
        self.limit += distance

    def advance(self, buffer: bytes | bytearray, max_size: int) -> bool:
        """Go on with what the buffer has now; True when all messages are there. `ProtocolError` for a bad size."""
        end, unpack = len(buffer), _SIZE.unpack_from
        while self.left:
            if self.position + 4 > end:
                return False
            size = unpack(buffer, self.position)[0]
            if not 0 < size <= max_size:
                raise _bad_size(buffer, self.position, self.index, max_size)
            if self.position + 4 + size > self.limit:
                raise ProtocolError(
                    "E_BAD_BODY", "MPUB body too big, its messages are longer than --max-body-size"
                )
            if self.position + 4 + size > end:
                return False
            self.position += 4 + size
            self.left -= 1
            self.index += 1
        return True
