"""GET requests to the HTTP APIs of nsqd and nsqlookupd, over persistent connections.

A `Fetcher.fetch` can be the `fetch` of a `nsqkit.discovery.Discovery`. Any status but 200 is an `HttpFailed`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import attrs

from nsqkit.decoding import DecodeError, decode_json
from nsqkit.discovery import MAX_ANSWER
from nsqkit.http_client import Answer, HttpClient, HttpFailed, HttpOptions
from nsqkit.redact import redacted

__all__ = ["Fetcher", "open_fetcher"]

_MAX_IDLE = 1_000  # connections: one for each node of a large cluster


@attrs.define(eq=False)
class Fetcher:
    """Sends requests; any number of tasks may use it."""

    client: HttpClient

    @property
    def timeout_s(self) -> float:
        """Seconds for a whole answer."""
        return self.client.options.request_timeout

    async def fetch(self, url: str, headers: Mapping[str, str], timeout_s: float) -> Answer:
        """The answer, whose status is 200. The time-out is the client's. Raises `HttpFailed`."""
        try:
            answer = await self.client.ask(url, headers=headers)
        except HttpFailed as error:
            raise HttpFailed(f"{redacted(url)}: {error}") from error
        answer.body_of_ok()
        return answer

    async def object(self, url: str) -> dict[str, Any]:
        """The JSON object at a URL. Raises `HttpFailed`."""
        response = await self.fetch(url, {}, self.timeout_s)
        try:
            answer = decode_json(response.body)
        except DecodeError as error:
            raise HttpFailed(f"{redacted(url)}: not JSON: {error}") from error
        if not isinstance(answer, dict):
            raise HttpFailed(f"{redacted(url)}: the answer is no JSON object")
        return answer


@contextlib.asynccontextmanager
async def open_fetcher(connect_timeout_s: float, timeout_s: float, token: str = "") -> AsyncIterator[Fetcher]:
    """A fetcher with these limits for connecting and for a whole answer. `token`: what it shows, if there is one."""
    client = HttpClient(
        HttpOptions(
            connect_timeout=connect_timeout_s,
            request_timeout=timeout_s,
            max_body=MAX_ANSWER,
            max_idle=_MAX_IDLE,
            bearer=(lambda: token) if token else None,
        )
    )
    try:
        yield Fetcher(client)
    finally:
        await client.aclose()
