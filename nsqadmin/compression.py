"""Responses in gzip or deflate, for clients that accept one of them: the first one listed whose weight is not 0.

"deflate" is a raw deflate stream. Long bodies are compressed in a worker thread, or piece by piece. Streams are sent as
they are, and so are responses that say what their bytes are: encoded already, or a range of others.
"""

from __future__ import annotations

import inspect
import re
import zlib
from collections.abc import Iterable, Iterator

import attrs
import trio

from nsqkit.service.http import Request, Response, Route
from nsqkit.service.http.routing import Handler

__all__ = ["compressed_route"]

_WINDOW_BITS = {b"gzip": 31, b"deflate": -15}
_FIXED = frozenset([b"content-encoding", b"content-range"])
_ZERO = re.compile(rb"\s*q\s*=\s*0(?:\.0*)?\s*")
_LEVEL = 5
_LONG = 64 * 1024  # bytes; these take about a millisecond


def compressed_route(route: Route) -> Route:
    """The same route with its responses compressed; a stream's route as it is."""
    if route.stream is not None:
        return route
    return attrs.evolve(route, handler=_compressing(route.handler), too_big=_compressing(route.too_big))


def _compressing(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        # An `HttpError` passes: the server makes its response, which is too short to be worth compressing.
        response = handler(request)
        whole = await response if inspect.isawaitable(response) else response
        coding = _coding(request.header(b"accept-encoding"))
        has_body = whole.body or whole.pieces is not None
        if not has_body or not coding or any(name.lower() in _FIXED for name, _ in whole.headers):
            return whole
        return attrs.evolve(
            whole,
            body=await _compress(whole.body, coding) if whole.pieces is None else b"",
            pieces=None if whole.pieces is None else _compress_pieces(whole.pieces, coding),
            headers=(*whole.headers, (b"Content-Encoding", coding), (b"Vary", b"Accept-Encoding")),
        )

    return answer


def _coding(accepted: bytes | None) -> bytes:
    """The first supported coding in the list; empty if there is none."""
    for word in (accepted or b"").lower().split(b","):
        name, _, weight = word.partition(b";")
        if name.strip() in _WINDOW_BITS and not _ZERO.fullmatch(weight):
            return name.strip()
    return b""


async def _compress(body: bytes, coding: bytes) -> bytes:
    if len(body) < _LONG:
        return _compress_now(body, coding)
    return await trio.to_thread.run_sync(_compress_now, body, coding)


def _compress_now(body: bytes, coding: bytes) -> bytes:
    return b"".join(_compress_pieces([body], coding))


def _compress_pieces(pieces: Iterable[bytes], coding: bytes) -> Iterator[bytes]:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[coding])
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()
