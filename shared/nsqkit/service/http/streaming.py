"""A response that is sent piece by piece, its length not known at the start: server-sent events, say.

    async def events(request: Request, exchange: Exchange) -> int:
        stream = ResponseStream(request, exchange)
        await stream.start(200, b"text/event-stream")
        await stream.send(b"data: 1\\n\\n")
        await stream.end()
        return 200

    router.add_stream("GET", "/events", events)

The body is chunked; to HTTP/1.0 it lasts until the connection is closed. A handler that raises before `end` has its
connection reset, so that a response that broke off does not look complete. It raises ConnectionError when the client
has gone; any other exception is logged.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define

from nsqkit.service.http.message import Header, Request, connection_line, date_line, status_line
from nsqkit.service.http.routing import Exchange

__all__ = ["ResponseStream"]


@define(slots=True, eq=False)
class ResponseStream:
    """The response to one request. Its methods raise ConnectionError when the client has gone."""

    request: Request
    exchange: Exchange

    @property
    def _chunked(self) -> bool:
        return self.request.version == "1.1"

    async def start(self, status: int, content_type: bytes, headers: Iterable[Header] = ()) -> None:
        """Send the head; framing headers, Date and Connection are added."""
        if not self._chunked:
            self.exchange.keep_alive = False
        version = self.request.version
        lines = [
            status_line(status, version),
            b"Content-Type: %b\r\n" % content_type,
            *[b"%b: %b\r\n" % header for header in headers],
            date_line(),
            b"Transfer-Encoding: chunked\r\n" if self._chunked else b"",
            connection_line(version, keep_alive=self.exchange.keep_alive),
            b"\r\n",
        ]
        await self.exchange.send(b"".join(lines))

    async def send(self, piece: bytes) -> None:
        """Send a piece of the body; waits while the client is slower."""
        assert piece, "an empty chunk ends the body"
        await self.exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    async def end(self) -> None:
        """Mark the end of the body."""
        if self._chunked:
            await self.exchange.send(b"0\r\n\r\n")
