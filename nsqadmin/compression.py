"""Responses in gzip or deflate, for clients that list one of them: the first that is listed, weights ignored.

"deflate" is a raw deflate stream. What is long is compressed in a worker thread. Answers sent piece by piece
stay as they are: they are live. So do those that say what their bytes are: encoded already, or a range of others.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import attrs
import trio

from nsqkit.service.http import Request, Response, Route
from nsqkit.service.http.routing import Handler

__all__ = ["compressed_app", "compressed_route"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApplication = Callable[[Any, Receive, Send], Awaitable[None]]

_WINDOW_BITS = {b"gzip": 31, b"deflate": -15}
_FIXED = frozenset([b"content-encoding", b"content-range"])
_LEVEL = 5
_LONG = 64 * 1024  # bytes; a millisecond's work


def compressed_route(route: Route) -> Route:
    """The same route with its answers compressed."""
    return attrs.evolve(route, handler=_compressing(route.handler), too_big=_compressing(route.too_big))


def _compressing(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        response = handler(request)
        whole = await response if inspect.isawaitable(response) else response
        coding = _coding(request.header(b"accept-encoding"))
        if not whole.body or not coding or any(name.lower() in _FIXED for name, _ in whole.headers):
            return whole
        return attrs.evolve(
            whole,
            body=await _compress(whole.body, coding),
            headers=(*whole.headers, (b"Content-Encoding", coding), (b"Vary", b"Accept-Encoding")),
        )

    return answer


def compressed_app(application: AsgiApplication) -> AsgiApplication:
    """The same application; what it sends in one piece is compressed."""

    async def run(scope: Any, receive: Receive, send: Send) -> None:
        accepted = next((value for name, value in scope["headers"] if name == b"accept-encoding"), None)
        coding = _coding(accepted)
        start: Message | None = None

        async def send_compressed(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is not None:
                if message.get("body") and not message.get("more_body"):
                    message = {**message, "body": await _compress(message["body"], coding)}
                    start = {
                        **start,
                        "headers": _headers(start.get("headers", ()), coding, len(message["body"])),
                    }
                await send(start)
                start = None
            await send(message)

        await application(scope, receive, send_compressed if coding else send)

    return run


def _headers(headers: Any, coding: bytes, length: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return [
        *kept,
        (b"content-length", b"%d" % length),
        (b"content-encoding", coding),
        (b"vary", b"Accept-Encoding"),
    ]


def _coding(accepted: bytes | None) -> bytes:
    """The first coding of the list that is known here; empty for none."""
    for word in (accepted or b"").lower().split(b","):
        name = word.partition(b";")[0].strip()
        if name in _WINDOW_BITS:
            return name
    return b""


async def _compress(body: bytes, coding: bytes) -> bytes:
    if len(body) < _LONG:
        return _compress_now(body, coding)
    return await trio.to_thread.run_sync(_compress_now, body, coding)


def _compress_now(body: bytes, coding: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[coding])
    return packer.compress(body) + packer.flush()
