"""The client's side of one V2 connection, without any I/O: bytes in, events out; calls in, bytes out.

    protocol = ClientProtocol()
    protocol.identify(options.identify_fields())
    ...send protocol.data_to_send()...
    for event in protocol.receive(data):
        ...

Rules:

- nsqd answers IDENTIFY, AUTH, SUB, PUB, MPUB, DPUB and CLS, in the order of the commands; FIN, REQ, TOUCH, RDY
  and NOP have no answer. So the commands that wait for one stand in a queue, and a response belongs to the
  first of them.
- An error frame that leaves the connection open (FIN, REQ, TOUCH that came too late) belongs to no command in
  the queue. Any other ends the connection and belongs to the first command in the queue if it can be its (an
  unknown one can), else to none: nsqd works through commands in order and stops at the bad one, so **whatever
  stood behind it was not executed**.
- A heartbeat is answered here, unasked, so that nobody can forget it.
- What nsqd sends is not believed: frame sizes are bounded, an answer that nobody waits for is an error.

`receive` is the hot path. A consumer's chunk of 64 KiB holds hundreds of messages, and each costs one
`unpack_from` and one slice; a producer's chunk is a run of `OK`s, which is matched as a whole. Small commands
gather in a list and leave as one piece of bytes.
"""

from __future__ import annotations

import enum
import json
import re
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs

from nsqkit import wire
from nsqkit.client.errors import ProtocolViolation, ServerError, server_error
from nsqkit.wire import encode, frames

__all__ = ["OK", "ClientProtocol", "Error", "Event", "Features", "Heartbeat", "Phase", "Request"]

DEFAULT_MAX_FRAME: Final = 256 * 1024 * 1024
HTTP: Final = int.from_bytes(b"HTTP", "big")
_PREFIX = struct.Struct(">ii")
_HEAD = frames.HEAD
_BODY = frames.BODY
_MESSAGE = int(wire.FrameType.MESSAGE)
_OKS = re.compile(b"(?:%b)+" % re.escape(wire.OK))

OK: Final = b"OK"


class Phase(enum.Enum):
    """Where a connection stands."""

    OPEN = "open"
    SUBSCRIBED = "subscribed"
    CLOSING = "closing"
    """CLS was sent."""
    CLOSE_WAIT = "close wait"
    """and answered: no more messages will come."""
    REFUSED = "refused"
    """A fatal error frame came: nsqd stopped there. Nothing more is sent or understood."""
    BROKEN = "broken"
    """The stream is out of step. Nothing more is sent or understood."""


@attrs.frozen
class Features:
    """What nsqd said in its answer to IDENTIFY; the defaults hold when it said no more than OK. Times in seconds."""

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
        """Raises `ProtocolViolation` for anything but `OK` or JSON of the right shape."""
        if payload == b"OK":
            return cls()
        try:
            fields = json.loads(payload)
            return cls(
                version=str(fields.get("version", "")),
                max_rdy_count=_positive(fields.get("max_rdy_count", 2500)),
                msg_timeout=_positive(fields.get("msg_timeout", 60_000)) / 1000,
                max_msg_timeout=_positive(fields.get("max_msg_timeout", 900_000)) / 1000,
                auth_required=bool(fields.get("auth_required", False)),
                tls_v1=bool(fields.get("tls_v1", False)),
                snappy=bool(fields.get("snappy", False)),
                deflate=bool(fields.get("deflate", False)),
                deflate_level=min(9, _positive(fields.get("deflate_level", 6))),
            )
        except (ValueError, AttributeError, TypeError) as error:
            raise ProtocolViolation(f"bad answer to IDENTIFY: {payload[:200]!r}") from error


def _positive(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"not a positive number: {value!r}")
    return value


@attrs.define(eq=False)
class Request:
    """A command that is answered; once its response frame has come, the event that says so.

    Subclasses may hold whatever the caller wants to have at hand then.
    """

    command: str
    answer: bytes = attrs.field(default=b"", init=False)
    """The payload of the response frame."""


@attrs.frozen
class Error:
    """An error frame. `request`: the command that failed; None when it is none of those that are answered."""

    error: ServerError
    request: Request | None = None


@attrs.frozen
class Heartbeat:
    """nsqd asked whether we are there; the answer is in `data_to_send` already."""


