"""The event stream that tells pages to renew themselves: one event after each poll of the cluster.

    GET /live  ->  id: 1790000000.5
                   event: snapshot
                   data: {}

Rules: all windows of a browser share one stream (`shared_stream.js`), because a browser opens only six connections to a
host. The number of streams is bounded; one more is answered 503, and its pages poll instead. An idle stream sends a
comment every `HEARTBEAT_SECONDS`, so that proxies keep it open. It ends when the browser closes it, when its user logs
out or is removed or changed, and when the console stops. A browser that reconnects sends the id of the last event it
received (Last-Event-ID), and is sent an event at once if there is a newer snapshot.

The events carry no data: the page is fetched in the usual way, compressed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from nsqadmin.auth import identity_of
from nsqadmin.console import Console
from nsqkit.service.http import Exchange, Request, ResponseStream
from nsqkit.service.http.message import Response, render

__all__ = ["EVENT_STREAM", "HEARTBEAT_SECONDS", "STREAMS", "LiveStream"]

STREAMS = 500
"""At one time. Each is a connection and three tasks."""
HEARTBEAT_SECONDS = 15.0
RETRY_MS = 3000
EVENT_STREAM = b"text/event-stream; charset=utf-8"

# X-Accel-Buffering: nginx would keep events in its buffer.
_HEADERS = ((b"Cache-Control", b"no-store"), (b"X-Accel-Buffering", b"no"))
_FULL = Response(
    503, b"too many streams\n", b"text/plain; charset=utf-8", ((b"Retry-After", b"60"),), nsq=False
)


class LiveStream:
    """The handler of GET /live."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._open = 0

    @property
    def open_streams(self) -> int:
        """The number of open streams."""
        return self._open

    async def __call__(self, request: Request, exchange: Exchange) -> int:
        """Serve one stream until either side ends it. Raises ConnectionError if that was the browser."""
        if self._open >= STREAMS or self._console.stopping.is_set():
            keep_alive = exchange.keep_alive
            await exchange.send(render(_FULL, request.version, keep_alive=keep_alive, head_only=False))
            return _FULL.status
        self._open += 1
        try:
            await self._serve(request, exchange)
        finally:
            self._open -= 1
        return 200

    async def _serve(self, request: Request, exchange: Exchange) -> None:
        stream, identity = ResponseStream(request, exchange), identity_of(request)
        await stream.start(200, EVENT_STREAM, _HEADERS)
        await stream.send(b"retry: %d\n\n" % RETRY_MS)
        last_seen = (request.header(b"last-event-id") or b"").decode("latin-1")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_after, exchange.wait_disconnect, nursery.cancel_scope)
                nursery.start_soon(_cancel_after, self._console.stopping.wait, nursery.cancel_scope)
                nursery.start_soon(_cancel_after, identity.ended.wait, nursery.cancel_scope)
                nursery.start_soon(self._send_events, stream, last_seen)
        except* ConnectionError:
            pass  # the browser closed the stream while an event was being sent
        if not (self._console.stopping.is_set() or identity.ended.is_set()):
            raise ConnectionError("the browser closed the stream")
        await stream.end()

    async def _send_events(self, stream: ResponseStream, last_seen: str) -> None:
        poller = self._console.poller
        if last_seen not in ("", repr(poller.snapshot.at)):
            await stream.send(_event(poller.snapshot.at))
        # Only the wait has a timeout: an event must not be cut off in the middle.
        while True:
            event = b": heartbeat\n\n"
            with trio.move_on_after(HEARTBEAT_SECONDS):
                event = _event((await poller.next_snapshot()).at)
            await stream.send(event)


async def _cancel_after(wait: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    await wait()
    scope.cancel()


def _event(at: float) -> bytes:
    return f"id: {at!r}\nevent: snapshot\ndata: {{}}\n\n".encode()
