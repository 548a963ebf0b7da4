"""The client's side of one V2 connection, without any I/O: bytes in, events out; calls in, bytes out.

    protocol = ClientProtocol()
    protocol.identify(options.identify_fields())
    ...send protocol.data_to_send()...
    for event in protocol.receive(data):
        ...

Rules:

- nsqd answers IDENTIFY, AUTH, SUB, PUB, MPUB, DPUB and CLS, in the order of the commands; FIN, REQ, TOUCH, RDY and NOP
  have no answer. So commands that wait for an answer are kept in a queue, and a response belongs to the first of them.
- An error frame that leaves the connection open (a FIN, REQ or TOUCH that came too late) belongs to no command in the
  queue. Any other ends the connection. It belongs to the first command in the queue if that command can cause it (an
  unknown error can be of any command), else to none. nsqd executes commands in order and stops at the bad one, so
  **later commands were not executed**.
- Heartbeats are answered here.
- Input is checked: frame sizes are bounded, and an answer without a request is an error.

`receive` is the hot path. A consumer's chunk of 64 KiB holds hundreds of messages, and each costs one `unpack_from` and
one slice; a producer's chunk is a run of `OK`s, which is matched as a whole. Small commands are collected in a list and
leave as one piece of bytes.
"""

from __future__ import annotations

import enum
import re
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs

from nsqkit import wire
from nsqkit.client.errors import ProtocolViolation, ServerError, server_error
from nsqkit.decoding import decode_json
from nsqkit.wire import encode, frames

__all__ = ["OK", "ClientProtocol", "Error", "Event", "Features", "Heartbeat", "Phase", "Request"]

DEFAULT_MAX_FRAME: Final = 256 * 1024 * 1024
LARGEST_NUMBER: Final = 1_000_000_000
"""Counts and milliseconds of an nsqd above this are taken for this."""
LONGEST_VERSION: Final = 100
HTTP: Final = int.from_bytes(b"HTTP", "big")
_PREFIX = struct.Struct(">ii")
_HEAD = frames.HEAD
_BODY = frames.BODY
_MESSAGE = int(wire.FrameType.MESSAGE)
_OKS = re.compile(b"(?:%b)+" % re.escape(wire.OK))

OK: Final = b"OK"


class Phase(enum.Enum):
    """The state of a connection."""

    OPEN = "open"
    SUBSCRIBED = "subscribed"
    CLOSING = "closing"
    """CLS was sent."""
    CLOSE_WAIT = "close wait"
    """CLS was answered: no more messages will come."""
    REFUSED = "refused"
    """nsqd sent a fatal error frame. Nothing more is sent or parsed."""
    BROKEN = "broken"
    """The peer violated the protocol. Nothing more is sent or parsed."""


@attrs.frozen
class Features:
    """nsqd's answer to IDENTIFY, times in seconds. The defaults are for an answer of just `OK`."""

    version: str = ""
    max_rdy_count: int = 2500
    msg_timeout: float = 60.0
    max_msg_timeout: float = 900.0
    auth_required: bool = False
    tls_v1: bool = False
    snappy: bool = False
    deflate: bool = False
    deflate_level: int = 6

    @classmethod
    def parse(cls, payload: bytes) -> Features:
        """From the payload of the answer, `OK` or JSON. Raises `ProtocolViolation`."""
        if payload == b"OK":
            return cls()
        try:
            fields = decode_json(payload)
            return cls(
                version=str(fields.get("version", ""))[:LONGEST_VERSION],
                max_rdy_count=_positive(fields.get("max_rdy_count", 2500)),
                msg_timeout=_positive(fields.get("msg_timeout", 60_000)) / 1000,
                max_msg_timeout=_positive(fields.get("max_msg_timeout", 900_000)) / 1000,
                auth_required=bool(fields.get("auth_required", False)),
                tls_v1=bool(fields.get("tls_v1", False)),
                snappy=bool(fields.get("snappy", False)),
                deflate=bool(fields.get("deflate", False)),
                deflate_level=min(9, _positive(fields.get("deflate_level", 6))),
            )
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise ProtocolViolation(f"bad answer to IDENTIFY: {payload[:200]!r}") from error


def _positive(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"not a positive number: {value!r}")
    return min(value, LARGEST_NUMBER)


@attrs.define(eq=False)
class Request:
    """A command that nsqd answers. It is the event of its own answer.

    Subclasses may add what the caller needs when the answer comes.
    """

    command: str
    answer: bytes = attrs.field(default=b"", init=False)
    """The payload of the response frame."""


