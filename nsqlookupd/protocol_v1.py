"""The protocol V1 between nsqd and nsqlookupd, the server's side, without any I/O.

Rules:

- The client begins with four bytes, `  V1`. Then it sends commands, one line each; IDENTIFY has a body behind its
  line, an int32 size and as many bytes.
- Each command is answered once, in order. An answer is an int32 size and a text, for errors as for successes: there is
  no frame type. The server never speaks first.
- Every error is fatal: it is the last answer, and whatever the client sends behind it is not looked at.

Theory of operation: a `Session` is fed what came in, cut anywhere, and returns what is to be sent. It is a machine of a
few phases (`Phase`): each phase says what it waits for and, by `_CUT_SHORT`, what is answered when the client's sending
ends just there.

Bounds that the protocol itself does not have: `MAX_LINE` for a line, `MAX_IDENTIFY` for the body of an IDENTIFY,
`MAX_FIELD` for each text in it, and one for all bodies on their way in at one time (`Context.max_buffered`).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from nsqkit.logging import get_logger
from nsqkit.service.lenient_json import decode_object
from nsqkit.wire import ProtocolError, is_valid_name
from nsqkit.wire.commands import MAX_LINE
from nsqlookupd.registry import Full, Producer, ProducerInfo, Registry
from nsqlookupd.traffic import Traffic

__all__ = ["MAGIC_V1", "MAX_FIELD", "MAX_IDENTIFY", "Context", "Phase", "Session"]

_log = get_logger(__name__)

MAGIC_V1: Final = b"  V1"
MAX_IDENTIFY: Final = 1 << 20  # bytes
MAX_FIELD: Final = 1024  # characters

_OK: Final = b"OK"
_SIZE = struct.Struct(">i")
_SPARE: Final = MAX_LINE  # bytes of a body that need not be counted: a line may be as long
# What Go's strings.TrimSpace takes for white space; Python's own list has a few more.
_WHITE_SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_FIELDS: Final[Mapping[str, type]] = {
    "broadcast_address": str,
    "hostname": str,
    "http_port": int,
    "tcp_port": int,
    "topology_region": str,
    "topology_zone": str,
    "version": str,
}
_REQUIRED: Final = ("broadcast_address", "tcp_port", "http_port", "version")


class Phase(enum.Enum):
    """What a session waits for."""

    MAGIC = enum.auto()
    LINE = enum.auto()
    SIZE = enum.auto()
    """Of the body of an IDENTIFY."""
    BODY = enum.auto()
    CLOSING = enum.auto()
    """Nothing more: send what there is, then close."""


_CUT_SHORT: Final = {
    Phase.SIZE: ProtocolError("E_BAD_BODY", "IDENTIFY failed to read body size"),
    Phase.BODY: ProtocolError("E_BAD_BODY", "IDENTIFY failed to read body"),
}


@attrs.define(eq=False, kw_only=True)
class Context:
    """What all sessions of a daemon share."""

    registry: Registry
    identity: bytes = b"{}"
    """The answer to IDENTIFY: the JSON of who this nsqlookupd is."""
    max_buffered: int = 64 << 20
    """Bytes that all connections together may hold in long bodies and unsent answers."""
    buffered: int = 0
    traffic: Traffic = attrs.field(factory=Traffic)


class Session:
    """One connection. `phase` tells where it stands; call `end` once, whatever has happened."""

    def __init__(self, context: Context, remote: str) -> None:
        self.phase = Phase.MAGIC
        self.remote = remote
        self.producer: Producer | None = None
        self._context = context
        self._buffer = bytearray()
        self._body_size = 0
        self._counted = 0

    @property
    def incomplete(self) -> bool:
        """Whether something has begun (the connection itself, a command) of which the rest has to come."""
        return self.phase is not Phase.CLOSING and (self.phase is not Phase.LINE or bool(self._buffer))

    def feed(self, data: bytes, now: float) -> bytes:
        """Take in what the client sent, at `now` seconds of the registry's clock; returns what to answer."""
        self._buffer += data
        answers: list[bytes] = []
        position = 0
        try:
            while self.phase is not Phase.CLOSING:
                end = self._step(position, answers, now)
                if end is None:
                    break
                position = end
        except ProtocolError as error:
            answers.append(self._refuse(error))
        if self.phase is Phase.CLOSING:
            position = len(self._buffer)
        del self._buffer[:position]
        return b"".join([_SIZE.pack(len(answer)) + answer for answer in answers])

    def eof(self) -> bytes:
        """The client sends nothing more; returns what to answer."""
        error = _CUT_SHORT.get(self.phase)
        answer = self._refuse(error) if error is not None else b""
        self.phase = Phase.CLOSING
        return _SIZE.pack(len(answer)) + answer if answer else b""

    def end(self) -> None:
        """The connection is over: what it registered is gone. A second call does nothing."""
        self.phase = Phase.CLOSING
        self._buffer.clear()
        self._uncount()
        if self.producer is not None:
            self._context.registry.disconnect(self.producer)
            self.producer = None

    # --- the phases: each returns the position behind what it took, or None when that is not all there

    def _step(self, position: int, answers: list[bytes], now: float) -> int | None:
        if self.phase is Phase.LINE:
            return self._line(position, answers, now)
        if self.phase is Phase.MAGIC:
            return self._magic(position)
        if self.phase is Phase.SIZE:
            return self._size(position)
        return self._body(position, answers, now)

    def _magic(self, position: int) -> int | None:
        end = position + len(MAGIC_V1)
        if len(self._buffer) < end:
            return None
        if self._buffer[position:end] != MAGIC_V1:
            raise ProtocolError("E_BAD_PROTOCOL")
        self.phase = Phase.LINE
        return end

    def _line(self, position: int, answers: list[bytes], now: float) -> int | None:
        newline = self._buffer.find(b"\n", position, position + MAX_LINE)
        if newline < 0:
            if len(self._buffer) - position >= MAX_LINE:
                raise ProtocolError("E_INVALID", "command too long")
            return None
        line = self._buffer[position:newline].decode("utf-8", "surrogateescape")
        name, *params = line.strip(_WHITE_SPACE).split(" ")
        command = _COMMANDS.get(name)
        if command is None:
            self._context.traffic.commands["unknown"] += 1
            raise ProtocolError("E_INVALID", f"invalid command {name}")
        self._context.traffic.commands[name] += 1
        answer = command(self, params, now)
        if answer is not None:
            answers.append(answer)
        return newline + 1

    def _size(self, position: int) -> int | None:
        end = position + _SIZE.size
        if len(self._buffer) < end:
            return None
        size = _SIZE.unpack_from(self._buffer, position)[0]
        if size < 0:
            raise ProtocolError("E_BAD_BODY", f"IDENTIFY invalid body size {size}")
        if size > MAX_IDENTIFY:
            raise ProtocolError("E_BAD_BODY", f"IDENTIFY body too big {size} > {MAX_IDENTIFY}")
        self._count(size)
        self._body_size = size
        self.phase = Phase.BODY
        return end

    def _body(self, position: int, answers: list[bytes], now: float) -> int | None:
        end = position + self._body_size
        if len(self._buffer) < end:
            return None
        info = _producer_info(bytes(self._buffer[position:end]), self.remote)
        self._uncount()
        self.producer = self._context.registry.identify(info, now)
        _log.info(
            "CLIENT(%s): IDENTIFY Address:%s TCP:%d HTTP:%d Version:%s",
            self.remote,
            info.broadcast_address,
            info.tcp_port,
            info.http_port,
            info.version,
        )
        answers.append(self._context.identity)
        self.phase = Phase.LINE
        return end

    # --- the commands

    def _identify(self, params: list[str], now: float) -> bytes | None:
        if self.producer is not None:
            raise ProtocolError("E_INVALID", "cannot IDENTIFY again")
        self.phase = Phase.SIZE
        return None

    def _ping(self, params: list[str], now: float) -> bytes | None:
        if self.producer is not None:
            self._context.registry.ping(self.producer, now)
        return _OK

    def _register(self, params: list[str], now: float) -> bytes | None:
        producer = self._identified()
        topic, channel = _names("REGISTER", params)
        try:
            self._context.registry.register(producer, topic, channel)
        except Full as reason:
            raise ProtocolError("E_INVALID", f"REGISTER {reason}") from None
        _log.debug("CLIENT(%s): REGISTER topic:%s channel:%s", self.remote, topic, channel)
        return _OK

    def _unregister(self, params: list[str], now: float) -> bytes | None:
        producer = self._identified()
        topic, channel = _names("UNREGISTER", params)
        self._context.registry.unregister(producer, topic, channel)
        _log.debug("CLIENT(%s): UNREGISTER topic:%s channel:%s", self.remote, topic, channel)
        return _OK

    def _identified(self) -> Producer:
        if self.producer is None:
            raise ProtocolError("E_INVALID", "client must IDENTIFY")
        return self.producer

    # --- inside

    def _refuse(self, error: ProtocolError) -> bytes:
        self.phase = Phase.CLOSING
        _log.error("CLIENT(%s): %s", self.remote, error.payload[:200].decode("utf-8", "backslashreplace"))
        return error.payload

    def _count(self, size: int) -> None:
        """Count a long body as buffered, from its announcement on."""
        context = self._context
        if size <= _SPARE:
            return
        if context.buffered + size > context.max_buffered:
            raise ProtocolError("E_BAD_BODY", "IDENTIFY no room for body")
        context.buffered += size
        self._counted = size

    def _uncount(self) -> None:
        self._context.buffered -= self._counted
        self._counted = 0


