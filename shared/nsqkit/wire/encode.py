"""Encoding the commands of the V2 protocol, for clients: arguments in, bytes out.

    line    NAME, words separated by one space, `\\n`
    size    int32, only if a body follows
    body

Checked is only what would break the framing: an empty body, a name with a space in it, a bad number. nsqd checks
whether a name is valid and a body not too big.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["CLS", "NOP", "auth", "dpub", "fin", "identify", "mpub", "pub", "rdy", "req", "sub", "touch"]

CLS: Final = b"CLS\n"
NOP: Final = b"NOP\n"
MAX_BODY: Final = (1 << 31) - 1  # bytes: sizes are signed on the wire

_SIZE = struct.Struct(">i")


def identify(fields: Mapping[str, Any]) -> bytes:
    """IDENTIFY with these fields as JSON."""
    return b"IDENTIFY\n" + _sized(json.dumps(fields).encode())


def auth(secret: str) -> bytes:
    """AUTH. `ValueError` for an empty secret."""
    return b"AUTH\n" + _sized(secret.encode())


def sub(topic: str, channel: str) -> bytes:
    """SUB."""
    return b"SUB %b %b\n" % (_word(topic), _word(channel))


def rdy(count: int) -> bytes:
    """RDY; `count` is 0 or more."""
    return b"RDY %d\n" % _natural(count)


def fin(message_id: bytes) -> bytes:
    """FIN; the id has 16 bytes."""
    return b"FIN %b\n" % message_id


def req(message_id: bytes, delay_ms: int) -> bytes:
    """REQ; the id has 16 bytes, the delay is in milliseconds, 0 or more."""
    return b"REQ %b %d\n" % (message_id, _natural(delay_ms))


def touch(message_id: bytes) -> bytes:
    """TOUCH; the id has 16 bytes."""
    return b"TOUCH %b\n" % message_id


def pub(topic: str, body: bytes) -> bytes:
    """PUB. `ValueError` for an empty body, or a name that is not one word."""
    return b"PUB %b\n" % _word(topic) + _sized(body)


def dpub(topic: str, delay_ms: int, body: bytes) -> bytes:
    """DPUB, the delay in milliseconds. `ValueError` as for `pub`, and for a negative delay."""
    return b"DPUB %b %d\n" % (_word(topic), _natural(delay_ms)) + _sized(body)


def mpub(topic: str, bodies: Sequence[bytes]) -> bytes:
    """MPUB. `ValueError` for an empty batch, an empty body, or a name that is not one word."""
    if not bodies:
        raise ValueError("nothing to publish: no message")
    pieces = [_SIZE.pack(len(bodies))]
    for body in bodies:
        if not body:
            raise ValueError("a message body has at least one byte")
        pieces += (_SIZE.pack(len(body)), body)
    return b"MPUB %b\n" % _word(topic) + _sized(b"".join(pieces))


def _sized(body: bytes) -> bytes:
    if not body:
        raise ValueError("a message body has at least one byte")
    if len(body) > MAX_BODY:
        raise ValueError(f"too big for one command: {len(body)} bytes")
    return _SIZE.pack(len(body)) + body


@functools.lru_cache(maxsize=1024)
def _word(name: str) -> bytes:
    """A name as one word of its line; a newline in it would inject a second command."""
    word = name.encode()
    if not word or any(byte <= 0x20 for byte in word):
        raise ValueError(f"not a name: {name!r}")
    return word


def _natural(number: int) -> int:
    if number < 0:
        raise ValueError(f"negative: {number}")
    return number
