"""The TCP connections: each has a session and two trio tasks, one that reads and one that writes.

Rules:

- Every wait for a client is bounded: `MAGIC_SECONDS` for its first bytes, `COMMAND_SECONDS` for the rest of a command
  that it has begun, `WRITE_SECONDS` for accepting a piece of the responses. Between commands it may be silent for any
  time; TCP keepalive detects a lost host.
- Responses are buffered while the client reads none, so that a client that sends all its commands before it reads the
  first response is served. Above `MAX_UNSENT` bytes nothing is read from it until it has accepted some.
- When the input of a client ends, for any reason, its producer is removed at once, before the last responses are sent.
- An error in one connection ends only that one.
- TLS is on the same port as plain connections: a client begins with a record of TLS or with the magic bytes, and the
  first byte tells which. The handshake is bounded as that of HTTPS, and counts as a connection that has not identified
  itself.

As clients may be silent, one peer could take all connections and keep them. When there are no more, and only then, one
of them is closed for the new client (`_victim`):

1. the oldest that has not identified itself, of the address that has most of these;
2. else the one from which nothing has come for the longest, if that is `SILENT_SECONDS` or more: an nsqd sends a PING
   every 15 s;
3. else, if one address has more than a quarter of all and more than the new client's, the newest of that address.

Otherwise the new client is refused. At the limit of one address, the oldest of this address that has not identified
itself gives way, or else the new client is refused.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Final

import attrs
import trio

from nsqkit.access import Token
from nsqkit.logging import get_logger
from nsqkit.service.handshakes import Handshakes
from nsqkit.service.shares import Shares, remote_group
from nsqkit.service.tls import peer_common_name, shows_certificate
from nsqlookupd.protocol_v1 import Context, Session, SessionPhase

__all__ = ["Connections", "Tls"]

log = get_logger(__name__)

READ_SIZE: Final = 4 * 1024  # bytes: a turn of one client, of which hundreds may send as much as they can
CHUNK: Final = 16 * 1024  # bytes of one write, and of what is discarded
MAGIC_SECONDS: Final = 10.0
COMMAND_SECONDS: Final = 30.0
WRITE_SECONDS: Final = 30.0
MAX_UNSENT: Final = 1024 * 1024  # bytes: the responses to some 170,000 registrations
MIN_UNSENT: Final = 4 * 1024  # bytes that any client may leave unread, even if the total limit is reached
LINGER_SECONDS: Final = 2.0  # for a client to read the last error before the connection is closed
LINGER_BYTES: Final = 1 << 20
MAX_CONNECTIONS: Final = 10_000
SILENT_SECONDS: Final = 60.0
_TLS_RECORD: Final = b"\x16"
"""The type of the first record of TLS, a handshake."""
_LARGE_SHARE: Final = 4  # an address with more than this part of all connections has to give way

_CONNECTION_LOST = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


@attrs.frozen
class Tls:
    """TLS of the port. `context`: for a new connection."""

    context: Callable[[], ssl.SSLContext]
    required: bool = False
    """Whether plain clients are refused."""
    registers: bool = False
    """Whether clients that show a certificate, which is verified, need no token."""
    handshakes: Handshakes = attrs.field(factory=Handshakes)


class Connections:
    """All connections of a daemon. Without `tls` all of them are plain."""

    def __init__(
        self,
        context: Context,
        max_connections: int = MAX_CONNECTIONS,
        tls: Tls | None = None,
        max_per_address: int = 0,
    ) -> None:
        self._context = context
        self._tls = tls
        self._max_per_address = max_per_address or sys.maxsize
        self._max_connections = max_connections
        # All of these have the oldest first, and none that is being closed for others.
        self._open: Shares[_Connection] = Shares()
        self._unidentified: Shares[_Connection] = Shares()
        self._by_last_command: dict[_Connection, None] = {}

    @property
    def count(self) -> int:
        """The number of open connections."""
        return self._context.traffic.connections

    async def serve(self, stream: trio.abc.HalfCloseableStream, remote: str) -> None:
        """Serve one client until either side ends the connection, and close the stream. Only cancellation is raised."""
        traffic = self._context.traffic
        traffic.connections += 1
        traffic.connections_total += 1
        connection = _Connection(stream, self._context, remote, self._was_heard, self._tls)
        try:
            if refusal := self._refusal(connection.group):
                log.error("TCP: client(%s) refused: %s", remote, refusal)
                return
            log.info("TCP: new client(%s)", remote)
            self._open.add(connection.group, connection, 1)
            self._unidentified.add(connection.group, connection, 1)
            self._by_last_command[connection] = None
            await connection.run()
            log.info("PROTOCOL(V1): [%s] exiting", remote)
        except Exception:
            log.exception("[%s] internal error; closing the connection", remote)
        finally:
            self._forget(connection)
            traffic.connections -= 1
            await connection.aclose()

    def end_revoked(self, is_valid: Callable[[Token], bool]) -> None:
        """Close the connections that have identified themselves with a token that is not valid any more."""
        for connection in list(self._by_last_command):
            token = connection.token
            if token is not None and not is_valid(token):
                log.info(
                    "CLIENT(%s): closing: token %s is revoked or has expired", connection.remote, token.name
                )
                connection.close()

    def _was_heard(self, connection: _Connection) -> None:
        """A command of it is complete."""
        if self._by_last_command.pop(connection, self) is self:
            return  # it is being closed
        self._by_last_command[connection] = None
        if connection.identified:
            self._unidentified.remove(connection.group, connection)

    def _forget(self, connection: _Connection) -> None:
        self._open.remove(connection.group, connection)
        self._unidentified.remove(connection.group, connection)
        self._by_last_command.pop(connection, None)

    def _refusal(self, group: str) -> str:
        """Why another client of this address cannot be served; empty if it can, if need be after one of the others was
        closed."""
        if group and self._open.sum_of(group) >= self._max_per_address:
            limit = f"{self._max_per_address} of its address are connected (--max-connections-per-address)"
            victim = self._unidentified.oldest(group)
        elif self._open.total >= self._max_connections:
            limit = f"{self._max_connections} are connected"
            victim = self._victim(group)
        else:
            return ""
        if victim is None:
            return limit
        self._forget(victim)
        log.info("CLIENT(%s): closing: %s, and others want to be", victim.remote, limit)
        victim.close()
        return ""

    def _victim(self, group: str) -> _Connection | None:
        """The connection that gives way to a new client of this address."""
        if self._unidentified.total:
            return self._unidentified.oldest(self._unidentified.largest())
        quietest = next(iter(self._by_last_command))
        if trio.current_time() >= quietest.last_command_at + SILENT_SECONDS:
            return quietest
        largest = self._open.largest()
        share = self._open.sum_of(largest)
        if share > self._max_connections / _LARGE_SHARE and share > self._open.sum_of(group) + 1:
            return self._open.newest(largest)
        return None


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


async def _first_byte(stream: trio.abc.Stream) -> bytes:
    """That of a socket, which is still to be read; empty if there is none."""
    if not isinstance(stream, trio.SocketStream):
        return b""
    await trio.lowlevel.wait_readable(stream.socket)
    try:
        return await stream.socket.recv(1, socket.MSG_PEEK)
    except OSError:
        return b""  # reading it will tell


class _Connection:
    """One client: its stream, its session, and the responses that it has not accepted yet."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        context: Context,
        remote: str,
        was_heard: Callable[[_Connection], None],
        tls: Tls | None,
    ) -> None:
        self.remote = remote
        self.group = remote_group(remote)
        self._socket_stream = stream
        self._stream: trio.abc.Stream = stream
        self._tls = tls
        self._context = context
        self._was_heard = was_heard
        self._session = Session(context, remote, self.close)
        self._unsent = bytearray()
        self._sending = 0
        self.last_command_at = trio.current_time()
        """When the last command was complete, or the connection began."""
        self._output_ready = trio.Event()
        self._output_sent = trio.Event()
        self._scope = trio.CancelScope()

    @property
    def identified(self) -> bool:
        """Whether it is an nsqd's."""
        return self._session.producer is not None

    @property
    def token(self) -> Token | None:
        """That of its IDENTIFY."""
        return self._session.token

    def close(self) -> None:
        """Close it at once."""
        self._scope.cancel()

    async def run(self) -> None:
        try:
            with self._scope:
                if self._tls is not None and not await self._begin(self._tls):
                    return
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    try:
                        await self._read()
                    finally:
                        self._session.end()
                        self._output_ready.set()
        finally:
            self._context.buffered -= len(self._unsent) + self._sending

    async def aclose(self) -> None:
        """Close the socket at once."""
        await trio.aclose_forcefully(self._socket_stream)

    async def _begin(self, tls: Tls) -> bool:
        """Shake hands with a client that begins with TLS. Whether the connection can be used."""
        with trio.move_on_after(MAGIC_SECONDS) as silent:
            first = await _first_byte(self._socket_stream)
        if silent.cancelled_caught:
            log.error("CLIENT(%s): closing, nothing received for %g s", self.remote, MAGIC_SECONDS)
            return False
        if first != _TLS_RECORD:
            if tls.required:
                self._unsent += self._session.refuse_plain()
                self._context.buffered += len(self._unsent)
            return True
        stream = trio.SSLStream(self._socket_stream, tls.context(), server_side=True, https_compatible=True)
        if failure := await tls.handshakes.failure(stream):
            log.error("CLIENT(%s): TLS handshake failed - %s", self.remote, failure)
            return False
        self._stream = stream
        if tls.registers and shows_certificate(stream):
            self._session.certified, self._session.common_name = True, peer_common_name(stream)
        self.last_command_at = trio.current_time()
        return True

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
                self.last_command_at = now
                self._was_heard(self)
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
        deadline = self.last_command_at + limit if session.incomplete else math.inf
        with trio.CancelScope(deadline=deadline):
            try:
                return bytes(await self._stream.receive_some(READ_SIZE))
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
            await self._socket_stream.send_eof()  # of TLS, too: what it has to say is sent
            while remaining > 0:
                data = await self._socket_stream.receive_some(CHUNK)
                if not data:
                    break
                remaining -= len(data)
