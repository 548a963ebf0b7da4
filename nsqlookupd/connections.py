"""The TCP connections: each has a session and two trio tasks, one that reads and one that writes.

Rules:

- Every wait for a client is bounded: `MAGIC_SECONDS` for its first bytes, `COMMAND_SECONDS` for the rest of a command
  that it has begun, `WRITE_SECONDS` for accepting a piece of the responses. Between commands it may be silent for any
  time; TCP keepalive detects a lost host.
- Responses are buffered while the client reads none, so that a client that sends all its commands before it reads the
  first response is served. Above `MAX_UNSENT` bytes nothing is read from it until it has accepted some.
- When the input of a client ends, for any reason, its producer is removed at once, before the last responses are sent.
- An error in one connection ends only that one.
"""

from __future__ import annotations

import contextlib
import math
import socket
from typing import Final

import trio

from nsqkit.logging import get_logger
from nsqlookupd.protocol_v1 import Context, Session, SessionPhase

__all__ = ["Connections"]

log = get_logger(__name__)

CHUNK: Final = 16 * 1024  # bytes of one read or write
MAGIC_SECONDS: Final = 10.0
COMMAND_SECONDS: Final = 30.0
WRITE_SECONDS: Final = 30.0
MAX_UNSENT: Final = 1024 * 1024  # bytes: the responses to some 170,000 registrations
MIN_UNSENT: Final = 4 * 1024  # bytes that any client may leave unread, even if the total limit is reached
LINGER_SECONDS: Final = 2.0  # for a client to read the last error before the connection is closed
LINGER_BYTES: Final = 1 << 20
MAX_CONNECTIONS: Final = 10_000

_CONNECTION_LOST = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


class Connections:
    """All connections of a daemon."""

    def __init__(self, context: Context, max_connections: int = MAX_CONNECTIONS) -> None:
        self._context = context
        self._max_connections = max_connections

    @property
    def count(self) -> int:
        """The number of open connections."""
        return self._context.traffic.connections

    async def serve(self, stream: trio.abc.HalfCloseableStream, remote: str) -> None:
        """Serve one client until either side ends the connection, and close the stream. Only cancellation is raised."""
        traffic = self._context.traffic
        traffic.connections += 1
        traffic.connections_total += 1
        try:
            if self.count > self._max_connections:
                log.error("TCP: client(%s) refused: %d are connected", remote, self.count - 1)
                return
            log.info("TCP: new client(%s)", remote)
            await _Connection(stream, self._context, remote).run()
            log.info("PROTOCOL(V1): [%s] exiting", remote)
        except Exception:
            log.exception("[%s] internal error; closing the connection", remote)
        finally:
            traffic.connections -= 1
            await trio.aclose_forcefully(stream)


def tune(sock: trio.socket.SocketType) -> None:
    """Enable TCP keepalive, by which the kernel detects a lost host within two minutes."""
    if sock.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError):  # the client has disconnected already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            number = getattr(socket, name, None)
            if number is not None:
                sock.setsockopt(socket.IPPROTO_TCP, number, value)


class _Connection:
    """One client: its stream, its session, and the responses that it has not accepted yet."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, context: Context, remote: str) -> None:
        self._stream = stream
        self._context = context
        self._session = Session(context, remote)
        self._unsent = bytearray()
        self._sending = 0
        self._last_command_at = trio.current_time()
        """When the last command was complete, or the connection began."""
        self._output_ready = trio.Event()
        self._output_sent = trio.Event()
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
                        self._output_ready.set()
        finally:
            self._context.buffered -= len(self._unsent) + self._sending

    async def _read(self) -> None:
        session = self._session
        while session.phase is not SessionPhase.CLOSING:
            while not self._may_read():
                self._output_sent = trio.Event()
                await self._output_sent.wait()
            data = await self._receive()
            if data is None:
                self._scope.cancel()
                return
            now = trio.current_time()
            was_incomplete = session.incomplete
            answer = session.feed(data, now) if data else session.eof()
            if answer or not was_incomplete:
                self._last_command_at = now
            self._unsent += answer
            self._context.buffered += len(answer)
            self._output_ready.set()

    def _may_read(self) -> bool:
        unsent = len(self._unsent) + self._sending
        if unsent <= MIN_UNSENT:
            return True
        return unsent <= MAX_UNSENT and self._context.buffered <= self._context.max_buffered

    async def _receive(self) -> bytes | None:
        """The next bytes of the client, empty at EOF; None if the connection is lost or the client too slow."""
        session = self._session
        limit = MAGIC_SECONDS if session.phase is SessionPhase.MAGIC else COMMAND_SECONDS
        deadline = self._last_command_at + limit if session.incomplete else math.inf
        with trio.CancelScope(deadline=deadline):
            try:
                return bytes(await self._stream.receive_some(CHUNK))
            except _CONNECTION_LOST:
                return None
        log.error("CLIENT(%s): closing, incomplete command after %g s", session.remote, limit)
        return None

    async def _write(self) -> None:
        while True:
            if self._unsent:
                if not await self._send_piece():
                    self._scope.cancel()
                    return
            elif self._session.phase is SessionPhase.CLOSING:
                break
            else:
                self._output_ready = trio.Event()
                await self._output_ready.wait()
        await self._linger()

    async def _send_piece(self) -> bool:
        """Send some of the responses; False if the connection is lost or the client does not accept them."""
        piece = bytes(self._unsent[:CHUNK])
        del self._unsent[: len(piece)]
        self._sending = len(piece)
        with trio.move_on_after(WRITE_SECONDS):
            try:
                await self._stream.send_all(piece)
            except _CONNECTION_LOST:
                return False
            self._context.buffered -= self._sending
            self._sending = 0
            self._output_sent.set()
            return True
        log.error("CLIENT(%s): closing, responses not read for %g s", self._session.remote, WRITE_SECONDS)
        return False

    async def _linger(self) -> None:
        """Read and discard input until the client closes: closing a socket with unread input sends a reset, which can
        destroy the last responses before the client has read them.
        """
        remaining = LINGER_BYTES
        with trio.move_on_after(LINGER_SECONDS), contextlib.suppress(*_CONNECTION_LOST):
            await self._stream.send_eof()
            while remaining > 0:
                data = await self._stream.receive_some(CHUNK)
                if not data:
                    break
                remaining -= len(data)
