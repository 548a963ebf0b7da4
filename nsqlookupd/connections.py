"""The TCP connections: two trio tasks round each session, one that reads and one that writes.

Rules:

- A client is never waited for without an end: for its first bytes `MAGIC_SECONDS`, for the rest of a command that it
  has begun `COMMAND_SECONDS`, for its taking a piece of the answers `WRITE_SECONDS`. Between commands it may be silent
  as long as it likes; TCP keepalive finds out when its host is gone.
- Answers gather while the client takes none, so that one which sends all its commands before it reads the first answer
  is served; above `MOST_UNSENT` bytes it is not read until it has taken some.
- When a client's sending ends, for whatever reason, its producer is gone at once, before the last answers are sent.
- What goes wrong in one connection ends only that one.
"""

from __future__ import annotations

import contextlib
import math
import socket
from typing import Final

import trio

from nsqkit.logging import get_logger
from nsqlookupd.protocol_v1 import Context, Phase, Session

__all__ = ["Connections"]

log = get_logger(__name__)

CHUNK: Final = 16 * 1024
MAGIC_SECONDS: Final = 10.0
COMMAND_SECONDS: Final = 30.0
WRITE_SECONDS: Final = 30.0
MOST_UNSENT: Final = 1024 * 1024  # bytes: the answers to some 170,000 registrations
LITTLE_UNSENT: Final = 4 * 1024  # bytes that a client may leave unread however much others do
LINGER_SECONDS: Final = 2.0  # for a client to read the last error before the connection is torn down
LINGER_BYTES: Final = 1 << 20
MOST_CONNECTIONS: Final = 10_000

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


class Connections:
    """All connections of a daemon."""

    def __init__(self, context: Context, most: int = MOST_CONNECTIONS) -> None:
        self._context = context
        self._most = most

    @property
    def count(self) -> int:
        """How many there are now."""
        return self._context.traffic.connections

    async def serve(self, stream: trio.abc.HalfCloseableStream, remote: str) -> None:
        """Serve one client until either side ends it, and close the stream. Raises nothing but cancellation."""
        traffic = self._context.traffic
        traffic.connections += 1
        traffic.connections_total += 1
        try:
            if self.count > self._most:
                log.error("TCP: client(%s) refused: %d are connected", remote, self.count - 1)
                return
            log.info("TCP: new client(%s)", remote)
            await _Connection(stream, self._context, remote).run()
            log.info("PROTOCOL(V1): [%s] exiting", remote)
        except Exception:
            log.exception("[%s] closing after an error of ours", remote)
        finally:
            traffic.connections -= 1
            await trio.aclose_forcefully(stream)


def tune(sock: trio.socket.SocketType) -> None:
    """Let the kernel find out about clients whose host is gone, within two minutes."""
    if sock.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError):  # a client that has gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            number = getattr(socket, name, None)
            if number is not None:
                sock.setsockopt(socket.IPPROTO_TCP, number, value)


class _Connection:
    """One client: its stream, its session, and the answers that it has not taken yet."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, context: Context, remote: str) -> None:
        self._stream = stream
        self._context = context
        self._session = Session(context, remote)
        self._unsent = bytearray()
        self._sending = 0
        self._complete_at = trio.current_time()
        """When the last command was complete; at first, when the connection began."""
        self._news = trio.Event()
        self._room = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    try:
                        await self._read()
                    finally:
                        self._session.end()
                        self._news.set()
        finally:
            self._context.buffered -= len(self._unsent) + self._sending

    async def _read(self) -> None:
        session = self._session
        while session.phase is not Phase.CLOSING:
            while not self._may_read():
                self._room = trio.Event()
                await self._room.wait()
            data = await self._receive()
            if data is None:
                self._scope.cancel()
                return
            now = trio.current_time()
            was_incomplete = session.incomplete
            answer = session.feed(data, now) if data else session.eof()
            if answer or not was_incomplete:
                self._complete_at = now
            self._unsent += answer
            self._context.buffered += len(answer)
            self._news.set()

    def _may_read(self) -> bool:
        unsent = len(self._unsent) + self._sending
        if unsent <= LITTLE_UNSENT:
            return True
        return unsent <= MOST_UNSENT and self._context.buffered <= self._context.max_buffered

    async def _receive(self) -> bytes | None:
        """What the client sent next, empty at the end of it; None when it is gone or has been too slow."""
        session = self._session
        limit = MAGIC_SECONDS if session.phase is Phase.MAGIC else COMMAND_SECONDS
        deadline = self._complete_at + limit if session.incomplete else math.inf
        with trio.CancelScope(deadline=deadline):
            try:
                return bytes(await self._stream.receive_some(CHUNK))
            except _GONE:
                return None
        log.error("CLIENT(%s): closing, it has not sent what it began within %g s", session.remote, limit)
        return None

    async def _write(self) -> None:
        while True:
            if self._unsent:
                if not await self._send_piece():
                    self._scope.cancel()
                    return
            elif self._session.phase is Phase.CLOSING:
                break
            else:
                self._news = trio.Event()
                await self._news.wait()
        await self._linger()

    async def _send_piece(self) -> bool:
        """Send some of the answers; False when the client is gone or does not take them."""
        piece = bytes(self._unsent[:CHUNK])
        del self._unsent[: len(piece)]
        self._sending = len(piece)
        with trio.move_on_after(WRITE_SECONDS):
            try:
                await self._stream.send_all(piece)
            except _GONE:
                return False
            self._context.buffered -= self._sending
            self._sending = 0
            self._room.set()
            return True
        log.error("CLIENT(%s): closing, it does not read its answers", self._session.remote)
        return False

    async def _linger(self) -> None:
        """Let the client read the last answers: closing with unread input would destroy them."""
        left = LINGER_BYTES
        with trio.move_on_after(LINGER_SECONDS), contextlib.suppress(*_GONE):
            await self._stream.send_eof()
            while left > 0:
                data = await self._stream.receive_some(CHUNK)
                if not data:
                    break
                left -= len(data)
