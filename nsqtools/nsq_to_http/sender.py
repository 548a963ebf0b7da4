"""One message, one HTTP request.

Rules:

- Connections are kept alive: at most as many as requests may be on their way, to each server.
- A request has one time-out for all of it, redirects and the last byte of the answer included; connecting has a
  shorter one of its own. The body of an answer is read, so that the connection can be used again, and thrown away.
- **A redirect never loses the body.** 301 and 302 are followed with the same method and body, as 307 and 308
  are; only 303 ("see other": it was taken, look there) is followed with a GET. Browsers, and NSQ's own tool,
  turn a POST that meets a 301 into a GET without a body, and would call that a success.
- Everything that goes wrong is an `HttpFailed`.
"""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Final

import attrs
import httpx

from nsqkit.version import VERSION
from nsqtools.http_client import HttpFailed, bounded, make_client

__all__ = ["Sender", "open_sender"]

MOST_REDIRECTS: Final = 10
_BODY_KEPT: Final = (301, 302)


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
        """Returns when the server has taken the message; raises `HttpFailed`. `url` has a `%s` for a GET."""
        client = self._free.pop() if self._free else self.make_client()
        try:
            with bounded(url, self.timeout_s):
                status = await _exchange(client, self._request(client, url, body))
        finally:
            self._free.append(client)
        if status != 200 if self.is_get else not 200 <= status < 300:
            raise HttpFailed(f"{url}: got status code {status}")

    async def aclose(self) -> None:
        """Close the connections; nothing may be on its way."""
        while self._free:
            await self._free.pop().aclose()

    def _request(self, client: httpx.AsyncClient, url: str, body: bytes) -> httpx.Request:
        if self.is_get:
            return client.build_request("GET", url.replace("%s", urllib.parse.quote_plus(body)))
        return client.build_request("POST", url, content=body)


async def _exchange(client: httpx.AsyncClient, request: httpx.Request) -> int:
    """The status of the last answer, redirects followed."""
    for _ in range(MOST_REDIRECTS + 1):
        response = await client.send(request, stream=True)
        try:
            async for _piece in response.aiter_raw():
                pass
        finally:
            await response.aclose()
        following = response.next_request
        if following is None:
            return response.status_code
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