_Command = Callable[[Session, list[str], float], bytes | None]
"""Takes the words behind the command's name; returns the answer, None when that comes later."""

_COMMANDS: Final[Mapping[str, _Command]] = {
    "IDENTIFY": Session._identify,
    "PING": Session._ping,
    "REGISTER": Session._register,
    "UNREGISTER": Session._unregister,
}


def _names(command: str, params: list[str]) -> tuple[str, str]:
    """The topic and the channel, which may be empty for none."""
    if not params:
        raise ProtocolError("E_INVALID", f"{command} insufficient number of params")
    topic, channel = params[0], params[1] if len(params) > 1 else ""
    if not is_valid_name(topic):
        raise ProtocolError("E_BAD_TOPIC", f"{command} topic name '{topic}' is not valid")
    if channel and not is_valid_name(channel):
        raise ProtocolError("E_BAD_CHANNEL", f"{command} channel name '{channel}' is not valid")
    return topic, channel


def _producer_info(body: bytes, remote: str) -> ProducerInfo:
    try:
        given: dict[str, Any] = decode_object(body, _FIELDS)
    except ValueError:
        raise ProtocolError("E_BAD_BODY", "IDENTIFY failed to decode JSON body") from None
    if not all(given.get(name) for name in _REQUIRED):
        raise ProtocolError("E_BAD_BODY", "IDENTIFY missing fields")
    for name, value in given.items():
        if isinstance(value, str) and len(value) > MAX_FIELD:
            raise ProtocolError("E_BAD_BODY", f"IDENTIFY {name} too long")
    return ProducerInfo(remote_address=remote, **given)
