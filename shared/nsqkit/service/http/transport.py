"""The bytes under one HTTP connection: a plain socket, or any stream of trio's.

Two implementations of one small interface. `SocketTransport` is for TCP and unix sockets: it sends at once,
without a turn of the event loop, what the kernel takes at once. `StreamTransport` is for TLS and for tests in
memory. A peer that is gone shows as an empty `receive` and as ConnectionError from sending; no other error
comes out.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Protocol

import trio

__all__ = ["SocketTransport", "StreamTransport", "Transport"]

_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
_RESET = struct.pack("ii", 1, 0)


class Transport(Protocol):
    """A stream of bytes both ways, used by one connection's task."""

    async def receive(self, size: int) -> bytes:
        """At most `size` bytes, waiting for the first; empty at the end. Always a checkpoint."""

    def send_now(self, data: bytes) -> int:
        """Send what can be sent without waiting; how many bytes that was. Raises ConnectionError."""

    async def send_all(self, data: bytes | memoryview) -> None:
        """Send everything. Raises ConnectionError."""

    def receive_now(self) -> bytes | None:
        """What is there without waiting: None for nothing (or when that cannot be told), empty at the end."""

    async def end(self) -> bool:
        """Tell the peer that nothing more comes, while it may still send; False when only closing can say
        that."""

    def close(self, *, reset: bool = False) -> None:
        """Close at once; with `reset`, what the kernel still holds for the peer is dropped."""


class SocketTransport:
    """A non-blocking stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._fd = sock.fileno()

    async def receive(self, size: int) -> bytes:
        """See Transport."""
        while True:
            # Wait first: after a response there is hardly ever a next request yet, and a vain recv costs an
            # exception.
            await trio.lowlevel.wait_readable(self._fd)
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
            await trio.lowlevel.wait_writable(self._fd)
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                continue
            except OSError as exc:
                raise ConnectionError(str(exc)) from exc

    def receive_now(self) -> bytes | None:
        """See Transport."""
        try:
            return self._sock.recv(4096)
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
        trio.lowlevel.notify_closing(self._fd)
        if reset:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._sock.close()


class StreamTransport:
    """A stream of trio's; `close` is left to whoever owns the stream, as closing one may have to wait."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive(self, size: int) -> bytes:
        """See Transport."""
        try:
            return bytes(await self._stream.receive_some(size))
        except _GONE:
            return b""

    def send_now(self, data: bytes) -> int:
        """See Transport."""
        return 0

    async def send_all(self, data: bytes | memoryview) -> None:
        """See Transport."""
        try:
            await self._stream.send_all(data)
        except _GONE as exc:
            raise ConnectionError(str(exc)) from exc

    def receive_now(self) -> bytes | None:
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
