"""One message, one HTTP request.

Rules:

- Connections are kept alive: at most as many as requests are under way, to each server.
- A request has one time-out for all of it, redirects included; connecting has a shorter one of its own.
- The status is the answer. The body is read, so that the connection can be used again, and dropped; see
  `HttpClient.status_of`.
- A redirect does not lose the body: 301 and 302 are followed with the same method and body, as 307 and 308 are; only
  303 ("see other": the message was taken, look there) is followed with a GET. NSQ's own tool turns a POST that meets a
  301 into a GET without a body, and would call that a success.
- Everything that goes wrong is an `HttpFailed`; but a message that makes no URL, which is no server's fault, is
  `Unsendable`.
"""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from typing import Final

import attrs

from nsqkit.http_client import Header, HttpClient, HttpFailed, HttpOptions, InvalidUrl
from nsqkit.redact import shown_url
from nsqkit.version import VERSION

__all__ = ["MOST_READ", "Sender", "Unsendable", "open_sender"]

MOST_REDIRECTS: Final = 10
MOST_READ: Final = 1 << 20
"""Bytes of a body; for more, a new connection costs less."""
MOST_SERVERS: Final = 100
"""Connections that a client keeps open: one for each server that its requests went to."""


class Unsendable(Exception):
    """No request can be made of this message; the text says why."""


@attrs.define(eq=False)
class Sender:
    """Sends messages; any number of tasks may."""

    options: HttpOptions
    headers: list[Header]
    is_get: bool
    """Whether messages go into URLs instead of bodies."""
    _free: list[HttpClient] = attrs.field(factory=list)
    """There is one client for each request that is under way: one client for 100 of them takes five times the CPU (see
    `HttpClient`). The last one used is used next, so that few connections serve a small load."""

    async def send(self, url: str, body: bytes) -> None:
        """Returns when the server has taken the message. `url` has a `%s` for a GET.

        Raises `HttpFailed`, `Unsendable`.
        """
        client = self._free.pop() if self._free else HttpClient(self.options)
        try:
            status = await self._status(client, url, body)
        except HttpFailed as error:
            raise HttpFailed(f"{shown_url(url)}: {error}") from error
        finally:
            self._free.append(client)
        if status != 200 if self.is_get else not 200 <= status < 300:
            raise HttpFailed(f"{shown_url(url)}: got status code {status}")

    async def _status(self, client: HttpClient, url: str, body: bytes) -> int:
        if not self.is_get:
            return await client.status_of("POST", url, self.headers, body)
        try:
            return await client.status_of(
                "GET", url.replace("%s", urllib.parse.quote_plus(body)), self.headers
            )
        except InvalidUrl as error:
            raise Unsendable(f"{shown_url(url)}: this message makes no URL: {error}") from error

    async def aclose(self) -> None:
        """Close the connections; no request may be under way."""
        while self._free:
            await self._free.pop().aclose()


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
    all_headers = {
        "accept": ("Accept", "*/*"),
        "user-agent": ("User-Agent", f"{program} v{VERSION}"),
        **{name.lower(): (name, value) for name, value in headers.items()},
    }
    options = HttpOptions(
        connect_timeout=connect_timeout_s,
        request_timeout=timeout_s,
        max_body=MOST_READ,
        max_redirects=MOST_REDIRECTS,
        max_idle=MOST_SERVERS,
    )
    sender = Sender(
        options, [(name.encode(), value.encode()) for name, value in all_headers.values()], is_get
    )
    try:
        yield sender
    finally:
        await sender.aclose()