Event = Request | Error | Heartbeat | Any
"""The last: what `make_message` made."""

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
    """One connection. `make_message(timestamp_ns, attempts, id, body)` makes what the events have for a message."""

    def __init__(
        self,
        make_message: Callable[[int, int, bytes, bytes], Any] = wire.Message,
        *,
        max_frame: int = DEFAULT_MAX_FRAME,
    ) -> None:
        self.phase = Phase.OPEN
        self.pending: deque[Request] = deque()
        """Commands without their answers, in order."""
        self.taken = 0
        """How many of them, from the first on, were given out by `data_to_send`: nsqd may have got those."""
        self._make_message = make_message
        self._max_frame = max_frame
        self._out: list[bytes] = [wire.MAGIC_V2]
        self._pieces: list[bytes] = []  # the beginning of a frame that is not whole yet
        self._have = 0
        self._need = 0

    # Commands that are answered.

    def identify(self, fields: dict[str, Any]) -> None:
        """Queue IDENTIFY. Nothing else may be sent before its answer."""
        self.ask(Request("IDENTIFY"), encode.identify(fields))

    def auth(self, secret: str) -> None:
        """Queue AUTH."""
        self.ask(Request("AUTH"), encode.auth(secret))

    def sub(self, topic: str, channel: str) -> None:
        """Queue SUB; RDY may follow at once."""
        self.ask(Request("SUB"), encode.sub(topic, channel))
        self.phase = Phase.SUBSCRIBED

    def ask(self, request: Request, data: bytes) -> None:
        """Queue a whole command that is answered: a PUB, MPUB or DPUB. `request` is the event of its answer."""
        self.pending.append(request)
        self._out.append(data)

    def expect(self, what: str) -> None:
        """nsqd will answer what no command has asked for: it says OK at the end of each upgrade."""
        self.ask(Request(what), b"")

    def cls(self) -> None:
        """Queue CLS, once, on a subscribed connection; elsewhere nothing happens."""
        if self.phase is Phase.SUBSCRIBED:
            self.ask(Request("CLS"), encode.CLS)
            self.phase = Phase.CLOSING

    # Commands that are not.

    def send(self, command: bytes) -> None:
        """Queue a command that has no answer: RDY, FIN, REQ, TOUCH, NOP."""
        self._out.append(command)

    # Bytes.

    def data_to_send(self) -> bytes:
        """Everything queued since the last call, as one piece. Empty: nothing, or the connection has failed."""
        out = self._out
        if not out or self.phase in _OVER:
            return b""
        self.taken = len(self.pending)
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    @property
    def has_output(self) -> bool:
        """Whether `data_to_send` has something."""
        return bool(self._out) and self.phase not in _OVER

    def receive(self, data: bytes) -> list[Event]:
        """The events in what was received. Raises `ProtocolViolation` when the stream is out of step."""
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
        """Once it is over: the commands whose fate is unknown, and those that were certainly not executed.

        After a fatal error frame nothing is unknown.
        """
        waiting = list(self.pending)
        unknown = 0 if self.phase is Phase.REFUSED else self.taken
        return waiting[:unknown], waiting[unknown:]

    # Inside.

    def _parse(self, data: bytes, events: list[Event]) -> int:
        """Append the events of all whole frames; return where the first that is not whole begins."""
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
        """The beginning of a frame; pieces are joined once it can be whole, so that a large one costs no more."""
        self._pieces.append(rest)
        self._have = len(rest)
        self._need = 8
        if len(rest) >= 8:
            size = _PREFIX.unpack_from(rest)[0]
            if 4 <= size <= self._max_frame:
                self._need = 4 + size

    def _accepted(self, count: int, events: list[Event]) -> None:
        """So many of the commands that wait were answered with OK."""
        pending = self.pending
        if count > len(pending):
            raise self._out_of_step(f"an answer to nothing: {OK!r}")
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
            raise self._out_of_step(f"an answer to nothing: {payload[:100]!r}")
        request = self._pop()
        if request.command == "CLS":
            if payload != b"CLOSE_WAIT":
                raise self._out_of_step(f"a strange answer to CLS: {payload[:100]!r}")
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
    """A code that is not known can be any command's."""
    return code not in wire.FATAL or code in _ANSWERED_BY.get(command, _PUBLISH_ERRORS)


def _size_trouble(size: int, longest: int) -> str:
    if size == HTTP:
        return "unexpected HTTP response: this is the address of an HTTP server"
    if size < 4:
        return f"a frame of {size} bytes"
    return f"a frame of {size} bytes exceeds configured maximum of {longest}"
