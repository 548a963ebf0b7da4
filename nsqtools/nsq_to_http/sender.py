"""One message, one HTTP request.

Rules:

- Connections are kept alive: at most as many as requests may be on their way, to each server.
- A request has one time-out for all of it, redirects included; connecting has a shorter one of its own.
- The status is the answer. The body is read, so that the connection can be used again, and thrown away. A body that is
  cut off, malformed, longer than `MOST_READ` or not there in time changes nothing but that: the connection is closed.
- **A redirect never loses the body.** 301 and 302 are followed with the same method and body, as 307 and 308
  are; only 303 ("see other": it was taken, look there) is followed with a GET. Browsers, and NSQ's own tool,
  turn a POST that meets a 301 into a GET without a body, and would call that a success.
- Everything that goes wrong is an `HttpFailed`; but a message that makes no URL (httpx takes 65,536 characters) is
  `Unsendable`, for no server is to blame for it.
"""

from __future__ import annotations

import contextlib
import math
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Final

import attrs
import httpx
import trio

from nsqkit.version import VERSION
from nsqtools.http_client import HttpFailed, bounded, make_client

__all__ = ["MOST_READ", "Sender", "Unsendable", "open_sender"]

MOST_REDIRECTS: Final = 10
MOST_READ: Final = 1 << 20
"""Bytes of a body; for more, a new connection costs less."""
_BODY_KEPT: Final = (301, 302)


class Unsendable(Exception):
    """No request can be made of this message; the text says why."""


@attrs.define(eq=False)
class Sender:
    """Sends messages; any number of tasks may."""

    make_client: Callable[[], httpx.AsyncClient]
    is_get: bool
    """Whether messages go into URLs, and not into bodies."""
    timeout_s: float
    _free: list[httpx.AsyncClient] = attrs.field(factory=list)
    """There is one client for each request on its way: httpcore looks through all connections of a client at every
    request, which makes one client for 100 of them five times as slow (2000 us of CPU a request, not 400). The last
    one used is used next, so that few connections serve a small load."""

    async def send(self, url: str, body: bytes) -> None:
        """Returns when the server has taken the message. `url` has a `%s` for a GET.

        Raises `HttpFailed`, `Unsendable`.
        """
        client = self._free.pop() if self._free else self.make_client()
        deadline = trio.current_time() + self.timeout_s
        try:
            with bounded(url, self.timeout_s):
                response = await _exchange(client, self._request(client, url, body))
            await _throw_away_body(response, deadline)
        finally:
            self._free.append(client)
        status = response.status_code
        if status != 200 if self.is_get else not 200 <= status < 300:
            raise HttpFailed(f"{url}: got status code {status}")

    async def aclose(self) -> None:
        """Close the connections; nothing may be on its way."""
        while self._free:
            await self._free.pop().aclose()

    def _request(self, client: httpx.AsyncClient, url: str, body: bytes) -> httpx.Request:
        if not self.is_get:
            return client.build_request("POST", url, content=body)
        try:
            return client.build_request("GET", url.replace("%s", urllib.parse.quote_plus(body)))
        except httpx.InvalidURL as error:
            raise Unsendable(f"{url}: this message makes no URL: {error}") from error


async def _exchange(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """The last answer, redirects followed; its body is still to be read."""
    for _ in range(MOST_REDIRECTS + 1):
        response = await client.send(request, stream=True)
        following = response.next_request
        if following is None:
            return response
        await _throw_away_body(response)
        if response.status_code in _BODY_KEPT and following.method != request.method:
            following = httpx.Request(
                request.method,
                following.url,
                headers=following.headers,
                content=request.content,
                extensions=request.extensions,  # the time-outs
            )
        request = following
    raise HttpFailed(f"{request.url}: more than {MOST_REDIRECTS} redirects")


async def _throw_away_body(response: httpx.Response, deadline: float = math.inf) -> None:
    """Read to the end, or close the connection where that is not possible."""
    size = 0
    try:
        with trio.CancelScope(deadline=deadline) as scope, contextlib.suppress(httpx.HTTPError):
            async for piece in response.aiter_raw():
                size += len(piece)
                if size > MOST_READ:
                    scope.cancel()  # leaving the loop would leave httpx's generators to the garbage collector
    finally:
        await response.aclose()


@contextlib.asynccontextmanager
async def open_sender(
    program: str,
    *,
    is_get: bool,
    headers: Mapping[str, str],
    connect_timeout_s: float,
    timeout_s: float,
) -> AsyncIterator[Sender]:
    """A sender with these limits in seconds; `headers` may replace the User-Agent."""
    all_headers = httpx.Headers({"User-Agent": f"{program} v{VERSION}"})
    all_headers.update(headers)
    sender = Sender(
        partial(make_client, connect_timeout_s, timeout_s, headers=all_headers), is_get, timeout_s
    )
    try:
        yield sender
    finally:
        await sender.aclose()
