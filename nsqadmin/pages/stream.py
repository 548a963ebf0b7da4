"""The stream of events that keeps the pages true: one line whenever the cluster was asked anew.

    GET /live  ->  id: 1790000000.5
                   event: picture
                   data: {}

Rules: a bounded number of streams; one more gets 503, and its page asks now and then instead. A silent stream says so
every `HEARTBEAT_SECONDS`, so that proxies keep it. It ends when the browser goes or the console stops. A browser that
comes back says with Last-Event-ID what it saw last, and hears at once when there is something newer.

The streams themselves wait for nothing but the picture: what a page shows it fetches in the usual way, compressed.
"""

from __future__ import annotations

import trio
from starlette.types import Message, Receive, Scope, Send

from nsqadmin.console import Console

__all__ = ["HEARTBEAT_SECONDS", "STREAMS", "LiveStream"]

STREAMS = 500
"""At one time. Each is a connection and three small tasks."""
HEARTBEAT_SECONDS = 15.0
RETRY_MS = 3000

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class LiveStream:
    """The ASGI application of `/live`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._open = 0

    @property
    def open_streams(self) -> int:
        """How many there are now."""
        return self._open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one stream until either side ends it."""
        if self._open >= STREAMS or self._console.stopping.is_set():
            await _refuse(send)
            return
        self._open += 1
        try:
            await self._serve(scope, receive, send)
        finally:
            self._open -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send(_piece(f"retry: {RETRY_MS}\n\n"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
            nursery.start_soon(self._until_stop, nursery.cancel_scope)
            nursery.start_soon(self._tell, send, _last_seen(scope))
        if self._console.stopping.is_set():
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, send: Send, seen: str) -> None:
        picture = self._console.picture
        at = picture.at
        if seen and seen != repr(at):
            await send(_event(at))
        while True:
            with trio.move_on_after(HEARTBEAT_SECONDS):
                at = (await picture.next()).at
                await send(_event(at))
                continue
            await send(_piece(": still here\n\n"))

    async def _until_stop(self, scope: trio.CancelScope) -> None:
        await self._console.stopping.wait()
        scope.cancel()


async def _until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"60")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b"too many streams\n"})


def _last_seen(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name.lower() == b"last-event-id":
            return str(value.decode("latin-1"))
    return ""


def _event(at: float) -> Message:
    return _piece(f"id: {at!r}\nevent: picture\ndata: {{}}\n\n")


def _piece(text: str) -> Message:
    return {"type": "http.response.body", "body": text.encode(), "more_body": True}
