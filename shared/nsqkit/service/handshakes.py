"""TLS handshakes of a server: bounded in time, one begun in each pass of the event loop, failures told to the client.

The first step of a handshake costs a millisecond, and hundreds of clients may connect at once.
"""

from __future__ import annotations

import contextlib
from typing import Any

import trio
from attrs import define, field

__all__ = ["HANDSHAKE_SECONDS", "Handshakes"]

HANDSHAKE_SECONDS = 5.0
_LINGER_SECONDS = 2.0
_THROWN_AWAY_BYTES = 64 * 1024


@define(eq=False)
class Handshakes:
    """Those of the listeners that share it. `seconds`: for one of them."""

    seconds: float = HANDSHAKE_SECONDS
    linger_seconds: float = _LINGER_SECONDS
    """For a client to read why its handshake failed."""
    _turns: trio.Lock = field(factory=trio.Lock, init=False)

    async def failure(self, stream: trio.SSLStream[Any]) -> str:
        """Make the handshake. Why it has failed, empty if it has not."""
        try:
            with trio.move_on_after(self.seconds) as scope:
                await self._turn_for(stream)
                await stream.do_handshake()
        except trio.BrokenResourceError as error:
            await self._tell_why(stream)
            return str(error.__cause__ or "it has gone")
        return f"not done within {self.seconds:g} s" if scope.cancelled_caught else ""

    async def _turn_for(self, stream: trio.SSLStream[Any]) -> None:
        """Wait for the client's first bytes, and then until no other handshake begins in the same pass of the loop."""
        if isinstance(stream.transport_stream, trio.SocketStream):
            await trio.lowlevel.wait_readable(stream.transport_stream.socket)
        async with self._turns:
            await trio.lowlevel.checkpoint()

    async def _tell_why(self, stream: trio.SSLStream[Any]) -> None:
        """Send TLS's own words for the failure, such as that a certificate is missing: trio keeps them for itself."""
        outgoing = getattr(stream, "_outgoing", None)  # not public, and missed by nobody but the client
        if outgoing is None:
            return
        transport, alert = stream.transport_stream, outgoing.read()
        with trio.move_on_after(self.linger_seconds), contextlib.suppress(trio.BrokenResourceError):
            await transport.send_all(alert)
            if isinstance(transport, trio.abc.HalfCloseableStream):
                await transport.send_eof()
                while await transport.receive_some(_THROWN_AWAY_BYTES):
                    pass  # to close with unread input would reset the connection, and the alert with it
