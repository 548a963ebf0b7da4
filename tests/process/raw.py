"""A tiny blocking client of the V2 protocol for tests: one socket, every step in sight, nothing done by
itself.

The only thing it does unasked is to answer heartbeats while it reads. Commands with an answer
(`identify`, `sub`, `pub`, `mpub`, `dpub`, `cls`) wait for it and raise `ErrorFrame` when it is an
error; messages that arrive meanwhile are kept for `message`. To pipeline, `send` what the functions of
this module build and read the answers later.

The end of the connection, expected or not, is `Disconnected`; a wait that lasts too long is
`TimeoutError`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final

import attrs

from tests.timing import patience

__all__ = [
    "Disconnected",
    "ErrorFrame",
    "Frame",
    "Message",
    "RawClient",
    "dpub_command",
    "mpub_command",
    "pub_command",
]

RESPONSE: Final = 0
ERROR: Final = 1
MESSAGE: Final = 2
MAX_FRAME: Final = 16 * 1024 * 1024
"""No test sends more in one frame: a larger size means that the stream is out of step."""

_FRAME_HEAD = struct.Struct(">ii")
_MESSAGE_HEAD = struct.Struct(">qH16s")
_SIZE = struct.Struct(">i")


class Disconnected(Exception):
    """The peer ended the connection, or it broke."""


class ErrorFrame(Exception):
    """The daemon answered with an error frame."""

    @property
    def text(self) -> str:
        """Give the whole text of the frame, code first."""
        return str(self.args[0])

    @property
    def code(self) -> str:
        """Give the first word: `E_INVALID`, `E_PUB_FAILED` and so on."""
        return self.text.split(" ", 1)[0]


@attrs.frozen
class Frame:
    """One frame as it came: its type (0 response, 1 error, 2 message) and its payload."""

    kind: int
    payload: bytes


@attrs.frozen
class Message:
    """One delivered message. The time stamp is in nanoseconds since the epoch."""

    timestamp_ns: int
    attempts: int
    id: bytes
    body: bytes

    @classmethod
    def parse(cls, payload: bytes) -> Message:
        """Take the payload of a message frame apart."""
        timestamp_ns, attempts, message_id = _MESSAGE_HEAD.unpack_from(payload)
        return cls(timestamp_ns, attempts, message_id, payload[_MESSAGE_HEAD.size :])


def pub_command(topic: str, body: bytes) -> bytes:
    """Build a PUB."""
    return b"PUB %b\n%b%b" % (topic.encode(), _SIZE.pack(len(body)), body)


def mpub_command(topic: str, bodies: Sequence[bytes]) -> bytes:
    """Build an MPUB."""
    inner = _SIZE.pack(len(bodies)) + b"".join(_SIZE.pack(len(body)) + body for body in bodies)
    return b"MPUB %b\n%b%b" % (topic.encode(), _SIZE.pack(len(inner)), inner)


def dpub_command(topic: str, delay_ms: int, body: bytes) -> bytes:
    """Build a DPUB."""
    return b"DPUB %b %d\n%b%b" % (topic.encode(), delay_ms, _SIZE.pack(len(body)), body)


@attrs.define(eq=False)
class RawClient:
    """One connection, its magic sent.

    Every wait ends after `timeout_s`, as seconds on a quiet machine; a limit that a call gives is not scaled.
    """

    sock: socket.socket
    timeout_s: float = 5.0
    _data: bytearray = attrs.field(factory=bytearray)
    _messages: deque[Message] = attrs.field(factory=deque)

    @classmethod
    def connect(cls, port: int, *, host: str = "127.0.0.1", timeout_s: float = 5.0) -> RawClient:
        """Connect and send the magic. OSError when nobody listens."""
        sock = socket.create_connection((host, port), timeout=patience(timeout_s))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = cls(sock, timeout_s)
        client.send(b"  V2")
        return client

    def __enter__(self) -> RawClient:
        """Give the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the socket."""
        self.close()

    def close(self) -> None:
        """Close the socket. Twice is fine."""
        self.sock.close()

    def start_tls(self, context: ssl.SSLContext) -> None:
        """After an IDENTIFY that agreed on it: the handshake, and its OK. `ssl.SSLError` when it fails."""
        self.sock = context.wrap_socket(self.sock, server_hostname="127.0.0.1")
        assert self.response() == b"OK"

    # Commands that are answered.

    def identify(self, **fields: Any) -> dict[str, Any] | None:
        """IDENTIFY with these fields; the JSON of the answer, or None for a bare OK."""
        body = json.dumps(fields).encode()
        answer = self.ask(b"IDENTIFY\n" + _SIZE.pack(len(body)) + body)
        if answer == b"OK":
            return None
        settings: dict[str, Any] = json.loads(answer)
        return settings

    def auth(self, secret: str) -> dict[str, Any]:
        """AUTH; the JSON of the answer."""
        answer: dict[str, Any] = json.loads(self.ask(b"AUTH\n" + _SIZE.pack(len(secret)) + secret.encode()))
        return answer

    def sub(self, topic: str, channel: str) -> None:
        """SUB, and its OK."""
        self.ask_ok(b"SUB %b %b\n" % (topic.encode(), channel.encode()))

    def pub(self, topic: str, body: bytes) -> None:
        """PUB, and its OK."""
        self.ask_ok(pub_command(topic, body))

    def mpub(self, topic: str, bodies: Sequence[bytes]) -> None:
        """MPUB, and its OK."""
        self.ask_ok(mpub_command(topic, bodies))

    def dpub(self, topic: str, delay_ms: int, body: bytes) -> None:
        """DPUB, and its OK."""
        self.ask_ok(dpub_command(topic, delay_ms, body))

    def cls(self) -> None:
        """CLS, and its CLOSE_WAIT."""
        answer = self.ask(b"CLS\n")
        assert answer == b"CLOSE_WAIT", answer

    # Commands without an answer.

    def rdy(self, count: int) -> None:
        """RDY."""
        self.send(b"RDY %d\n" % count)

    def fin(self, message_id: bytes) -> None:
        """FIN."""
        self.send(b"FIN %b\n" % message_id)

    def req(self, message_id: bytes, delay_ms: int) -> None:
        """REQ."""
        self.send(b"REQ %b %d\n" % (message_id, delay_ms))

    def touch(self, message_id: bytes) -> None:
        """TOUCH."""
        self.send(b"TOUCH %b\n" % message_id)

    # Bytes and frames.

    def send(self, data: bytes) -> None:
        """Send these bytes, whatever they are."""
        self.sock.settimeout(patience(self.timeout_s))
        try:
            self.sock.sendall(data)
        except (TimeoutError, ssl.SSLError):
            raise
        except OSError as error:
            raise Disconnected(str(error)) from error

    def ask(self, command: bytes) -> bytes:
        """Send a command and give its answer."""
        self.send(command)
        return self.response()

    def ask_ok(self, command: bytes) -> None:
        """Send a command whose only good answer is OK."""
        answer = self.ask(command)
        assert answer == b"OK", answer

    def response(self, timeout_s: float | None = None) -> bytes:
        """Read up to the next response and give its payload. An error frame before it raises `ErrorFrame`."""
        deadline = self._deadline(timeout_s)
        while True:
            frame = self._next_frame(deadline)
            if frame.kind != MESSAGE:
                return _payload(frame)
            self._messages.append(Message.parse(frame.payload))

    def message(self, timeout_s: float | None = None) -> Message:
        """Give the next message, kept or read. An error frame before it raises `ErrorFrame`."""
        if self._messages:
            return self._messages.popleft()
        frame = self.read_frame(timeout_s)
        assert frame.kind == MESSAGE, _payload(frame)
        return Message.parse(frame.payload)

    def no_message(self, for_s: float) -> None:
        """Check that no message comes for so long."""
        with contextlib.suppress(TimeoutError):
            raise AssertionError(f"not expected: {self.message(for_s)}")

    def read_frame(self, timeout_s: float | None = None) -> Frame:
        """Read the next frame that is no heartbeat; heartbeats are answered on the way."""
        return self._next_frame(self._deadline(timeout_s))

    # Inside.

    def _deadline(self, timeout_s: float | None) -> float:
        return time.monotonic() + (patience(self.timeout_s) if timeout_s is None else timeout_s)

    def _next_frame(self, deadline: float) -> Frame:
        while True:
            frame = self._take_frame()
            if frame is None:
                self._receive(deadline)
            elif frame == Frame(RESPONSE, b"_heartbeat_"):
                self.send(b"NOP\n")
            else:
                return frame

    def _take_frame(self) -> Frame | None:
        if len(self._data) < _FRAME_HEAD.size:
            return None
        size, kind = _FRAME_HEAD.unpack_from(self._data)
        assert 4 <= size <= MAX_FRAME, f"out of step: a frame of {size} bytes"
        if len(self._data) < 4 + size:
            return None
        payload = bytes(self._data[_FRAME_HEAD.size : 4 + size])
        del self._data[: 4 + size]
        return Frame(kind, payload)

    def _receive(self, deadline: float) -> None:
        self.sock.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            data = self.sock.recv(262_144)
        except (TimeoutError, ssl.SSLError):
            raise
        except OSError as error:
            raise Disconnected(str(error)) from error
        if not data:
            raise Disconnected("the daemon closed the connection")
        self._data += data


def _payload(frame: Frame) -> bytes:
    if frame.kind == ERROR:
        raise ErrorFrame(frame.payload.decode(errors="replace"))
    return frame.payload
