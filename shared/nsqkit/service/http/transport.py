"""The byte stream of an HTTP connection: a plain socket, or any stream of trio.

`SocketTransport` is for TCP and unix sockets: it sends without a turn of the event loop what the kernel takes at once.
`StreamTransport` is for TLS, and for tests in memory. When the peer has disconnected, `receive` returns nothing and
sending raises ConnectionError; there are no other errors.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

__all__ = ["SocketTransport", "StreamTransport", "Transport"]

_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
_RESET = struct.pack("ii", 1, 0)


Turn = Callable[[], Awaitable[None] | None]
"""Begins a turn: None, or what has to be awaited before."""


def _at_once() -> None:
    """No turn to wait for."""


class Transport(Protocol):
    """A bidirectional byte stream, used by the task of one connection."""

    @property
    def fd(self) -> int:
        """The descriptor of the socket, if nothing is between it and HTTP; else -1."""

    async def receive(self, size: int, turn: Turn = _at_once) -> bytes:
        """Wait for up to `size` bytes; empty at the end. Always a checkpoint.

        `turn` is called when there is something, before it is processed; where possible before it is read.
        """

    def send_now(self, data: bytes) -> int:
        """Send without waiting; the number of bytes that were sent. Raises ConnectionError."""

    async def send_all(self, data: bytes | memoryview) -> None:
        """Send everything. Raises ConnectionError."""

    def receive_now(self, size: int) -> bytes | None:
        """Receive without waiting: None if nothing is there (or that is unknown), empty at the end."""

    async def end(self) -> bool:
        """Half-close: the peer may still send. False if that is not possible."""

    def close(self, *, reset: bool = False) -> None:
        """Close at once; with `reset`, unsent bytes in the kernel are dropped."""


class SocketTransport:
    """A non-blocking stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.fd = sock.fileno()

    async def receive(self, size: int, turn: Turn = _at_once) -> bytes:
        """See Transport."""
        while True:
            # Wait first: after a response the next request has hardly ever arrived, and a recv in vain costs an
            # exception.
            await trio.lowlevel.wait_readable(self.fd)
            if (wait := turn()) is not None:
                await wait
            try:
                return self._sock.recv(size)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    def send_now(self, data: bytes) -> int:
        """See Transport."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise ConnectionError(str(exc)) from exc

    async def send_all(self, data: bytes | memoryview) -> None:
        """See Transport."""
        rest = memoryview(data)
        while rest:
            await trio.lowlevel.wait_writable(self.fd)
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                continue
            except OSError as exc:
                raise ConnectionError(str(exc)) from exc

    def receive_now(self, size: int) -> bytes | None:
        """See Transport."""
        try:
            return self._sock.recv(size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    async def end(self) -> bool:
        """See Transport."""
        await trio.lowlevel.checkpoint()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        return True

    def close(self, *, reset: bool = False) -> None:
        """See Transport."""
        if self._sock.fileno() < 0:
            return
        trio.lowlevel.notify_closing(self.fd)
        if reset:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._sock.close()


class StreamTransport:
    """A stream of trio. `close` does nothing: the owner of the stream closes it, which may have to wait."""

    fd = -1

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive(self, size: int, turn: Turn = _at_once) -> bytes:
        """See Transport."""
        try:
            data = bytes(await self._stream.receive_some(size))
        except _GONE:
            return b""
        if (wait := turn()) is not None:
            await wait
        return data

    def send_now(self, data: bytes) -> int:
        """See Transport."""
        return 0

    async def send_all(self, data: bytes | memoryview) -> None:
        """See Transport."""
        try:
            await self._stream.send_all(data)
        except _GONE as exc:
            raise ConnectionError(str(exc)) from exc

    def receive_now(self, size: int) -> bytes | None:
        """See Transport."""
        return None

    async def end(self) -> bool:
        """See Transport."""
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            return False
        with contextlib.suppress(*_GONE):
            await self._stream.send_eof()
        return True

    def close(self, *, reset: bool = False) -> None:
        """See Transport."""