@attrs.frozen
class Error:
    """An error frame. `request`: the command that failed; None for a command that has no answer."""

    error: ServerError
    request: Request | None = None


@attrs.frozen
class Heartbeat:
    """A heartbeat of nsqd. Its answer is queued already."""


Event = Request | Error | Heartbeat | Any
"""The last is what `make_message` returned."""

_HEARTBEAT = Heartbeat()
_OVER = (Phase.REFUSED, Phase.BROKEN)

_ANSWERED_BY: Final = {
    "IDENTIFY": frozenset({"E_IDENTIFY_FAILED", "E_BAD_BODY", "E_INVALID", "E_BAD_PROTOCOL"}),
    "AUTH": frozenset(
        {"E_AUTH_DISABLED", "E_AUTH_FAILED", "E_AUTH_ERROR", "E_UNAUTHORIZED", "E_BAD_BODY", "E_INVALID"}
    ),
    "SUB": frozenset(
        {"E_SUB_FAILED", "E_BAD_TOPIC", "E_BAD_CHANNEL", "E_AUTH_FIRST", "E_AUTH_FAILED", "E_UNAUTHORIZED"}
        | {"E_INVALID"}
    ),
    "CLS": frozenset({"E_INVALID"}),
}
_PUBLISH_ERRORS: Final = frozenset(
    {"E_PUB_FAILED", "E_MPUB_FAILED", "E_DPUB_FAILED", "E_BAD_TOPIC", "E_BAD_MESSAGE", "E_BAD_BODY"}
    | {"E_AUTH_FIRST", "E_AUTH_FAILED", "E_UNAUTHORIZED", "E_INVALID"}
)


