"""The server side of the protocol V1 between nsqd and nsqlookupd, without any I/O.

Rules:

- The client begins with four bytes, `  V1`. Then it sends commands, one line each; IDENTIFY has a body after its line,
  an int32 size and that many bytes.
- Each command gets one response, in order: an int32 size and a text, for errors as for successes, without a frame type.
  The server sends nothing before the first command.
- Every error is fatal: it is the last response, and further input is ignored.

Theory of operation: a `Session` is fed received bytes, split anywhere, and returns the bytes to send. Its state is a
`SessionPhase`, the part of the input that it expects next; `_ERRORS_AT_EOF` has the error if the input ends there.

Limits that the protocol itself does not have: `MAX_LINE` for a line, `MAX_IDENTIFY` for the body of an IDENTIFY,
`MAX_FIELD` for each text in it, and `Context.max_buffered` for all incomplete bodies together.
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

__all__ = ["MAGIC_V1", "MAX_FIELD", "MAX_IDENTIFY", "Context", "Session", "SessionPhase"]

_log = get_logger(__name__)

MAGIC_V1: Final = b"  V1"
MAX_IDENTIFY: Final = 1 << 20  # bytes
MAX_FIELD: Final = 1024  # characters

_OK: Final = b"OK"
_SIZE = struct.Struct(">i")
_UNCOUNTED_BYTES: Final = MAX_LINE  # shorter bodies are not counted: a line may be as long
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


class SessionPhase(enum.Enum):
    """The part of the input that a session expects next."""

    MAGIC = enum.auto()
    LINE = enum.auto()
    SIZE = enum.auto()
    """The size of the body of an IDENTIFY."""
    BODY = enum.auto()
    CLOSING = enum.auto()
    """None: input is ignored, the last responses are sent, then the connection is closed."""


_ERRORS_AT_EOF: Final = {
    SessionPhase.SIZE: ProtocolError("E_BAD_BODY", "IDENTIFY failed to read body size"),
    SessionPhase.BODY: ProtocolError("E_BAD_BODY", "IDENTIFY failed to read body"),
}


@attrs.define(eq=False, kw_only=True)
class Context:
    """State shared by all sessions of a daemon."""

    registry: Registry
    identity: bytes = b"{}"
    """The response to IDENTIFY: this nsqlookupd's name, addresses and version, as JSON."""
    max_buffered: int = 64 << 20
    """Bytes that all connections together may hold in incomplete bodies and unsent responses."""
    buffered: int = 0
    traffic: Traffic = attrs.field(factory=Traffic)


def _leave_open() -> None:
    """There is no connection to close."""


