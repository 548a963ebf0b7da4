"""The client side of nsqlookupd's protocol V1, without any I/O: encoding of commands, parsing of replies.

Rules:

- A connection begins with the four bytes of `MAGIC`; the registry sends nothing before the first command.
- Every command gets exactly one reply, in order: an int32 size and that many bytes. There is no frame type; an error is
  recognized by its text.
- Input is not trusted: a reply above the size limit, and bytes that are not the reply to a command, end the connection.
- FOLLOWERS, LEAVING, GRANT, RELEASE and STANDING are for witnesses only (`RegistryIdentity.witness`): the original
  would close the connection.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import msgspec

from nsqkit.decoding import DecodeError
from nsqkit.service.typed_json import decode_json_as

__all__ = [
    "MAGIC",
    "MAX_FOLLOWERS",
    "PING",
    "STANDING",
    "Grant",
    "Heard",
    "HttpAddress",
    "RegistryError",
    "RegistryIdentity",
    "Replies",
    "WitnessAnswer",
    "check_reply",
    "encode_followers",
    "encode_grant",
    "encode_identify",
    "encode_leaving",
    "encode_register",
    "encode_release",
    "encode_unregister",
    "parse_grant",
    "parse_identity",
    "parse_standing",
]

MAGIC: Final = b"  V1"
PING: Final = b"PING\n"
STANDING: Final = b"STANDING\n"
HIGHEST_PORT = 65535
MAX_FOLLOWERS: Final = 16

_WITNESS: Final = re.compile("[0-9a-f]{32}")
_SIZE = struct.Struct(">i")
_SHOWN = 200  # bytes of a reply that are logged at most


class RegistryError(Exception):
    """The connection to a registry cannot be used any more; the text is the reason."""


@attrs.frozen
class HttpAddress:
    """The address of a registry's HTTP API, from its reply to IDENTIFY. `secure`: it is for HTTPS."""

    host: str
    port: int
    secure: bool = False


@attrs.frozen
class RegistryIdentity:
    """What a registry says of itself. `http`: None if that is no usable address.

    `witness`: the id of one that can be asked for grants, another one at each of its starts; empty for others.
    """

    http: HttpAddress | None
    witness: str = ""


@attrs.frozen
class Grant:
    """The reply to GRANT. `reason`: for the operator."""

    granted: bool
    reason: str = ""


@attrs.frozen
class WitnessAnswer:
    """A registry to a follower that wants to adopt a copy.

    `witness`: its id, by which several addresses of one registry are counted once; empty for one that is no witness or
    not connected, which never grants. `reason`: for the operator.
    """

    address: str
    witness: str
    granted: bool
    reason: str


@attrs.frozen
class Heard:
    """A registry, when it has heard of this nsqd last (-inf: never), and the id of the witness that it is now.

    `is_here`: it is on this machine.
    """

    address: str
    witness: str
    at: float
    is_here: bool = False


def encode_identify(fields: Mapping[str, str | int]) -> bytes:
    """IDENTIFY; the keys are sorted, as the original sorts them."""
    return _with_body("IDENTIFY", fields)


def encode_followers(lives: Sequence[str], adopt_after: float, restart_grace: float) -> bytes:
    """FOLLOWERS: these may adopt the life of this nsqd, after so many seconds of silence."""
    fields = {
        "followers": list(lives),
        "adopt_after_ms": round(adopt_after * 1000),
        "restart_grace_ms": round(restart_grace * 1000),
    }
    return _with_body("FOLLOWERS", fields)


def encode_leaving(*, for_good: bool) -> bytes:
    """LEAVING: this nsqd stops, to be started again or for good."""
    return _with_body("LEAVING", {"for_good": for_good})


def encode_grant(life: str) -> bytes:
    """GRANT: may this nsqd adopt its copy of a life?"""
    return _with_body("GRANT", {"life": life})


def encode_release(life: str) -> bytes:
    """RELEASE: it does not adopt it, at least not now."""
    return _with_body("RELEASE", {"life": life})


def _with_body(command: str, fields: Mapping[str, object]) -> bytes:
    body = msgspec.json.encode(dict(fields), order="sorted")
    return command.encode() + b"\n" + _SIZE.pack(len(body)) + body


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
    https_port: int = 0
    witness: str = ""


def parse_identity(reply: bytes, *, secure: bool = False) -> RegistryIdentity:
    """What a reply to IDENTIFY says. `secure`: its HTTP API is asked over TLS only.

    `RegistryError` for an error reply, and for a reply that is not a JSON object with these fields.
    """
    check_reply(reply)
    try:
        identity = decode_json_as(reply, _Identity)
    except DecodeError as error:
        raise RegistryError(f"failed to parse the reply to IDENTIFY - {_shown(reply)}") from error
    port = identity.https_port if secure else identity.http_port
    http = None
    if identity.broadcast_address and 0 < port <= HIGHEST_PORT:
        http = HttpAddress(identity.broadcast_address, port, secure)
    return RegistryIdentity(http, identity.witness if _WITNESS.fullmatch(identity.witness) else "")


def parse_grant(reply: bytes) -> Grant:
    """What a reply to GRANT says. `RegistryError` if it cannot be read."""
    try:
        return decode_json_as(reply, Grant)
    except DecodeError as error:
        raise RegistryError(f"failed to parse the reply to GRANT - {_shown(reply)}") from error


@attrs.frozen
class _Standing:
    adopted: bool


def parse_standing(reply: bytes) -> bool:
    """Whether somebody serves the copy of this nsqd, or may be about to. `RegistryError` if it cannot be read."""
    try:
        return decode_json_as(reply, _Standing).adopted
    except DecodeError as error:
        raise RegistryError(f"failed to parse the reply to STANDING - {_shown(reply)}") from error


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