class ClientProtocol:
    """One connection. `make_message(timestamp_ns, attempts, id, body)` makes the event for a message."""

    def __init__(
        self,
        make_message: Callable[[int, int, bytes, bytes], Any] = wire.Message,
        *,
        max_frame: int = DEFAULT_MAX_FRAME,
    ) -> None:
        self.phase = Phase.OPEN
        self.pending: deque[Request] = deque()
        """Unanswered commands, in order."""
        self.taken = 0
        """How many of them, from the first on, `data_to_send` has returned: nsqd may have received those."""
        self._make_message = make_message
        self._max_frame = max_frame
        self._out: list[bytes] = [wire.MAGIC_V2]
        self._pieces: list[bytes] = []  # the beginning of an incomplete frame
        self._have = 0
        self._need = 0

    # Commands with an answer.

    def identify(self, fields: dict[str, Any]) -> None:
        """Queue IDENTIFY, the first command. Nothing may be sent before its answer."""
        self.ask(Request("IDENTIFY"), encode.identify(fields))

    def auth(self, secret: str) -> None:
        """Queue AUTH."""
        self.ask(Request("AUTH"), encode.auth(secret))

    def sub(self, topic: str, channel: str) -> None:
        """Queue SUB. RDY may follow before its answer."""
        self.ask(Request("SUB"), encode.sub(topic, channel))
        self.phase = Phase.SUBSCRIBED

    def ask(self, request: Request, data: bytes) -> None:
        """Queue a PUB, MPUB or DPUB, encoded in `data`. `request` will be the event of its answer."""
        self.pending.append(request)
        self._out.append(data)

    def expect(self, what: str) -> None:
        """Expect an answer without a command: the OK at the end of an upgrade."""
        self.ask(Request(what), b"")

    def cls(self) -> None:
        """Queue CLS if the connection is subscribed and no CLS was queued before."""
        if self.phase is Phase.SUBSCRIBED:
            self.ask(Request("CLS"), encode.CLS)
            self.phase = Phase.CLOSING

    # Commands without an answer.

    def send(self, command: bytes) -> None:
        """Queue an encoded RDY, FIN, REQ, TOUCH or NOP."""
        self._out.append(command)

    # Bytes.

    def data_to_send(self) -> bytes:
        """Everything that was queued since the last call; empty also after a failure."""
        out = self._out
        if not out or self.phase in _OVER:
            return b""
        self.taken = len(self.pending)
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    @property
    def has_output(self) -> bool:
        """Whether `data_to_send` would return anything."""
        return bool(self._out) and self.phase not in _OVER

    def receive(self, data: bytes) -> list[Event]:
        """Parse received bytes; the events in them, in order. Raises `ProtocolViolation`."""
        if self.phase in _OVER:
            return []
        if self._pieces:
            self._pieces.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._pieces)
            self._pieces.clear()
        events: list[Event] = []
        rest = self._parse(data, events)
        if rest < len(data):
            self._keep(data[rest:])
        return events

    def unanswered(self) -> tuple[list[Request], list[Request]]:
        """After the end of the connection: commands that may have been executed, and those that certainly were not.

        After a fatal error frame all are certain.
        """
        waiting = list(self.pending)
        unknown = 0 if self.phase is Phase.REFUSED else self.taken
        return waiting[:unknown], waiting[unknown:]

    # Parsing.

    def _parse(self, data: bytes, events: list[Event]) -> int:
        """Append the events of all complete frames to `events`; the position of the first incomplete one."""
        at, end, longest = 0, len(data), self._max_frame
        head, prefix, make, add = _HEAD.unpack_from, _PREFIX.unpack_from, self._make_message, events.append
        while end - at >= 8:
            size, kind = prefix(data, at)
            if not 4 <= size <= longest:
                raise self._out_of_step(_size_trouble(size, longest))
            stop = at + 4 + size
            if stop > end:
                break
            if kind == _MESSAGE and size >= _BODY - 4:
                _, _, timestamp_ns, attempts, message_id = head(data, at)
                add(make(timestamp_ns, attempts, message_id, data[at + _BODY : stop]))
            elif size == 6 and self.phase is Phase.OPEN and (oks := _OKS.match(data, at)):
                stop = oks.end()
                self._accepted((stop - at) // len(wire.OK), events)
            else:
                add(self._other_frame(kind, data[at + 8 : stop]))
                if self.phase in _OVER:
                    return end
            at = stop
        return at

    def _keep(self, rest: bytes) -> None:
        """Keep the beginning of a frame. Pieces are joined when it can be complete: a large frame is copied once."""
        self._pieces.append(rest)
        self._have = len(rest)
        self._need = 8
        if len(rest) >= 8:
            size = _PREFIX.unpack_from(rest)[0]
            if 4 <= size <= self._max_frame:
                self._need = 4 + size

    def _accepted(self, count: int, events: list[Event]) -> None:
        """The first `count` unanswered commands were answered with OK."""
        pending = self.pending
        if count > len(pending):
            raise self._out_of_step(f"an answer without a request: {OK!r}")
        for _ in range(count):
            request = pending.popleft()
            request.answer = OK
            events.append(request)
        self.taken = max(0, self.taken - count)

    def _other_frame(self, kind: int, payload: bytes) -> Event:
        if kind == wire.FrameType.RESPONSE:
            return self._response(payload)
        if kind == wire.FrameType.ERROR:
            return self._error(payload)
        raise self._out_of_step(f"a frame of type {kind} with {len(payload)} bytes")

    def _response(self, payload: bytes) -> Event:
        if payload == b"_heartbeat_":
            self._out.append(encode.NOP)
            return _HEARTBEAT
        if not self.pending:
            raise self._out_of_step(f"an answer without a request: {payload[:100]!r}")
        request = self._pop()
        if request.command == "CLS":
            if payload != b"CLOSE_WAIT":
                raise self._out_of_step(f"unexpected answer to CLS: {payload[:100]!r}")
            self.phase = Phase.CLOSE_WAIT
        request.answer = payload
        return request

    def _error(self, payload: bytes) -> Event:
        error = server_error(payload)
        if not error.fatal:
            return Error(error)
        self.phase = Phase.REFUSED
        self._out.clear()
        if self.pending and _can_answer(error.code, self.pending[0].command):
            return Error(error, self._pop())
        return Error(error)

    def _pop(self) -> Request:
        self.taken = max(0, self.taken - 1)
        return self.pending.popleft()

    def _out_of_step(self, why: str) -> ProtocolViolation:
        self.phase = Phase.BROKEN
        self._out.clear()
        return ProtocolViolation(why)


def _can_answer(code: str, command: str) -> bool:
    """Whether an error can be the answer to a command. An unknown code can be that of any."""
    return code not in wire.FATAL or code in _ANSWERED_BY.get(command, _PUBLISH_ERRORS)


def _size_trouble(size: int, longest: int) -> str:
    if size == HTTP:
        return "unexpected HTTP response: this is the address of an HTTP server"
    text = size.to_bytes(4, "big", signed=True)
    if text.isalnum() or text[:2] == b"E_":
        return f"not a frame of nsqd: it begins with {text!r}; is this its TCP address?"
    if size < 4:
        return f"a frame of {size} bytes"
    return f"a frame of {size} bytes exceeds configured maximum of {longest}"
