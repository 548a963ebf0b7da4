"""The client side of nsqlookupd's protocol V1, without any I/O: encoding of commands, parsing of replies.

Rules:

- A connection begins with the four bytes of `MAGIC`; the registry sends nothing before the first command.
- Every command gets exactly one reply, in order: an int32 size and that many bytes. There is no frame type; an error is
  recognized by its text.
- Input is not trusted: a reply above the size limit, and bytes that are not the reply to a command, end the connection.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

import attrs
import msgspec

from nsqkit.decoding import DecodeError
from nsqkit.service.typed_json import decode_json_as

__all__ = [
    "MAGIC",
    "PING",
    "HttpAddress",
    "RegistryError",
    "Replies",
    "check_reply",
    "encode_identify",
    "encode_register",
    "encode_unregister",
    "parse_identity",
]

MAGIC: Final = b"  V1"
PING: Final = b"PING\n"
HIGHEST_PORT = 65535

_SIZE = struct.Struct(">i")
_SHOWN = 200  # bytes of a reply that are logged at most


class RegistryError(Exception):
    """The connection to a registry cannot be used any more; the text is the reason."""


@attrs.frozen
class HttpAddress:
    """The address of a registry's HTTP API, from its reply to IDENTIFY."""

    host: str
    port: int


def encode_identify(fields: Mapping[str, str | int]) -> bytes:
    """IDENTIFY; the keys are sorted, as the original sorts them."""
    body = msgspec.json.encode(dict(fields), order="sorted")
    return b"IDENTIFY\n" + _SIZE.pack(len(body)) + body


def encode_register(topic: str, channel: str | None = None) -> bytes:
    """REGISTER of a channel with its topic, or of a topic alone."""
    return _name_command("REGISTER", topic, channel)


def encode_unregister(topic: str, channel: str | None = None) -> bytes:
    """UNREGISTER of a channel, or of a topic with all its channels."""
    return _name_command("UNREGISTER", topic, channel)


def _name_command(command: str, topic: str, channel: str | None) -> bytes:
    names = topic if channel is None else f"{topic} {channel}"
    return f"{command} {names}\n".encode()


@attrs.define
class _Identity:
    broadcast_address: str = ""
    http_port: int = 0


def parse_identity(reply: bytes) -> HttpAddress | None:
    """The HTTP address in a reply to IDENTIFY; None if there is no usable one.

    `RegistryError` for an error reply, and for a reply that is not a JSON object with these fields.
    """
    check_reply(reply)
    try:
        identity = decode_json_as(reply, _Identity)
    except DecodeError as error:
        raise RegistryError(f"failed to parse the reply to IDENTIFY - {_shown(reply)}") from error
    if not identity.broadcast_address or not 0 < identity.http_port <= HIGHEST_PORT:
        return None
    return HttpAddress(identity.broadcast_address, identity.http_port)


def check_reply(reply: bytes) -> None:
    """`RegistryError` if the reply is an error. All errors of this protocol are fatal."""
    if reply.startswith(b"E_"):
        raise RegistryError(_shown(reply))


def _shown(reply: bytes) -> str:
    return reply[:_SHOWN].decode(errors="replace")


@attrs.define
class Replies:
    """Splits received bytes into replies. `max_size`: bytes of one reply, and bound of the buffer."""

    max_size: int
    awaited: int = 0
    """Replies that have yet to arrive."""
    _buffer: bytearray = attrs.field(factory=bytearray, init=False)

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes; returns the replies that are now complete. `RegistryError` for a protocol violation."""
        self._buffer += data
        replies: list[bytes] = []
        position = 0
        while (reply := self._reply_at(position)) is not None:
            replies.append(reply)
            position += _SIZE.size + len(reply)
        del self._buffer[:position]
        self.awaited -= len(replies)
        if self.awaited < 0 or (self._buffer and not self.awaited):
            raise RegistryError("protocol error: data that is not the reply to a command")
        return replies

    def _reply_at(self, position: int) -> bytes | None:
        start = position + _SIZE.size
        if len(self._buffer) < start:
            return None
        (size,) = _SIZE.unpack_from(self._buffer, position)
        if not 0 <= size <= self.max_size:
            raise RegistryError(f"reply of {size} bytes, where 0 to {self.max_size} are allowed")
        if len(self._buffer) < start + size:
            return None
        return bytes(self._buffer[start : start + size])