class Session:
    """One connection. `end` must be called when it is over. `close` is called when it has to end, without an answer."""

    def __init__(self, context: Context, remote: str, close: Callable[[], None] = _leave_open) -> None:
        self.phase = SessionPhase.MAGIC
        self.remote = remote
        self.producer: Producer | None = None
        self._context = context
        self._close = close
        self._buffer = bytearray()
        self._body_size = 0
        self._reserved = 0

    @property
    def incomplete(self) -> bool:
        """Whether the client has begun something (the connection itself, a command) that is not complete."""
        return self.phase is not SessionPhase.CLOSING and (
            self.phase is not SessionPhase.LINE or bool(self._buffer)
        )

    def feed(self, data: bytes, now: float) -> bytes:
        """Process received bytes, at `now` by the registry's clock; returns the responses as bytes."""
        self._buffer += data
        answers: list[bytes] = []
        position = 0
        try:
            while self.phase is not SessionPhase.CLOSING:
                end = self._step(position, answers, now)
                if end is None:
                    break
                position = end
        except ProtocolError as error:
            answers.append(self._refuse(error))
        if self.phase is SessionPhase.CLOSING:
            position = len(self._buffer)
        del self._buffer[:position]
        return b"".join([_SIZE.pack(len(answer)) + answer for answer in answers])

    def eof(self) -> bytes:
        """Process the end of the input; returns the last response as bytes."""
        error = _ERRORS_AT_EOF.get(self.phase)
        answer = self._refuse(error) if error is not None else b""
        self.phase = SessionPhase.CLOSING
        return _SIZE.pack(len(answer)) + answer if answer else b""

    def end(self) -> None:
        """End the session, and remove its producer from the registry. A second call has no effect."""
        self.phase = SessionPhase.CLOSING
        self._buffer.clear()
        self._release_body()
        if self.producer is not None:
            self._context.registry.disconnect(self.producer)
            self.producer = None

    def _evicted(self) -> None:
        """The registry is full, and this producer has most."""
        _log.error("CLIENT(%s): closing: the registry is full, and it has most registrations", self.remote)
        self.phase = SessionPhase.CLOSING
        self.producer = None
        self._close()

    # --- parsing: each method returns the position after the part it has parsed, or None if that is incomplete

    def _step(self, position: int, answers: list[bytes], now: float) -> int | None:
        if self.phase is SessionPhase.LINE:
            return self._parse_line(position, answers, now)
        if self.phase is SessionPhase.MAGIC:
            return self._parse_magic(position)
        if self.phase is SessionPhase.SIZE:
            return self._parse_size(position)
        return self._parse_body(position, answers, now)

    def _parse_magic(self, position: int) -> int | None:
        end = position + len(MAGIC_V1)
        if len(self._buffer) < end:
            return None
        if self._buffer[position:end] != MAGIC_V1:
            raise ProtocolError("E_BAD_PROTOCOL")
        self.phase = SessionPhase.LINE
        return end

    def _parse_line(self, position: int, answers: list[bytes], now: float) -> int | None:
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

    def _parse_size(self, position: int) -> int | None:
        end = position + _SIZE.size
        if len(self._buffer) < end:
            return None
        size = _SIZE.unpack_from(self._buffer, position)[0]
        if size < 0:
            raise ProtocolError("E_BAD_BODY", f"IDENTIFY invalid body size {size}")
        if size > MAX_IDENTIFY:
            raise ProtocolError("E_BAD_BODY", f"IDENTIFY body too big {size} > {MAX_IDENTIFY}")
        self._reserve_body(size)
        self._body_size = size
        self.phase = SessionPhase.BODY
        return end

    def _parse_body(self, position: int, answers: list[bytes], now: float) -> int | None:
        end = position + self._body_size
        if len(self._buffer) < end:
            return None
        info = _producer_info(bytes(self._buffer[position:end]), self.remote)
        self._release_body()
        self.producer = self._context.registry.identify(info, now, self._evicted)
        _log.info(
            "CLIENT(%s): IDENTIFY Address:%s TCP:%d HTTP:%d Version:%s",
            self.remote,
            info.broadcast_address,
            info.tcp_port,
            info.http_port,
            info.version,
        )
        answers.append(self._context.identity)
        self.phase = SessionPhase.LINE
        return end

    # --- the commands

    def _identify(self, params: list[str], now: float) -> bytes | None:
        if self.producer is not None:
            raise ProtocolError("E_INVALID", "cannot IDENTIFY again")
        self.phase = SessionPhase.SIZE
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

    # --- helpers

    def _refuse(self, error: ProtocolError) -> bytes:
        self.phase = SessionPhase.CLOSING
        _log.error("CLIENT(%s): %s", self.remote, error.payload[:200].decode("utf-8", "backslashreplace"))
        return error.payload

    def _reserve_body(self, size: int) -> None:
        """Count a long body as buffered, as soon as its size is known."""
        context = self._context
        if size <= _UNCOUNTED_BYTES:
            return
        if context.buffered + size > context.max_buffered:
            raise ProtocolError("E_BAD_BODY", "IDENTIFY no room for body")
        context.buffered += size
        self._reserved = size

    def _release_body(self) -> None:
        self._context.buffered -= self._reserved
        self._reserved = 0


_Command = Callable[[Session, list[str], float], bytes | None]
"""Takes the parameters; returns the response, or None if it follows later."""

_COMMANDS: Final[Mapping[str, _Command]] = {
    "IDENTIFY": Session._identify,
    "PING": Session._ping,
    "REGISTER": Session._register,
    "UNREGISTER": Session._unregister,
}


def _names(command: str, params: list[str]) -> tuple[str, str]:
    """The topic and the channel, which is empty if there is none."""
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
